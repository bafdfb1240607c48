import { LoRAError } from '../errors';
import { toPath } from '../formats/paths';
import { Pace } from '../formats/slices';
import { check, checkBoolean, checkOneOf, checkOptions, checkSignal, describe } from '../validate';
import { countedTokens, type Example } from './example';
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
  /** The path may name a FIFO, a terminal or a device, such as /dev/stdin: it is read until it ends. Default false: ERR_FILE. */
  stream?: boolean | undefined;
  /** An abort rejects with its reason, also while a stream gives nothing. */
  signal?: AbortSignal | undefined;
}

/** Examples in memory, in file order. */
export interface Dataset extends Iterable<Required<Example>> {
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
export async function loadDataset(path: string | URL, options: LoadDatasetOptions = {}): Promise<Dataset> {
  checkOptions('loadDataset', options, [
    'tokenizer',
    'maxLength',
    'trainOn',
    'chatTemplate',
    'maxLineBytes',
    'stream',
    'signal',
  ]);
  const {
    tokenizer,
    maxLength = 512,
    trainOn,
    chatTemplate,
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
  checkBoolean('loadDataset', 'stream', stream);
  checkSignal('loadDataset', signal);
  const file = toPath(path, 'loadDataset');
  const format = formatByName(file);
  const rows = { tokenizer, trainOn, chatTemplate, signal };
  const reader = new Reader(file, rows, maxLength, { maxLineBytes, stream, signal });
  if (format === 'lines') await reader.readJsonLines();
  else await reader.readText();
  if (reader.examples.length === 0)
    throw new LoRAError(
      'ERR_DATA',
      `[loadDataset] ${file}: expected at least one example but it holds ${reader.dropped === 0 ? 'none' : `only rows of which no token counts within ${maxLength} tokens`}`,
      {
        op: 'loadDataset',
      },
    );
  const { examples, truncated, dropped } = reader;
  return {
    length: examples.length,
    maxLength,
    truncated,
    dropped,
    tokens: countedTokens(examples.map(({ labels }) => labels)),
    path: file,
    [Symbol.iterator]: () => examples[Symbol.iterator](),
  };
}

class Reader {
  readonly examples: Required<Example>[] = [];
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

  async readJsonLines(): Promise<void> {
    for await (const { line, number } of readLines(this.file, this.lines))
      if (line.trim() !== '') {
        const { inputIds, labels } = await this.#addLine(line, number);
        this.#add(inputIds, labels);
        if (this.#pace.due) await this.#pace.rest(this.lines.signal);
      }
  }

  #fail(line: number, message: string, code: RowError['code'] = 'ERR_DATA'): never {
    throw new LoRAError(code, `[loadDataset] ${this.file}:${line}: ${message}`, { op: 'loadDataset' });
  }

  async #addLine(line: string, number: number): Promise<Required<Example>> {
    let row: unknown;
    try {
      row = JSON.parse(line);
    } catch (error) {
      this.#fail(
        number,
        `expected one JSON object per line but received ${describe(line)}: ${(error as Error).message}`,
      );
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

  #add(inputIds: readonly number[], labels: readonly number[]): void {
    if (inputIds.length > this.maxLength) this.truncated++;
    const example = { inputIds: inputIds.slice(0, this.maxLength), labels: labels.slice(0, this.maxLength) };
    // A single token predicts nothing.
    if (countedTokens([example.labels]) > 0) this.examples.push(example);
    else this.dropped++;
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
      this.#add(piece, piece);
    }
  }
}
