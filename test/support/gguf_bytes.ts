/** GGUF files in memory, for tests. */
import { writeFileSync } from 'node:fs';
import { GgufFile } from '../../lib/formats/gguf';
import type { GgufValue } from '../../lib/formats/gguf_header';
import { serializeGguf, type GgufField, type LateGgufTensor } from '../../lib/formats/gguf_write';

/** A tensor of f32 of this shape, whose elements count up. */
export const counting = (shape: readonly number[]): LateGgufTensor => ({
  type: 'F32',
  shape,
  async *parts() {
    const count = shape.reduce((product, size) => product * size, 1);
    yield await Promise.resolve(new Uint8Array(Float32Array.from({ length: count }, (_, i) => i).buffer));
  },
});

/** A whole file. */
export async function ggufBytes(
  metadata: ReadonlyMap<string, GgufField>,
  tensors: ReadonlyMap<string, LateGgufTensor>,
): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for (const piece of serializeGguf(metadata, tensors, 'test'))
    if ('bytes' in piece) all.push(piece.bytes);
    else for await (const part of piece.parts()) all.push(part);
  return Buffer.concat(all);
}

/** An adapter of a LoRA of rank 2 on q and v of the first block of the tiny model. */
export const adapterMetadata: ReadonlyMap<string, GgufField> = new Map<string, GgufField>([
  ['general.architecture', { text: 'llama' }],
  ['general.type', { text: 'adapter' }],
  ['adapter.type', { text: 'lora' }],
  ['adapter.lora.alpha', { f32: 4 }],
]);
export const adapterTensors: ReadonlyMap<string, LateGgufTensor> = new Map([
  ['blk.0.attn_q.weight.lora_a', counting([2, 24])],
  ['blk.0.attn_q.weight.lora_b', counting([24, 2])],
  ['blk.0.attn_v.weight.lora_a', counting([2, 24])],
  ['blk.0.attn_v.weight.lora_b', counting([12, 2])],
]);

/** Values that were read, as they are written. */
function fieldsOf(metadata: ReadonlyMap<string, GgufValue>): Map<string, GgufField> {
  const field = (value: GgufValue): GgufField => {
    if (typeof value === 'string') return { text: value };
    if (typeof value === 'boolean') return { flag: value };
    if (typeof value === 'number') return Number.isInteger(value) ? { u32: value } : { f32: value };
    if (value instanceof Int32Array) return { i32s: [...value] };
    if (value instanceof Uint8Array) return { flags: Array.from(value, (one) => one !== 0) };
    if (value instanceof Float32Array) return { f32s: [...value] };
    return { texts: value as readonly string[] };
  };
  return new Map([...metadata].map(([key, value]) => [key, field(value)]));
}

/** What a GGUF file consists of, to be changed and written again. */
export interface GgufParts {
  readonly metadata: Map<string, GgufField>;
  readonly tensors: Map<string, LateGgufTensor>;
}

/** The parts of a file whose tensors have types that this package writes. */
export async function ggufParts(path: string): Promise<GgufParts> {
  const file = await GgufFile.open(path);
  const tensors = new Map<string, LateGgufTensor>();
  for (const [name, tensor] of file.tensors) {
    const { block, shape } = tensor;
    const bytes = await tensor.read();
    const type = block.type as LateGgufTensor['type'];
    tensors.set(name, {
      ...{ type, shape },
      async *parts() {
        yield await Promise.resolve(bytes);
      },
    });
  }
  await file.close();
  return { metadata: fieldsOf(file.metadata), tensors };
}

/** Writes a file, changed. */
export async function writeGguf(
  path: string,
  { metadata, tensors }: GgufParts,
  values: Readonly<Record<string, GgufField | undefined>> = {},
): Promise<string> {
  const changed = new Map(metadata);
  for (const [key, field] of Object.entries(values))
    if (field === undefined) changed.delete(key);
    else changed.set(key, field);
  writeFileSync(path, await ggufBytes(changed, tensors));
  return path;
}

/** Writes the parts of a split file, with so many tensors each, and gives their paths. */
export async function writeSplit(
  stem: string,
  { metadata, tensors }: GgufParts,
  each: number,
  values: (part: number) => Readonly<Record<string, GgufField | undefined>> = () => ({}),
): Promise<string[]> {
  const all = [...tensors];
  const count = Math.ceil(all.length / each);
  const number = (n: number): string => String(n).padStart(5, '0');
  const paths: string[] = [];
  for (let part = 0; part < count; part++) {
    const own = new Map<string, GgufField>([
      ...(part === 0 ? metadata : []),
      ['split.no', { u32: part }],
      ['split.count', { u32: count }],
      ['split.tensors.count', { u32: all.length }],
    ]);
    const path = `${stem}-${number(part + 1)}-of-${number(count)}.gguf`;
    const some = new Map(all.slice(part * each, (part + 1) * each));
    paths.push(await writeGguf(path, { metadata: own, tensors: some }, values(part)));
  }
  return paths;
}
