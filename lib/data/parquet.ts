/** Rows of Parquet files, a group of rows at a time; of their columns those that a data set reads. */
import zlib from 'node:zlib';
import { LoRAError, loraError } from '../errors';
import { InputFile } from '../formats/input';
import { breathe } from '../tensor/pace';
import { isRecord } from '../validate';
import { freeBytes, type LineOptions } from './lines';
import type { Row } from './rows';

const op = 'loadDataset';

/** A row, and its number from 1. */
export interface NumberedRow {
  readonly row: Row;
  readonly number: number;
}

/** Which columns are read; undefined: all. */
export interface ParquetOptions extends Pick<
  LineOptions,
  'maxUnzippedBytes' | 'maxUnzippedRatio' | 'signal'
> {
  readonly columns: ReadonlySet<string> | undefined;
}

type Decompress = (input: Uint8Array, outputLength: number) => Uint8Array;

/** Of zlib in Node.js 22.15 and newer. */
type WithZstd = typeof zlib & {
  zstdDecompressSync?(input: Uint8Array, options: { maxOutputLength: number }): Uint8Array;
};

/** By Parquet's names of codecs; undefined where this runtime has none. Snappy is hyparquet's own. */
const codecs: Readonly<Record<string, Decompress | undefined>> = {
  GZIP: (input, maxOutputLength) => zlib.gunzipSync(input, { maxOutputLength }),
  BROTLI: (input, maxOutputLength) => zlib.brotliDecompressSync(input, { maxOutputLength }),
  ZSTD:
    (zlib as WithZstd).zstdDecompressSync &&
    ((input, maxOutputLength) => (zlib as WithZstd).zstdDecompressSync!(input, { maxOutputLength })),
};

/**
 * A value as JSON has it: whole numbers as numbers where these hold them, without the fields of a structure that are null, which a row leaves
 * out in JSON. At the top a column stays, whatever its value.
 */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (value === undefined) return null;
  if (Array.isArray(value)) return value.map(plain);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView) && !(value instanceof Uint8Array))
    return Array.from(value as unknown as Iterable<unknown>, plain);
  if (!isRecord(value) || value instanceof Date || value instanceof Uint8Array) return value;
  const fields = Object.entries(value).filter(([, field]) => field !== null && field !== undefined);
  return Object.fromEntries(fields.map(([name, field]) => [name, plain(field)]));
}

/** What the columns of a group of rows may expand to. */
class Budget {
  #room = 0;

  constructor(
    private readonly path: string,
    private readonly bounds: Pick<LineOptions, 'maxUnzippedBytes' | 'maxUnzippedRatio'>,
  ) {}

  /** A group begins, which has so many bytes in the file. */
  begin(bytes: number): void {
    const { maxUnzippedBytes, maxUnzippedRatio } = this.bounds;
    this.#room = Math.min(maxUnzippedBytes, Math.max(freeBytes, bytes * maxUnzippedRatio));
  }

