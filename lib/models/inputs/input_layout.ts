/**
 * Where the tokens of a call lie: each text of a row begins with the vectors of the adapter of that row. What follows from positions
 * (attention, labels, texts of a row, logits) asks here.
 */
import { SequencePlan } from '../../data/sequence_plan';
import { reshape } from '../../ops/layout';
import { joinRows, splitRows } from '../../ops/rows';
import type { Adapter } from '../../peft/adapter';
import { rawFilled, rawView } from '../../tensor/raw';
import { moved } from '../../tensor/scope';
import type { Parameter, Tensor } from '../../tensor/tensor';
import { check } from '../../validate';

/** A text with the vectors before it, or padding without any. */
interface Piece {
  readonly vectors: Parameter | undefined;
  /** Tokens. */
  readonly length: number;
}

const vectorsOf = ({ vectors }: Piece): number => vectors?.shape[0] ?? 0;
const sizeOf = (piece: Piece): number => vectorsOf(piece) + piece.length;

/** The rows of a call. */
interface TokenTable {
  /** The adapter of each row. */
  readonly adapters: readonly (Adapter | null)[];
  /** Tokens of each row. */
  readonly lengths: readonly number[];
  /** Tokens of the longest row, to which the others are padded. */
  readonly width: number;
  /** The number of the text of each token, 0 for padding. Absent: a row is one text. */
  readonly segmentIds?: readonly ArrayLike<number>[] | undefined;
  /** Positions that the model reads. */
  readonly context: number;
}

/** The lengths of runs of one number. */
function runsOf(row: ArrayLike<number>): { id: number; length: number }[] {
  const runs: { id: number; length: number }[] = [];
  for (let t = 0; t < row.length; t++) {
    if (t === 0 || row[t] !== row[t - 1]) runs.push({ id: row[t]!, length: 0 });
    runs.at(-1)!.length++;
  }
  return runs;
}

export class InputLayout {
  /** Positions of the longest row. */
  readonly length: number;
  /** The plan of the texts of each row. */
  readonly plans: readonly SequencePlan[];
  readonly #hasVectors: boolean;
  readonly #rows: readonly (readonly Piece[])[];

  /** @throws ERR_ARGUMENT for a text that is longer than the context with its vectors. */
  constructor({ adapters, lengths, width, segmentIds, context }: TokenTable) {
    this.plans = adapters.map((adapter) => new SequencePlan(adapter, context));
    this.#hasVectors = this.plans.some(({ vectors }) => vectors > 0);
    this.#rows = adapters.map((adapter, i) => {
      const length = lengths[i]!;
      const plan = this.plans[i]!;
      const texts = segmentIds ? runsOf(segmentIds[i]!) : [{ id: 1, length }];
      const vectors = adapter?.vectors;
      const pieces = texts.map(({ id, length: own }) => {
        const piece = { vectors: id === 0 ? undefined : vectors, length: own };
        check(
          piece.vectors === undefined || own <= plan.maxTextLength,
          'forward',
          () =>
            `expected texts of at most ${plan.maxTextLength} tokens, since ${plan.reason}, but row ${i} holds one of ${own}`,
        );
        return piece;
      });
      return length < width ? [...pieces, { vectors: undefined, length: width - length }] : pieces;
    });
    this.length = Math.max(...this.#rows.map((pieces) => this.#sizeOf(pieces)));
  }

  #sizeOf(pieces: readonly Piece[]): number {
    return pieces.reduce((sum, piece) => sum + sizeOf(piece), 0);
  }

  /** Embeddings of tokens [b, width, hidden] → what goes into the first block [b, length, hidden]. Consumes them. */
  insert(x: Tensor): Tensor {
    if (!this.#hasVectors) return x;
    const [batch, width, hidden] = x.shape as [number, number, number];
    const rows = moved(x, (t) => reshape(t, [batch * width, hidden]));
    const tokens = splitRows(
      rows,
      this.#rows.flatMap((pieces) => pieces.map(({ length }) => length)),
    );
    rows.dispose();
    const zeros = rawFilled([this.length, hidden], 0, x.dtype, x.device);
    const ends: Tensor[] = [];
    let next = 0;
    const parts = this.#rows.flatMap((pieces) => {
      const row = pieces.flatMap(({ vectors }) => [...(vectors ? [vectors] : []), tokens[next++]!]);
      const missing = this.length - this.#sizeOf(pieces);
      if (missing === 0) return row;
      ends.push(rawView(zeros, 0, [missing, hidden]));
      return [...row, ends.at(-1)!];
    });
    const joined = joinRows(parts);
    for (const part of [...tokens, ...ends, zeros]) part.dispose();
    return moved(joined, (t) => reshape(t, [batch, this.length, hidden]));
  }

  /** What was computed for all positions [b, length, n] → that of the tokens [b, width, n]. Consumes it. */
  tokens(y: Tensor): Tensor {
    if (!this.#hasVectors) return y;
    const n = y.shape[2]!;
    const counts: number[] = [];
    const ofTokens: number[] = [];
    for (const pieces of this.#rows) {
      for (const piece of pieces) {
        if (piece.vectors) counts.push(vectorsOf(piece));
        ofTokens.push(counts.push(piece.length) - 1);
      }
      const missing = this.length - this.#sizeOf(pieces);
      if (missing > 0) counts.push(missing);
    }
    const rows = moved(y, (t) => reshape(t, [this.#rows.length * this.length, n]));
    const parts = moved(rows, (t) => splitRows(t, counts));
    const joined = joinRows(ofTokens.map((part) => parts[part]!));
    for (const part of parts) part.dispose();
    return moved(joined, (t) => reshape(t, [this.#rows.length, -1, n]));
  }

  /**
   * The row that each position has in a table of angles, [b · length]. `start`: where the rows of a text of so many positions begin. Undefined:
   * at 0 for all.
   */
  tableRows(start: (positions: number) => number): Int32Array<ArrayBuffer> | undefined {
    if (this.#rows.every((pieces) => pieces.every((piece) => start(sizeOf(piece)) === 0))) return undefined;
    const rows = new Int32Array(this.#rows.length * this.length);
    for (const [i, pieces] of this.#rows.entries()) {
      let at = i * this.length;
      for (const size of pieces.map(sizeOf))
        for (let row = start(size), end = row + size; row < end; row++) rows[at++] = row;
    }
    return rows;
  }

  /** Numbers of the tokens of a row, at their positions; vectors have `virtual`, or what the first token of their text has. */
  placed(values: ArrayLike<number>, row: number, virtual?: number): number[] {
    const placed: number[] = [];
    let at = 0;
    for (const piece of this.#rows[row]!) {
      if (at >= values.length) break; // padding
      for (let v = vectorsOf(piece); v > 0; v--) placed.push(virtual ?? values[at]!);
      for (const end = at + piece.length; at < end; at++) placed.push(values[at]!);
    }
    return placed;
  }
}
