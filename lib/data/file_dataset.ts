/** Examples that stay in their file: the places of the rows are known, and a row is read when it is wanted. */
import { loraError } from '../errors';
import { InputFile } from '../formats/input';
import { check, describe } from '../validate';
import { Column } from './columns';
import type { DatasetCounts, Example } from './example';
import type { DataFiles } from './folders';
import { compressionName, type DataFormat } from './lines';
import type { Line } from './sources';

/** What refuses places of rows in these formats. */
const otherFormats: Readonly<Partial<Record<DataFormat, string>>> = {
  text: 'plain text',
  objects: 'JSON that is no JSONL',
  commas: 'tables',
  tabs: 'tables',
  parquet: 'Parquet',
};

/** Throws unless rows can be read again by their places; gives the stamp of the file. */
export async function checkSeekable(
  { path, files }: DataFiles,
  format: DataFormat,
  stream: boolean,
): Promise<string> {
  const refuse = (what: string): never => {
    throw loraError(
      'loadDataset',
      'ERR_UNSUPPORTED',
      `${path}: inMemory: false is for plain JSONL files, not for ${what}`,
    );
  };
  const other = otherFormats[format];
  if (other !== undefined) refuse(other);
  if (stream) refuse('what is read as a stream');
  if (files.length > 1) refuse('several files');
  const file = await InputFile.open(files[0]!);
  try {
    const head = new Uint8Array(4);
    await file.readSome(head, 0);
    const compression = compressionName(head);
    if (compression !== undefined) refuse(compression);
    return file.stamp;
  } finally {
    await file.close();
  }
}

/** Where rows lie, and the tokens of their examples. */
export class Places {
  readonly offset: Column;
  readonly bytes: Column;
  /** Of the line, from 1. */
  readonly number: Column;
  readonly tokens: Column;

  constructor(path: string) {
    this.offset = new Column('f64', path);
    this.bytes = new Column('i32', path);
    this.number = new Column('f64', path);
    this.tokens = new Column('i32', path);
  }

  get length(): number {
    return this.offset.length;
  }

  add({ offset, bytes, number }: Line, tokens: number): void {
    this.offset.push(offset);
    this.bytes.push(bytes);
    this.number.push(number);
    this.tokens.push(tokens);
  }
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
  readonly length: number;
  readonly maxLength: number;
  readonly truncated: number;
  readonly dropped: number;
  readonly duplicates: number;
  readonly longest: number;
  readonly cutTokens: number;
  readonly tokens: number;
  readonly path: string;

  /** @internal Use {@link loadDataset}. */
  constructor(
    counts: DatasetCounts,
    private readonly places: Places,
    private readonly stamp: string,
    private readonly example: (line: string, number: number) => Promise<Required<Example>>,
  ) {
    ({
      length: this.length,
      maxLength: this.maxLength,
      truncated: this.truncated,
      dropped: this.dropped,
      duplicates: this.duplicates,
      longest: this.longest,
      cutTokens: this.cutTokens,
      tokens: this.tokens,
      path: this.path,
    } = counts);
  }

  /** @internal Tokens of each example: batches of similar lengths need no second look at the file. */
  get lengths(): readonly number[] {
    return this.places.tokens.slice(0, this.length);
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
        throw loraError('loadDataset', 'ERR_FILE', `${this.path} has changed since it was loaded`);
      const bytes = await file.bytes(this.places.offset.at(index), this.places.bytes.at(index));
      return await this.example(new TextDecoder().decode(bytes), this.places.number.at(index));
    } finally {
      await file.close();
    }
  }

  /** The examples, in file order; as often as you like. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Required<Example>, void, void> {
    for (let i = 0; i < this.length; i++) yield await this.at(i);
  }
}