  /** The codecs that there are, each of which takes from the room before it allocates. */
  bounded(known: Readonly<Record<string, Decompress | undefined>>): Record<string, Decompress> {
    const all = Object.entries(known).flatMap(([name, decompress]): [string, Decompress][] =>
      decompress ? [[name, (bytes, length) => decompress(bytes, this.#taken(length))]] : [],
    );
    return Object.fromEntries(all);
  }

  #taken(bytes: number): number {
    this.#room -= bytes;
    if (this.#room >= 0) return bytes;
    const { maxUnzippedBytes, maxUnzippedRatio } = this.bounds;
    throw loraError(
      op,
      'ERR_DATA',
      `${this.path}: expected groups of rows of at most ${maxUnzippedBytes} bytes, and of ${maxUnzippedRatio} times their bytes in the file: raise maxUnzippedBytes or maxUnzippedRatio for a file that you trust`,
    );
  }
}

function unknownCodec(path: string, column: string, codec: string, known: readonly string[]): LoRAError {
  const since = codec === 'ZSTD' ? ', which zlib has in Node.js 22.15 and newer' : '';
  return loraError(
    op,
    'ERR_UNSUPPORTED',
    `${path}: expected the column ${column} in ${[...known].sort().join(', ')}, or uncompressed, but received ${codec}${since}`,
  );
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * The rows of a file, a group of rows at once, as its writer cut them. Columns that are not read are null.
 *
 * @throws ERR_DATA for what is no Parquet, is damaged, or holds more than the bounds allow; ERR_UNSUPPORTED for a codec that is not read;
 * ERR_FILE for a file that cannot be read or changes meanwhile; the reason of the signal.
 */
export async function* parquetRows(
  path: string,
  { columns, maxUnzippedBytes, maxUnzippedRatio, signal }: ParquetOptions,
): AsyncGenerator<readonly NumberedRow[], void, void> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema, snappyUncompress } =
    await import('hyparquet');
  /** What the reader throws is about the bytes of the file. */
  const named = (error: unknown): unknown => {
    signal?.throwIfAborted();
    if (error instanceof LoRAError)
      return error.op === undefined ? loraError(op, error.code, error.message, error) : error;
    return loraError(
      op,
      'ERR_DATA',
      `${path}: expected Parquet, but it is none, or damaged (${(error as Error).message})`,
      error,
    );
  };
  const input = await InputFile.open(path, signal).catch((error: unknown) => {
    throw named(error);
  });
  const file = {
    byteLength: input.size,
    async slice(start: number, end = input.size): Promise<ArrayBuffer> {
      if (!(start >= 0 && start <= end && end <= input.size)) throw new Error('a place outside the file');
      return (await input.bytes(start, end - start)).buffer;
    },
  };
  const budget = new Budget(path, { maxUnzippedBytes, maxUnzippedRatio });
  const snappy: Decompress = (bytes, length) => {
    const made = new Uint8Array(length);
    snappyUncompress(bytes, made);
    return made;
  };
  const compressors = budget.bounded({ ...codecs, SNAPPY: snappy });
  try {
    const metadata = await parquetMetadataAsync(file, { geoparquet: false });
    const names = parquetSchema(metadata).children.map(({ element }) => element.name);
    const read = names.filter((name) => columns?.has(name) ?? true);
    const empty = Object.fromEntries(names.map((name) => [name, null]));
    let first = 0;
    for (const group of metadata.row_groups) {
      const count = Number(group.num_rows);
      const chunks = group.columns.flatMap(({ meta_data: of }) =>
        of && read.includes(of.path_in_schema[0]!) ? [of] : [],
      );
      for (const { codec, path_in_schema: column } of chunks)
        if (codec !== 'UNCOMPRESSED' && !Object.hasOwn(compressors, codec))
          throw unknownCodec(path, column[0]!, codec, Object.keys(compressors));
      const bytes = chunks.reduce((sum, chunk) => sum + Number(chunk.total_compressed_size), 0);
      budget.begin(bytes);
      const rows =
        read.length === 0
          ? Array.from({ length: Math.min(count, 1) }, () => ({})) // the first one says what is missing
          : await parquetReadObjects({
              ...{ file, metadata, compressors, columns: read, utf8: false, geoparquet: false },
              rowStart: first,
              rowEnd: first + count,
              parsers: { stringFromBytes: (text: Uint8Array) => utf8.decode(text) },
            });
      yield rows.map((row, i) => {
        const values = Object.entries(row).map(([name, value]) => [name, plain(value)]);
        return { number: first + i + 1, row: { ...empty, ...(Object.fromEntries(values) as Row) } };
      });
      first += count;
      await breathe();
      signal?.throwIfAborted();
    }
    await input.checkUnchanged();
  } catch (error) {
    throw named(error);
  } finally {
    await input.close();
  }
}
