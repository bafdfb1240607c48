import { constants } from 'node:buffer';
import { inspect, types } from 'node:util';
import type { NativeFile } from '../native/binding';
import { binding } from '../native/calls';
import { LoRAError } from '../errors';
import { check, checkAttached, checkOptions, describe, isListOf } from '../validate';
import { writeFileAtomic, type Piece } from './atomic';
import { dtypeRank, isSafetensorsDType, tensorBytes, type SafetensorsDType } from './dtypes';
import {
  HeaderError,
  headerLength,
  maxHeaderBytes,
  metadataKey,
  parseHeader,
  type TensorEntry,
} from './header';
import { readLimits, type Limits, type ReadLimits } from './limits';
import { toPath } from './paths';
import { inSlices, sortInSlices } from '../tensor/pace';

/** One tensor of a safetensors file: little-endian, row-major bytes. A shape of [] is a scalar. */
export interface SafetensorsTensor {
  /** The element type, in the words of the format. */
  readonly dtype: SafetensorsDType;
  /** The sizes of its dimensions. */
  readonly shape: readonly number[];
  /** The elements. In an open file a view, whose length becomes 0 when the file is closed. */
  readonly bytes: Uint8Array;
}

/** The options of {@link openSafetensors}. */
export interface OpenSafetensorsOptions {
  /** Bounds on what the file may ask for. */
  limits?: ReadLimits | undefined;
}

/** What a {@link SafetensorsFile} shares with its tensors. */
interface Mapping {
  readonly path: string;
  /** Absent once closed. */
  file: NativeFile | undefined;
  /** The bytes that were asked for, by name. */
  readonly views: Map<string, Uint8Array>;
}

let opened = 0;

/** Node.js gives the memory of dead views back in turns of the event loop, so opening file after file must make some. */
async function turn(): Promise<void> {
  if (++opened % 256 === 0) await new Promise(setImmediate);
}

class MappedTensor implements SafetensorsTensor {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly #mapping: Mapping;
  readonly #name: string;
  readonly #offset: number;
  readonly #length: number;

  constructor(mapping: Mapping, entry: TensorEntry, dataStart: number) {
    this.dtype = entry.dtype;
    this.shape = entry.shape;
    this.#mapping = mapping;
    this.#name = entry.name;
    this.#offset = dataStart + entry.begin;
    this.#length = entry.end - entry.begin;
  }

