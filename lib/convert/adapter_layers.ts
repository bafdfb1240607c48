/** A LoRA adapter as a list of layers, between the formats of files. */
import { LoRAError } from '../errors';
import { bytesOfFloats, floatsOf } from '../formats/floats';
import type { SafetensorsTensor } from '../formats/safetensors';
import type { ModelConfig } from '../models/config';
import { blockPath, blockTable, HEAD } from '../models/tensor_table';
import type { AdapterFiles } from '../peft/adapter_files';
import { deltaKinds } from '../linear/kinds';
import { checkAdapterTensors } from '../peft/adapter_tensors';
import { fromPeftJson, normalizeLoRAConfig, toPeftJson, type LoRAConfigInput } from '../peft/config';
import { resolveTargets, type ModulePath } from '../peft/matching';
import { lastPart, peftPrefix } from '../peft/method';
import { inSlices } from '../tensor/pace';

/** The change of one layer: scale · up · down. */
export interface AdapterLayer {
  /** As transformers names it. */
  readonly path: string;
  readonly r: number;
  readonly scale: number;
  /** [out, r] */
  readonly up: SafetensorsTensor;
  /** [r, in] */
  readonly down: SafetensorsTensor;
}

/** What an adapter holds beside its layers. */
export interface AboutAdapter {
  /** The name of the base model, where the file says it. */
  readonly base: string | null;
  readonly dropout: number;
}

/** The key of a tensor in adapter_model.safetensors. */
const tensorKey = (path: string, name: 'up' | 'down'): string =>
  `${peftPrefix(path)}.${deltaKinds.lora.names[name]}`;

/** A linear module of a model, with the sizes of its matrix. */
export interface LinearModule extends ModulePath {
  readonly out: number;
  readonly in: number;
}

/** Every linear module of a model, in the order of the forward pass. */
export function linearModules(config: ModelConfig): LinearModule[] {
  const modules: LinearModule[] = [];
  for (let i = 0; i < config.numHiddenLayers; i++)
    for (const entry of blockTable(config))
      if (entry.kind === 'linear') {
        const { out, in: inside, module } = entry;
        modules.push({ path: blockPath(i, module), isOutputEmbedding: false, out, in: inside });
      }
  modules.push({ path: HEAD, isOutputEmbedding: true, out: config.vocabSize, in: config.hiddenSize });
  return modules;
}

/**
 * The layers of what a PEFT directory holds, in the order of the model.
 * @throws ERR_ADAPTER for what does not fit the model, ERR_UNSUPPORTED for changes that are no plain LoRA.
 */
export async function layersOf(
  op: string,
  { config: json, tensors }: AdapterFiles,
  model: ModelConfig,
): Promise<{ layers: AdapterLayer[]; about: AboutAdapter }> {
  const { config, raw } = fromPeftJson(json);
  if (config.useDora || config.modulesToSave !== null)
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `[${op}] the adapter has ${config.useDora ? 'DoRA (use_dora)' : `whole modules (modules_to_save ${JSON.stringify(config.modulesToSave)})`}, which only PEFT's format has`,
      { op },
    );
  const modules = linearModules(model);
  const targets = resolveTargets(config, modules);
  const changed = modules.filter(({ path }) => targets.has(path));
  const expected = new Map<string, readonly number[]>();
  for (const { path, out, in: inside } of changed) {
    const { r } = targets.get(path)!;
    expected.set(tensorKey(path, 'up'), [out, r]).set(tensorKey(path, 'down'), [r, inside]);
  }
  const named = raw['base_model_name_or_path'];
  await inSlices(checkAdapterTensors('default', named, expected, tensors));
  return {
    layers: changed.map(({ path }) => ({
      path,
      r: targets.get(path)!.r,
      scale: targets.get(path)!.scale,
      up: tensors.get(tensorKey(path, 'up'))!,
      down: tensors.get(tensorKey(path, 'down'))!,
    })),
    about: { base: typeof named === 'string' ? named : null, dropout: config.loraDropout },
  };
}

/** The value that most of a list have, the first of several such. */
export function mostCommon<T>(values: readonly T[]): T {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...counts].find(([, count]) => count === most)![0];
}

/** The factor that a file has for all layers. Not 0, which to llama.cpp means none, and which could not be made up for in a layer. */
export function sharedFactor(factors: readonly number[]): number {
  const others = factors.filter((factor) => factor !== 0);
  return others.length === 0 ? 1 : mostCommon(others);
}

/** α of a layer: α/r · r is not always α in floating point, so its last digit is left out. */
export const alphaOf = ({ r, scale }: AdapterLayer): number => Number((scale * r).toPrecision(15));

/** The layers whose value is another than `usual`, by their path. */
const exceptions = <T>(layers: readonly AdapterLayer[], of: (layer: AdapterLayer) => T, usual: T) =>
  Object.fromEntries(layers.flatMap((layer) => (of(layer) === usual ? [] : [[layer.path, of(layer)]])));

/**
 * What a PEFT directory of these layers holds. `modules`: those of the base model, where it is known. Targets are the last parts of the
 * paths, with numbers of blocks where not all have them, or else whole paths.
 */
export function filesOf(
  layers: readonly AdapterLayer[],
  { base, dropout }: AboutAdapter,
  modules: readonly ModulePath[] | undefined,
): AdapterFiles {
  const r = mostCommon(layers.map((layer) => layer.r));
  const loraAlpha = mostCommon(layers.map(alphaOf));
  const shared: LoRAConfigInput = {
    r,
    loraAlpha,
    loraDropout: dropout,
    rankPattern: exceptions(layers, (layer) => layer.r, r),
    alphaPattern: exceptions(layers, alphaOf, loraAlpha),
  };
  const paths = layers.map(({ path }) => path);
  const names = [...new Set(paths.map(lastPart))].sort();
  const blocks = [...new Set(paths.flatMap((path) => /\.(\d+)\./.exec(path)?.[1] ?? []))].map(Number);
  const candidates: LoRAConfigInput[] = [
    ...(modules ? [{ targetModules: names }] : []),
    ...(blocks.length > 0 ? [{ targetModules: names, layersToTransform: blocks.sort((a, b) => a - b) }] : []),
    { targetModules: paths },
  ];
  const known = modules ?? layers.map(({ path }) => ({ path, isOutputEmbedding: path === HEAD }));
  const fitting = candidates
    .map((targets) => normalizeLoRAConfig({ ...shared, ...targets }))
    .find((config) => {
      const found = resolveTargets(config, known);
      return found.size === paths.length && paths.every((path) => found.has(path));
    })!;
  const tensors = new Map<string, SafetensorsTensor>();
  for (const { path, up, down } of layers)
    tensors.set(tensorKey(path, 'down'), down).set(tensorKey(path, 'up'), up);
  return { config: { ...toPeftJson(fitting), base_model_name_or_path: base }, tensors };
}

/** The elements in f32, times a factor. */
export function scaled(tensor: SafetensorsTensor, factor: number): Float32Array {
  const floats = floatsOf(tensor);
  return factor === 1 ? floats : floats.map((value) => value * factor);
}

/** [rows, columns] as [columns, rows]. */
export function transposed(floats: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(floats.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) turned[j * rows + i] = floats[i * columns + j]!;
  return turned;
}

/** An f32 tensor of these elements. */
export const f32Tensor = (floats: Float32Array, shape: readonly number[]): SafetensorsTensor => ({
  dtype: 'F32',
  shape,
  bytes: bytesOfFloats(floats),
});
