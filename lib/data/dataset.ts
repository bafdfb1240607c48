import { LoRAError } from '../errors';
import { InputFile } from '../formats/input';
import { jsonFault } from '../formats/json_scanner';
import { toPath } from '../formats/paths';
import { Pace } from '../tensor/pace';
import { check, checkBoolean, checkOneOf, checkOptions, checkSignal, describe } from '../validate';
import { countedTokens, type DatasetCounts, type Example } from './example';
import { FileDataset, type Place } from './file_dataset';
import { formatByName, mostLineBytes, readLines, type LineOptions } from './lines';
import { RowError, RowReader, type RowOptions, type TextEncoder } from './rows';

/** How a data set is read. */
export interface LoadDatasetOptions {
  /** Needed for text; data of { inputIds } does without. */
  tokenizer?: TextEncoder | undefined;
  /** Longer examples are cut to this many tokens (plain text: split). Default 512. */
  maxLength?: number | undefined;
  /** Which tokens count: 'completion', the default for conversations and answers, those of the assistant; 'all', the only one for text. */
  trainOn?: 'all' | 'completion' | undefined;
  /**
   * Jinja text that writes conversations, { prompt, completion } and { instruction, input?, output } in the place of the model's template; null
   * writes prompt and completion one after the other.
   */
  chatTemplate?: string | null | undefined;
  /** A line with more bytes is ERR_DATA; at most 2²⁹ − 24, which is what a string holds. Default 64 MiB. */
  maxLineBytes?: number | undefined;
  /**
   * false: only the places of the rows are kept, and each row is read and encoded when it is wanted, so that the file may be larger than memory.
   * All rows are checked first nevertheless. For plain JSONL. Default true.
   */
  inMemory?: boolean | undefined;
  /** The path may name a FIFO, a terminal or a device, such as /dev/stdin: it is read until it ends. Default false: ERR_FILE. */
  stream?: boolean | undefined;
  /** An abort rejects with its reason, also while a stream gives nothing. */
  signal?: AbortSignal | undefined;
}

/** Examples in memory, in file order. */
export interface Dataset extends DatasetCounts, Iterable<Required<Example>> {
  /** The examples, in file order; as often as you like. */
  [Symbol.iterator](): Iterator<Required<Example>>;
}

/**
 * Reads a data set: `.jsonl` of { text }, { prompt, completion }, { messages }, { instruction, input?, output } or { inputIds, labels? } (the
 * first line decides), or plain text, which is split into pieces of `maxLength` tokens. Either may be gzipped. Conversations and answers go
 * through the chat template of the model, and only what the assistant says counts.
 * @throws ERR_DATA, with file and line, for content that is not as expected, bytes that are not UTF-8 and gzip data
 * that is cut short, lines that are too long; ERR_UNSUPPORTED for tables, archives and other kinds of files; ERR_FILE for one
 * that cannot be read or is no regular file; the reason of the signal.
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
  options: LoadDatasetOptions = {},
): Promise<Dataset | FileDataset> {
  checkOptions('loadDataset', options, [
    'tokenizer',
    'maxLength',
    'trainOn',
    'chatTemplate',
    'maxLineBytes',
    'inMemory',
    'stream',
    'signal',
  ]);
  const {
    tokenizer,
    maxLength = 512,
    trainOn,
    chatTemplate,
    maxLineBytes = 64 * 2 ** 20,
    inMemory = true,
    stream = false,
    signal,
  } = options;
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
  if (trainOn !== undefined) checkOneOf('loadDataset', 'trainOn', trainOn, ['all', 'completion']);
  check(
    chatTemplate === undefined || chatTemplate === null || typeof chatTemplate === 'string',
    'loadDataset',
    `expected chatTemplate to be Jinja text or null but received ${describe(chatTemplate)}`,
  );
  check(
    Number.isInteger(maxLineBytes) && maxLineBytes >= 1 && maxLineBytes <= mostLineBytes,
    'loadDataset',
    `expected maxLineBytes to be a whole number from 1 to ${mostLineBytes} but received ${describe(maxLineBytes)}`,
  );
  checkBoolean('loadDataset', 'inMemory', inMemory);
  checkBoolean('loadDataset', 'stream', stream);
  checkSignal('loadDataset', signal);
  const file = toPath(path, 'loadDataset');
  const format = formatByName(file);
  const rows = { tokenizer, trainOn, chatTemplate, signal };
  const reader = new Reader(file, rows, maxLength, { maxLineBytes, stream, signal });
  let stamp = '';
  if (!inMemory) stamp = await checkSeekable(file, format, stream);
  else if (format === 'text') await reader.readText();
  if (format === 'lines') await reader.readJsonLines(inMemory);
  const { examples, places, truncated, dropped, tokens } = reader;
  const length = inMemory ? examples.length : places.length;
  if (length === 0)
    throw new LoRAError(
      'ERR_DATA',
      `[loadDataset] ${file}: expected at least one example but it holds ${dropped === 0 ? 'none' : `only rows of which no token counts within ${maxLength} tokens`}`,
      {
        op: 'loadDataset',
      },
    );
  const counts = { length, maxLength, truncated, dropped, tokens, path: file };
  if (inMemory) return { ...counts, [Symbol.iterator]: () => examples[Symbol.iterator]() };
  return new FileDataset(counts, places, stamp, (line, number) => reader.example(line, number));
}

/** Throws unless rows can be read again by their places; gives the stamp of the file. */
async function checkSeekable(path: string, format: 'lines' | 'text', stream: boolean): Promise<string> {
  const refuse = (what: string): never => {
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `[loadDataset] ${path}: inMemory: false is for plain JSONL files, not for ${what}`,
      {
        op: 'loadDataset',
      },
    );
  };
  if (format === 'text') refuse('plain text');
  if (stream) refuse('what is read as a stream');
  const file = await InputFile.open(path);
  try {
    const head = new Uint8Array(2);
    if ((await file.readSome(head, 0)) === 2 && head[0] === 0x1f && head[1] === 0x8b) refuse('gzip');
    return file.stamp;
  } finally {
    await file.close();
  }
}

