/**
 * What may come next in a text, guessed without the model: a step of the engine verifies several tokens for little more than the time of
 * one. A guess changes how fast a text is written and nothing else, since a token counts only where the model draws it too. Leviathan et
 * al., "Fast Inference from Transformers via Speculative Decoding" (2023); Saxena, "Prompt Lookup Decoding" (2023).
 */

import type { TokenConstraint } from '../grammar/constraint';

/** The tokens of `text`, as the tokenizer splits it where it follows `tokens`. */
export type Continuation = (tokens: readonly number[], text: string) => number[];

/** Most tokens of a proposal. */
export const maxProposed = 8;

/** Guesses the next tokens of one text. */
export interface Proposer {
  /** At most `max` tokens that may follow `tokens`, which grows from call to call: prompt and text. None: it has no guess. */
  propose(tokens: readonly number[], max: number): number[];
}

/** Tokens of a long prompt that one call reads: a fraction of a millisecond. */
const readAtOnce = 4096;
/** Places that are compared with the end of the text, the latest first, and tokens that are compared at each. */
const maxPlaces = 16;
const maxCompared = 16;

/** What followed where the text had its last tokens before: at least `least` of them, and as many as possible. */
export class PromptLookup implements Proposer {
  readonly #least: 1 | 2;
  /** Of `least` neighbors: the place of the last of them, where they came last. */
  readonly #latest = new Map<number, number>();
  /** For each place, where its neighbors came before; -1: nowhere. */
  readonly #earlier: number[] = [];

  constructor(least: 1 | 2) {
    this.#least = least;
  }

  propose(tokens: readonly number[], max: number): number[] {
    const end = tokens.length - 1;
    this.#read(tokens, end);
    let best = 0;
    let longest = 0;
    let place = this.#latest.get(this.#keyAt(tokens, end)) ?? -1;
    for (let i = 0; i < maxPlaces && place >= 0 && longest < maxCompared; i++) {
      const common = commonBefore(tokens, place, end);
      if (common > longest) [best, longest] = [place, common];
      place = this.#earlier[place]!;
    }
    if (longest === 0) return [];
    // Where it reaches the end of the text, what repeats goes on repeating.
    const proposed: number[] = [];
    for (let i = 0; i < max; i++) proposed.push(tokens[best + 1 + i] ?? proposed[best + i - end]!);
    return proposed;
  }

  /** Takes in the places before the last one. */
  #read(tokens: readonly number[], end: number): void {
    const until = Math.min(end, this.#earlier.length + readAtOnce);
    for (let place = this.#earlier.length; place < until; place++) {
      const key = this.#keyAt(tokens, place);
      this.#earlier.push(this.#latest.get(key) ?? -1);
      this.#latest.set(key, place);
    }
  }

  #keyAt(tokens: readonly number[], place: number): number {
    return this.#least === 1 ? tokens[place]! : (tokens[place - 1] ?? -1) * 2 ** 24 + tokens[place]!;
  }
}

/** How many tokens up to one place are those up to another. */
function commonBefore(tokens: readonly number[], place: number, other: number): number {
  let common = 0;
  while (common < maxCompared && common <= place && tokens[place - common] === tokens[other - common])
    common++;
  return common;
}

/** What the grammar of a text forces. */
export class ForcedText implements Proposer {
  readonly #constraint: Pick<TokenConstraint, 'foreseen'>;
  readonly #continuation: Continuation;

  constructor(constraint: Pick<TokenConstraint, 'foreseen'>, continuation: Continuation) {
    this.#constraint = constraint;
    this.#continuation = continuation;
  }

  propose(tokens: readonly number[], max: number): number[] {
    // The last word may go on, and a space belongs to what follows it.
    const sure = (this.#constraint.foreseen ?? '').replace(/[\s\p{L}\p{N}]+$/u, '');
    return sure === '' ? [] : this.#continuation(tokens, sure).slice(0, max);
  }
}

/**
 * What one more row adds to the time of a step of one row: 0.08 measured with weights in bf16, 0.3 in Q4_K. Texts of SQL take at most a
 * fiftieth longer with this than with the right one.
 */
const rowShare = 0.15;
/** What is expected of a proposer of which nothing is known, and what this counts for, in tokens. */
const firstHits = 3;
const firstTries = 4;
/** What the past counts for after each step. */
const memory = 0.9;
/** Steps that a proposer sits out when too few of its tokens were taken, at first and at most. */
const shortestPause = 16;
const longestPause = 256;

/** Says how many tokens of a proposer are worth a row each, from how many were taken. */
export class SpeculationGate {
  readonly #rowShare: number;
  #hits = firstHits;
  #tries = firstTries;
  #pause = shortestPause;
  #pausedFor = 0;

  constructor(share = rowShare) {
    this.#rowShare = share;
  }

  /**
   * How many tokens pay in a step with so many rows of other texts: the next one is worth its row while the chance that it is taken is at
   * least what the rows give on average.
   */
  most(others: number): number {
    if (this.#pausedFor > 0) {
      if (--this.#pausedFor > 0) return 0;
      [this.#hits, this.#tries] = [firstHits, firstTries];
    }
    const chance = this.#hits / this.#tries;
    let tokens = 1 + others;
    let time = 1 + this.#rowShare * others;
    let taken = chance;
    let count = 0;
    while (count < maxProposed && taken * time >= this.#rowShare * tokens) {
      tokens += taken;
      time += this.#rowShare;
      taken *= chance;
      count++;
    }
    if (count === 0) {
      this.#pausedFor = this.#pause;
      this.#pause = Math.min(longestPause, 2 * this.#pause);
    }
    return count;
  }

  /** Takes in how many of the tokens that were proposed were taken. */
  note(proposed: number, taken: number): void {
    this.#hits = this.#hits * memory + taken;
    this.#tries = this.#tries * memory + taken + (taken < proposed ? 1 : 0);
    if (taken === proposed) this.#pause = shortestPause;
  }
}

/** Proposes tokens for one text, of the first proposer that has a guess which is worth its rows. */
export class Speculation {
  readonly #sources: readonly { readonly proposer: Proposer; readonly gate: SpeculationGate }[];
  #last: SpeculationGate | undefined;

  /** `forced`: what the grammar forces, where there is one. */
  constructor(forced?: Proposer) {
    const proposers = [...(forced ? [forced] : []), new PromptLookup(2), new PromptLookup(1)];
    this.#sources = proposers.map((proposer) => ({ proposer, gate: new SpeculationGate() }));
  }

  /** At most `max` tokens that may follow, for a step with so many rows of other texts. */
  propose(tokens: readonly number[], max: number, others: number): number[] {
    for (const { proposer, gate } of this.#sources) {
      const most = Math.min(max, gate.most(others));
      const proposed = most > 0 ? proposer.propose(tokens, most) : [];
      if (proposed.length === 0) continue;
      this.#last = gate;
      return proposed;
    }
    return [];
  }

  /** Takes in how many of the last proposals had a row, and how many of these were taken. */
  note(proposed: number, taken: number): void {
    this.#last?.note(proposed, taken);
  }
}
