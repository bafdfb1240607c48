/** Examples in memory. */
import type { ExampleColumns } from './columns';
import type { Example } from './example';

/** Examples that are made as they are asked for: as lists of JavaScript they take four times the memory. */
export class MemoryDataset implements Iterable<Required<Example>> {
  readonly length: number;
  readonly #examples: ExampleColumns;

  constructor(examples: ExampleColumns) {
    this.length = examples.length;
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
