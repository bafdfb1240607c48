/** The rows of files as examples: read in their order, cut, counted. */
import { createHash } from 'node:crypto';
import { loraError } from '../errors';
import { Pace } from '../tensor/pace';
import { Column } from './columns';
import type { Example } from './example';
import { Places } from './file_dataset';
import { failAt, parseRow } from './json_rows';
import { formatByName, readLines, type DataFormat, type LineOptions } from './lines';
import type { RowColumns } from './memory_dataset';
import { parquetRows, type NumberedRow } from './parquet';
import type { RowShape } from './row_shapes';
import { rowsInLines } from './row_files';
import { RowError, RowReader, type Row, type RowOptions, type TextEncoder } from './rows';
import type { Line } from './sources';
import { partCharacters, TextPieces } from './text_pieces';

/** Rows that are read where the caller does not say how many: more are an error. */
const mostRows = 10_000_000;

/** What is taken of the rows. */
interface Taken {
  readonly maxLength: number;
  /** undefined: all, up to the most that are read. */
  readonly maxRows: number | undefined;
  readonly deduplicate: boolean;
}

/** Reads the rows of the files of one data set, and counts what becomes of them. */
export class Reader<Out extends object> {
  readonly examples: RowColumns<Out>;
  readonly places: Places;
  /** Tokens of each example that count. */
  readonly counted: Column;
  tokens = 0;
  truncated = 0;
  dropped = 0;
  duplicates = 0;
  longest = 0;
  cutTokens = 0;
  /** The file that is being read. */
  #file: string;
  #read = 0;
  readonly #seen = new Set<string>();
  readonly #rows: RowReader<Out>;
  readonly #pace = new Pace();

  constructor(
    path: string,
    readonly shape: RowShape<Out>,
    readonly options: RowOptions,
    readonly taken: Taken,
    readonly lines: LineOptions,
  ) {
    this.#file = path;
    this.#rows = new RowReader(options, shape.kinds);
    this.examples = shape.columns(path);
    this.counted = new Column('i32', path);
    this.places = new Places(path);
  }

  /** Reads a file behind what was read before. `keep`: the examples, and not only where they are. */
  async read(file: string, keep: boolean): Promise<void> {
    if (this.#enough) return;
    this.#file = file;
    const format = formatByName(file);
    if (format === 'text') await this.#readText();
    else await this.#readRows(format, keep);
  }

  /** Whether as many rows as were asked for are there: what is behind them may be anything. */
  get #enough(): boolean {
    return this.#read === this.taken.maxRows;
  }