  get bytes(): Uint8Array {
    const { file, path, views } = this.#mapping;
    const known = views.get(this.#name);
    if (known !== undefined) return known;
    if (file === undefined) {
      throw new LoRAError(
        'ERR_DISPOSED',
        `${path} is closed: the bytes of ${this.#name} can no longer be read`,
      );
    }
    if (this.#length > constants.MAX_LENGTH) {
      throw new LoRAError(
        'ERR_UNSUPPORTED',
        `${path}: the tensor ${this.#name} has ${this.#length} bytes, and one view of Node.js ${process.versions.node} ` +
          `holds at most ${constants.MAX_LENGTH}: use Node.js 22 or newer`,
      );
    }
    const bytes = new Uint8Array(binding().fileView(file, this.#offset, this.#length));
    views.set(this.#name, bytes);
    return bytes;
  }
}

function* mapTensors(
  mapping: Mapping,
  entries: readonly TensorEntry[],
  dataStart: number,
): Generator<void, Map<string, SafetensorsTensor>, void> {
  const tensors = new Map<string, SafetensorsTensor>();
  for (const entry of entries) {
    tensors.set(entry.name, new MappedTensor(mapping, entry, dataStart));
    if (tensors.size % 1024 === 0) yield;
  }
  return tensors;
}

/**
 * An open safetensors file. The file is mapped, not read: a tensor's bytes are views that cost memory only where
 * they are touched. Replacing the file by rename leaves an open one as it was; truncating it in place does not
 * (reading a page that is gone ends the process, as with every mapping).
 */
export class SafetensorsFile {
  /** Where it lies. */
  readonly path: string;
  /** The texts of `__metadata__`; empty when there is none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** In file order: the order of the data. `bytes` is a view, made at first use; one view per tensor. */
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  /** @internal An own property that cannot be cloned, so that structuredClone fails loudly. */
  readonly handle: NativeFile;
  readonly #mapping: Mapping;

  private constructor(
    mapping: Mapping & { readonly file: NativeFile },
    metadata: Readonly<Record<string, string>>,
    tensors: ReadonlyMap<string, SafetensorsTensor>,
  ) {
    this.path = mapping.path;
    this.handle = mapping.file;
    this.#mapping = mapping;
    this.metadata = metadata;
    this.tensors = tensors;
  }

  /** @internal Use {@link openSafetensors}. */
  static async open(path: string, limits: Limits): Promise<SafetensorsFile> {
    const { file, bytes } = binding().openFile(path);
    const mapping = { path, file, views: new Map<string, Uint8Array>() };
    try {
      const copy = (offset: number, length: number): Uint8Array =>
        new Uint8Array(binding().fileBytes(file, offset, length));
      const length = headerLength(copy(0, Math.min(bytes, 512)), bytes, limits);
      const dataStart = 8 + length;
      const { entries, metadata } = await parseHeader(copy(8, length), bytes - dataStart);
      const tensors = await inSlices(mapTensors(mapping, entries, dataStart));
      return new SafetensorsFile(mapping, metadata, tensors);
    } catch (error) {
      binding().closeFile(file);
      if (!(error instanceof HeaderError)) throw error;
      throw new LoRAError('ERR_SAFETENSORS', `${path} ${error.message}`, { cause: error });
    }
  }

  /** Whether close() was called. */
  get disposed(): boolean {
    return this.#mapping.file === undefined;
  }

  /**
   * Detaches every view: its length becomes 0. The file is unmapped once nothing holds a view any more, so that what
   * reads one on another thread ends well. Only zlib must be waited for before: Node.js ends the process when what it
   * compresses is detached meanwhile. A second time does nothing.
   */
  close(): void {
    const { file, views } = this.#mapping;
    this.#mapping.file = undefined;
    if (file !== undefined) binding().closeFile(file);
    for (const name of views.keys()) views.set(name, new Uint8Array(0)); // a detached one would keep the mapping
  }

  /** The same as close(). */
  dispose(): void {
    this.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  toString(): string {
    return `SafetensorsFile('${this.path}', ${this.tensors.size} tensors${this.disposed ? ', closed' : ''})`;
  }

  toJSON(): string {
    return this.toString();
  }

  [inspect.custom](): string {
    return this.toString();
  }
}

/**
 * Opens a safetensors file and checks its header by every rule of the format (and more strictly than the official
 * reader: a name that occurs twice is an error).
 *
 * The file is mapped: whoever truncates it, or writes over it in place as `cp` does, while it is open, ends this process with
 * SIGBUS or changes what the views show. For files that others write use {@link readAdapter} or `CausalLM.fromPretrained`, which
 * read into memory of their own.
 *
 * @throws ERR_FILE when the file cannot be opened; ERR_OUT_OF_MEMORY when 32,768 are open; ERR_SAFETENSORS with the reason when it is not a whole, valid
 * file (a Git LFS pointer or an HTML page is named); ERR_UNSUPPORTED when a tensor's bytes are read that are too
 * many for one view.
 * @example
 * const file = await openSafetensors('model.safetensors');
 * for (const [name, { dtype, shape, bytes }] of file.tensors) console.log(name, dtype, shape, bytes.length);
 * file.close();
 */
export async function openSafetensors(
  path: string | URL,
  options: OpenSafetensorsOptions = {},
): Promise<SafetensorsFile> {
  const op = 'openSafetensors';
  checkOptions(op, options, ['limits']);
  const limits = readLimits(op, options.limits);
  const file = toPath(path, op);
  await turn();
  return SafetensorsFile.open(file, limits);
}

/**
 * Writes a safetensors file as the official writer does: tensors by descending width of their type, then by name;
 * the header padded with spaces to a multiple of 8. The file appears whole or not at all, and
 * the tensors are not gathered in memory.
 *
 * @throws ERR_ARGUMENT for bytes that do not fit dtype and shape; ERR_FILE when writing fails.
 * @example
 * await writeSafetensors('w.safetensors', new Map([['w', { dtype: 'U8', shape: [2], bytes: new Uint8Array(2) }]]));
 */
export async function writeSafetensors(
  path: string | URL,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  metadata?: Readonly<Record<string, string>> | null,
): Promise<void> {
  const target = toPath(path, 'writeSafetensors');
  const pieces = await inSlices(serializeSafetensors(tensors, metadata, 'writeSafetensors'));
  await writeFileAtomic(target, pieces);
}

/** A tensor whose bytes are made while its file is written. */
export interface LateTensor {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** As many bytes as dtype and shape say, in parts. */
  parts(): AsyncIterable<Uint8Array>;
}

/** The pieces of a file, in order; the tensors' own bytes are among them. `op` is named in errors. Yields where it may be interrupted. */
export function* serializeSafetensors(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  metadata: Readonly<Record<string, string>> | null | undefined,
  op: string,
): Generator<void, Piece[], void> {
  check(types.isMap(tensors), op, `expected a Map of tensors but received ${describe(tensors)}`);
  return yield* layOut([...tensors], metadata, op, (tensor, name) => {
    checkTensor(name, tensor, op);
    const { bytes } = tensor;
    return { bytes, length: bytes.length };
  });
}

/** The same for tensors that are made one by one: no second copy of a model is ever in memory. */
export function* serializeLate(
  tensors: ReadonlyMap<string, LateTensor>,
  metadata: Readonly<Record<string, string>>,
  op: string,
): Generator<void, Piece[], void> {
  return yield* layOut([...tensors], metadata, op, (tensor) => {
    const length = tensorBytes(tensor.dtype, tensor.shape);
    check(typeof length === 'number', op, `expected a writable size: ${length}`);
    return { length, parts: () => tensor.parts() };
  });
}

/** The header, then the tensors by descending width of their type and by name. Yields where it may be interrupted. */
function* layOut<T extends { readonly dtype: SafetensorsDType; readonly shape: readonly number[] }>(
  tensors: readonly (readonly [string, T])[],
  metadata: Readonly<Record<string, string>> | null | undefined,
  op: string,
  pieceOf: (tensor: T, name: string) => Piece,
): Generator<void, Piece[], void> {
  for (const [key, value] of Object.entries(metadata ?? {})) {
    check(typeof value === 'string', op, `expected text for metadata ${key} but received ${describe(value)}`);
  }
  // Built by hand: an object would move names like "0" to the front.
  const fields: string[] = [];
  if (metadata != null) fields.push(`"${metadataKey}":${JSON.stringify(metadata)}`);
  const laid: { name: string; tensor: T; key: Buffer; piece: Piece }[] = [];
  for (const [name, tensor] of tensors) {
    const piece = pieceOf(tensor, name);
    laid.push({ name, tensor, key: Buffer.from(name), piece });
    if (laid.length % tensorsPerStep === 0) yield;
  }
  const sorted = yield* sortInSlices(
    laid,
    (a, b) => dtypeRank(b.tensor.dtype) - dtypeRank(a.tensor.dtype) || Buffer.compare(a.key, b.key),
  );
  let offset = 0;
  for (const [i, { name, tensor, piece }] of sorted.entries()) {
    const { dtype, shape } = tensor;
    const end = offset + piece.length;
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [offset, end] })}`);
    offset = end;
    if (i % tensorsPerStep === 0) yield;
  }
  const json = Buffer.from(`{${fields.join(',')}}`);
  const header = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  check(header.length - 8 <= maxHeaderBytes, op, `expected a header of at most ${maxHeaderBytes} bytes`);
  header.writeBigUInt64LE(BigInt(header.length - 8));
  json.copy(header, 8);
  return [{ bytes: header, length: header.length }, ...sorted.map(({ piece }) => piece)];
}

/** After how many tensors work on a header may be interrupted. */
const tensorsPerStep = 512;

function checkTensor(name: string, tensor: SafetensorsTensor, op: string): void {
  const label = `"${name}"`;
  check(
    typeof name === 'string' && !/\p{Surrogate}/u.test(name),
    op,
    `expected names of well-formed text but received ${describe(name)}`,
  );
  check(name !== metadataKey, op, `expected a tensor name other than ${metadataKey}`);
  check(
    typeof tensor === 'object' && tensor !== null,
    op,
    `expected a tensor for ${label} but received ${describe(tensor)}`,
  );
  const { dtype, shape, bytes } = tensor;
  check(
    isSafetensorsDType(dtype),
    op,
    `expected a safetensors dtype for ${label} but received ${describe(dtype)}`,
  );
  const isShape = isListOf(shape, (size) => Number.isSafeInteger(size) && (size as number) >= 0);
  check(
    isShape,
    op,
    `expected a shape of non-negative integers for ${label} but received ${describe(shape)}`,
  );
  check(
    types.isUint8Array(bytes),
    op,
    `expected a Uint8Array as bytes of ${label} but received ${describe(bytes)}`,
  );
  const wanted = tensorBytes(dtype, shape);
  if (wanted === 0) checkAttached(op, `the array of ${label}`, bytes);
  check(typeof wanted === 'number', op, `expected a writable size for ${label}: ${wanted}`);
  check(
    bytes.length === wanted,
    op,
    `expected ${wanted} bytes for ${label} (${dtype} [${shape.join(', ')}]) but received ${bytes.length}` +
      (types.isArrayBuffer(bytes.buffer) && bytes.buffer.byteLength === 0 && wanted > 0
        ? ' (was the file that they came from closed?)'
        : ''),
  );
}
