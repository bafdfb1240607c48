/** One sequence that is generated, as the engine sees it: its tokens, its pages, and how far it is computed. */
import type { SequencePlan } from '../data/sequence_plan';
import type { TokenConstraint } from '../grammar/constraint';
import type { Adapter } from '../peft/adapter';
import type { TokenStream } from '../text/token_stream';
import { Delivery, type Completion, type Drawn } from './delivery';
import { LogitAdjuster } from './logit_adjuster';
import { pagesFor, type Page } from './pages';
import type { Speculation } from './proposals';
import type { GenerationPlan } from './sampling';
import type { Kept, Slot } from './states';

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
  /** What guesses its next tokens. Absent: a step makes one token of it. */
  readonly speculation?: Speculation | undefined;
}

/** A row of a step: it reads the token at position `computed` + `offset` of a request, and the one after it is drawn from it. */
export interface Row {
  readonly request: Request;
  readonly offset: number;
}

/** The requests that rows belong to, each once. */
export const requestsOf = (rows: readonly Row[]): readonly Request[] => [
  ...new Set(rows.map(({ request }) => request)),
];

/** Tokens that a request may be ahead of its consumer. */
const maxAhead = 2;

export class Request {
  readonly plan: RequestPlan;
  /** What its consumer gets. */
  readonly delivery: Delivery;
  /** What stands at each position: the vectors of the adapter, the prompt and what was generated. */
  readonly ids: number[];
  /** Positions before the first token that is generated. */
  readonly promptLength: number;
  readonly pages: Page[] = [];
  /** Where the states of its last position lie, of a model that has states. */
  slot: Slot | undefined;
  /** Positions of the prompt whose states are kept for later prompts, in ascending order: its computation stops there. */
  keptAt: readonly number[] = [];
  /** How often it found too little memory since its last token. */
  shortages = 0;
  readonly adjuster: LogitAdjuster;
  /** Positions whose keys and values lie in the pages. */
  computed = 0;
  /** What may follow the last id: rows of the next step read it, and draw the token after each. */
  proposed: readonly number[] = [];
  /** What names the weights that the pages were computed with. */
  weights = '';
  /** Tokens of the prompt that other requests had computed. */
  cachedTokens = 0;
  /** When it was served last, as a count of steps. */
  served = -1;
  /** Since when it sits out, as far as the scheduler has seen; Infinity: it does not. */
  heldSince = Infinity;
  readonly #kept: Kept;
  readonly #wakeEngine: () => void;
  readonly #submitted = performance.now();
  #started: number | undefined;
  #firstToken: number | undefined;
  #drawn: Drawn[] = [];
  #finishReason: Completion['finishReason'] | undefined;

  constructor(
    plan: RequestPlan,
    /** How many came before it. */
    readonly arrival: number,
    kept: Kept,
    wakeEngine: () => void,
  ) {
    this.plan = plan;
    this.ids = plan.sequence.positionsOf(plan.prompt);
    this.promptLength = this.ids.length;
    this.adjuster = new LogitAdjuster(plan.generation, plan.prompt);
    this.#kept = kept;
    const { stop, logprobs } = plan.generation;
    const text = { stream: plan.stream, stop, logprobs: logprobs !== undefined };
    this.delivery = new Delivery(text, wakeEngine);
    this.#wakeEngine = wakeEngine;
  }

  /** Whether no more tokens are wanted from the engine. */
  get ended(): boolean {
    return this.#finishReason !== undefined || this.delivery.failed;
  }

