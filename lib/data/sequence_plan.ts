/**
 * The plan of a text that a model reads: the vectors that an adapter puts before its tokens, the positions of both, the room that the
 * context leaves, and which labels count.
 */
import { ignoredLabel } from './example';

/** What puts vectors before texts: an adapter. */
interface Prefix {
  readonly name: string;
  /** How many. */
  readonly virtualTokens: number;
}

/** Stands for an id at the positions of vectors. Which vector it is follows from its position. */
const vectorMark = -1;

/** How many of the first `length` positions hold vectors; they come before all tokens. */
export function vectorsAmong(positions: ArrayLike<number>, length = positions.length): number {
  let count = 0;
  while (count < length && positions[count] === vectorMark) count++;
  return count;
}

export class SequencePlan {
  /** Vectors before the first token. */
  readonly vectors: number;
  /** Tokens that the context holds behind the vectors. */
  readonly room: number;
  readonly #prefix: Prefix | null;
  readonly #context: number;

  /** `context`: positions that the model reads. */
  constructor(prefix: Prefix | null = null, context = Infinity) {
    this.vectors = prefix?.virtualTokens ?? 0;
    this.room = context - this.vectors;
    this.#prefix = prefix;
    this.#context = context;
  }

  /** Most tokens of a text that is trained on or measured. A text without vectors may be longer than the context. */
  get maxTextLength(): number {
    return this.vectors > 0 ? this.room : Infinity;
  }

  /** Why `maxTextLength` is what it is, in error sentences. */
  get reason(): string {
    return `adapter '${this.#prefix?.name}' puts ${this.vectors} vectors before them and the model has max_position_embeddings ${this.#context}`;
  }

  /** The context and what the vectors take of it, in error sentences. */
  get contextAndTaken(): string {
    const taken = this.vectors > 0 ? `, of which adapter '${this.#prefix!.name}' takes ${this.vectors}` : '';
    return `max_position_embeddings ${this.#context}${taken}`;
  }

  /** Tokens that may follow a prompt: those that were asked for, else at most `usual`. Undefined: the context does not hold them. */
  tokensAfter(promptLength: number, asked: number | undefined, usual: number): number | undefined {
    const left = this.room - promptLength;
    if (left < 1 || (asked ?? 0) > left) return undefined;
    return asked ?? Math.min(usual, left);
  }

  /** What stands at each position: marks of the vectors, then the ids. */
  positionsOf(ids: readonly number[]): number[] {
    return [...Array<number>(this.vectors).fill(vectorMark), ...ids];
  }

  /** The first token of a text that something before it predicts, so that its label may count. */
  get firstPredicted(): 0 | 1 {
    return this.vectors > 0 ? 0 : 1;
  }

  /** Whether the label of token t of a row counts. `segmentIds`: the number of the text of each token, 0 for padding; absent: one text. */
  counts(labels: ArrayLike<number>, t: number, segmentIds?: ArrayLike<number>): boolean {
    if (labels[t] === ignoredLabel || segmentIds?.[t] === 0) return false;
    const begins = t === 0 || (segmentIds !== undefined && segmentIds[t] !== segmentIds[t - 1]);
    return !begins || this.firstPredicted === 0;
  }

  /** How many labels of these rows count. */
  countedLabels(rows: readonly ArrayLike<number>[], segmentIds?: readonly ArrayLike<number>[]): number {
    let count = 0;
    for (const [i, row] of rows.entries())
      for (let t = 0; t < row.length; t++) if (this.counts(row, t, segmentIds?.[i])) count++;
    return count;
  }
}
