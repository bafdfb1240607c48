import { loraError } from '../errors';
import { sourceOptionNames, type SourceOptions } from '../hub/source';
import { objectiveOptions, type ObjectiveName } from '../options/objectives';
import { datasetOptions } from '../options/table';
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
import { checkSeekable, FileDataset } from './file_dataset';
import { dataFiles, type DataFiles, type DataSplit } from './folders';
import { formatByName, lineBytesLimit, type DataFormat } from './lines';
import { MemoryDataset } from './memory_dataset';
import type { LabeledRow, PreferenceRow } from './preference_rows';
import { classShape, type KnownClass } from './class_columns';
import { promptShape } from './prompt_columns';
import type { PromptRow } from './prompt_rows';
import { contrastiveShape, rankShape, type ContrastiveRow, type RankRow } from './retrieval_rows';
import { exampleShape, labeledShape, pairShape, type RowShape } from './row_shapes';
import { Reader } from './reader';
import type { TextEncoder } from './rows';

/** How a data set is read. */
export interface LoadDatasetOptions extends Omit<SourceOptions, 'signal'> {
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
  /**
   * Which part of a folder or of a repository of the hub is read: of a folder train.jsonl, valid.jsonl, test.jsonl, or one of these names with another
   * extension. Default 'train'.
   */
  split?: DataSplit | undefined;
  /** Maximum bytes of a line, record or object; at most 2²⁹ − 24, the limit of a string. Default 64 MiB. */
  maxLineBytes?: number | undefined;
  /** Reads only so many rows from the first on (of plain text: pieces). Default: all, and ERR_DATA beyond 10000000. */
  maxRows?: number | undefined;
  /** Leaves out rows of which an earlier one has the same tokens, as they are after the cut. Default false. */
  deduplicate?: boolean | undefined;
  /** Maximum bytes that compressed data expand to, and a group of rows of Parquet. Default 2 GiB. */
  maxUnzippedBytes?: number | undefined;
  /** Maximum compression ratio of compressed data and Parquet; the first 4 MiB are always read. Default 100. */
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
  /** What the rows are for: a better and a worse answer to a prompt for 'dpo', 'orpo' and 'cpo', an answer that is good or bad for 'kto', prompts for 'grpo', labels for 'classify', texts that belong together for 'contrastive', documents for 'rank'. */
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

/** Rows of any objective beside supervised fine-tuning. */
type AnyPreferences =
  | PreferenceDataset
  | PreferenceDataset<LabeledRow>
  | PreferenceDataset<PromptRow>
  | PreferenceDataset<KnownClass>
  | PreferenceDataset<ContrastiveRow>
  | PreferenceDataset<RankRow>;

/**
 * Reads a data set: rows of { text }, { prompt, completion }, { question, answer }, { messages }, { conversations } (ShareGPT's),
 * { instruction, input?, output } or { inputIds, labels? }, of which the first decides; in `.jsonl`, a list in `.json`, or a table in `.csv`
 * or `.tsv`, whose first line names the columns; or plain text, which is split into pieces of `maxLength` tokens. Any of them may be compressed, with gzip or Zstandard.
 * `.parquet` is read by its columns. Of a folder, or a data set of the hub (`hf:org/name`, and `org/name` where there is no such folder), the files of the `split` are read;
 * `hf:org/name@revision/PATH` names a folder or a file of it. Conversations and answers go through the chat template of the model, and only what the
 * assistant says counts.
 *
 * With an `objective` of preferences, rows are { prompt?, chosen, rejected } or { prompt, completion, label } of texts or messages, or of ids
 * ({ promptIds, chosenIds, rejectedIds }, { promptIds, completionIds, label }). Without a prompt, it is what both answers begin with. An answer is what the prompt
 * with it and the end has more than the prompt; `maxLength` cuts its end. Texts are encoded as they are, messages by the chat template. With 'grpo' rows are { prompt } or
 * { promptIds }, and keep what other fields they have; one whose prompt fills `maxLength` is left out. With 'classify' rows are { text, label } or { inputIds, label }, of which
 * `maxLength` cuts the end; a label is a name, an index or a number, or a list of these, and the model that is trained says which there are.
 * With 'contrastive' rows are { anchor, positive, negative?, instruction? },
 * where `negative` may be a list, and texts that are too long lose what is before their last token; with 'rank' { query, positive, negative, instruction? }, of which those
 * that are too long are left out.
 * @throws ERR_DATA, with file and line, for content that is not as expected, bytes that are not UTF-8 and gzip data
 * that is cut short, what is beyond a bound; ERR_UNSUPPORTED for spreadsheets, archives and other kinds of files; ERR_HUB for a data set that the hub does not give; ERR_FILE for one
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
  options: LoadPreferencesOptions & { objective: 'classify' },
): Promise<PreferenceDataset<KnownClass>>;
export async function loadDataset(
  path: string | URL,
  options: LoadPreferencesOptions & { objective: 'contrastive' },
): Promise<PreferenceDataset<ContrastiveRow>>;
export async function loadDataset(
  path: string | URL,
  options: LoadPreferencesOptions & { objective: 'rank' },
): Promise<PreferenceDataset<RankRow>>;
export async function loadDataset(
  path: string | URL,
  options: LoadPreferencesOptions,
): Promise<AnyPreferences>;
export async function loadDataset(
  path: string | URL,
  options: LoadDatasetOptions | LoadPreferencesOptions = {},
): Promise<Dataset | FileDataset | AnyPreferences> {
  const { trainOn, inMemory = true } = options as LoadDatasetOptions;
  const objective: ObjectiveName = options.objective ?? 'sft';
  checkOneOf('loadDataset', 'objective', objective, objectiveOptions.objective.choices);
  if (objective === 'sft') return read(path, options, exampleShape);
  check(
    trainOn === undefined && inMemory,
    'loadDataset',
    `expected neither trainOn nor inMemory: false with the objective ${objective}, whose rows are answers, prompts or labels in memory`,
  );
  if (objective === 'kto') return read(path, options, labeledShape);
  if (objective === 'grpo') return read(path, options, promptShape);
  if (objective === 'classify') return read(path, options, classShape);
  if (objective === 'contrastive') return read(path, options, contrastiveShape);
  if (objective === 'rank') return read(path, options, rankShape);
  return read(path, options, pairShape);
}

/** The data set of a shape. */
async function read<Row extends object>(
  source: string | URL | DataFiles,
  options: LoadDatasetOptions | LoadPreferencesOptions,
  shape: RowShape<Row>,
): Promise<PreferenceDataset<Row> | FileDataset> {
  const { maxLength, maxRows, inMemory, deduplicate, columns, ...given } = checkedLoadOptions(options);
  const { tokenizer, trainOn, chatTemplate, allowSpecialTokens, signal, stream } = given;
  const { maxLineBytes, maxUnzippedBytes, maxUnzippedRatio } = given;
  const found = isFound(source) ? source : await dataFiles(source, options);
  const { path, files } = found;
  const format = formatByName(files[0]!);
  checkColumns(columns, format, shape);
  if (format === 'text' && !shape.ofText)
    throw loraError(
      'loadDataset',
      'ERR_DATA',
      `${path}: expected rows of answers or labels, and plain text has none`,
    );
  const rows = { tokenizer, trainOn, chatTemplate, allowSpecialTokens, columns, signal };
  const lines = { maxLineBytes, maxUnzippedBytes, maxUnzippedRatio, stream, signal };
  const reader = new Reader(path, shape, rows, { maxLength, maxRows, deduplicate }, lines);
  let stamp = '';
  if (!inMemory) stamp = await checkSeekable(found, format, stream);
  for (const file of files) await reader.read(file, inMemory);
  const { examples, places, counted, truncated, dropped, duplicates, longest, cutTokens, tokens } = reader;
  const { length } = inMemory ? examples : places;
  if (length === 0)
    throw loraError(
      'loadDataset',
      'ERR_DATA',
      `${path}: expected at least one example but it holds ${dropped === 0 ? 'none' : `only rows ${shape.dropped(maxLength)}`}`,
    );
  const counts = { maxLength, truncated, dropped, duplicates, longest, cutTokens, tokens, path };
  if (inMemory) return Object.assign(new MemoryDataset(examples, counted), counts);
  const example = reader.example.bind(reader) as unknown as Reader<Required<Example>>['example'];
  return new FileDataset({ length, ...counts }, places, stamp, example);
}

/** @internal Whether a source is files that were found before. */
const isFound = (source: string | URL | DataFiles): source is DataFiles =>
  typeof source === 'object' && 'files' in source;

const optionNames = [
  ...sourceOptionNames,
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
  'deduplicate',
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
    maxLineBytes = 64 * 2 ** 20,
    maxRows,
    deduplicate = false,
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
  if (maxRows !== undefined) checkInteger('loadDataset', 'maxRows', maxRows, 1);
  checkBoolean('loadDataset', 'deduplicate', deduplicate);
  for (const [name, value] of Object.entries({ maxUnzippedBytes, maxUnzippedRatio }))
    checkInteger('loadDataset', name, value, 1);
  checkBoolean('loadDataset', 'allowSpecialTokens', allowSpecialTokens);
  checkBoolean('loadDataset', 'inMemory', inMemory);
  checkBoolean('loadDataset', 'stream', stream);
  checkSignal('loadDataset', signal);
  return {
    ...{
      tokenizer,
      maxLength,
      trainOn,
      chatTemplate,
      allowSpecialTokens,
      columns,
      deduplicate,
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

/** @internal What {@link loadDataset} gives for the files that dataFiles() has found. */
export const loadFiles = loadDataset as unknown as {
  (files: DataFiles, options: LoadDatasetOptions | LoadPreferencesOptions): Promise<LoadedDataset>;
};

/** @internal */
export type LoadedDataset = DatasetCounts & MemoryDataset<never>;
