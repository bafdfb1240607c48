/**
 * Adapters as llama.cpp reads them: for a matrix NAME of the model the tensors NAME.lora_a [r, in] and NAME.lora_b [out, r], and one
 * adapter.lora.alpha; the change is α/r · lora_b · lora_a.
 */
import { basename } from 'node:path';
import { LoRAError } from '../errors';
import { writeFileAtomic } from '../formats/atomic';
import { bytesOfFloats } from '../formats/floats';
import { GgufFile, type GgufTensor } from '../formats/gguf';
import { serializeGguf, type GgufField, type LateGgufTensor } from '../formats/gguf_write';
import type { Reading } from '../formats/json';
import type { SafetensorsTensor } from '../formats/safetensors';
import type { ModelConfig } from '../models/config/model_config';
import { familyOf } from '../models/families';
import { linearModules } from '../models/files/tensor_table';
import { ggufTensors, reordered, reorderedColumns, type GgufPlace } from '../models/files/gguf_names';
import { listed } from '../validate';
import { alphaOf, type AdapterLayer } from '../peft/adapter_layers';
import { scaled, sharedFactor } from './layers';

const refuse = (path: string, reason: string): never => {
  throw new LoRAError('ERR_ADAPTER', `${path} ${reason}`);
};

/** A tensor whose bytes are made when they are written. */
const late = (shape: readonly number[], make: () => Uint8Array): LateGgufTensor => ({
  type: 'F32',
  shape,
  async *parts() {
    yield await Promise.resolve(make());
  },
});

/**
 * Writes the layers as one file, whole or not at all. A file has one α: where layers differ in it, the difference goes into lora_b, with
 * one rounding to f32.
 */
export async function writeGgufAdapter(
  out: string,
  layers: readonly AdapterLayer[],
  model: ModelConfig,
  op: string,
): Promise<void> {
  const places = ggufTensors(model);
  const alpha = sharedFactor(layers.map(alphaOf));
  const metadata = new Map<string, GgufField>([
    ['general.architecture', { text: familyOf(model).gguf.architecture }],
    ['general.type', { text: 'adapter' }],
    ['adapter.type', { text: 'lora' }],
    ['adapter.lora.alpha', { f32: alpha }],
    ['general.name', { text: basename(out).replace(/\.gguf$/, '') }],
  ]);
  const tensors = new Map<string, LateGgufTensor>();
  const sorted = [...layers].sort((a, b) => (a.path < b.path ? -1 : 1));
  for (const layer of sorted) {
    const { name, rows, columns } = places.get(`${layer.path}.weight`)!;
    const { up, down } = layer;
    tensors.set(
      `${name}.lora_a`,
      late(down.shape, () => {
        const bytes = bytesOfFloats(scaled(down, 1));
        return columns ? reorderedColumns(bytes, layer.r, columns, false) : bytes;
      }),
    );
    tensors.set(
      `${name}.lora_b`,
      late(up.shape, () => {
        const bytes = bytesOfFloats(scaled(up, alphaOf(layer) / alpha));
        return rows ? reordered(bytes, rows, false) : bytes;
      }),
    );
  }
  await writeFileAtomic(out, serializeGguf(metadata, tensors, op));
}

/** α/r of a rank; a file without α, or with 0, has the factor 1. */
function scaleOf(file: GgufFile): (r: number) => number {
  const alpha = file.metadata.get('adapter.lora.alpha') ?? 0;
  if (typeof alpha !== 'number' || !Number.isFinite(alpha))
    return refuse(file.file.path, `has adapter.lora.alpha ${String(alpha).slice(0, 80)}, which is no number`);
  return (r) => (alpha === 0 ? 1 : alpha / r);
}

