/** A LoRA adapter as a list of layers: what formats have in common, and combinations are made of. */
import { bytesOfFloats } from '../formats/floats';
import type { SafetensorsTensor } from '../formats/safetensors';
import { parameterName } from '../linear/expert_module';
import { deltaKinds } from '../linear/kinds';
import type { AdapterFiles } from './adapter_files';
import { normalizeLoRAConfig, toPeftJson, type LoRAConfigInput } from './config';
import { wrappedPath } from './expert_targets';
import { resolveTargets } from './matching';
import { peftPrefix } from './method';
import { lastPart, placeInBlocks, type ModulePath } from './roles';

/** The change of one layer: scale · up · down. */
export interface AdapterLayer {
  /** As transformers names it. */
  readonly path: string;
  readonly r: number;
  readonly scale: number;
  /** How many experts have such a change each, in a parameter of all; absent: it is of a linear layer. */
  readonly experts?: number;
  /** [out, r], or [out, r·experts] */
  readonly up: SafetensorsTensor;
  /** [r, in], or [experts·r, in] */
  readonly down: SafetensorsTensor;
}

/** What an adapter holds beside its layers. */
export interface AboutAdapter {
  /** The name of the base model, where the file says it. */
  readonly base: string | null;
  readonly dropout: number;
}

/** The key of a tensor in adapter_model.safetensors. */
export const tensorKey = (path: string, name: 'up' | 'down'): string =>
  `${peftPrefix(path)}.${deltaKinds.lora.names[name]}`;

/** The value that most of a list have, the first of several such. */
export function mostCommon<T>(values: readonly T[]): T {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...counts].find(([, count]) => count === most)![0];
}

/** α of a layer: α/r · r is not always α in floating point, so its last digit is left out. */
export const alphaOf = ({ r, scale }: AdapterLayer): number => Number((scale * r).toPrecision(15));

/** The layers whose value is another than `usual`, by their path. */
const exceptions = <T>(layers: readonly AdapterLayer[], of: (layer: AdapterLayer) => T, usual: T) =>
  Object.fromEntries(layers.flatMap((layer) => (of(layer) === usual ? [] : [[layer.path, of(layer)]])));

/** Names of parameters of experts, of those that the model has: their ends where all that have one are changed, else whole paths. */
export function parameterTargets(paths: readonly string[], all: readonly string[]): string[] {
  const ends = [...new Set(paths.map(parameterName))];
  const isAll = all.filter((path) => ends.includes(parameterName(path))).length === paths.length;
  return isAll ? ends : [...paths];
}

/**
 * What a PEFT directory of these layers holds. `modules`: those of the base model, where it is known; `experts`: the paths of its parameters of experts. Targets are
 * the last parts of the paths, with numbers of blocks where not all have them, or else whole paths.
 */
export function filesOf(
  layers: readonly AdapterLayer[],
  { base, dropout }: AboutAdapter,
  modules: readonly ModulePath[] | undefined,
  experts: readonly string[] = [],
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
  const changed = layers.filter((layer) => layer.experts !== undefined).map(({ path }) => path);
  const targetParameters = changed.length > 0 ? parameterTargets(changed, experts) : null;
  const whole = changed.length > 0 ? changed : null; // numbers of blocks hold for ends of paths
  const paths = layers.filter((layer) => layer.experts === undefined).map(({ path }) => path);
  const names = [...new Set(paths.map(lastPart))].sort();
  const blocks = [...new Set(paths.flatMap((path) => placeInBlocks(path)?.block ?? []))];
  const candidates: LoRAConfigInput[] = [
    ...(modules ? [{ targetModules: names, targetParameters }] : []),
    ...(blocks.length > 0
      ? [
          {
            targetModules: names,
            targetParameters: whole,
            layersToTransform: blocks.sort((a, b) => a - b),
          },
        ]
      : []),
    { targetModules: paths, targetParameters },
  ];
  const known = modules ?? layers.map(({ path }) => ({ path, role: null }));
  const fitting = candidates
    .map((targets) => normalizeLoRAConfig({ ...shared, ...targets }))
    .find((config) => {
      const found = resolveTargets(config, known);
      return found.size === paths.length && paths.every((path) => found.has(path));
    })!;
  const tensors = new Map<string, SafetensorsTensor>();
  for (const { path, experts: count, up, down } of layers) {
    const place = count === undefined ? path : wrappedPath(path, changed);
    tensors.set(tensorKey(place, 'down'), down).set(tensorKey(place, 'up'), up);
  }
  return { config: { ...toPeftJson(fitting), base_model_name_or_path: base }, tensors };
}

/** An f32 tensor of these elements. */
export const f32Tensor = (floats: Float32Array, shape: readonly number[]): SafetensorsTensor => ({
  dtype: 'F32',
  shape,
  bytes: bytesOfFloats(floats),
});
