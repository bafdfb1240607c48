import { loraError } from '../errors';
import { toPath } from '../formats/paths';
import { objectiveOptions, type ObjectiveName } from '../options/objectives';
import { datasetOptions } from '../options/table';
import { Pace } from '../tensor/pace';
import {
  check,
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkSignal,
  describe,
  isRecord,
} from '../validate';
import type { DatasetCounts, Example } from './example';
import { checkSeekable, FileDataset, Places } from './file_dataset';
import { failAt, parseRow } from './json_rows';
import { CsvRows, csvRecords } from './csv';
import { dataSplits, splitFile, type DataSplit } from './folders';
import {
  formatByName,
  lineBytesLimit,
  readLines,
  readObjects,
  type DataFormat,
  type LineOptions,
} from './lines';
import { MemoryDataset, type RowColumns } from './memory_dataset';
import type { LabeledRow, PreferenceRow } from './preference_rows';
import { promptShape } from './prompt_columns';
import type { PromptRow } from './prompt_rows';
import { exampleShape, labeledShape, pairShape, type RowShape } from './row_shapes';
import { RowError, RowReader, type RowOptions, type TextEncoder } from './rows';
import type { Line } from './sources';
import { partCharacters, TextPieces } from './text_pieces';

/** How a data set is read. */
export interface LoadDatasetOptions {
  /** What the rows are for; see {@link LoadPreferencesOptions} for preferences. Default 'sft'. */
  objective?: 'sft' | undefined;
  /** Required for text, not for rows of { inputIds }. */
  tokenizer?: TextEncoder | undefined;
  /** Longer examples are cut to this many tokens (plain text: split). Default 512. */
  maxLength?: number | undefined;
  /** Which tokens count: 'completion', the default for conversations and answers, those of the assistant; 'all', the only one for text. */
  trainOn?: 'all' | 'completion' | undefined;
  /**
   * Jinja text that writes conversations, { prompt, completion } and { instruction, input?, output } instead of the model's template; null
   * concatenates prompt and completion.
   */
  chatTemplate?: string | null | undefined;
  /**
   * Lets messages contain special tokens by their spelling, as in transformers. Default false: they stay text. In rows of { text }, and others that use
   * no template, every spelling is the token.
   */
  allowSpecialTokens?: boolean | undefined;
  /**
   * The names of the columns: `{ prompt: 'q', completion: 'a' }` for rows of { q, a }. Keys are those of the kinds of rows.
   * Default: the same as the keys.
   */
  columns?: Readonly<Record<string, string>> | undefined;
  /** Which file of a folder is read: train.jsonl, valid.jsonl, test.jsonl, or one of these names with another extension. Default 'train'. */
  split?: DataSplit | undefined;
  /** Maximum bytes of a line, record or object; at most 2²⁹ − 24, the limit of a string. Default 64 MiB. */
  maxLineBytes?: number | undefined;
  /** Maximum number of rows (of plain text: pieces). Default 10000000. */
  maxRows?: number | undefined;
  /** Maximum bytes that gzip data expand to. Default 2 GiB. */
  maxUnzippedBytes?: number | undefined;
  /** Maximum compression ratio of gzip data; the first 4 MiB are always read. Default 100. */
  maxUnzippedRatio?: number | undefined;
  /**
   * false: keeps only the positions of the rows and reads and encodes each when it is needed, so that the file may be larger than memory.
   * All rows are still checked first. For plain JSONL. Default true.
   */
  inMemory?: boolean | undefined;
  /** Allows a FIFO, a terminal or a device, such as /dev/stdin, which is read to its end. Default false: ERR_FILE. */
  stream?: boolean | undefined;
  /** An abort rejects with its reason, even while a stream is waiting. */
  signal?: AbortSignal | undefined;
}

/** How a data set of preferences is read: as others, but into memory, and of its rows the answers count. */
export interface LoadPreferencesOptions extends Omit<
  LoadDatasetOptions,
  'objective' | 'trainOn' | 'inMemory'
> {
  /** What the rows are for: a better and a worse answer to a prompt for 'dpo', 'orpo' and 'cpo', an answer that is good or bad for 'kto', prompts for 'grpo'. */
  objective: Exclude<ObjectiveName, 'sft'>;
}

/** Examples in memory, in file order. */
export interface Dataset extends DatasetCounts, Iterable<Required<Example>> {
  /** The examples, in file order; as often as you like. */
  [Symbol.iterator](): Iterator<Required<Example>>;
}

/** Rows of preferences in memory, in file order. Of these, `dropped` counts the rows whose prompt fills `maxLength`. */
export interface PreferenceDataset<Row = PreferenceRow> extends DatasetCounts, Iterable<Row> {
  /** The rows, in file order; as often as you like. */
  [Symbol.iterator](): Iterator<Row>;
}