function checkMetadata({ metadata, file: { path } }: GgufFile, model: ModelConfig): void {
  const { architecture } = familyOf(model).gguf;
  const shown = (key: string): string => JSON.stringify(metadata.get(key) ?? null, inText).slice(0, 80);
  if (metadata.get('general.type') !== 'adapter')
    refuse(path, `has general.type ${shown('general.type')}: expected "adapter"`);
  if (metadata.get('adapter.type') !== 'lora')
    refuse(path, `has adapter.type ${shown('adapter.type')}: expected "lora"`);
  if (metadata.get('general.architecture') !== architecture)
    refuse(
      path,
      `has general.architecture ${shown('general.architecture')}, and the base, a ${model.modelType}, has "${architecture}"`,
    );
  const alora = [...metadata.keys()].find((key) => key.startsWith('adapter.alora.'));
  if (alora !== undefined) refuse(path, `has ${alora}: adapters that a text switches on are not supported`);
}

/** JSON has no bigints. */
const inText = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? String(value) : value);

async function readTensor(path: string, name: string, tensor: GgufTensor): Promise<SafetensorsTensor> {
  const { type } = tensor.block;
  if (type !== 'F32' && type !== 'F16' && type !== 'BF16')
    return refuse(path, `holds ${name} as ${type}; supported are F32, F16 and BF16`);
  return { dtype: type, shape: tensor.shape, bytes: await tensor.read() };
}

/** The layers of a file. @throws ERR_ADAPTER for what is no adapter of this model, ERR_FILE. */
export async function readGgufAdapter(
  path: string,
  model: ModelConfig,
  reading: Reading,
): Promise<AdapterLayer[]> {
  const file = await GgufFile.open(path, reading);
  try {
    checkMetadata(file, model);
    const scale = scaleOf(file);
    const places = ggufTensors(model);
    const left = new Set(file.tensors.keys());
    const layers: AdapterLayer[] = [];
    for (const module of linearModules(model)) {
      const place = places.get(`${module.path}.weight`)!;
      const layer = await readLayer(file, module.path, place, left);
      if (layer === undefined) continue;
      const { up, down } = layer;
      const r = down.shape[0]!;
      if (down.shape[1] !== module.in || up.shape[0] !== module.out || up.shape[1] !== r)
        refuse(
          path,
          `holds ${place.name}.lora_a of [${down.shape.join(', ')}] and lora_b of [${up.shape.join(', ')}]: expected [r, ${module.in}] and [${module.out}, r]`,
        );
      layers.push({
        path: module.path,
        r,
        scale: scale(r),
        ...ordered(layer, place),
      });
    }
    if (left.size > 0)
      refuse(path, `holds ${listed([...left])}, which is no LoRA of a linear layer of the base`);
    if (layers.length === 0) refuse(path, 'holds no tensors');
    await file.file.checkUnchanged();
    return layers;
  } finally {
    await file.close();
  }
}

type Pair = Pick<AdapterLayer, 'up' | 'down'>;

/** The pair of a module, whose names are taken out of `left`; undefined where the file has none. */
async function readLayer(
  file: GgufFile,
  path: string,
  { name }: GgufPlace,
  left: Set<string>,
): Promise<Pair | undefined> {
  const names = [`${name}.lora_a`, `${name}.lora_b`] as const;
  const [a, b] = names.map((each) => file.tensors.get(each));
  if (a === undefined && b === undefined) return undefined;
  if (a === undefined || b === undefined)
    return refuse(file.file.path, `holds only one of ${names.join(' and ')}, the change of ${path}`);
  for (const each of names) left.delete(each);
  return {
    down: await readTensor(file.file.path, names[0], a),
    up: await readTensor(file.file.path, names[1], b),
  };
}

/** A pair of a file in Hugging Face's order. */
function ordered({ up, down }: Pair, { rows, columns }: GgufPlace): Pair {
  return {
    down: columns ? { ...down, bytes: reorderedColumns(down.bytes, down.shape[0]!, columns, true) } : down,
    up: rows ? { ...up, bytes: reordered(up.bytes, rows, true) } : up,
  };
}
