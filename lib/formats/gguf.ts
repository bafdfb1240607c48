/** GGUF files that are read, not mapped: a file that changes is an error and harms nobody. */
import { LoRAError } from '../errors';
import { inSlices } from '../tensor/pace';
import { GgufError, GgufShort, parseGguf, type GgufHeader, type GgufValue } from './gguf_header';
import type { GgufBlock } from './gguf_types';
import { InputFile } from './input';
import type { Reading } from './json';
import { checkLimit, defaultLimits } from './limits';
import type { Source } from './links';

/** Enough for the header of an adapter; that of a model, with its tokenizer, takes a few more readings. */
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
}

/** An open GGUF file. Every rule of the format is checked when it is opened. */
export class GgufFile {
  private constructor(
    readonly file: InputFile,
    readonly metadata: ReadonlyMap<string, GgufValue>,
    /** In the order of the data. */
    readonly tensors: ReadonlyMap<string, GgufTensor>,
  ) {}

  /** @throws ERR_FILE with the reason for what cannot be read or is no GGUF file, and for a header beyond `limits.headerBytes`. */
  static async open(source: Source, reading: Reading = {}): Promise<GgufFile> {
    const file = await InputFile.open(source, reading.signal);
    try {
      const { metadata, entries, dataStart } = await readHeader(file, reading);
      const tensors = new Map<string, GgufTensor>();
      for (const { name, block, shape, begin, byteLength } of entries) {
        const start = dataStart + begin;
        if (start + byteLength > file.size)
          throw new GgufError(
            `is cut off: the tensor ${JSON.stringify(name.slice(0, 80))} ends at byte ${start + byteLength} and the file has ${file.size}`,
          );
        tensors.set(name, {
          ...{ block, shape, byteLength },
          read: () => file.bytes(start, byteLength),
          slices: () => file.slices(start, byteLength),
        });
      }
      return new GgufFile(file, metadata, tensors);
    } catch (error) {
      // What was read of a file that is being written says nothing about the file.
      await file.checkUnchanged().finally(() => file.close());
      if (!(error instanceof GgufError)) throw error;
      throw new LoRAError('ERR_FILE', `${file.path} ${error.message}`, { cause: error });
    }
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** The length of a header stands nowhere: it is parsed again with twice the bytes until it is whole. */
async function readHeader(file: InputFile, { limits = defaultLimits, signal }: Reading): Promise<GgufHeader> {
  for (let length = firstBytes; ; length *= 2) {
    const most = Math.min(file.size, limits.headerBytes);
    try {
      return await inSlices(parseGguf(await file.bytes(0, Math.min(length, most))), signal);
    } catch (error) {
      if (!(error instanceof GgufShort)) throw error;
      if (length < most) continue;
      checkLimit(limits, 'headerBytes', file.size, `${file.path} has a header of more than ${most} bytes`);
      throw new GgufError('is cut off: its header goes on behind the end of the file');
    }
  }
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
