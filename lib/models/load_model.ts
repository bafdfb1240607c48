/** Loading a model: its options, the files of its directory, its weights on a device. */
import { stat } from 'node:fs/promises';
import { LoRAError } from '../errors';
import { readLimits } from '../formats/limits';
import { ModelFolder } from '../formats/model_folder';
import { sourceFolder, sourceOptionNames } from '../hub/source';
import { bestDevice, checkF16, type Device, deviceName, nativeDevice } from '../native/device';
import { modelOptions } from '../options/table';
import { runUntracked } from '../tensor/scope';
import { Tokenizer } from '../text/tokenizer';
import { checkOneOf, checkOptions } from '../validate';
import { parseModelConfig, type ModelConfig } from './config';
import type { GenerationDefaults } from '../engine/sampling';
import { parseGenerationDefaults } from './generation_config';
import type { FromPretrainedOptions } from './options';
import { quantizePlan } from './quantize_options';
import { disposeWeights, type ModelWeights } from './tensor_table';
import { loadWeights, type ModelDType } from './weights';

/** The parts that a CausalLM is made of. */
export interface LoadedModel {
  directory: string;
  config: ModelConfig;
  weights: ModelWeights;
  dtype: ModelDType;
  device: Device;
  tokenizer?: Tokenizer;
  defaults: GenerationDefaults;
}

/** The options of {@link CausalLM.fromPretrained}. */
export const fromPretrainedOptionNames = [
  'dtype',
  'device',
  'quantize',
  'limits',
  ...sourceOptionNames,
] as const;

/** Reads a Hugging Face directory, as {@link CausalLM.fromPretrained} says. */
export async function loadModel(source: string | URL, options: FromPretrainedOptions): Promise<LoadedModel> {
  const op = 'from_pretrained';
  checkOptions(op, options, fromPretrainedOptionNames);
  const limits = readLimits(op, options.limits);
  const { dtype = 'auto', signal, onProgress } = options;
  const quantize = quantizePlan(op, options.quantize);
  checkOneOf(op, 'dtype', dtype, modelOptions.dtype.choices);
  const device = options.device === 'auto' ? bestDevice() : deviceName(op, options.device ?? 'cpu');
  if (dtype === 'f16') checkF16(op, device);
  nativeDevice(device); // unavailable: say so before anything is downloaded and read
  const directory = await sourceFolder(source, op, 'model', options);
  signal?.throwIfAborted();
  const found = await stat(directory).catch(() => undefined);
  const folder = found?.isDirectory() ? await ModelFolder.open(directory, { limits, signal }) : undefined;
  if (!folder?.has('config.json'))
    throw new LoRAError(
      'ERR_FILE',
      `[${op}] ${directory} ${found ? 'has no config.json' : 'does not exist'}: expected a Hugging Face model directory`,
      { op },
    );
  const config = parseModelConfig(await folder.json('config.json'), limits);
  const tokenizer = await Tokenizer.fromFolder(folder);
  const generation = (await folder.json('generation_config.json')) ?? {};
  const defaults = parseGenerationDefaults(generation, config, tokenizer, limits);
  const { weights, dtype: actual } = await runUntracked(() =>
    loadWeights(directory, config, { dtype, device, quantize, signal, limits, onProgress }),
  );
  await folder.checkUnchanged().catch((error: unknown) => {
    disposeWeights(config, weights);
    throw error;
  });
  return { directory, config, weights, dtype: actual, device, tokenizer, defaults };
}
