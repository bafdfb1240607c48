/** GGUF files that are read, not mapped: a file that changes is an error and harms nobody. */
import { LoRAError } from '../errors';
import { GgufError, parseGguf, type FirstBytes, type GgufHeader, type GgufValue } from './gguf_header';
import type { GgufBlock } from './gguf_types';
import { InputFile } from './input';
import type { Reading } from './json';
import { checkLimit, defaultLimits } from './limits';
import type { Source } from './links';

/** Enough for the header of an adapter. */
const firstBytes = 2 ** 16;

/** A tensor in a GGUF file. */
export interface GgufTensor {
  readonly block: GgufBlock;
  /** Row-major, as Hugging Face has it: [out, in] of a matrix. */
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** Its bytes, in memory of their own. */
  read(): Promise<Uint8Array>;
  /** Its bytes in order, in slices that are overwritten by the next; of floats, in whole ones. */
  slices(): AsyncGenerator<Uint8Array, void, void>;
  /** Element `index` of its first dimension, which is a tensor of the others. */
  part(index: number): GgufTensor;
  /** `count` elements of its first dimension from `first` on. */
  rows(first: number, count: number): GgufTensor;
}

function tensorAt(
  file: InputFile,
  start: number,
  { block, shape, byteLength }: Pick<GgufTensor, 'block' | 'shape' | 'byteLength'>,
): GgufTensor {
  const size = byteLength / shape[0]!;
  const from = (first: number, count: number, own: readonly number[]): GgufTensor =>
    tensorAt(file, start + first * size, { block, shape: own, byteLength: count * size });
  return {
    ...{ block, shape, byteLength },
    read: () => file.bytes(start, byteLength),
    slices: () => file.slices(start, byteLength),
    part: (index) => from(index, 1, shape.slice(1)),
    rows: (first, count) => from(first, count, [count, ...shape.slice(1)]),
  };
}

/** An open GGUF file. Every rule of the format is checked when it is opened. */
export class GgufFile {
  /** In the order of the data. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;

  private constructor(
    private readonly source: Source,
    readonly file: InputFile,
    private readonly header: GgufHeader,
  ) {
    this.tensors = new Map(
      header.entries.map((entry) => [entry.name, tensorAt(file, header.dataStart + entry.begin, entry)]),
    );
  }

  /** @throws ERR_FILE with the reason for what cannot be read or is no GGUF file, and for a header beyond `limits.headerBytes`. */
  static async open(source: Source, reading: Reading = {}): Promise<GgufFile> {
    const file = await InputFile.open(source, reading.signal);
    try {
      const header = await parseGguf(firstBytesOf(file, reading), reading.signal);
      for (const { name, begin, byteLength } of header.entries) {
        const end = header.dataStart + begin + byteLength;
        if (end > file.size)
          throw new GgufError(
            `is cut off: the tensor ${JSON.stringify(name.slice(0, 80))} ends at byte ${end} and the file has ${file.size}`,
          );
      }
      return new GgufFile(source, file, header);
    } catch (error) {
      // What was read of a file that is being written says nothing about the file.
      await file.checkUnchanged().finally(() => file.close());
      if (!(error instanceof GgufError)) throw error;
      throw new LoRAError('ERR_FILE', `${file.path} ${error.message}`, { cause: error });
    }
  }

  get metadata(): ReadonlyMap<string, GgufValue> {
    return this.header.metadata;
  }

  /** Opens it again, without reading its header. @throws ERR_FILE where it was written, or replaced, since it was opened. */
  async reopen(): Promise<GgufFile> {
    const file = await InputFile.open(this.source, this.file.signal);
    if (file.stamp === this.file.stamp) return new GgufFile(this.source, file, this.header);
    await file.close();
    throw file.changed();
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** The length of a header stands nowhere: each call reads as many bytes again as there are. */
function firstBytesOf(file: InputFile, { limits = defaultLimits }: Reading): FirstBytes {
  const most = Math.min(file.size, limits.headerBytes);
  let bytes: Uint8Array = new Uint8Array();
  return async () => {
    if (bytes.length === most) {
      checkLimit(limits, 'headerBytes', file.size, `${file.path} has a header of more than ${most} bytes`);
      throw new GgufError('is cut off: its header goes on behind the end of the file');
    }
    const length = Math.min(most - bytes.length, Math.max(firstBytes, bytes.length));
    return (bytes = Buffer.concat([bytes, await file.bytes(bytes.length, length)]));
  };
}

/** Whether a file begins as a GGUF file does. @throws ERR_FILE for what cannot be read. */
export async function isGguf(source: Source, signal?: AbortSignal): Promise<boolean> {
  const file = await InputFile.open(source, signal);
  try {
    const start = await file.bytes(0, Math.min(4, file.size));
    return Buffer.from(start).toString('latin1') === 'GGUF';
  } finally {
    await file.close();
  }
}
