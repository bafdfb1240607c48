import { LoRAError } from '../errors';
import { toPath } from '../formats/paths';
import { Pace } from '../formats/slices';
import { check, checkBoolean, checkOneOf, checkOptions, checkSignal, describe } from '../validate';
import { checkExample, type Example } from './example';
import { formatByName, mostLineBytes, readLines, type LineOptions } from './lines';

/** What a data set needs of a tokenizer: that of a model has it. */
export interface TextEncoder {
  /** The ids of a text, as {@link Tokenizer.encode} gives them. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[];
  /** The same in slices, between which timers and I/O run; taken where there is one. */
  encodeAsync?(text: string, options?: { signal?: AbortSignal | undefined }): Promise<number[]>;
  /** Appended to each text, so that the model learns where to stop. */
  readonly eosTokenId?: number | null;
}

/** How a data set is read. */
export interface LoadDatasetOptions {
  /** Needed for text; data of { inputIds } does without. */
  tokenizer?: TextEncoder | undefined;
  /** Longer examples are cut to this many tokens (plain text: split). Default 512. */
  maxLength?: number | undefined;
  /** Which tokens count. 'all' is the only one for text. Default 'all'. */
  trainOn?: 'all' | 'completion' | undefined;
  /** A line with more bytes is ERR_DATA; at most 2²⁹ − 24, which is what a string holds. Default 64 MiB. */
  maxLineBytes?: number | undefined;
  /** The path may name a FIFO, a terminal or a device, such as /dev/stdin: it is read until it ends. Default false: ERR_FILE. */
  stream?: boolean | undefined;
  /** An abort rejects with its reason, also while a stream gives nothing. */
  signal?: AbortSignal | undefined;
}

/** Examples in memory, in file order. */
export interface Dataset extends Iterable<Required<Example>> {
  /** How many examples there are. */
  readonly length: number;
  /** How many examples were cut to `maxLength`. */
  readonly truncated: number;
  /** The file it was read from. */
  readonly path: string;
  /** The examples, in file order; as often as you like. */
  [Symbol.iterator](): Iterator<Required<Example>>;
}

type Format = 'text' | 'ids';

/**
 * Reads a data set: `.jsonl` of { text } or { inputIds, labels? } (the first line decides), or plain text,
 * which is split into pieces of `maxLength` tokens. Either may be gzipped.
 * @throws ERR_DATA, with file and line, for content that is not as expected, bytes that are not UTF-8 and gzip data
 * that is cut short, lines that are too long; ERR_UNSUPPORTED for tables, archives and other kinds of files; ERR_FILE for one
 * that cannot be read or is no regular file; the reason of the signal.
 *
 * @example
 * const data = await loadDataset('train.jsonl', { tokenizer: model.tokenizer, maxLength: 512 });
 */
export async function loadDataset(path: string | URL, options: LoadDatasetOptions = {}): Promise<Dataset> {
  checkOptions('loadDataset', options, [
    'tokenizer',
    'maxLength',
    'trainOn',
    'maxLineBytes',
    'stream',
    'signal',
  ]);
  const {
    tokenizer,
    maxLength = 512,
    trainOn = 'all',
    maxLineBytes = 64 * 2 ** 20,
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
  checkOneOf('loadDataset', 'trainOn', trainOn, ['all', 'completion']);
  if (trainOn !== 'all')
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `[loadDataset] trainOn ${describe(trainOn)} is not supported yet: use 'all', or { inputIds, labels } with your own mask`,
      { op: 'loadDataset' },
    );
  check(
    Number.isInteger(maxLineBytes) && maxLineBytes >= 1 && maxLineBytes <= mostLineBytes,
    'loadDataset',
    `expected maxLineBytes to be a whole number from 1 to ${mostLineBytes} but received ${describe(maxLineBytes)}`,
  );
  checkBoolean('loadDataset', 'stream', stream);
  checkSignal('loadDataset', signal);
  const file = toPath(path, 'loadDataset');
  const format = formatByName(file);
  const reader = new Reader(file, tokenizer, maxLength, { maxLineBytes, stream, signal });
  if (format === 'lines') await reader.readJsonLines();
  else await reader.readText();
  if (reader.examples.length === 0)
    throw new LoRAError(
      'ERR_DATA',
      `[loadDataset] ${file}: expected at least one example but it holds none`,
      {
        op: 'loadDataset',
      },
    );
  const { examples, truncated } = reader;
  return {
    length: examples.length,
    truncated,
    path: file,
    [Symbol.iterator]: () => examples[Symbol.iterator](),
  };
}

