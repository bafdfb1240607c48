/** Several examples in one row, told apart by segment ids: attention and positions stay inside each. */
import type { Example } from './example';

/** A row of several examples. */
export interface PackedRow {
  readonly inputIds: number[];
  /** Those of the examples; of the first token of each the model knows whether anything predicts it. */
  readonly labels: number[];
  /** The number of the example in its row, from 1. */
  readonly segmentIds: number[];
}

/**
 * Fills `rows` rows of `length` tokens at a time: each example goes into the first open row that has room (first fit), and the rows are given when
 * one has none. A longer example has a row of its own.
 */
export class Packer {
  #open: PackedRow[] = [];

  constructor(
    private readonly rows: number,
    private readonly length: number,
  ) {}

  /** Puts an example in; gives the rows that are full, where it did not fit. */
  add({ inputIds, labels }: Required<Example>): PackedRow[] | undefined {
    const place = (): PackedRow | undefined => {
      const room = this.#open.find((row) => row.inputIds.length + inputIds.length <= this.length);
      if (room !== undefined || this.#open.length === this.rows) return room;
      const row: PackedRow = { inputIds: [], labels: [], segmentIds: [] };
      this.#open.push(row);
      return row;
    };
    let full: PackedRow[] | undefined;
    let row = place();
    if (row === undefined) {
      full = this.rest();
      row = place()!;
    }
    const segment = (row.segmentIds.at(-1) ?? 0) + 1;
    for (const [i, id] of inputIds.entries()) {
      row.inputIds.push(id);
      row.labels.push(labels[i]!);
      row.segmentIds.push(segment);
    }
    return full;
  }

  /** The rows that are open; none where nothing was put in since. */
  rest(): PackedRow[] {
    const rows = this.#open;
    this.#open = [];
    return rows;
  }
}
