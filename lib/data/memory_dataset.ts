/** A data set in memory. */
import type { ExampleColumns } from './columns';
import type { DatasetCounts, Example } from './example';

/** What `loadDataset` gives by default. Examples are made as they are asked for: as lists of JavaScript they take four times the memory. */
export class MemoryDataset implements DatasetCounts, Iterable<Required<Example>> {
  readonly length: number;
  readonly maxLength: number;
  readonly truncated: number;
  readonly dropped: number;
  readonly tokens: number;
  readonly path: string;
  readonly #examples: ExampleColumns;

  constructor(counts: DatasetCounts, examples: ExampleColumns) {
    ({
      length: this.length,
      maxLength: this.maxLength,
      truncated: this.truncated,
      dropped: this.dropped,
      tokens: this.tokens,
      path: this.path,
    } = counts);
    this.#examples = examples;
  }

  at(index: number): Required<Example> {
    return this.#examples.at(index);
  }

  /** Tokens of each example. */
  get lengths(): readonly number[] {
    return this.#examples.lengths;
  }

  *[Symbol.iterator](): Generator<Required<Example>, void, void> {
    for (let i = 0; i < this.length; i++) yield this.at(i);
  }
}
