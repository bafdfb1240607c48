/**
 * The header of a GGUF file, parsed strictly: metadata, and where each tensor lies.
 *
 *     'GGUF', version u32, tensors u64, values u64
 *     values:  key text, type u32, value          text: length u64, bytes in UTF-8
 *     tensors: name text, dimensions u32, sizes u64 (the fastest first), type u32, offset u64
 *     the data, from a multiple of general.alignment on, and each tensor in it too
 */
import { isUtf8 } from 'node:buffer';
import { Pace } from '../tensor/pace';
import { ggufBlock, type GgufBlock } from './gguf_types';
import { recognize } from './recognize';

/** A reason without the file's name. */
export class GgufError extends Error {}

/** An item goes on behind the bytes that were read so far. */
class GgufShort extends Error {}

/** Numbers beyond 2⁵³ are bigints. Lists of numbers are typed arrays, so that a long one takes no more memory than in the file. */
export type GgufValue = string | number | bigint | boolean | GgufList;
export type GgufList = readonly string[] | NumericList;
export type NumericList =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

export interface GgufEntry {
  readonly name: string;
  readonly block: GgufBlock;
  /** Row-major: the last size is the fastest. */
  readonly shape: readonly number[];
  /** From the start of the data. */
  readonly begin: number;
  readonly byteLength: number;
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly entries: readonly GgufEntry[];
  /** Where the data begins. */
  readonly dataStart: number;
}

const fail = (message: string): never => {
  throw new GgufError(message);
};

