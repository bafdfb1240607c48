/** What the consumer of a request gets: its tokens with their text, then what it gave in all, or the error that ended it. */
import { StopStrings } from '../text/stop_strings';
import type { TokenStream } from '../text/token_stream';

/** One token. `text` is what became certain with it: whole characters, '' while one is unfinished. */
export interface GeneratedToken {
  /** The id of the token. */
  id: number;
  /** Which of the `n` texts it belongs to, from 0; where `n` is more than 1. */
  index?: number;
  /** What became readable with it. */
  text: string;
  /** The log-probability of the token, in nats, before temperature, penalties and limits; where `logprobs` asks for it. */
  logprob?: number;
  /** The likeliest tokens in its place, the likeliest first; where `logprobs` asks for any. */
  topLogprobs?: readonly TokenLogprob[];
}

/** A token and its log-probability. */
export interface TokenLogprob {
  /** The id of the token. */
  id: number;
  /** Its log-probability, in nats. */
  logprob: number;
}

/** A token of a text, its log-probability, and the likeliest tokens in its place. */
export interface TokenLogprobs extends TokenLogprob {
  /** The likeliest first; where `logprobs` asks for any. */
  topLogprobs?: readonly TokenLogprob[];
}

/** A token that was drawn. */
export type Drawn = Omit<GeneratedToken, 'text'>;

/** What a request gave when it has ended. */
export interface Completion {
  text: string;
  ids: number[];
  /** Of each of `ids`; where the request asks for them. */
  logprobs?: TokenLogprobs[];
  finishReason: 'stop' | 'length';
  cachedTokens: number;
  timings: { queuedMs: number; firstTokenMs: number; totalMs: number };
}

/** How the tokens become text. */
interface TextOptions {
  /** Absent: tokens have no text. */
  readonly stream: TokenStream | undefined;
  readonly stop: readonly string[];
  /** Whether the completion lists the log-probabilities of the tokens. */
  readonly logprobs: boolean;
}

export class Delivery implements AsyncIterableIterator<GeneratedToken, undefined> {
  readonly #stream: TokenStream | undefined;
  readonly #stops: StopStrings;
  readonly #onFetch: () => void;
  #events: GeneratedToken[] = [];
  #text = '';
  /** Of the tokens that were delivered; where they are asked for. */
  readonly #logprobs: TokenLogprobs[] | undefined;
  #completion: Completion | undefined;
  #failure: { error: unknown } | undefined;
  /** Settles the promise that next() gave last. */
  #waiter:
    | {
        resolve: (next: IteratorResult<GeneratedToken, undefined>) => void;
        reject: (reason: unknown) => void;
      }
    | undefined;

  /** `onFetch` is called when the consumer has taken a token. */
  constructor({ stream, stop, logprobs }: TextOptions, onFetch: () => void) {
    this.#stream = stream;
    this.#stops = new StopStrings(stop);
    this.#logprobs = logprobs ? [] : undefined;
    this.#onFetch = onFetch;
  }

  /** Tokens that the consumer has not taken. */
  get unread(): number {
    return this.#events.length;
  }

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Adds a token and its text; `last`: none follows. Returns whether a stop string ends the text with it. */
  add(token: Drawn, last: boolean): boolean {
    let fresh = this.#stream?.push(token.id) ?? '';
    if (last && this.#stream) fresh += this.#stream.flush();
    let text = this.#stops.push(fresh);
    const { found } = this.#stops;
    if (last || found) text += this.#stops.flush();
    this.#text += text;
    this.#logprobs?.push({ ...token, logprob: token.logprob! });
    this.#events.push({ ...token, text });
    return found;
  }

  /** Ends it after the tokens that were added, unless it has ended. */
  complete(rest: Omit<Completion, 'text' | 'logprobs'>): void {
    if (this.#completion || this.#failure) return;
    const logprobs = this.#logprobs && { logprobs: this.#logprobs };
    this.#completion = { text: this.#text, ...rest, ...logprobs };
  }

  /** Ends it with what its consumer is to see, unless it has ended. Returns whether it had not. */
  fail(error: unknown): boolean {
    if (this.#completion || this.#failure) return false;
    this.#failure = { error };
    this.notify();
    return true;
  }

  /** The next token. @throws what ended the request. */
  next(): Promise<IteratorResult<GeneratedToken, undefined>> {
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
      this.notify();
    });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next token that is there. */
  fetch(): GeneratedToken | undefined {
    const event = this.#events.shift();
    if (event) this.#onFetch();
    return event;
  }

  /** After the last token. */
  get completion(): Completion {
    return this.#completion!;
  }

  /** Gives what is there to the consumer that waits. */
  notify(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    const value = this.fetch();
    if (value || this.#completion || this.#failure) this.#waiter = undefined;
    if (value) waiter.resolve({ value, done: false });
    else if (this.#failure) waiter.reject(this.#failure.error);
    else if (this.#completion) waiter.resolve({ value: undefined, done: true });
  }
}
