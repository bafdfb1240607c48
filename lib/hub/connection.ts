/** Requests to the hub: redirects, time limits, attempts. */
import { version } from '../../package.json';
import { LoRAError } from '../errors';
import type { HubSettings } from './settings';

/** Times that a request is made although nothing comes of it. */
const attempts = 6;
/** The longest wait that a server may ask for. */
const longestWait = 300_000;
const maxRedirects = 10;
/** Milliseconds without a sign of life of a request that sends something: bytes wait in buffers on the way, and who got them has work to do. */
const sendTimeout = 120_000;
/** Of a page that is not a file. */
const maxBytes = 16 * 2 ** 20;

/** A failure that may pass: a connection that is cut or cannot be made, a server that is busy. */
export class Passing extends Error {
  /** Milliseconds that the server asks to wait. */
  readonly wait?: number | undefined;
  /** Whether no connection was made at all. */
  readonly unreachable: boolean;

  constructor(
    message: string,
    {
      wait,
      unreachable = false,
      cause,
    }: { wait?: number | undefined; unreachable?: boolean; cause?: unknown },
  ) {
    super(message, { cause });
    this.wait = wait;
    this.unreachable = unreachable;
  }
}

/** An answer whose body is read in pieces, or not at all. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** Of the hops before the last one, which the hub itself answers: they say what the file is that a redirect leads to. */
  readonly hops: readonly Headers[];
  /** The pieces of the body. @throws Passing where the connection is cut, or nothing comes for a while. */
  readonly pieces: AsyncIterable<Uint8Array>;
  /** Gives the connection up. */
  close(): void;
}

/** What a request sends in pieces. */
export interface StreamedBody {
  /** Bytes of all pieces. */
  readonly length: number;
  /** The pieces, from the first one: a redirect asks for them again. What is given away is not changed any more. */
  pieces(): AsyncIterable<Uint8Array>;
}

interface Asked {
  method?: 'GET' | 'HEAD' | 'POST' | 'PUT';
  headers?: Record<string, string>;
  body?: string | StreamedBody | undefined;
  /** Whether a redirect that leaves the hub and says which file it leads to is the answer. */
  stays?: boolean;
  /** Whether the address itself says who may use it, and for how long: then it gets no token, on the hub either. */
  signed?: boolean;
}

/** An answer that no further attempt would change. */
export class Refused extends Error {}

/** An error and its causes: Node.js keeps what is wrong with a connection in a cause. Errors of other realms are none by instanceof. */
function* causesOf(error: unknown): Generator<{ code?: unknown; message?: unknown }> {
  let at = error as { code?: unknown; message?: unknown; cause?: unknown } | null | undefined;
  for (let depth = 0; typeof at === 'object' && at !== null && depth < 8; depth++) {
    yield at;
    at = at.cause as typeof at;
  }
}

const wordings: Readonly<Record<string, string>> = {
  ENOTFOUND: 'its name is not known: is there a network?',
  EAI_AGAIN: 'its name is not known: is there a network?',
  ECONNREFUSED: 'nothing answers there',
  ENETUNREACH: 'there is no way to it',
  EHOSTUNREACH: 'there is no way to it',
  UND_ERR_CONNECT_TIMEOUT: 'nothing answers there',
  UND_ERR_SOCKET: 'the connection was cut',
  ECONNRESET: 'the connection was cut',
  EPIPE: 'the connection was cut',
};
/** Of connections that were there. */
const cutCodes = ['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE'];

/** Words for the failure of a connection. */
function reasonOf(error: unknown): string {
  let last = String(error);
  for (const { code, message } of causesOf(error)) {
    if (typeof code === 'string' && Object.hasOwn(wordings, code)) return wordings[code]!;
    if (typeof message === 'string' && message !== '') last = message;
  }
  return last;
}

const wasCut = (error: unknown): boolean =>
  [...causesOf(error)].some(({ code }) => cutCodes.includes(code as string));

/** Seconds or a date; undefined for neither. */
function waitOf(headers: Headers): number | undefined {
  const text = headers.get('retry-after');
  if (text === null) return undefined;
  const milliseconds = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(milliseconds) ? Math.max(0, milliseconds) : undefined;
}

/** For what is given up: how that ends concerns nobody. */
const drop = (work: Promise<unknown> | undefined): void => void work?.catch(() => undefined);

