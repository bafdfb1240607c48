/** One request and its answer. */
import { randomBytes } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Readable, Writable } from 'node:stream';
import type { ApiError } from './api_error';
import { openaiDialect, type Dialect } from './dialect';
import { eventText } from './event_text';

/** A request, whatever brought it: what endpoints read of node:http's IncomingMessage. Its stream is the body. */
export interface Incoming extends Readable {
  readonly method?: string | undefined;
  /** Path and query. */
  readonly url?: string | undefined;
  readonly headers: IncomingHttpHeaders;
  /** Where it comes from, to which address, and whether by TLS, as far as that is known. */
  readonly socket?: {
    readonly remoteAddress?: string | undefined;
    readonly localAddress?: string | undefined;
    readonly encrypted?: boolean | undefined;
  };
  /** Whether an address of https was asked for, where the connection is not known. */
  readonly isHttps?: boolean;
  /** What a body parser has made of the body, if one has read it. */
  readonly body?: unknown;
  /** Whether the body was read before, where the stream does not know. */
  readonly wasRead?: boolean;
}

/** Its answer: what endpoints use of node:http's ServerResponse. Its stream is the body. */
export interface Outgoing extends Writable {
  readonly statusCode: number;
  readonly headersSent: boolean;
  setHeader(name: string, value: string): unknown;
  writeHead(status: number, headers: Readonly<Record<string, string | number>>): unknown;
}

/** What logs say of a request when it has ended. */
export interface ExchangeFacts {
  /** The name of the API key. */
  client?: string | undefined;
  model?: string;
  stream?: boolean;
  promptTokens?: number;
  cachedTokens?: number;
  completionTokens?: number;
  /** Milliseconds to the first token, waiting for its turn included. */
  firstTokenMs?: number;
  /** With `logPrompts` alone. */
  prompt?: unknown;
  texts?: readonly string[];
}

/** The reason of what is stopped because nobody waits for it any more. */
export class ClientLeft extends Error {
  override readonly message = 'the client closed the connection';
}

export class Exchange {
  readonly id = `req_${randomBytes(12).toString('hex')}`;
  readonly began = performance.now();
  readonly facts: ExchangeFacts = {};
  /** How a failure is told. */
  dialect: Dialect = openaiDialect;
  readonly #gone = new AbortController();

  constructor(
    readonly request: Incoming,
    readonly response: Outgoing,
  ) {
    response.on('close', () => {
      if (!response.writableFinished) this.#gone.abort(new ClientLeft());
    });
    response.on('error', () => undefined); // of a connection that is gone; 'close' tells
    response.setHeader('x-request-id', this.id);
  }

  /** Aborted where the client leaves before it has its answer, and where the request is refused while it waits. */
  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  /** Whether the client has left before it had its answer. */
  get left(): boolean {
    return this.signal.reason instanceof ClientLeft;
  }

  /** Stops what is done for the request, which is answered with the reason. */
  refuse(reason: Error): void {
    this.#gone.abort(reason);
  }

  /** The path without the query. */
  get path(): string {
    return (this.request.url ?? '/').split(/[?#]/, 1)[0]!;
  }

  get elapsedMs(): number {
    return performance.now() - this.began;
  }

  /** Answers with one object, and ends. */
  json(value: object, status = 200, headers: Readonly<Record<string, string>> = {}): void {
    this.text(JSON.stringify(value), 'application/json; charset=utf-8', status, headers);
  }

  text(body: string, type: string, status = 200, headers: Readonly<Record<string, string>> = {}): void {
    const { response } = this;
    if (response.headersSent || response.destroyed) return;
    response.writeHead(status, {
      ...headers,
      'content-type': type,
      'content-length': Buffer.byteLength(body),
      'x-content-type-options': 'nosniff',
    });
    response.end(body);
  }

  /** Answers with headers alone. */
  empty(headers: Readonly<Record<string, string>>): void {
    this.response.writeHead(204, headers);
    this.response.end();
  }

  /** Tells of a failure: with its status, or as the last event of a stream that has begun. */
  fail(error: ApiError): void {
    const { response, dialect, id } = this;
    if (!response.headersSent) return this.json(dialect.body(error, id), error.status, error.headers);
    if (error.status === 408)
      response.destroy(); // nobody reads what would be said
    else response.end(eventText(dialect.event(error, id), dialect.named));
  }
}
