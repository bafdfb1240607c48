/** A Request of the web as what endpoints read, and what they answer as a Response. */
import { Readable, Writable } from 'node:stream';
import type { ReadableStream as NodeReadableStream } from 'node:stream/web';
import type { Incoming, Outgoing } from './exchange';

/** What arrives as a Request. */
export function incomingOf(request: Request): Incoming {
  const { method, headers, bodyUsed, body } = request;
  const { pathname, search, host, protocol } = new URL(request.url);
  const stream =
    body && !bodyUsed ? Readable.fromWeb(body as NodeReadableStream<Uint8Array>) : Readable.from([]);
  stream.on('error', () => undefined); // of a client that has left; the signal tells
  return Object.assign(stream, {
    method,
    url: pathname + search,
    headers: { host, ...Object.fromEntries(headers) },
    wasRead: bodyUsed,
    isHttps: protocol === 'https:',
  });
}

/** Statuses whose Response may have no body. */
const bodiless = [204, 205, 304];

/** Has the code that Node.js gives a stream which closes early: servers such as Hono's take an error of another for a failure, and log it. */
const cutOff = (): Error =>
  Object.assign(new Error('the answer was cut off'), { code: 'ERR_STREAM_PREMATURE_CLOSE' });

/** An answer that becomes a Response when it has a status. Its body is written no faster than it is read. */
export class WebAnswer extends Writable implements Outgoing {
  statusCode = 200;
  headersSent = false;
  /** The answer, from when its status is known. */
  readonly response: Promise<Response>;
  readonly #headers = new Headers();
  readonly #method: string;
  #answer!: (response: Response) => void;
  /** Absent where nobody gets the body. */
  #body: ReadableStreamDefaultController<Uint8Array> | undefined;
  /** Goes on writing when the reader asks for more. */
  #goOn: (() => void) | undefined;

  constructor({ method, signal }: Request) {
    super();
    this.#method = method;
    this.response = new Promise((resolve) => (this.#answer = resolve));
    const leave = (): void => void this.destroy();
    if (signal.aborted) leave();
    else signal.addEventListener('abort', leave, { once: true });
    this.once('close', () => signal.removeEventListener('abort', leave));
  }

  setHeader(name: string, value: string | number): void {
    // The connection is the business of the server, and HTTP/2 does not know the header.
    if (name !== 'connection') this.#headers.set(name, String(value));
  }

  writeHead(status: number, headers: Readonly<Record<string, string | number>>): void {
    for (const [name, value] of Object.entries(headers)) this.setHeader(name, value);
    this.statusCode = status;
    this.headersSent = true;
    const empty = this.#method === 'HEAD' || bodiless.includes(status);
    this.#answer(new Response(empty ? null : this.#stream(), { status, headers: this.#headers }));
  }

  /** Keeps nothing for a reader that does not ask: this stream's own buffer is the only one. */
  #stream(): ReadableStream<Uint8Array> {
    return new ReadableStream(
      {
        start: (controller) => void (this.#body = controller),
        pull: () => {
          const goOn = this.#goOn;
          this.#goOn = undefined;
          goOn?.();
        },
        cancel: () => void this.destroy(),
      },
      { highWaterMark: 0 },
    );
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, done: () => void): void {
    if (!this.#body) return done();
    this.#goOn = done;
    this.#body.enqueue(chunk);
  }

  override _final(done: () => void): void {
    this.#body?.close();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    // Nobody is there to read it; nginx writes this number for it.
    if (!this.headersSent) this.#answer(new Response(null, { status: 499 }));
    else if (!this.writableFinished) this.#body?.error(error ?? cutOff());
    done(error);
  }
}