/** One connection: a limit on the time without a sign of life, and an end by the caller's signal. */
class Watch {
  readonly #controller = new AbortController();
  readonly #stop = (): void => this.#controller.abort(this.caller?.reason);
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(private readonly caller: AbortSignal | undefined) {
    caller?.throwIfAborted();
    caller?.addEventListener('abort', this.#stop, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Starts the clock anew. */
  expect(milliseconds: number): void {
    clearTimeout(this.#timer);
    if (this.#ended) return; // what is still sent behind an answer concerns nobody
    const late = new Passing(`nothing came for ${milliseconds / 1000} s`, {});
    this.#timer = setTimeout(() => this.#controller.abort(late), milliseconds);
  }

  /**
   * What a promise gives, or the reason of an abort. Node.js may lose the abort of a fetch: it keeps what its signal is to stop by a weak
   * reference, and a body whose request was collected never ends.
   */
  async guard<T>(work: Promise<T>): Promise<T> {
    drop(work); // where the abort is told, it is told by that alone
    const { signal } = this;
    signal.throwIfAborted();
    let stop = (): void => undefined;
    const stopped = new Promise<never>((_, reject) => {
      stop = () => reject(signal.reason as Error);
    });
    signal.addEventListener('abort', stop, { once: true });
    try {
      return await Promise.race([work, stopped]);
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  /** Gives the connection up for an error of this side. */
  give(error: unknown): void {
    this.#controller.abort(error);
  }

  rest(): void {
    clearTimeout(this.#timer);
  }

  end(): void {
    this.#ended = true;
    this.rest();
    this.caller?.removeEventListener('abort', this.#stop);
    this.#controller.abort();
  }

  /** The caller's reason where the caller stopped it, else what may pass. */
  failure(error: unknown): unknown {
    if (this.caller?.aborted) return this.caller.reason;
    const reason: unknown = this.signal.aborted ? this.signal.reason : error;
    if (reason instanceof Passing || reason instanceof Refused || reason instanceof LoRAError) return reason;
    return new Passing(reasonOf(reason), { unreachable: !wasCut(reason), cause: reason });
  }
}

/** A body as fetch takes it; the clock starts anew with each piece. */
function streamOf(body: StreamedBody, watch: Watch): ReadableStream<Uint8Array> {
  const pieces = body.pieces()[Symbol.asyncIterator]();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const next = await pieces.next();
          watch.expect(sendTimeout);
          if (next.done) controller.close();
          else controller.enqueue(next.value);
        } catch (error) {
          watch.give(error);
          controller.error(error);
        }
      },
      async cancel() {
        await pieces.return?.();
      },
    },
    { highWaterMark: 0 },
  );
}

/** What fetch gets of a body. The length is said, since storage takes no body of unknown length. */
function sent(
  body: string | StreamedBody | undefined,
  watch: Watch,
): { headers?: Record<string, string>; init?: Pick<RequestInit, 'body' | 'duplex'> } {
  if (body === undefined) return {};
  if (typeof body === 'string') return { init: { body } };
  return {
    headers: { 'content-length': String(body.length) },
    init: { body: streamOf(body, watch), duplex: 'half' },
  };
}

const isRedirect = (status: number): boolean => [301, 302, 303, 307, 308].includes(status);

/** Talks to the hub for one call. */
export class Connection {
  readonly #origin: string;
  /** Whether the hub has answered: then a connection that cannot be made may pass. */
  #reached = false;

  constructor(
    readonly settings: HubSettings,
    readonly signal: AbortSignal | undefined,
    /** Told before each attempt after the first. */
    private readonly onRetry: (message: string) => void,
  ) {
    this.#origin = new URL(settings.endpoint).origin;
  }

  /** Asks once. @throws Passing; the reason of the signal. */
  async ask(
    address: string,
    { method = 'GET', headers = {}, body, stays = false, signed = false }: Asked = {},
  ): Promise<Answer> {
    const watch = new Watch(this.signal);
    const hops: Headers[] = [];
    try {
      let url = new URL(address);
      let left = signed;
      for (let hop = 0; hop <= maxRedirects; hop++) {
        left ||= url.origin !== this.#origin;
        watch.expect(
          body === undefined
            ? this.settings.answerTimeout
            : Math.max(sendTimeout, this.settings.answerTimeout),
        );
        // The token is for the hub alone: once a redirect has left it, nobody gets it, wherever the way leads.
        const token = left || this.settings.token === undefined ? undefined : this.settings.token;
        const sending = sent(body, watch);
        const asking = fetch(url, {
          method,
          ...sending.init,
          redirect: 'manual',
          signal: watch.signal,
          headers: {
            ...headers,
            ...sending.headers,
            'accept-encoding': 'identity',
            'user-agent': `lora-native/${version}; node/${process.versions.node}`,
            ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          },
        });
        const response = await watch.guard(asking);
        this.#reached = true;
        if (!isRedirect(response.status)) return this.#answer(response, hops, watch);
        const next = nextOf(response, url);
        if (body !== undefined && ![307, 308].includes(response.status))
          throw new Refused(`${url.origin} redirects what is sent (${response.status})`);
        if (stays && next.origin !== this.#origin && response.headers.has('x-linked-etag'))
          return this.#answer(response, hops, watch);
        drop(response.body?.cancel());
        hops.push(response.headers);
        url = next;
      }
      throw new Refused(`${address.replace(/\?.*/s, '')} redirects more than ${maxRedirects} times`);
    } catch (error) {
      const failure = watch.failure(error);
      watch.end();
      throw failure;
    }
  }

  #answer(response: Response, hops: readonly Headers[], watch: Watch): Answer {
    const { byteTimeout } = this.settings;
    watch.rest();
    const { status, headers, body } = response;
    async function* pieces(): AsyncGenerator<Uint8Array> {
      const reader = (body as ReadableStream<Uint8Array> | null)?.getReader();
      try {
        for (;;) {
          watch.expect(byteTimeout);
          const read = reader && (await watch.guard(reader.read()));
          watch.rest(); // while the piece is written, nothing is waited for
          if (read === undefined || read.done) return;
          yield read.value;
        }
      } catch (error) {
        throw watch.failure(error);
      } finally {
        drop(reader?.cancel());
        watch.end();
      }
    }
    const close = (): void => {
      if (body?.locked === false) drop(body.cancel());
      watch.end();
    };
    return { status, headers, hops, pieces: pieces(), close };
  }

  /** Makes `attempt` again while what it fails for may pass, and waits longer each time, or as long as the server asks. */
  async persist<T>(attempt: () => Promise<T>, progressed: () => boolean = () => false): Promise<T> {
    for (let failed = 0; ;) {
      try {
        return await attempt();
      } catch (error) {
        this.signal?.throwIfAborted();
        if (!(error instanceof Passing) || (error.unreachable && !this.#reached)) throw error;
        failed = progressed() ? 1 : failed + 1;
        if (failed >= attempts || (error.wait ?? 0) > longestWait) throw error;
        const wait = error.wait ?? Math.min(8000, 250 * 2 ** failed) * (0.5 + Math.random() / 2);
        this.onRetry(`${error.message}; trying again in ${(wait / 1000).toFixed(1)} s`);
        await sleep(wait, this.signal);
      }
    }
  }
}

/** @throws where a redirect leads to no address, or from https to http. */
function nextOf(response: Response, from: URL): URL {
  const location = response.headers.get('location') ?? '';
  const next = URL.canParse(location, from.href) ? new URL(location, from) : undefined;
  const safe = next?.protocol === 'https:' || (next?.protocol === 'http:' && from.protocol === 'http:');
  if (location === '' || next === undefined || !safe)
    throw new Refused(
      `${from.origin} redirects to ${location === '' ? 'nowhere' : (next?.origin ?? 'no address')}`,
    );
  return next;
}

/** Milliseconds. @throws the reason of the signal. */
export async function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/** A failure of an answer that may pass; undefined for another status. */
export function passing({ status, headers }: Answer): Passing | undefined {
  if (status !== 429 && status !== 408 && status < 500) return undefined;
  const what = status === 429 ? 'the hub gets too many requests' : 'the server has a problem';
  return new Passing(`${what} (${status})`, { wait: waitOf(headers) });
}

/** The whole body as text. */
export async function textOf(answer: Answer): Promise<string> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of answer.pieces) {
    length += piece.length;
    if (length > maxBytes) throw new Refused(`an answer has more than ${maxBytes} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
}