/**
 * Reads a data set: rows of { text }, { prompt, completion }, { question, answer }, { messages }, { conversations } (ShareGPT's),
 * { instruction, input?, output } or { inputIds, labels? }, of which the first decides; in `.jsonl`, a list in `.json`, or a table in `.csv`
 * or `.tsv`, whose first line names the columns; or plain text, which is split into pieces of `maxLength` tokens. Any of them may be gzipped.
 * Of a folder, the file of the `split` is read. Conversations and answers go through the chat template of the model, and only what the
 * assistant says counts.
 *
 * With an `objective` of preferences, rows are { prompt?, chosen, rejected } or { prompt, completion, label } of texts or messages, or of ids
 * ({ promptIds, chosenIds, rejectedIds }, { promptIds, completionIds, label }). Without a prompt, it is what both answers begin with. An answer is what the prompt
 * with it and the end has more than the prompt; `maxLength` cuts its end. Texts are encoded as they are, messages by the chat template. With 'grpo' rows are { prompt } or
 * { promptIds }, and keep what other fields they have; one whose prompt fills `maxLength` is left out.
 * @throws ERR_DATA, with file and line, for content that is not as expected, bytes that are not UTF-8 and gzip data
 * that is cut short, what is beyond a bound; ERR_UNSUPPORTED for spreadsheets, archives and other kinds of files; ERR_FILE for one
 * that cannot be read or is no regular file; ERR_OUT_OF_MEMORY for examples that do not fit; the reason of the signal.
 *
 * @example
 * const data = await loadDataset('train.jsonl', { tokenizer: model.tokenizer, maxLength: 512 });
 */
export async function loadDataset(
  path: string | URL,
  options: LoadDatasetOptions & { inMemory: false },
): Promise<FileDataset>;
export async function loadDataset(path: string | URL, options?: LoadDatasetOptions): Promise<Dataset>;
export async function loadDataset(
  path: string | URL,
  options: LoadPreferencesOptions & { objective: 'kto' },
): Promise<PreferenceDataset<LabeledRow>>;
export async function loadDataset(
  path: string | URL,
  options: LoadPreferencesOptions & { objective: 'dpo' | 'orpo' | 'cpo' },
): Promise<PreferenceDataset>;
export async function loadDataset(
  path: string | URL,
  options: LoadPreferencesOptions & { objective: 'grpo' },
): Promise<PreferenceDataset<PromptRow>>;
export async function loadDataset(
  path: string | URL,
  options: LoadPreferencesOptions,
): Promise<PreferenceDataset | PreferenceDataset<LabeledRow> | PreferenceDataset<PromptRow>>;
export async function loadDataset(
  path: string | URL,
  options: LoadDatasetOptions | LoadPreferencesOptions = {},
): Promise<
  Dataset | FileDataset | PreferenceDataset | PreferenceDataset<LabeledRow> | PreferenceDataset<PromptRow>
> {
  const { trainOn, inMemory = true } = options as LoadDatasetOptions;
  const objective: ObjectiveName = options.objective ?? 'sft';
  checkOneOf('loadDataset', 'objective', objective, objectiveOptions.objective.choices);
  if (objective === 'sft') return read(path, options, exampleShape);
  check(
    trainOn === undefined && inMemory,
    'loadDataset',
    `expected neither trainOn nor inMemory: false with the objective ${objective}, whose rows are answers or prompts in memory`,
  );
  if (objective === 'kto') return read(path, options, labeledShape);
  if (objective === 'grpo') return read(path, options, promptShape);
  return read(path, options, pairShape);
}

/** The data set of a shape. */
async function read<Row extends object>(
  path: string | URL,
  options: LoadDatasetOptions | LoadPreferencesOptions,
  shape: RowShape<Row>,
): Promise<PreferenceDataset<Row> | FileDataset> {
  const { maxLength, maxRows, inMemory, split, columns, ...given } = checkedLoadOptions(options);
  const { tokenizer, trainOn, chatTemplate, allowSpecialTokens, signal, stream } = given;
  const { maxLineBytes, maxUnzippedBytes, maxUnzippedRatio } = given;
  const file = await splitFile(toPath(path, 'loadDataset'), split);
  const format = formatByName(file);
  checkColumns(columns, format, shape);
  if (format === 'text' && !shape.ofText)
    throw loraError('loadDataset', 'ERR_DATA', `${file}: expected rows of answers, and plain text has none`);
  const rows = { tokenizer, trainOn, chatTemplate, allowSpecialTokens, columns, signal };
  const lines = { maxLineBytes, maxUnzippedBytes, maxUnzippedRatio, stream, signal };
  const reader = new Reader(file, shape, rows, maxLength, maxRows, lines);
  let stamp = '';
  if (!inMemory) stamp = await checkSeekable(file, format, stream);
  if (format === 'text') await reader.readText();
  else await reader.readRows(format, inMemory);
  const { examples, places, truncated, dropped, tokens } = reader;
  const { length } = inMemory ? examples : places;
  if (length === 0)
    throw loraError(
      'loadDataset',
      'ERR_DATA',
      `${file}: expected at least one example but it holds ${dropped === 0 ? 'none' : `only rows ${shape.dropped(maxLength)}`}`,
    );
  const counts = { maxLength, truncated, dropped, tokens, path: file };
  if (inMemory) return Object.assign(new MemoryDataset(examples), counts);
  const example = reader.example.bind(reader) as unknown as Reader<Required<Example>>['example'];
  return new FileDataset({ length, ...counts }, places, stamp, example);
}

