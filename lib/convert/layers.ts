/** The layers of a PEFT directory, for a model, and what the other formats make of their numbers. */
import { loraError } from '../errors';
import { floatsOf } from '../formats/floats';
import type { SafetensorsTensor } from '../formats/safetensors';
import type { ModelConfig } from '../models/config/model_config';
import { linearModules } from '../models/files/tensor_table';
import type { AdapterFiles } from '../peft/adapter_files';
import { mostCommon, tensorKey, type AboutAdapter, type AdapterLayer } from '../peft/adapter_layers';
import { checkAdapterTensors } from '../peft/adapter_tensors';
import { completeLoRAConfig, fromPeftJson } from '../peft/config';
import { resolveTargets } from '../peft/matching';
import { keyInTextModel } from '../peft/method';
import { inSlices } from '../tensor/pace';

/**
 * The layers of what a PEFT directory holds, in the order of the model.
 * @throws ERR_ADAPTER for what does not fit the model, ERR_UNSUPPORTED for changes that are no plain LoRA.
 */
export async function layersOf(
  op: string,
  { config: json, tensors: stored }: AdapterFiles,
  model: ModelConfig,
): Promise<{ layers: AdapterLayer[]; about: AboutAdapter }> {
  const { config: ofFile, raw } = fromPeftJson(json);
  const tensors = new Map([...stored].map(([key, tensor]) => [keyInTextModel(key), tensor]));
  const modules = linearModules(model);
  const config = completeLoRAConfig(ofFile, modules);
  if (config.useDora || config.modulesToSave !== null)
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `the adapter has ${config.useDora ? 'DoRA (use_dora)' : `whole modules (modules_to_save ${JSON.stringify(config.modulesToSave)})`}, which only PEFT's format has`,
    );
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

/** The factor that a file has for all layers. Not 0, which to llama.cpp means none, and which could not be made up for in a layer. */
export function sharedFactor(factors: readonly number[]): number {
  const others = factors.filter((factor) => factor !== 0);
  return others.length === 0 ? 1 : mostCommon(others);
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
