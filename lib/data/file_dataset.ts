/** Examples that stay in their file: the places of the rows are known, and a row is read when it is wanted. */
import { LoRAError } from '../errors';
import { InputFile } from '../formats/input';
import { check, describe } from '../validate';
import type { DatasetCounts, Example } from './example';

/** Where a row lies. */
export interface Place {
  readonly offset: number;
  readonly bytes: number;
  /** Of its line, from 1. */
  readonly number: number;
  /** Tokens of its example. */
  readonly length: number;
}

/**
 * A data set that is not in memory: {@link loadDataset} with `inMemory: false`. Training shuffles it whole, as one in memory, because each row can be
 * read by itself.
 *
 * @example
 * const data = await loadDataset('large.jsonl', { tokenizer: model.tokenizer, inMemory: false });
 * const { inputIds } = await data.at(0);
 */
export class FileDataset implements DatasetCounts, AsyncIterable<Required<Example>> {
  /** How many examples there are. */
  readonly length: number;
  /** The most tokens of an example. */
  readonly maxLength: number;
  /** How many examples were cut to `maxLength`. */
  readonly truncated: number;
  /** How many rows were left out, because none of their tokens within `maxLength` counts, or they have one token. */
  readonly dropped: number;
  /** Tokens of all examples that count. */
  readonly tokens: number;
  /** The file it was read from. */
  readonly path: string;
  /** @internal Tokens of each example: batches of similar lengths need no second look at the file. */
  readonly lengths: Uint32Array;
  readonly #offsets: Float64Array;
  readonly #bytes: Uint32Array;
  readonly #numbers: Float64Array;

  /** @internal Use {@link loadDataset}. */
  constructor(
    counts: DatasetCounts,
    places: readonly Place[],
    private readonly stamp: string,
    private readonly example: (line: string, number: number) => Promise<Required<Example>>,
  ) {
    ({
      length: this.length,
      maxLength: this.maxLength,
      truncated: this.truncated,
      dropped: this.dropped,
      tokens: this.tokens,
      path: this.path,
    } = counts);
    this.lengths = Uint32Array.from(places, ({ length }) => length);
    this.#offsets = Float64Array.from(places, ({ offset }) => offset);
    this.#bytes = Uint32Array.from(places, ({ bytes }) => bytes);
    this.#numbers = Float64Array.from(places, ({ number }) => number);
  }

  /**
   * The example of a row.
   * @throws ERR_FILE when the file has changed since it was loaded, ERR_ARGUMENT for an index that is none.
   */
  async at(index: number): Promise<Required<Example>> {
    check(
      Number.isInteger(index) && index >= 0 && index < this.length,
      'loadDataset',
      `expected an index from 0 to ${this.length - 1} but received ${describe(index)}`,
    );
    const file = await InputFile.open(this.path);
    try {
      if (file.stamp !== this.stamp)
        throw new LoRAError('ERR_FILE', `[loadDataset] ${this.path} has changed since it was loaded`, {
          op: 'loadDataset',
        });
      const bytes = await file.bytes(this.#offsets[index]!, this.#bytes[index]!);
      return await this.example(new TextDecoder().decode(bytes), this.#numbers[index]!);
    } finally {
      await file.close();
    }
  }

  /** The examples, in file order; as often as you like. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Required<Example>, void, void> {
    for (let i = 0; i < this.length; i++) yield await this.at(i);
  }
}