class Reader {
  readonly examples: Required<Example>[] = [];
  readonly places: Place[] = [];
  tokens = 0;
  truncated = 0;
  dropped = 0;
  readonly #rows: RowReader;
  readonly #pace = new Pace();

  constructor(
    readonly file: string,
    readonly options: RowOptions,
    readonly maxLength: number,
    readonly lines: LineOptions,
  ) {
    this.#rows = new RowReader(options);
  }

  async readJsonLines(keep: boolean): Promise<void> {
    for await (const { line, number, offset, bytes } of readLines(this.file, this.lines))
      if (line.trim() !== '') {
        const { inputIds, labels } = await this.#rowOf(line, number);
        const example = this.#cut(inputIds, labels);
        if (example && keep) this.examples.push(example);
        else if (example) this.places.push({ offset, bytes, number, length: example.inputIds.length });
        if (this.#pace.due) await this.#pace.rest(this.lines.signal);
      }
  }

  /** The example of a line that gave one before. */
  async example(line: string, number: number): Promise<Required<Example>> {
    const { inputIds, labels } = await this.#rowOf(line, number);
    return { inputIds: inputIds.slice(0, this.maxLength), labels: labels.slice(0, this.maxLength) };
  }

  #fail(line: number, message: string, code: RowError['code'] = 'ERR_DATA'): never {
    throw new LoRAError(code, `[loadDataset] ${this.file}:${line}: ${message}`, { op: 'loadDataset' });
  }

  async #rowOf(line: string, number: number): Promise<Required<Example>> {
    let row: unknown;
    try {
      row = JSON.parse(line);
    } catch {
      this.#fail(number, `expected one JSON object per line, but this is no JSON: ${jsonFault(line)}`);
    }
    if (typeof row !== 'object' || row === null || Array.isArray(row))
      this.#fail(number, `expected a JSON object but received ${describe(row)}`);
    try {
      return await this.#rows.read(row as Readonly<Record<string, unknown>>);
    } catch (error) {
      if (error instanceof RowError) this.#fail(number, error.message, error.code);
      throw error;
    }
  }

  /** Cuts and counts; gives nothing for a row of which no token counts. */
  #cut(inputIds: readonly number[], labels: readonly number[]): Required<Example> | undefined {
    if (inputIds.length > this.maxLength) this.truncated++;
    const example = { inputIds: inputIds.slice(0, this.maxLength), labels: labels.slice(0, this.maxLength) };
    const counted = countedTokens([example.labels]); // a single token predicts nothing
    this.tokens += counted;
    if (counted > 0) return example;
    this.dropped++;
    return undefined;
  }

  async readText(): Promise<void> {
    const lines: string[] = [];
    let characters = 0;
    for await (const { line, number } of readLines(this.file, this.lines)) {
      characters += line.length + 1;
      if (characters > mostLineBytes)
        this.#fail(number, `expected plain text of at most ${mostLineBytes} characters: split the file`);
      lines.push(line);
    }
    const { tokenizer, signal } = this.options;
    if (!tokenizer)
      throw new LoRAError(
        'ERR_ARGUMENT',
        `[loadDataset] expected a tokenizer, since ${this.file} holds text: pass { tokenizer: model.tokenizer }`,
        { op: 'loadDataset' },
      );
    const text = lines.join('\n');
    const ids = tokenizer.encodeAsync
      ? await tokenizer.encodeAsync(text, { signal })
      : tokenizer.encode(text);
    for (let at = 0; at < ids.length; at += this.maxLength) {
      const piece = ids.slice(at, at + this.maxLength);
      const example = this.#cut(piece, piece);
      if (example) this.examples.push(example);
    }
  }
}
