/** Writing GGUF files, version 3, tensor by tensor. */
import { check } from '../validate';
import type { Piece } from './atomic';
import { ggufBlock, ggufTypeIds } from './gguf_types';

/** A value of the metadata with its type in the file. */
export type GgufField =
  | { readonly text: string }
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly flag: boolean }
  | { readonly texts: readonly string[] }
  | { readonly flags: readonly boolean[] }
  | { readonly i32s: readonly number[] }
  | { readonly f32s: readonly number[] };

/** A tensor whose bytes are made while its file is written. */
export interface LateGgufTensor {
  readonly type: keyof typeof ggufTypeIds;
  /** Row-major. */
  readonly shape: readonly number[];
  /** As many bytes as type and shape say, in parts. */
  parts(): AsyncIterable<Uint8Array>;
}

/** The multiple at which data begin; the default of the format, which then need not stand in the file. */
const alignment = 32;
const padding = (length: number): number => (alignment - (length % alignment)) % alignment;

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

const bytesOf = (list: Float32Array | Int32Array): Buffer =>
  Buffer.from(list.buffer, list.byteOffset, list.byteLength);

function fieldBytes(field: GgufField): Buffer[] {
  if ('text' in field) return [u32(8), text(field.text)];
  if ('u32' in field) return [u32(4), u32(field.u32)];
  if ('f32' in field) return [u32(6), bytesOf(Float32Array.of(field.f32))];
  if ('flag' in field) return [u32(7), Buffer.of(field.flag ? 1 : 0)];
  const head = (type: number, list: readonly unknown[]): Buffer[] => [u32(9), u32(type), u64(list.length)];
  if ('texts' in field) return [...head(8, field.texts), ...field.texts.map(text)];
  if ('flags' in field) return [...head(7, field.flags), Buffer.from(field.flags.map(Number))];
  if ('i32s' in field) return [...head(5, field.i32s), bytesOf(Int32Array.from(field.i32s))];
  return [...head(6, field.f32s), bytesOf(Float32Array.from(field.f32s))];
}

/** The pieces of a file, in order: the header, and the tensors in the order of the map, each filled up to a multiple of 32 bytes. */
export function serializeGguf(
  metadata: ReadonlyMap<string, GgufField>,
  tensors: ReadonlyMap<string, LateGgufTensor>,
  op: string,
): Piece[] {
  const parts: Buffer[] = [Buffer.from('GGUF'), u32(3), u64(tensors.size), u64(metadata.size)];
  for (const [key, field] of metadata) {
    parts.push(text(key));
    for (const bytes of fieldBytes(field)) parts.push(bytes); // as arguments 120,000 would not fit the stack
  }
  const data: Piece[] = [];
  const filler = (length: number): Piece => ({ bytes: new Uint8Array(length), length });
  let offset = 0;
  for (const [name, tensor] of tensors) {
    const { type, shape } = tensor;
    // ggml reads names into 64 bytes, the last of which is 0.
    check(Buffer.byteLength(name) < 64, op, `expected names of at most 63 bytes but received ${name}`);
    const id = ggufTypeIds[type];
    const { bytes, values } = ggufBlock(id)!;
    const length = (shape.reduce((product, size) => product * size, 1) / values) * bytes;
    parts.push(text(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(id), u64(offset));
    data.push({ length, parts: () => tensor.parts() }, filler(padding(length)));
    offset += length + padding(length);
  }
  const header = Buffer.concat(parts);
  return [{ bytes: header, length: header.length }, filler(padding(header.length)), ...data];
}