  async #readRows(format: Exclude<DataFormat, 'text'>, keep: boolean): Promise<void> {
    for await (const { row, number, line } of this.#opened(format)) {
      if (this.#pace.due) await this.#pace.rest(this.lines.signal);
      this.#countRow(number);
      const example = this.#cut(await this.#tokensOf(row, number), number);
      if (example) {
        this.counted.push(example.tokens);
        if (keep) this.examples.add(example.row);
        else this.places.add(line!, this.shape.lengthOf(example.row));
      }
      if (this.#enough) return;
    }
  }

  /** The rows of the file; the line of each, where it is one. */
  async *#opened(
    format: Exclude<DataFormat, 'text'>,
  ): AsyncGenerator<NumberedRow & { readonly line?: Line }, void, void> {
    if (format === 'parquet') {
      if (this.lines.stream)
        this.#refuse('expected JSONL, JSON, a table or text as a stream, and Parquet is read from its end');
      const columns = this.#columns;
      for await (const rows of parquetRows(this.#file, { ...this.lines, columns })) yield* rows;
      return;
    }
    yield* rowsInLines(this.#file, format, this.lines);
  }

  /** The names that rows may have; undefined: all. */
  get #columns(): ReadonlySet<string> | undefined {
    const { kinds: { kinds, furtherKeys }, keepsFields } = this.shape; // prettier-ignore
    if (keepsFields) return undefined;
    return new Set([
      ...kinds.flatMap(([keys]) => keys),
      ...furtherKeys,
      ...Object.values(this.options.columns ?? {}),
    ]);
  }

  #countRow(line: number): void {
    if (++this.#read > (this.taken.maxRows ?? mostRows))
      this.#fail(line, `expected at most ${mostRows} rows: give maxRows where there are more`);
  }

  /** The example of a line that gave one before. */
  async example(line: string, number: number): Promise<Out> {
    const row = parseRow(line, { file: this.#file, line: number });
    return this.shape.fit(await this.#tokensOf(row, number), this.taken.maxLength).row!;
  }

  #fail(line: number, message: string, code: RowError['code'] = 'ERR_DATA'): never {
    failAt({ file: this.#file, line }, message, code);
  }

  #refuse(message: string): never {
    throw loraError('loadDataset', 'ERR_UNSUPPORTED', `${this.#file}: ${message}`);
  }

  async #tokensOf(row: Row, number: number): Promise<Out> {
    try {
      return await this.#rows.read(row);
    } catch (error) {
      if (error instanceof RowError) this.#fail(number, error.message, error.code);
      throw error;
    }
  }

  /** Cuts and counts; gives nothing for a row of which no token counts, or that was there before. */
  #cut(whole: Out, line: number): { row: Out; tokens: number } | undefined {
    const { row, truncated, tokens } = this.shape.fit(whole, this.taken.maxLength);
    const length = this.shape.lengthOf(whole);
    this.longest = Math.max(this.longest, length);
    if (row === undefined) {
      if (truncated) this.truncated++;
      this.dropped++;
      return undefined;
    }
    const misfit = this.shape.misfit(row);
    if (misfit !== undefined) this.#fail(line, `expected ids and labels of 32 bits but received ${misfit}`);
    if (this.taken.deduplicate && this.#wasThere(row)) {
      this.duplicates++;
      return undefined;
    }
    if (truncated) this.truncated++;
    this.cutTokens += length - this.shape.lengthOf(row);
    this.tokens += tokens;
    return { row, tokens };
  }

  #wasThere(row: Out): boolean {
    const print = fingerprint(this.shape.numbers(row));
    const { size } = this.#seen;
    return this.#seen.add(print).size === size;
  }

  get #tokenizer(): TextEncoder {
    const { tokenizer } = this.options;
    if (tokenizer) return tokenizer;
    throw loraError(
      'loadDataset',
      'ERR_ARGUMENT',
      `expected a tokenizer, since ${this.#file} holds text: pass { tokenizer: model.tokenizer }`,
    );
  }

  async #readText(): Promise<void> {
    const pieces = new TextPieces(() => this.#tokenizer, this.taken.maxLength, this.options.signal);
    let part: string[] = [];
    let characters = 0;
    let first = 1;
    const take = async (made: number[][]): Promise<void> => {
      for (const piece of made) {
        if (this.#enough) return;
        if (this.#pace.due) await this.#pace.rest(this.lines.signal);
        this.#countRow(first);
        const example = this.#cut({ inputIds: piece, labels: piece } as Example as Out, first);
        if (example === undefined) continue;
        this.counted.push(example.tokens);
        this.examples.add(example.row);
      }
    };
    for await (const lines of readLines(this.#file, this.lines)) {
      if (this.#pace.due) await this.#pace.rest(this.lines.signal);
      for (const { line, number } of lines) {
        if (characters >= partCharacters) {
          await take(await pieces.add(`${part.join('\n')}\n`));
          if (this.#enough) return;
          [part, characters, first] = [[], 0, number];
        }
        part.push(line);
        characters += line.length + 1;
      }
    }
    await take(await pieces.end(part.join('\n')));
  }
}

/** Tells rows of other numbers apart: 128 bits of a SHA-256 over the numbers and the length of each part. */
export function fingerprint(parts: readonly (readonly number[])[]): string {
  const hash = createHash('sha256');
  for (const numbers of parts) hash.update(new Int32Array([numbers.length, ...numbers]));
  return hash.digest('base64').slice(0, 22);
}
