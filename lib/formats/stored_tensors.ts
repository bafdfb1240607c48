/** Safetensors files that are read, not mapped: a file that changes is an error and harms nobody. */
import { LoRAError } from '../errors';
import type { SafetensorsDType } from './dtypes';
import type { GgufType } from './gguf_types';
import { HeaderError, headerLength, parseHeader, type TensorEntry } from './header';
import type { Reading } from './json';
import { inSlices } from '../tensor/pace';
import { InputFile } from './input';
import type { Source } from './links';
import type { SafetensorsTensor } from './safetensors';

/** A tensor in a file. */
export interface StoredTensor<D = SafetensorsDType | GgufType> {
  readonly dtype: D;
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** Its bytes, in memory of their own. */
  read(): Promise<Uint8Array>;
  /** Its bytes in order, in slices of whole elements that are overwritten by the next: less memory for a large one. */
  slices(): AsyncGenerator<Uint8Array, void, void>;
  /** Bytes [begin, begin + length) of it, where a part can be read alone. */
  range?(begin: number, length: number): Promise<Uint8Array>;
}

class FileTensor implements StoredTensor<SafetensorsDType> {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly byteLength: number;

  constructor(
    private readonly file: InputFile,
    private readonly start: number,
    entry: TensorEntry,
  ) {
    this.dtype = entry.dtype;
    this.shape = entry.shape;
    this.byteLength = entry.end - entry.begin;
  }

  read(): Promise<Uint8Array> {
    return this.file.bytes(this.start, this.byteLength);
  }

  slices(): AsyncGenerator<Uint8Array, void, void> {
    return this.file.slices(this.start, this.byteLength);
  }

  range(begin: number, length: number): Promise<Uint8Array> {
    return this.file.bytes(this.start + begin, length);
  }
}

function* mapTensors(
  file: InputFile,
  entries: readonly TensorEntry[],
  dataStart: number,
): Generator<void, Map<string, FileTensor>, void> {
  const tensors = new Map<string, FileTensor>();
  for (const entry of entries) {
    tensors.set(entry.name, new FileTensor(file, dataStart + entry.begin, entry));
    if (tensors.size % 1024 === 0) yield;
  }
  return tensors;
}

/** An open safetensors file. Every rule of the format is checked when it is opened. */
export class StoredTensors {
  private constructor(
    readonly file: InputFile,
    /** In the order of the data. */
    readonly tensors: ReadonlyMap<string, StoredTensor<SafetensorsDType>>,
    readonly metadata: Readonly<Record<string, string>>,
  ) {}

  /** @throws ERR_FILE for what is no regular file or cannot be read, ERR_SAFETENSORS with the reason. */
  static async open(source: Source, { limits, signal }: Reading = {}): Promise<StoredTensors> {
    const file = await InputFile.open(source, signal);
    try {
      const start = await file.bytes(0, Math.min(file.size, 512));
      const length = headerLength(start, file.size, limits);
      const dataStart = 8 + length;
      const header = await parseHeader(await file.bytes(8, length), file.size - dataStart);
      const tensors = await inSlices(mapTensors(file, header.entries, dataStart), signal);
      return new StoredTensors(file, tensors, header.metadata);
    } catch (error) {
      // What was read of a file that is being written says nothing about the file.
      await file.checkUnchanged().finally(() => file.close());
      if (!(error instanceof HeaderError)) throw error;
      throw new LoRAError('ERR_SAFETENSORS', `${file.path} ${error.message}`, { cause: error });
    }
  }

  /** All tensors, in memory of their own; of a file that was not written meanwhile. */
  async readAll(): Promise<Map<string, SafetensorsTensor>> {
    const all = new Map<string, SafetensorsTensor>();
    for (const [name, tensor] of this.tensors) {
      const { dtype, shape } = tensor;
      all.set(name, { dtype, shape: [...shape], bytes: await tensor.read() });
    }
    await this.file.checkUnchanged();
    return all;
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}