const optionNames = [
  'objective',
  'tokenizer',
  'maxLength',
  'trainOn',
  'chatTemplate',
  'allowSpecialTokens',
  'columns',
  'split',
  'maxLineBytes',
  'maxRows',
  'maxUnzippedBytes',
  'maxUnzippedRatio',
  'inMemory',
  'stream',
  'signal',
];

/** The options with their defaults, checked as far as they can be without the file. */
function checkedLoadOptions(options: LoadDatasetOptions | LoadPreferencesOptions) {
  checkOptions('loadDataset', options, optionNames);
  const {
    tokenizer,
    maxLength = datasetOptions.maxLength.default,
    trainOn,
    chatTemplate,
    allowSpecialTokens = false,
    columns,
    split,
    maxLineBytes = 64 * 2 ** 20,
    maxRows = 10_000_000,
    maxUnzippedBytes = 2 * 2 ** 30,
    maxUnzippedRatio = 100,
    inMemory = true,
    stream = false,
    signal,
  } = options as LoadDatasetOptions;
  check(
    Number.isInteger(maxLength) && maxLength > 1,
    'loadDataset',
    `expected maxLength to be a whole number above 1 but received ${describe(maxLength)}`,
  );
  if (tokenizer !== undefined) {
    const given = tokenizer as Partial<TextEncoder> & { hasTokenizer?: unknown };
    check(
      typeof given?.encode === 'function',
      'loadDataset',
      `expected tokenizer to have encode(text) but received ${describe(tokenizer)}${given?.hasTokenizer ? ': pass model.tokenizer' : ''}`,
    );
  }
  if (trainOn !== undefined) checkOneOf('loadDataset', 'trainOn', trainOn, datasetOptions.trainOn.choices);
  check(
    chatTemplate === undefined || chatTemplate === null || typeof chatTemplate === 'string',
    'loadDataset',
    `expected chatTemplate to be Jinja text or null but received ${describe(chatTemplate)}`,
  );
  check(
    Number.isInteger(maxLineBytes) && maxLineBytes >= 1 && maxLineBytes <= lineBytesLimit,
    'loadDataset',
    `expected maxLineBytes to be a whole number from 1 to ${lineBytesLimit} but received ${describe(maxLineBytes)}`,
  );
  for (const [name, value] of Object.entries({ maxRows, maxUnzippedBytes, maxUnzippedRatio }))
    checkInteger('loadDataset', name, value, 1);
  checkBoolean('loadDataset', 'allowSpecialTokens', allowSpecialTokens);
  checkBoolean('loadDataset', 'inMemory', inMemory);
  checkBoolean('loadDataset', 'stream', stream);
  checkSignal('loadDataset', signal);
  if (split !== undefined) checkOneOf('loadDataset', 'split', split, dataSplits);
  return {
    ...{
      tokenizer,
      maxLength,
      trainOn,
      chatTemplate,
      allowSpecialTokens,
      columns,
      split,
      inMemory,
      stream,
      signal,
    },
    ...{ maxLineBytes, maxRows, maxUnzippedBytes, maxUnzippedRatio },
  };
}

/** Throws unless columns are named for what rows have. */
function checkColumns(
  columns: unknown,
  format: DataFormat,
  { kinds: { kinds, furtherKeys } }: Pick<RowShape<object>, 'kinds'>,
): void {
  if (columns === undefined) return;
  check(
    isRecord(columns) && Object.values(columns).every((name) => typeof name === 'string'),
    'loadDataset',
    `expected columns to be an object of names, such as { prompt: 'q', completion: 'a' }, but received ${describe(columns)}`,
  );
  check(format !== 'text', 'loadDataset', 'expected columns for rows, and plain text has none');
  const columnKeys = [...kinds.flatMap(([keys]) => keys), ...furtherKeys];
  const wrong = Object.keys(columns).find((key) => !columnKeys.includes(key));
  check(
    wrong === undefined,
    'loadDataset',
    `expected columns to name one of ${columnKeys.join(', ')} but received ${describe(wrong)}`,
  );
}

