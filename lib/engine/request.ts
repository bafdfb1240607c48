/** One sequence that is generated: its tokens, its pages, and what its consumer has not fetched yet. */
import type { SequencePlan } from '../data/sequence_plan';
import type { TokenConstraint } from '../grammar/constraint';
import type { Adapter } from '../peft/adapter';
import { StopStrings } from '../text/stop_strings';
import type { TokenStream } from '../text/token_stream';
import { LogitAdjuster } from './logit_adjuster';
import { pagesFor, type Page, type PagePool } from './pages';
import type { GenerationPlan } from './sampling';

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

/** What a request asks for. */
export interface RequestPlan {
  readonly prompt: readonly number[];
  readonly adapter: Adapter | null;
  /** Of the prompt behind the vectors of the adapter. */
  readonly sequence: SequencePlan;
  readonly generation: GenerationPlan;
  readonly maxNewTokens: number;
  /** Absent: tokens have no text. */
  readonly stream?: TokenStream | undefined;
  /** What holds its text to a grammar. It outlives the pages that the request may lose. */
  readonly constraint?: TokenConstraint | undefined;
}

/** Tokens that a request may be ahead of its consumer. */
const maxAhead = 2;

/** A token that was drawn. */
export type Drawn = Omit<GeneratedToken, 'text'>;

export class Request {
  readonly plan: RequestPlan;
  /** What stands at each position: the vectors of the adapter, the prompt and what was generated. */
  readonly ids: number[];
  /** Positions before the first token that is generated. */
  readonly promptLength: number;
  readonly pages: Page[] = [];
  readonly adjuster: LogitAdjuster;
  /** Positions whose keys and values lie in the pages. */
  computed = 0;
  /** What names the weights that the pages were computed with. */
  weights = '';
  /** Tokens of the prompt that other requests had computed. */
  cachedTokens = 0;
  /** When it was served last, as a count of steps. */
  served = -1;
  /** Since when it sits out, as far as the scheduler has seen; Infinity: it does not. */
  heldSince = Infinity;
  readonly #pool: PagePool;
  readonly #stops: StopStrings;
  readonly #wakeEngine: () => void;
  readonly #submitted = performance.now();
  #started: number | undefined;
  #firstToken: number | undefined;
  #drawn: Drawn[] = [];
  #events: GeneratedToken[] = [];
  #text = '';
  /** Of the tokens that were delivered; where they are asked for. */
  readonly #logprobs: TokenLogprobs[] | undefined;
  #finishReason: Completion['finishReason'] | undefined;
  #completion: Completion | undefined;
  #failure: { error: unknown } | undefined;
  /** Settles the promise that next() gave last. */
  #waiter:
    { resolve: (token: GeneratedToken | undefined) => void; reject: (reason: unknown) => void } | undefined;

  constructor(
    plan: RequestPlan,
    /** How many came before it. */
    readonly arrival: number,
    pool: PagePool,
    wakeEngine: () => void,
  ) {
    this.plan = plan;
    this.ids = plan.sequence.positionsOf(plan.prompt);
    this.promptLength = this.ids.length;
    this.adjuster = new LogitAdjuster(plan.generation, plan.prompt);
    this.#pool = pool;
    this.#stops = new StopStrings(plan.generation.stop);
    this.#logprobs = plan.generation.logprobs === undefined ? undefined : [];
    this.#wakeEngine = wakeEngine;
  }

  // ---- for the engine ------------------------------------------------------------------------

  /** Whether no more tokens are wanted from the engine. */
  get ended(): boolean {
    return this.#finishReason !== undefined || this.#failure !== undefined;
  }

  /** Whether its consumer, or what tells its next tokens, is behind: it then sits out. */
  get held(): boolean {
    return this.#events.length + this.#drawn.length >= maxAhead || this.plan.constraint?.late === true;
  }

  /** Whether a part of the prompt is not computed. */
  get prefilling(): boolean {
    return this.computed < this.promptLength;
  }

  /** Tokens that were generated so far. */
  get generated(): number {
    return this.ids.length - this.promptLength;
  }

  /** Positions that it may need at most; the last token is never read. */
  get maxPositions(): number {
    return this.promptLength + Math.max(0, this.plan.maxNewTokens - 1);
  }

