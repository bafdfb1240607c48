/**
 * Adapters as mlx_lm reads them: PATH.lora_a [in, r] and PATH.lora_b [r, out] in adapters.safetensors, and in adapter_config.json one
 * rank and one scale, which is a factor and not an α; the change is y += scale · (x · lora_a) · lora_b.
 */
import { join } from 'node:path';
import { LoRAError, loraError } from '../errors';
import { writeNewFile } from '../formats/atomic';
import { SavedFolder, saveTogether } from '../formats/file_group';
import { bytesOfFloats, floatsOf } from '../formats/floats';
import { readJson, type Reading } from '../formats/json';
import { adapterConfigFile, mlxWeightsFile } from '../formats/model_files';
import { serializeLate, type LateTensor, type SafetensorsTensor } from '../formats/safetensors';
import { StoredTensors } from '../formats/stored_tensors';
import type { ModelConfig } from '../models/config/model_config';
import { linearModules } from '../models/files/tensor_table';
import { inSlices } from '../tensor/pace';
import { isDropout, isRecord, listed } from '../validate';
import { f32Tensor, type AboutAdapter, type AdapterLayer } from '../peft/adapter_layers';
import { placeInBlocks } from '../peft/roles';
import { scaled, sharedFactor, transposed } from './layers';

/** Whether a configuration is one of mlx_lm's. */
export const isMlxConfig = (json: unknown): boolean =>
  isRecord(json) && !('peft_type' in json) && ('lora_parameters' in json || 'fine_tune_type' in json);

const refuse = (path: string, reason: string): never => {
  throw new LoRAError('ERR_ADAPTER', `${path} ${reason}`);
};

/** Where a layer stands: the number of its block, and its path in it. */
function placeOf(op: string, path: string): { block: number; module: string } {
  const place = placeInBlocks(path);
  if (place === null)
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `the adapter changes ${path}, and mlx_lm adapts layers inside the blocks only`,
    );
  return place;
}

/** Why a path is that of no layer that can be changed, or undefined. `known`: the layers of the base; without one, all in a block pass. */
function foreignLayer(path: string, known: ReadonlySet<string> | undefined): string | undefined {
  if (known) return known.has(path) ? undefined : 'is no linear layer of the base';
  return placeInBlocks(path) ? undefined : 'is no linear layer inside of a block; for others give base';
}

/** `length` rows of `width` elements, the further ones 0. */
function filled(floats: Float32Array, length: number, width: number): Float32Array {
  const rows = new Float32Array(length * width);
  rows.set(floats);
  return rows;
}

const late = (shape: readonly number[], make: () => Float32Array): LateTensor => ({
  dtype: 'F32',
  shape,
  async *parts() {
    yield await Promise.resolve(bytesOfFloats(make()));
  },
});

/**
 * Writes the layers as a new directory, whole or not at all. mlx_lm has one rank and one scale for all layers of the last blocks: smaller
 * ranks are filled up with zeros, and where layers differ in the scale, the difference goes into lora_b, with one rounding to f32.
 */
export async function writeMlxAdapter(
  out: string,
  layers: readonly AdapterLayer[],
  { base, dropout }: AboutAdapter,
  model: ModelConfig,
  op: string,
): Promise<void> {
  const places = layers.map(({ path }) => placeOf(op, path));
  const rank = Math.max(...layers.map(({ r }) => r));
  const scale = sharedFactor(layers.map((layer) => layer.scale));
  const config = {
    fine_tune_type: 'lora',
    num_layers: model.numHiddenLayers - Math.min(...places.map(({ block }) => block)),
    lora_parameters: { rank, scale, dropout, keys: [...new Set(places.map(({ module }) => module))] },
    ...(base !== null && { model: base }),
  };
  const tensors = new Map<string, LateTensor>();
  for (const { path, r, scale: own, up, down } of layers) {
    const [outside, inside] = [up.shape[0]!, down.shape[1]!];
    tensors.set(
      `${path}.lora_a`,
      late([inside, rank], () => transposed(filled(floatsOf(down), rank, inside), rank, inside)),
    );
    tensors.set(
      `${path}.lora_b`,
      late([rank, outside], () => filled(transposed(scaled(up, own / scale), outside, r), rank, outside)),
    );
  }
  await saveTogether(out, async (folder) => {
    const weights = await inSlices(serializeLate(tensors, { format: 'mlx' }, op));
    await writeNewFile(join(folder, mlxWeightsFile), weights, join(out, mlxWeightsFile));
    const json = JSON.stringify(config, null, 4);
    await writeNewFile(join(folder, adapterConfigFile), json, join(out, adapterConfigFile));
  });
}

