/** GGUF files in memory, for tests. */
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