  /** Whether its consumer, or what tells its next tokens, is behind: it then sits out. */
  get held(): boolean {
    const fresh = Math.min(1, this.#drawn.length); // those of one step count as one until they are delivered
    return this.delivery.unread + fresh >= maxAhead || this.plan.constraint?.late === true;
  }

  /** Whether a part of the prompt is not computed. */
  get prefilling(): boolean {
    return this.computed < this.promptLength;
  }

  /** Tokens that were generated so far. */
  get generated(): number {
    return this.ids.length - this.promptLength;
  }

  /** Positions of all its tokens, at the most that it may generate. */
  get longest(): number {
    return this.promptLength + this.plan.maxNewTokens;
  }

  /** Positions that it may need at most; the last token is never read. */
  get maxPositions(): number {
    return this.promptLength + Math.max(0, this.plan.maxNewTokens - 1);
  }

  /** Most tokens that may be proposed: each makes a token more, of those that are wanted. */
  get maxProposed(): number {
    if (this.computed < this.ids.length - 1) return 0; // it computes again what it had
    return Math.max(0, this.plan.maxNewTokens - this.generated - 1);
  }

  /** Those of the next step. */
  get rows(): Row[] {
    return Array.from({ length: 1 + this.proposed.length }, (_, offset) => ({ request: this, offset }));
  }

  /** The token at a position, which may be one that is proposed. */
  tokenAt(position: number): number {
    return this.ids[position] ?? this.proposed[position - this.ids.length]!;
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

  /**
   * Takes what the rows of a step drew: the token after the last id, and each further one whose row read what had been drawn. The text
   * follows in deliver(). Returns how many it took.
   */
  take(draws: readonly (Drawn | Error)[]): number {
    const { proposed } = this;
    this.proposed = [];
    const before = this.generated;
    for (const [i, drawn] of draws.entries()) {
      if (this.ended) break; // before, or while the tokens were on their way
      if (drawn instanceof Error) {
        this.fail(drawn);
        break;
      }
      this.#push(drawn);
      if (drawn.id !== proposed[i]) break;
      this.computed++;
    }
    const taken = this.generated - before;
    if (taken > 0) this.shortages = 0;
    if (taken > 0 && !this.ended) this.#constrain(this.ids.slice(-taken));
    return taken;
  }

  #push(drawn: Drawn): void {
    this.#firstToken ??= performance.now();
    this.ids.push(drawn.id);
    this.adjuster.push(drawn.id);
    this.#drawn.push(drawn);
    if (this.plan.generation.eosTokenIds.has(drawn.id)) this.#finishReason = 'stop';
    else if (this.generated >= this.plan.maxNewTokens) this.#finishReason = 'length';
  }

  #constrain(ids: readonly number[]): void {
    const { constraint } = this.plan;
    constraint?.accept(ids);
    if (constraint?.late)
      void constraint.ready().then(this.#wakeEngine, (error: unknown) => this.cancel(error));
  }

  /** Gives the tokens that were taken to the consumer. */
  deliver(): void {
    const drawn = this.#drawn.splice(0);
    for (const [i, token] of drawn.entries()) {
      const after = drawn.length - 1 - i;
      if (!this.delivery.add(token, this.ended && after === 0)) continue;
      this.#finishReason = 'stop';
      this.ids.length -= after; // tokens behind the stop string
      this.computed = Math.min(this.computed, this.ids.length);
      break;
    }
    if (this.#finishReason !== undefined)
      this.delivery.complete({
        ids: this.ids.slice(this.promptLength),
        finishReason: this.#finishReason,
        cachedTokens: this.cachedTokens,
        timings: this.#timings(),
      });
    this.delivery.notify();
  }

  #timings(): Completion['timings'] {
    const now = performance.now();
    const since = (time: number | undefined): number => (time ?? now) - this.#submitted;
    return {
      queuedMs: since(this.#started),
      firstTokenMs: since(this.#firstToken),
      totalMs: since(now),
    };
  }

  /** Ends it, unless it has ended, with what its consumer is to see. */
  fail(error: unknown): void {
    if (!this.delivery.fail(error)) return;
    this.#drawn = [];
    this.release();
  }

  /** The same, from outside of the engine. What it holds is free at once. */
  cancel(reason: unknown): void {
    this.fail(reason);
    this.#wakeEngine();
  }

  /** Gives its pages and its slot back: what was computed is lost unless the cache of prefixes holds it. */
  release(): void {
    const { pages, slots } = this.#kept;
    for (const page of this.pages.splice(0)) pages.release(page);
    if (this.slot) slots!.release(this.slot);
    this.slot = undefined;
    this.computed = 0;
    this.proposed = [];
  }
}