/** The scale and the dropout of a configuration. @throws ERR_ADAPTER for what is no LoRA. */
function parametersOf(path: string, json: unknown): { scale: number; dropout: number; base: string | null } {
  if (!isRecord(json)) return refuse(path, 'is not a JSON object');
  const { fine_tune_type: type = 'lora', lora_parameters: given, model } = json;
  if (type !== 'lora')
    refuse(path, `has fine_tune_type ${JSON.stringify(type).slice(0, 80)}; only "lora" is supported`);
  if (!isRecord(given)) return refuse(path, 'has no lora_parameters');
  const { scale, dropout = 0 } = given;
  if (typeof scale !== 'number' || !Number.isFinite(scale))
    return refuse(path, `has scale ${JSON.stringify(scale)}: expected a number`);
  if (typeof dropout !== 'number' || !isDropout(dropout))
    return refuse(path, `has dropout ${JSON.stringify(dropout)}: expected a number from 0 up to, but not, 1`);
  return { scale, dropout, base: typeof model === 'string' ? model : null };
}

/** The transpose of a matrix in f32. */
const turned = (tensor: SafetensorsTensor): SafetensorsTensor => {
  const [rows, columns] = tensor.shape as [number, number];
  return f32Tensor(transposed(floatsOf(tensor), rows, columns), [columns, rows]);
};

/** The layers of a directory. `base`: the model that it was trained for, where it is known. @throws ERR_ADAPTER, ERR_FILE, ERR_SAFETENSORS. */
export async function readMlxAdapter(
  dir: string,
  base: ModelConfig | undefined,
  reading: Reading,
): Promise<{ layers: AdapterLayer[]; about: AboutAdapter }> {
  const folder = await SavedFolder.open(dir, 'adapter directory');
  if (!folder.has(mlxWeightsFile))
    throw new LoRAError('ERR_FILE', `${dir} has no ${mlxWeightsFile}, which the adapters of mlx_lm are in`);
  const json = await readJson(folder.file(adapterConfigFile), reading);
  const { scale, ...about } = parametersOf(join(dir, adapterConfigFile), json);
  const file = await StoredTensors.open(folder.file(mlxWeightsFile), reading);
  const { path } = file.file;
  try {
    const tensors = await file.readAll();
    const known = base && new Set(linearModules(base).map((module) => module.path));
    const layers: AdapterLayer[] = [];
    const paths = [...tensors.keys()]
      .filter((name) => name.endsWith('.lora_a'))
      .map((name) => name.slice(0, -7));
    for (const layer of paths.sort()) {
      const a = tensors.get(`${layer}.lora_a`)!;
      const b = tensors.get(`${layer}.lora_b`);
      if (b === undefined) return refuse(path, `holds ${layer}.lora_a without ${layer}.lora_b`);
      const foreign = foreignLayer(layer, known);
      if (foreign !== undefined) refuse(path, `holds ${layer}.lora_a, and ${layer} ${foreign}`);
      for (const [name, { dtype, shape }] of [
        ['lora_a', a],
        ['lora_b', b],
      ] as const)
        if (!['F32', 'F16', 'BF16'].includes(dtype) || shape.length !== 2)
          refuse(
            path,
            `holds ${layer}.${name} as ${dtype} [${shape.join(', ')}]: expected a matrix of F32, F16 or BF16`,
          );
      if (a.shape[1] !== b.shape[0] || a.shape[1] === 0)
        refuse(
          path,
          `holds ${layer}.lora_a of [${a.shape.join(', ')}] and lora_b of [${b.shape.join(', ')}]: expected [in, r] and [r, out]`,
        );
      layers.push({ path: layer, r: a.shape[1]!, scale, down: turned(a), up: turned(b) });
      tensors.delete(`${layer}.lora_a`);
      tensors.delete(`${layer}.lora_b`);
    }
    if (tensors.size > 0)
      refuse(path, `holds ${listed([...tensors.keys()])}: expected lora_a and lora_b alone`);
    if (layers.length === 0) refuse(path, 'holds no tensors');
    return { layers, about };
  } finally {
    await file.close();
  }
}
