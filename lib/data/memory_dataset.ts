/** Rows in memory. */
import type { Column } from './columns';
import type { Example } from './example';

/** Rows outside JavaScript's heap. */
export interface RowColumns<Row> {
  readonly length: number;
  /** Tokens of each row: of the longest of its texts. */
  readonly lengths: readonly number[];
  add(row: Row): void;
  at(index: number): Row;
}

/** Rows that are made as they are asked for: as lists of JavaScript they take four times the memory. */
export class MemoryDataset<Row = Required<Example>> implements Iterable<Row> {
  readonly length: number;
  readonly #rows: RowColumns<Row>;

  /** `counted`: tokens of each row that count. */
  constructor(
    rows: RowColumns<Row>,
    readonly counted: Pick<Column, 'at'>,
  ) {
    this.length = rows.length;
    this.#rows = rows;
  }

  at(index: number): Row {
    return this.#rows.at(index);
  }

  /** Tokens of each row. */
  get lengths(): readonly number[] {
    return this.#rows.lengths;
  }

  *[Symbol.iterator](): Generator<Row, void, void> {
    for (let i = 0; i < this.length; i++) yield this.at(i);
  }
}
