/** Loading a model: its options, its files, its weights on a device. */
import { loraError } from '../../errors';
import { readLimits, type Limits } from '../../formats/limits';
import { sourceFolder, sourceOptionNames } from '../../hub/source';
import { checkF16, type Device, openedDevice } from '../../native/device';
import { modelOptions } from '../../options/table';
import { runUntracked } from '../../tensor/scope';
import { Tokenizer } from '../../text/tokenizer';
import { checkOneOf, checkOptions } from '../../validate';
import { checkHead } from '../../peft/head';
import { attentionLayers, type ModelConfig } from '../config/model_config';
import { withHead } from '../families';
import type { GenerationDefaults } from '../../engine/sampling';
import { parseGenerationDefaults } from '../files/generation_config';
import { modelConfigOf, openModelFiles } from '../files/model_source';
import { readSentenceSettings, type SentenceSettings } from '../embedding/sentence_files';
import type { FromPretrainedOptions } from './options';
import { quantizePlan } from '../quantized/quantize_options';
import { disposeWeights, type ModelWeights } from '../files/tensor_table';
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
  /** How it makes vectors of texts. */
  sentence: SentenceSettings;
  /** Those it was read within. */
  limits: Limits;
}

/** The options of {@link CausalLM.fromPretrained}. */
export const fromPretrainedOptionNames = [
  'dtype',
  'device',
  'quantize',
  'activations',
  'head',
  'limits',
  ...sourceOptionNames,
] as const;

/** Numbers of a head: kMaxHeadDim of native/backend/cuda/attention_plan.h. */
const maxCudaHeadDim = 256;

/** What CUDA's attention computes. @throws ERR_UNSUPPORTED for wider heads. */
function checkHeads(op: string, config: ModelConfig): void {
  const widest = Math.max(0, ...attentionLayers(config).map(({ headDim }) => headDim));
  if (widest > maxCudaHeadDim)
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `the model has heads of ${widest} numbers, and attention on cuda at most ${maxCudaHeadDim}: load it on the CPU`,
    );
}

/** Reads a model, as {@link CausalLM.fromPretrained} says. */
export async function loadModel(source: string | URL, options: FromPretrainedOptions): Promise<LoadedModel> {
  const op = 'from_pretrained';
  checkOptions(op, options, fromPretrainedOptionNames);
  const limits = readLimits(op, options.limits);
  const { dtype = 'auto', activations = 'exact', head, signal, onProgress } = options;
  if (head !== undefined) checkHead(head);
  const quantize = quantizePlan(op, options.quantize);
  checkOneOf(op, 'dtype', dtype, modelOptions.dtype.choices);
  checkOneOf(op, 'activations', activations, modelOptions.activations.choices);
  // Unavailable: say so before anything is downloaded and read.
  const device = await openedDevice(op, options.device ?? 'cpu');
  if (dtype === 'f16') checkF16(op, device);
  if (activations === 'int8' && device.startsWith('cuda'))
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `int8 activations are for the CPU: leave activations out on ${device}`,
    );
  const directory = await sourceFolder(source, op, 'model', options);
  signal?.throwIfAborted();
  const files = await openModelFiles(op, directory, { limits, signal });
  const stored = await modelConfigOf(files);
  const config = head === undefined ? stored : withHead(stored, head, limits);
  if (device.startsWith('cuda')) checkHeads(op, config);
  const tokenizer = await Tokenizer.fromFiles(files);
  const generation = (await files.json('generation_config.json')) ?? {};
  const defaults = parseGenerationDefaults(generation, config, tokenizer, limits);
  const { weights, dtype: actual } = await runUntracked(() =>
    loadWeights(files, config, { dtype, device, quantize, activations, signal, onProgress }),
  );
  const free = (error: unknown): never => {
    disposeWeights(config, weights);
    throw error;
  };
  const sentence = await readSentenceSettings(files, config, device).catch(free);
  await files.checkUnchanged().catch((error: unknown) => {
    for (const layer of sentence.dense) layer.dispose();
    free(error);
  });
  const { dir } = files;
  return { directory: dir, config, weights, dtype: actual, device, tokenizer, defaults, sentence, limits };
}
