/** Lines of UTF-8 text files, plain or gzipped; anything else is refused by what it is. */
import { constants } from 'node:buffer';
import { extname } from 'node:path';
import { pipeline } from 'node:stream';
import { createGunzip, type Gunzip } from 'node:zlib';
import { LoRAError } from '../errors';
import { systemReason } from '../formats/system_reason';
import { fileSource, streamSource } from './sources';

const op = 'loadDataset';
const supported =
  'expected JSONL (.jsonl or .ndjson, one object per line) or UTF-8 text, either of them also gzipped (.gz),';
const asJsonl = 'write each row as an object on a line of its own, {"text": …}, into a .jsonl file';
const unpack = 'unpack it first';

/** Files that would pass for text, or fail as bad text, by the end of their names: what they are and what helps. */
const refusedNames: Readonly<Record<string, readonly [what: string, help: string]>> = {
  '.csv': ['a CSV table', asJsonl],
  '.tsv': ['a TSV table', asJsonl],
  '.xls': ['a spreadsheet', asJsonl],
  '.xlsx': ['a spreadsheet', asJsonl],
  '.parquet': ['a Parquet file', asJsonl],
  '.arrow': ['an Arrow file', asJsonl],
  '.feather': ['an Arrow file', asJsonl],
  '.sqlite': ['a database', asJsonl],
  '.db': ['a database', asJsonl],
  '.zip': ['a zip archive', unpack],
  '.tar': ['a tar archive', unpack],
  '.tgz': ['a tar archive', unpack],
  '.7z': ['a 7z archive', unpack],
  '.zst': ['a Zstandard file', `${unpack}, or compress with gzip`],
  '.bz2': ['a bzip2 file', `${unpack}, or compress with gzip`],
  '.xz': ['an xz file', `${unpack}, or compress with gzip`],
  '.pdf': ['a PDF', 'extract its text'],
  '.docx': ['a Word document', 'save it as text'],
  '.json': ['one JSON value', 'a JSON array is not supported yet: write one object per line (.jsonl)'],
};

/** The same by bytes near the start, as latin1: asked when the content is not text. */
const refusedStarts: readonly (readonly [at: number, bytes: string, name: string])[] = [
  [0, 'PAR1', '.parquet'],
  [0, 'ARROW1', '.arrow'],
  [0, 'SQLite format 3', '.sqlite'],
  [0, 'PK\x03\x04', '.zip'],
  [257, 'ustar', '.tar'],
  [0, '7z\xBC\xAF\x27\x1C', '.7z'],
  [0, '\x28\xB5\x2F\xFD', '.zst'],
  [0, 'BZh', '.bz2'],
  [0, '\xFD7zXZ', '.xz'],
  [0, '%PDF-', '.pdf'],
];

function refuse(file: string, kind: string): void {
  const refused = Object.hasOwn(refusedNames, kind) ? refusedNames[kind] : undefined;
  if (refused === undefined) return;
  const [what, help] = refused;
  throw new LoRAError('ERR_UNSUPPORTED', `[${op}] ${file}: ${supported} but received ${what}: ${help}`, {
    op,
  });
}

function dataError(file: string, message: string, cause?: unknown): LoRAError {
  return new LoRAError('ERR_DATA', `[${op}] ${file}${message}`, { op, cause });
}

/** How the name says that the file is to be read, a final .gz apart; a name that is refused throws. */
export function formatByName(file: string): 'lines' | 'text' {
  const extension = extname(file.replace(/\.gz$/i, '')).toLowerCase();
  refuse(file, extension);
  return extension === '.jsonl' || extension === '.ndjson' ? 'lines' : 'text';
}

type Bytes = AsyncIterable<Buffer>;

/** The first bytes, two at least where there are so many, and all of the bytes. */
async function peek(source: Bytes): Promise<{ head: Buffer; all: Bytes }> {
  const iterator = source[Symbol.asyncIterator]();
  let head: Buffer = Buffer.alloc(0);
  while (head.length < 2) {
    const next = await iterator.next();
    if (next.done) break;
    head = Buffer.concat([head, next.value]);
  }
  async function* all(): AsyncGenerator<Buffer> {
    try {
      yield head;
      for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value;
    } finally {
      await iterator.return?.();
    }
  }
  return { head, all: all() };
}

/** A line of a file. */
export interface Line {
  readonly line: string;
  /** From 1. */
  readonly number: number;
  /** Where its bytes begin in the (unzipped) content. */
  readonly offset: number;
  /** How many bytes it has, without the line feed. */
  readonly bytes: number;
}