const quoted = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}…` : text);

/** How the numbers of a type are read, and as what lists of them are kept. */
const numbers: Readonly<
  Record<
    number,
    {
      readonly bytes: number;
      readonly read: (view: DataView, at: number) => number | bigint;
      readonly list: new (buffer: ArrayBuffer) => NumericList;
    }
  >
> = {
  0: { bytes: 1, read: (v, at) => v.getUint8(at), list: Uint8Array },
  1: { bytes: 1, read: (v, at) => v.getInt8(at), list: Int8Array },
  2: { bytes: 2, read: (v, at) => v.getUint16(at, true), list: Uint16Array },
  3: { bytes: 2, read: (v, at) => v.getInt16(at, true), list: Int16Array },
  4: { bytes: 4, read: (v, at) => v.getUint32(at, true), list: Uint32Array },
  5: { bytes: 4, read: (v, at) => v.getInt32(at, true), list: Int32Array },
  6: { bytes: 4, read: (v, at) => v.getFloat32(at, true), list: Float32Array },
  7: { bytes: 1, read: (v, at) => v.getUint8(at), list: Uint8Array }, // truth values: 0 and 1 in lists
  10: { bytes: 8, read: (v, at) => v.getBigUint64(at, true), list: BigUint64Array },
  11: { bytes: 8, read: (v, at) => v.getBigInt64(at, true), list: BigInt64Array },
  12: { bytes: 8, read: (v, at) => v.getFloat64(at, true), list: Float64Array },
};
const truth = 7;
const text = 8;
const list = 9;

/** Gives a file's first bytes, and more of them with each call; it throws where there are no more. */
export type FirstBytes = () => Promise<Uint8Array>;

class Cursor {
  at = 0;
  #view: DataView = new DataView(new ArrayBuffer(0));
  #bytes: Buffer = Buffer.alloc(0);
  readonly #pace = new Pace();

  constructor(
    private readonly more: FirstBytes,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** Reads an item; one that goes on behind the bytes that are there once more, when more of them are. */
  async item<T>(read: () => T): Promise<T> {
    if (this.#pace.due) await this.#pace.rest(this.signal);
    for (const { at } = this; ; this.at = at)
      try {
        return read();
      } catch (error) {
        if (!(error instanceof GgufShort)) throw error;
        const bytes = await this.more();
        this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
        this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      }
  }

  magic(): void {
    const at = this.#take(4);
    if (this.#bytes.toString('latin1', at, at + 4) !== 'GGUF')
      fail(recognize(this.#bytes) ?? 'does not begin with GGUF: it is no GGUF file');
  }

  /** The place of the next `count` bytes. */
  #take(count: number): number {
    if (count > this.#bytes.length - this.at) throw new GgufShort();
    const { at } = this;
    this.at += count;
    return at;
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** A count or a place, which is exact. */
  u64(what: string): number {
    const value = this.#view.getBigUint64(this.#take(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) fail(`gives ${what} as ${value}`);
    return Number(value);
  }

  text(what: string): string {
    const length = this.u64(`the length of ${what}`);
    const at = this.#take(length);
    const read = this.#bytes.toString('utf8', at, at + length);
    if (read.includes('\ufffd') && !isUtf8(this.#bytes.subarray(at, at + length)))
      fail(`has ${what}, which is not UTF-8`);
    return read;
  }

  number(type: number): number | bigint | boolean | undefined {
    const kind = numbers[type];
    if (kind === undefined) return undefined;
    const value = kind.read(this.#view, this.#take(kind.bytes));
    if (type === truth) return value === 1 || (value !== 0 && fail(`has the truth value ${value}`));
    return typeof value === 'bigint' && Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  numbers(type: number, count: number): NumericList | undefined {
    const kind = numbers[type];
    if (kind === undefined) return undefined;
    const at = this.#take(count * kind.bytes);
    const end = at + count * kind.bytes;
    return new kind.list(Uint8Array.prototype.slice.call(this.#bytes, at, end).buffer);
  }
}

/** Texts that are one item: as many as are read in less than a millisecond. */
const textsOfItem = 1024;

async function readList(cursor: Cursor, what: string): Promise<GgufList> {
  const { type, count } = await cursor.item(() => ({
    type: cursor.u32(),
    count: cursor.u64(`the length of ${what}`),
  }));
  if (type === text) {
    const texts: string[] = [];
    while (texts.length < count) {
      const length = Math.min(textsOfItem, count - texts.length);
      const next = (): string[] => Array.from({ length }, () => cursor.text(`a text of ${what}`));
      texts.push(...(await cursor.item(next)));
    }
    return texts;
  }
  // An empty list takes twelve bytes in a file and thirty times as many in memory, and no writer is known that nests them.
  if (type === list) fail(`has a list of lists in ${what}, which is not read`);
  const numbers = await cursor.item(() => cursor.numbers(type, count));
  return numbers ?? fail(`has a list of the unknown type ${type} in ${what}`);
}

async function readMetadata(cursor: Cursor, count: number): Promise<Map<string, GgufValue>> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const { key, type } = await cursor.item(() => ({ key: cursor.text('a key'), type: cursor.u32() }));
    if (metadata.has(key)) fail(`has two values for ${quoted(key)}`);
    const single = (): string | number | bigint | boolean | undefined =>
      type === text ? cursor.text(`the value of ${quoted(key)}`) : cursor.number(type);
    const value = type === list ? await readList(cursor, quoted(key)) : await cursor.item(single);
    if (value === undefined) return fail(`has a value of the unknown type ${type} for ${quoted(key)}`);
    metadata.set(key, value);
  }
  return metadata;
}

function readEntry(cursor: Cursor): GgufEntry {
  const name = cursor.text('the name of a tensor');
  const label = quoted(name);
  const dimensions = cursor.u32();
  if (dimensions > 4) fail(`gives the tensor ${label} ${dimensions} dimensions; there are 4 at most`);
  const shape: number[] = [];
  for (let i = 0; i < dimensions; i++) shape.unshift(cursor.u64(`a size of ${label}`));
  const id = cursor.u32();
  const block = ggufBlock(id) ?? fail(`gives the tensor ${label} the unknown type ${id}`);
  const begin = cursor.u64(`the offset of ${label}`);
  const row = shape.at(-1) ?? 1;
  if (row % block.values !== 0)
    fail(`gives the tensor ${label} rows of ${row} values, and ${block.type} has blocks of ${block.values}`);
  const byteLength = (shape.reduce((product, size) => product * size, 1) / block.values) * block.bytes;
  if (!Number.isSafeInteger(byteLength)) fail(`gives the tensor ${label} a size that cannot be`);
  return { name, block, shape, begin, byteLength };
}

/** As ggml has it, a tensor begins at the next multiple of the alignment after the one before. */
function checkLayout(entries: readonly GgufEntry[], alignment: number): void {
  const names = new Set<string>();
  let next = 0;
  for (const { name, begin, byteLength } of entries) {
    if (names.has(name)) fail(`has two tensors ${quoted(name)}`);
    names.add(name);
    if (begin !== next)
      fail(`puts the tensor ${quoted(name)} at byte ${begin} of the data, and not at ${next}`);
    next += Math.ceil(byteLength / alignment) * alignment;
    if (!Number.isSafeInteger(next)) fail('gives its tensors sizes that cannot be');
  }
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>): number {
  const alignment = metadata.get('general.alignment') ?? 32;
  const power = typeof alignment === 'number' && alignment > 0 && Number.isInteger(Math.log2(alignment));
  if (!power || alignment > 2 ** 20)
    fail(`has general.alignment ${String(alignment).slice(0, 80)}, which is no power of two up to 1048576`);
  return alignment as number;
}

/**
 * Parses the beginning of a file, each item of it once, in slices.
 * @throws GgufError with the reason; what `more` throws; the reason of the signal
 */
export async function parseGguf(more: FirstBytes, signal?: AbortSignal): Promise<GgufHeader> {
  const cursor = new Cursor(more, signal);
  await cursor.item(() => cursor.magic());
  const version = await cursor.item(() => cursor.u32());
  if (version > 0 && version % 2 ** 24 === 0)
    fail('is a GGUF file of a big-endian machine, which is not read');
  if (version !== 2 && version !== 3) fail(`is of version ${version} of GGUF; 2 and 3 are read`);
  const tensors = await cursor.item(() => cursor.u64('the number of its tensors'));
  const values = await cursor.item(() => cursor.u64('the number of its values'));
  const metadata = await readMetadata(cursor, values);
  const entries: GgufEntry[] = [];
  while (entries.length < tensors) entries.push(await cursor.item(() => readEntry(cursor)));
  const alignment = alignmentOf(metadata);
  checkLayout(entries, alignment);
  return { metadata, entries, dataStart: Math.ceil(cursor.at / alignment) * alignment };
}
