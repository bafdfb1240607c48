/** Lines of UTF-8 text files, plain or compressed; anything else is refused by what it is. */
import { constants } from 'node:buffer';
import { extname } from 'node:path';
import { pipeline, type Transform } from 'node:stream';
import zlib from 'node:zlib';
import { LoRAError, loraError } from '../errors';
import { systemReason } from '../formats/system_reason';
import { JsonObjects } from './json_objects';
import { fileSource, streamSource, type Line } from './sources';

const op = 'loadDataset';
const supported =
  'expected JSONL (.jsonl or .ndjson, one object per line), JSON (.json), a table (.csv or .tsv) or UTF-8 text, any of them also compressed (.gz or .zst), or Parquet (.parquet),';
const asJsonl = 'save it as .csv, or write each row as an object on a line of its own into a .jsonl file';
const unpack = 'unpack it first';

/** Files that would pass for text, or fail as bad text, by the end of their names: what they are and what helps. */
const refusedNames: Readonly<Record<string, readonly [what: string, help: string]>> = {
  '.xls': ['a spreadsheet', asJsonl],
  '.xlsx': ['a spreadsheet', asJsonl],
  '.parquet': ['a Parquet file', 'give it a name that ends in .parquet'],
  '.arrow': ['an Arrow file', asJsonl],
  '.feather': ['an Arrow file', asJsonl],
  '.sqlite': ['a database', asJsonl],
  '.db': ['a database', asJsonl],
  '.zip': ['a zip archive', unpack],
  '.tar': ['a tar archive', unpack],
  '.tgz': ['a tar archive', unpack],
  '.7z': ['a 7z archive', unpack],
  '.zst': ['a Zstandard file', unpack], // in gzip data: by itself it is read
  '.bz2': ['a bzip2 file', `${unpack}, or compress with gzip`],
  '.xz': ['an xz file', `${unpack}, or compress with gzip`],
  '.pdf': ['a PDF', 'extract its text'],
  '.docx': ['a Word document', 'save it as text'],
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
  throw loraError(op, 'ERR_UNSUPPORTED', `${file}: ${supported} but received ${what}: ${help}`);
}

function dataError(file: string, message: string, cause?: unknown): LoRAError {
  return loraError(op, 'ERR_DATA', `${file}${message}`, cause);
}

/** How a file is read: objects on lines, objects of a list, a table, columns of Parquet, or text. */
export type DataFormat = 'lines' | 'objects' | 'commas' | 'tabs' | 'parquet' | 'text';

const formats: Readonly<Record<string, DataFormat>> = {
  '.jsonl': 'lines',
  '.ndjson': 'lines',
  '.json': 'objects',
  '.csv': 'commas',
  '.tsv': 'tabs',
  '.parquet': 'parquet',
};

/** How the name says that the file is to be read, a final .gz or .zst apart; a name that is refused throws. */
export function formatByName(file: string): DataFormat {
  const extension = extname(file.replace(/\.(?:gz|zst)$/i, '')).toLowerCase();
  const format = formats[extension];
  if (format === undefined) refuse(file, extension);
  return format ?? 'text';
}

type Bytes = AsyncIterable<Buffer>;