  /** Pages that are missing for the first `positions`. */
  pagesMissing(positions: number): number {
    return Math.max(0, pagesFor(positions) - this.pages.length);
  }

  /** Notes the first time that work on it begins. */
  start(): void {
    this.#started ??= performance.now();
  }

  /** Ends it without a token. */
  finishEmpty(): void {
    this.#finishReason = 'length';
    this.deliver();
  }

  /** Takes the token that was drawn after the last id; the text follows in deliver(). */
  take(drawn: Drawn): void {
    if (this.ended) return; // it ended while the token was on its way
    this.#firstToken ??= performance.now();
    this.ids.push(drawn.id);
    this.adjuster.push(drawn.id);
    this.#drawn.push(drawn);
    if (this.plan.generation.eosTokenIds.has(drawn.id)) this.#finishReason = 'stop';
    else if (this.generated >= this.plan.maxNewTokens) this.#finishReason = 'length';
    if (!this.ended) this.#constrain(drawn.id);
  }

  #constrain(id: number): void {
    const { constraint } = this.plan;
    constraint?.accept(id);
    if (constraint?.late)
      void constraint.ready().then(this.#wakeEngine, (error: unknown) => this.cancel(error));
  }

  /** Makes text of the tokens that were taken, and gives them to the consumer. */
  deliver(): void {
    const drawn = this.#drawn.splice(0);
    const { stream } = this.plan;
    for (const [i, token] of drawn.entries()) {
      const final = this.ended && i === drawn.length - 1;
      let fresh = stream?.push(token.id) ?? '';
      if (final && stream) fresh += stream.flush();
      let text = this.#stops.push(fresh);
      if (this.#stops.found) {
        this.#finishReason = 'stop';
        this.ids.length -= drawn.length - 1 - i; // tokens behind the stop string
      }
      const last = final || this.#stops.found;
      if (last) text += this.#stops.flush();
      this.#text += text;
      this.#logprobs?.push({ ...token, logprob: token.logprob! });
      this.#events.push({ ...token, text });
      if (last) break;
    }
    if (this.#finishReason !== undefined && this.#completion === undefined && !this.#failure) {
      const now = performance.now();
      const since = (time: number | undefined): number => (time ?? now) - this.#submitted;
      this.#completion = {
        text: this.#text,
        ids: this.ids.slice(this.promptLength),
        ...(this.#logprobs && { logprobs: this.#logprobs }),
        finishReason: this.#finishReason,
        cachedTokens: this.cachedTokens,
        timings: {
          queuedMs: since(this.#started),
          firstTokenMs: since(this.#firstToken),
          totalMs: since(now),
        },
      };
    }
    if (drawn.length > 0 || this.#completion) this.#notify();
  }

  /** Ends it with what its consumer is to see. */
  fail(error: unknown): void {
    if (this.#completion || this.#failure) return;
    this.#failure = { error };
    this.#drawn = [];
    this.releasePages();
    this.#notify();
  }

  /** Gives its pages back: what was computed is lost unless the cache of prefixes holds it. */
  releasePages(): void {
    for (const page of this.pages.splice(0)) this.#pool.release(page);
    this.computed = 0;
  }

  // ---- for the consumer ----------------------------------------------------------------------

  /** The next token, or undefined after the last one. @throws what ended the request. */
  next(): Promise<GeneratedToken | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
      this.#notify();
    });
  }

  /** The next token that is there. */
  fetch(): GeneratedToken | undefined {
    const event = this.#events.shift();
    if (event) this.#wakeEngine();
    return event;
  }

  get completion(): Completion {
    return this.#completion!;
  }

  /** Ends it unless it has ended; next() then throws `reason`. What it holds is free at once. */
  cancel(reason: unknown): void {
    this.fail(reason);
    this.#wakeEngine();
  }

  /** Gives what is there to the consumer that waits. */
  #notify(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    const event = this.fetch();
    if (event || this.#completion || this.#failure) this.#waiter = undefined;
    if (event) waiter.resolve(event);
    else if (this.#failure) waiter.reject(this.#failure.error);
    else if (this.#completion) waiter.resolve(undefined);
  }
}