/** How the lines of a file are read. */
export interface LineOptions {
  /** Longer lines are ERR_DATA. */
  maxLineBytes: number;
  /** The path may name what is no regular file: it is read until it ends. */
  stream?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

/** A line becomes one string. */
export const mostLineBytes = constants.MAX_STRING_LENGTH;

/** The content of a file, unzipped where it is gzip (seen by its first bytes, whatever its name). */
async function* content(file: string, { stream, signal }: LineOptions): AsyncGenerator<Buffer> {
  const source = stream ? await streamSource(file, signal) : fileSource(file, signal);
  let unzip: Gunzip | undefined;
  try {
    const { head, all } = await peek(source.bytes);
    if (head[0] === 0x1f && head[1] === 0x8b) {
      unzip = createGunzip();
      // An error of the file destroys the unzipped stream with it.
      const unzipped: Bytes = pipeline(all, unzip, () => undefined);
      yield* (await peek(unzipped)).all;
      return;
    }
    if (/\.gz$/i.test(file)) throw dataError(file, ': expected gzip, as its name ends in .gz, but it is not');
    yield* all;
  } finally {
    unzip?.destroy();
    await source.close();
  }
}

/**
 * The lines of a file with their numbers from 1, without the line feeds that end them. What follows the last one is
 * a line too, so that the lines joined with line feeds are the file. Byte order marks are dropped.
 *
 * Not node:readline, which also ends a line at U+2028, a character that JSON strings may hold, and which lets invalid
 * UTF-8 pass.
 *
 * @throws ERR_FILE for a file that cannot be read; ERR_DATA, with the line, for gzip data that is damaged or cut short,
 * for what is not UTF-8 text and for a line that is too long; ERR_UNSUPPORTED for other kinds of files.
 */
export async function* readLines(file: string, options: LineOptions): AsyncGenerator<Line> {
  const { maxLineBytes, signal } = options;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let start: string | undefined;
  let number = 0;
  let offset = 0;
  const notText = (message: string, cause?: unknown): never => {
    for (const [at, bytes, kind] of refusedStarts) if (start?.startsWith(bytes, at)) refuse(file, kind);
    throw dataError(file, `:${number}: ${message}`, cause);
  };
  const decode = (bytes: Buffer): Line => {
    number++;
    const begin = offset;
    offset += bytes.length + 1;
    let line: string;
    try {
      line = decoder.decode(bytes);
    } catch (cause) {
      const utf16 = number === 1 && (start?.startsWith('\xFF\xFE') || start?.startsWith('\xFE\xFF'));
      return notText(
        utf16
          ? 'expected UTF-8 text but received UTF-16: save it as UTF-8'
          : 'expected UTF-8 text but received bytes that are not',
        cause,
      );
    }
    if (line.includes('\0')) return notText('expected UTF-8 text but received a zero byte');
    return { line, number, offset: begin, bytes: bytes.length };
  };
  let rest: Buffer[] = []; // of a line whose end has not come
  let restBytes = 0;
  const keep = (part: Buffer): void => {
    restBytes += part.length;
    if (restBytes > maxLineBytes)
      throw dataError(
        file,
        `:${number + 1}: expected a line of at most ${maxLineBytes} bytes: raise maxLineBytes where lines are so long`,
      );
    rest.push(part);
  };
  const take = (): Buffer => {
    const bytes = rest.length === 1 ? rest[0]! : Buffer.concat(rest, restBytes);
    rest = [];
    restBytes = 0;
    return bytes;
  };
  try {
    for await (const chunk of content(file, options)) {
      start ??= chunk.toString('latin1', 0, 512);
      let from = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
        keep(chunk.subarray(from, end));
        yield decode(take());
        from = end + 1;
      }
      keep(chunk.subarray(from));
    }
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof LoRAError) {
      if (cause.op !== undefined) throw cause;
      throw new LoRAError(cause.code, `[${op}] ${cause.message}`, { op, cause });
    }
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    if (code.startsWith('Z_'))
      throw dataError(
        file,
        `: the gzip data is damaged or cut short, after line ${number} (${(cause as Error).message})`,
        cause,
      );
    throw new LoRAError('ERR_FILE', `[${op}] cannot read ${file}: ${systemReason(cause)}`, { op, cause });
  }
  yield decode(take());
}