/** The first bytes, four at least where there are so many, and all of the bytes. */
async function peek(source: Bytes): Promise<{ head: Buffer; all: Bytes }> {
  const iterator = source[Symbol.asyncIterator]();
  let head: Buffer = Buffer.alloc(0);
  while (head.length < 4) {
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

/** How the lines of a file are read. */
export interface LineOptions {
  /** Longer lines are ERR_DATA. */
  maxLineBytes: number;
  /** More bytes of unzipped data are ERR_DATA. */
  maxUnzippedBytes: number;
  /** So are more than this many times those of the file. */
  maxUnzippedRatio: number;
  /** The path may name what is no regular file: it is read until it ends. */
  stream?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

/** A line becomes one string. */
export const lineBytesLimit = constants.MAX_STRING_LENGTH;

/** Unzipped bytes that no ratio is asked of: small files of equal rows are zipped by a thousand. */
export const freeBytes = 4 * 2 ** 20;

/** How a file may be compressed: seen by its first bytes, whatever its name. */
interface Compression {
  readonly name: string;
  readonly extension: string;
  readonly start: readonly number[];
  /** undefined: this runtime has none. */
  readonly decompressor: () => Transform | undefined;
}

/** Of zlib in Node.js 22.15 and newer. */
type WithZstd = typeof zlib & { createZstdDecompress?(options: { chunkSize: number }): Transform };

const pieceBytes = 2 ** 18;
const gzip: Compression = {
  name: 'gzip',
  extension: '.gz',
  start: [0x1f, 0x8b],
  decompressor: () => zlib.createGunzip({ chunkSize: pieceBytes }),
};
const zstd: Compression = {
  name: 'Zstandard',
  extension: '.zst',
  start: [0x28, 0xb5, 0x2f, 0xfd],
  decompressor: () => (zlib as WithZstd).createZstdDecompress?.({ chunkSize: pieceBytes }),
};

/** What zlib says of compressed data: its codes do not tell one kind from another. */
class DamagedData extends Error {
  constructor(
    readonly kind: string,
    cause: unknown,
  ) {
    super((cause as Error).message, { cause });
  }
}

const compressionOf = (head: Buffer): Compression | undefined =>
  [gzip, zstd].find(({ start }) => start.every((byte, i) => head[i] === byte));

/** What the content of a file is compressed with, seen by its first bytes. */
export const compressionName = (head: Uint8Array): string | undefined =>
  compressionOf(Buffer.from(head))?.name;

/** The content of a file, decompressed where it is compressed. */
async function* content(file: string, options: LineOptions): AsyncGenerator<Buffer> {
  const { stream, signal } = options;
  const source = stream ? await streamSource(file, signal) : fileSource(file, signal);
  try {
    const { head, all } = await peek(source.bytes);
    const found = compressionOf(head);
    if (found !== undefined) {
      yield* (await peek(unzipped(file, all, found, options))).all;
      return;
    }
    for (const { name, extension } of [gzip, zstd])
      if (file.toLowerCase().endsWith(extension))
        throw dataError(file, `: expected ${name}, as its name ends in ${extension}, but it is not`);
    yield* all;
  } finally {
    await source.close();
  }
}

/** What compressed data hold, within the bounds on it: a kilobyte can stand for a megabyte. */
async function* unzipped(
  file: string,
  zipped: Bytes,
  compression: Compression,
  { maxUnzippedBytes, maxUnzippedRatio }: LineOptions,
): AsyncGenerator<Buffer> {
  let taken = 0;
  let lastByte = 0; // that is no zero
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const chunk of zipped) {
      const last = chunk.findLastIndex((byte) => byte !== 0);
      if (last >= 0) lastByte = taken + last;
      taken += chunk.length;
      yield chunk;
    }
  }
  const refuse = (most: string, option: keyof LineOptions): never => {
    throw dataError(
      file,
      `: expected ${name} data that hold at most ${most} but received more: raise ${option} for a file that you trust, or unzip it`,
    );
  };
  const { name } = compression;
  const unzip = compression.decompressor();
  if (unzip === undefined)
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `${file}: expected Node.js 22.15 or newer, whose zlib has ${name}, but this is ${process.version}: ${unpack}, or compress with gzip`,
    );
  try {
    let made = 0;
    // An error of the file destroys the unzipped stream with it.
    const chunks: Bytes = pipeline(counted(), unzip, () => undefined);
    for await (const chunk of chunks) {
      made += chunk.length;
      if (made > maxUnzippedBytes) refuse(`${maxUnzippedBytes} bytes`, 'maxUnzippedBytes');
      if (made > Math.max(freeBytes, taken * maxUnzippedRatio))
        refuse(`${maxUnzippedRatio} times their own bytes`, 'maxUnzippedRatio');
      yield chunk;
    }
    // Behind a zero, which pads the end of some files, zlib passes over everything.
    const { bytesWritten } = unzip as zlib.Gunzip;
    if (compression === gzip && lastByte >= bytesWritten)
      throw dataError(
        file,
        `: expected zeros alone behind the end of the gzip data at byte ${bytesWritten} but received more data: unzip its parts one by one`,
      );
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw /^Z(?:STD)?_/.test(code ?? '') ? new DamagedData(name, error) : error;
  } finally {
    unzip.destroy();
  }
}

/** Lines that are given at once: some are empty, and a turn of the loop for each would take most of the time. */
const blockLines = 512;

/**
 * The lines of a file with their numbers from 1, without the line feeds that end them, some hundred at a time. What follows the last one is a line
 * too, so that the lines joined with line feeds are the file. Byte order marks are dropped.
 *
 * Not node:readline, which also ends a line at U+2028, a character that JSON strings may hold, and which lets invalid
 * UTF-8 pass.
 *
 * @throws ERR_FILE for a file that cannot be read; ERR_DATA, with the line, for gzip data that is damaged or cut short or holds too much,
 * for what is not UTF-8 text and for a line that is too long; ERR_UNSUPPORTED for other kinds of files.
 */
export async function* readLines(file: string, options: LineOptions): AsyncGenerator<readonly Line[]> {
  const lines = new Lines(file, options.maxLineBytes);
  yield* cutBy(lines, file, options);
  yield [lines.last()];
}