class Reader {
  readonly examples: Required<Example>[] = [];
  truncated = 0;
  #format: Format | undefined;
  readonly #pace = new Pace();

  constructor(
    readonly file: string,
    readonly tokenizer: TextEncoder | undefined,
    readonly maxLength: number,
    readonly lines: LineOptions,
  ) {}

  async readJsonLines(): Promise<void> {
    for await (const { line, number } of readLines(this.file, this.lines))
      if (line.trim() !== '') {
        await this.#addLine(line, number);
        if (this.#pace.due) await this.#pace.rest(this.lines.signal);
      }
  }

  #fail(line: number, message: string, code: 'ERR_DATA' | 'ERR_UNSUPPORTED' = 'ERR_DATA'): never {
    throw new LoRAError(code, `[loadDataset] ${this.file}:${line}: ${message}`, { op: 'loadDataset' });
  }

  async #addLine(line: string, number: number): Promise<void> {
    let record: unknown;
    try {
      record = JSON.parse(line);
    } catch (error) {
      this.#fail(
        number,
        `expected one JSON object per line but received ${describe(line)}: ${(error as Error).message}`,
      );
    }
    if (typeof record !== 'object' || record === null || Array.isArray(record))
      this.#fail(number, `expected a JSON object but received ${describe(record)}`);
    this.#format ??= this.#formatOf(record, number);
    if (this.#format === 'ids') {
      const example = checkExample('loadDataset', record, `${this.file}:${number}`);
      this.#add([...example.inputIds], [...example.labels]);
      return;
    }
    const { text } = record as { text?: unknown };
    if (typeof text !== 'string')
      this.#fail(
        number,
        `expected "text" to be a string, as on the first line, but received ${describe(text)}`,
      );
    const ids = await this.#encode(text);
    const { eosTokenId } = this.#needTokenizer();
    if (typeof eosTokenId === 'number' && ids.at(-1) !== eosTokenId) ids.push(eosTokenId);
    this.#add(ids, ids);
  }

  #formatOf(record: object, number: number): Format {
    if ('text' in record) return 'text';
    if ('inputIds' in record) return 'ids';
    const chat = ['prompt', 'messages'].find((key) => key in record);
    if (chat)
      this.#fail(
        number,
        `{ ${chat === 'prompt' ? 'prompt, completion' : 'messages'} } is not supported yet: use { text }, or { inputIds, labels } with your own mask`,
        'ERR_UNSUPPORTED',
      );
    this.#fail(
      number,
      `expected { text } or { inputIds, labels } but received the keys ${Object.keys(record).join(', ') || '(none)'}`,
    );
  }

  #needTokenizer(): TextEncoder {
    if (this.tokenizer) return this.tokenizer;
    throw new LoRAError(
      'ERR_ARGUMENT',
      `[loadDataset] expected a tokenizer, since ${this.file} holds text: pass { tokenizer: model.tokenizer }`,
      { op: 'loadDataset' },
    );
  }

  async #encode(text: string): Promise<number[]> {
    const tokenizer = this.#needTokenizer();
    const { signal } = this.lines;
    const ids = tokenizer.encodeAsync
      ? await tokenizer.encodeAsync(text, { signal })
      : tokenizer.encode(text);
    return ids.slice();
  }

  #add(ids: number[], labels: number[]): void {
    if (ids.length > this.maxLength) this.truncated++;
    // A single token predicts nothing.
    if (ids.length > 1)
      this.examples.push({ inputIds: ids.slice(0, this.maxLength), labels: labels.slice(0, this.maxLength) });
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
    const ids = await this.#encode(lines.join('\n'));
    for (let at = 0; at < ids.length; at += this.maxLength) {
      const piece = ids.slice(at, at + this.maxLength);
      this.#add(piece, piece);
    }
  }
}