type Row = Readonly<Record<string, unknown>>;

class Reader<Out extends object> {
  readonly examples: RowColumns<Out>;
  readonly places: Places;
  tokens = 0;
  truncated = 0;
  dropped = 0;
  #counted = 0;
  readonly #rows: RowReader<Out>;
  readonly #pace = new Pace();

  constructor(
    readonly file: string,
    readonly shape: RowShape<Out>,
    readonly options: RowOptions,
    readonly maxLength: number,
    readonly maxRows: number,
    readonly lines: LineOptions,
  ) {
    this.#rows = new RowReader(options, shape.kinds);
    this.examples = shape.columns(file);
    this.places = new Places(file);
  }

  async readRows(format: Exclude<DataFormat, 'text'>, keep: boolean): Promise<void> {
    const [source, parse] = this.#opened(format);
    for await (const lines of source)
      for (const line of lines) {
        if (this.#pace.due) await this.#pace.rest(this.lines.signal);
        if (line.line.trim() === '') continue;
        const row = parse(line);
        if (!row) continue;
        this.#countRow(line.number);
        const example = this.#cut(await this.#tokensOf(row, line.number), line.number);
        if (example && keep) this.examples.add(example);
        else if (example) this.places.add(line, this.shape.lengthOf(example));
      }
  }

  /** The texts of the rows, and what makes a row of one; undefined where it names the columns. */
  #opened(
    format: Exclude<DataFormat, 'text'>,
  ): [source: AsyncIterable<readonly Line[]>, parse: (line: Line) => Row | undefined] {
    const { file } = this;
    if (format === 'lines')
      return [readLines(file, this.lines), ({ line: text, number: line }) => parseRow(text, { file, line })];
    if (format === 'objects')
      return [
        readObjects(file, this.lines),
        ({ line: text, number: line }) => parseRow(text, { file, line }, 'a JSON object'),
      ];
    const table = new CsvRows(file, format === 'commas' ? ',' : '\t');
    const records = csvRecords(readLines(file, this.lines), file, this.lines.maxLineBytes);
    return [records, ({ line, number }) => table.row(line, number)];
  }

  #countRow(line: number): void {
    if (++this.#counted > this.maxRows)
      this.#fail(line, `expected at most ${this.maxRows} rows: raise maxRows where there are so many`);
  }

  /** The example of a line that gave one before. */
  async example(line: string, number: number): Promise<Out> {
    const row = parseRow(line, { file: this.file, line: number });
    return this.shape.fit(await this.#tokensOf(row, number), this.maxLength).row!;
  }

  #fail(line: number, message: string, code: RowError['code'] = 'ERR_DATA'): never {
    failAt({ file: this.file, line }, message, code);
  }

  async #tokensOf(row: Row, number: number): Promise<Out> {
    try {
      return await this.#rows.read(row);
    } catch (error) {
      if (error instanceof RowError) this.#fail(number, error.message, error.code);
      throw error;
    }
  }

  /** Cuts and counts; gives nothing for a row of which no token counts. */
  #cut(whole: Out, line: number): Out | undefined {
    const { row, truncated, tokens } = this.shape.fit(whole, this.maxLength);
    if (truncated) this.truncated++;
    this.tokens += tokens;
    if (row === undefined) {
      this.dropped++;
      return undefined;
    }
    const misfit = this.shape.misfit(row);
    if (misfit !== undefined) this.#fail(line, `expected ids and labels of 32 bits but received ${misfit}`);
    return row;
  }

  get #tokenizer(): TextEncoder {
    const { tokenizer } = this.options;
    if (tokenizer) return tokenizer;
    throw loraError(
      'loadDataset',
      'ERR_ARGUMENT',
      `expected a tokenizer, since ${this.file} holds text: pass { tokenizer: model.tokenizer }`,
    );
  }

  async readText(): Promise<void> {
    const pieces = new TextPieces(() => this.#tokenizer, this.maxLength, this.options.signal);
    let part: string[] = [];
    let characters = 0;
    let first = 1;
    const take = async (made: number[][]): Promise<void> => {
      for (const piece of made) {
        if (this.#pace.due) await this.#pace.rest(this.lines.signal);
        this.#countRow(first);
        const example = this.#cut({ inputIds: piece, labels: piece } as Example as Out, first);
        if (example) this.examples.add(example);
      }
    };
    for await (const lines of readLines(this.file, this.lines)) {
      if (this.#pace.due) await this.#pace.rest(this.lines.signal);
      for (const { line, number } of lines) {
        if (characters >= partCharacters) {
          await take(await pieces.add(`${part.join('\n')}\n`));
          [part, characters, first] = [[], 0, number];
        }
        part.push(line);
        characters += line.length + 1;
      }
    }
    await take(await pieces.end(part.join('\n')));
  }
}