/**
 * The objects of a JSON file as lines, each with the number of the line on which it begins: of a list, or one after the other.
 * @throws as readLines() does, and ERR_DATA for what is neither.
 */
export async function* readObjects(file: string, options: LineOptions): AsyncGenerator<readonly Line[]> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const fail = (line: number, message: string, cause?: unknown): never => {
    throw dataError(file, `:${line}: ${message}`, cause);
  };
  const objects = new JsonObjects({
    decode(bytes, line) {
      try {
        return decoder.decode(bytes);
      } catch (cause) {
        return fail(line, 'expected UTF-8 text but received bytes that are not', cause);
      }
    },
    checkLength(bytes, line) {
      if (bytes > options.maxLineBytes)
        fail(
          line,
          `expected an object of at most ${options.maxLineBytes} bytes: raise maxLineBytes where objects are so long`,
        );
    },
    fail,
  });
  yield* cutBy(objects, file, options);
  objects.end();
}

/** What cuts the bytes of a file, and how many lines it has seen. */
interface Cutter {
  readonly number: number;
  split(chunk: Buffer): Generator<readonly Line[], void, void>;
}

async function* cutBy(cutter: Cutter, file: string, options: LineOptions): AsyncGenerator<readonly Line[]> {
  const { signal } = options;
  try {
    for await (const chunk of content(file, options)) yield* cutter.split(chunk);
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof LoRAError) {
      if (cause.op !== undefined) throw cause;
      throw loraError(op, cause.code, `${cause.message}`, cause);
    }
    if (cause instanceof DamagedData)
      throw dataError(
        file,
        `: the ${cause.kind} data is damaged or cut short, after line ${cutter.number} (${cause.message})`,
        cause.cause,
      );
    throw loraError(op, 'ERR_FILE', `cannot read ${file}: ${systemReason(cause)}`, cause);
  }
}

/** Cuts the bytes of a file at its line feeds. */
class Lines {
  /** Lines so far. */
  number = 0;
  #offset = 0;
  #start: string | undefined;
  /** Of a line whose end has not come. */
  #rest: Buffer[] = [];
  #restBytes = 0;
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });

  constructor(
    private readonly file: string,
    private readonly maxLineBytes: number,
  ) {}

  /** The lines that end in a chunk; those before one that is wrong are given first. */
  *split(chunk: Buffer): Generator<readonly Line[], void, void> {
    this.#start ??= chunk.toString('latin1', 0, 512);
    let from = 0;
    for (let more = true; more;) {
      const lines: Line[] = [];
      try {
        for (let end = chunk.indexOf(10, from); (more = end >= 0); end = chunk.indexOf(10, from)) {
          if (lines.length === blockLines) break;
          this.#keep(chunk.subarray(from, end));
          from = end + 1;
          lines.push(this.#take());
        }
      } finally {
        if (lines.length > 0) yield lines;
      }
    }
    this.#keep(chunk.subarray(from));
  }

  /** The line after the last line feed. */
  last(): Line {
    return this.#take();
  }

  #keep(part: Buffer): void {
    this.#restBytes += part.length;
    if (this.#restBytes > this.maxLineBytes)
      throw dataError(
        this.file,
        `:${this.number + 1}: expected a line of at most ${this.maxLineBytes} bytes: raise maxLineBytes where lines are so long`,
      );
    this.#rest.push(part);
  }

  #take(): Line {
    const bytes = this.#restBytes;
    const whole = this.#rest.length === 1 ? this.#rest[0]! : Buffer.concat(this.#rest, bytes);
    this.#rest = [];
    this.#restBytes = 0;
    this.number++;
    const offset = this.#offset;
    this.#offset += bytes + 1;
    return { line: bytes === 0 ? '' : this.#decode(whole), number: this.number, offset, bytes };
  }

  #decode(bytes: Buffer): string {
    let line: string;
    try {
      line = this.#decoder.decode(bytes);
    } catch (cause) {
      const utf16 =
        this.number === 1 && (this.#start?.startsWith('\xFF\xFE') || this.#start?.startsWith('\xFE\xFF'));
      return this.#notText(
        utf16
          ? 'expected UTF-8 text but received UTF-16: save it as UTF-8'
          : 'expected UTF-8 text but received bytes that are not',
        cause,
      );
    }
    if (line.includes('\0')) return this.#notText('expected UTF-8 text but received a zero byte');
    return line;
  }

  #notText(message: string, cause?: unknown): never {
    for (const [at, bytes, kind] of refusedStarts)
      if (this.#start?.startsWith(bytes, at)) refuse(this.file, kind);
    throw dataError(this.file, `:${this.number}: ${message}`, cause);
  }
}
