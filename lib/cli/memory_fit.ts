/** Whether a run fits into memory: what is said and refused before the weights of a model are read. */
import { LoRAError, loraError } from '../errors';
import { sourceFolder } from '../hub/source';
import type { ModelConfig } from '../models/config/model_config';
import { withHead } from '../models/families';
import { modelConfigOf, openModelFiles } from '../models/files/model_source';
import { quantizedByConfig } from '../models/quantized/quantize_options';
import type { QuantizedFormat } from '../tensor/frozen_weight';
import { estimateMemory, type MemoryEstimate, type MemoryOptions } from '../models/memory';
import { bestDevice, deviceName, devices, freeBytes } from '../native/device';
import type { HeadInput } from '../peft/head';
import { note } from './common';
import type { Console } from './command';
import { hubOptions, sizeText } from './hub_report';

/** Flags that name a model. */
interface ModelValues {
  readonly model: string;
  readonly revision?: string | undefined;
  readonly offline: boolean;
}

/** The configuration of a model. Of a name of the hub it downloads what the purpose needs. */
export async function readModelConfig(
  values: ModelValues,
  console: Console,
  purpose: 'config' | 'model' = 'config',
): Promise<ModelConfig> {
  const op = 'from_pretrained';
  const directory = await sourceFolder(values.model, op, purpose, hubOptions(console, values));
  return modelConfigOf(await openModelFiles(op, directory, { signal: console.signal }));
}

/** What is taken from LORA_MEMORY_LIMIT, or from what the system leaves. */
const tensorBytes = ({ total, runtime }: MemoryEstimate): number => total - runtime;

/** Flags that make a training run smaller, those that cost least first; last what changes the weights. */
const remedies: readonly (readonly [flags: string, options: MemoryOptions])[] = [
  ['--gradient-checkpointing', { gradientCheckpointing: true }],
  ['--batch-size 1', { batchSize: 1 }],
  ['--batch-size 1 --gradient-checkpointing', { batchSize: 1, gradientCheckpointing: true }],
  [
    '--batch-size 1 --gradient-checkpointing --optimizer adamw8bit',
    { batchSize: 1, gradientCheckpointing: true, optimizer: 'adamw8bit' },
  ],
  ['--quantize nf4', { quantize: 'nf4' }],
  ['--quantize nf4 --gradient-checkpointing', { quantize: 'nf4', gradientCheckpointing: true }],
  [
    '--quantize nf4 --batch-size 1 --gradient-checkpointing',
    { quantize: 'nf4', batchSize: 1, gradientCheckpointing: true },
  ],
];
/** Of these, what makes serving smaller. */
const servingRemedies = remedies.filter(([, options]) => Object.keys(options).join() === 'quantize');

/** What is free of the memory that an estimate is of; undefined for a GPU where there is none. */
function freeOf(device: MemoryOptions['device']): number | undefined {
  if (device !== 'cuda') return freeBytes('cpu');
  return devices().some(({ id }) => id === 'cuda') ? freeBytes('cuda') : undefined;
}

/** Whether a process fits into the memory that is free, and the first flags with which training would; undefined where nothing is known to be free. */
export function fitOf(config: ModelConfig, options: MemoryOptions, free = freeOf(options.device)) {
  const needOf = (changes: MemoryOptions): number =>
    tensorBytes(estimateMemory(config, { ...options, ...changes }));
  const estimate = estimateMemory(config, options);
  const { device = 'cpu' } = options;
  if (free === undefined) return { device, estimate, free, fits: undefined, remedy: undefined };
  const fits = tensorBytes(estimate) <= free;
  const whole =
    options.quantize === undefined && options.train !== 'all' && quantizedByConfig(config) === undefined;
  const possible = (options.streams === undefined ? remedies : servingRemedies).filter(
    ([, { quantize }]) => whole || quantize === undefined,
  );
  const remedy = fits ? undefined : possible.find(([, changes]) => needOf(changes) <= free);
  return { device, estimate, free, fits, remedy: remedy?.[0] };
}

/** One line about it. */
export function fitText({ device, estimate, free, fits, remedy }: ReturnType<typeof fitOf>): string {
  const size = `about ${sizeText(tensorBytes(estimate))} of memory for tensors`;
  const onGpu = `${size} on a GPU, and some ${sizeText(estimate.runtime)} for CUDA itself`;
  if (free === undefined) return `${onGpu}: there is no GPU here to compare with`;
  const need = `${device === 'cuda' ? `${size} on the GPU` : size}, ${sizeText(free)} are free`;
  if (fits) return need;
  return `${need}: it may not fit${remedy === undefined ? '' : `; with ${remedy} it would`}`;
}

/** Flags of a training run that its memory depends on. */
interface MemoryValues extends ModelValues {
  readonly dtype: NonNullable<MemoryOptions['dtype']> | 'f16';
  readonly quantize?: QuantizedFormat | undefined;
  readonly device: string;
  readonly batchSize: number;
  readonly maxLength: number;
  readonly gradientCheckpointing: boolean;
  readonly optimizer: NonNullable<MemoryOptions['optimizer']>;
}

/** What fitOf() says of a GPU; undefined for models and adapters whose step on one is not estimated. */
function gpuFit(
  config: ModelConfig,
  options: MemoryOptions,
  free: number,
): ReturnType<typeof fitOf> | undefined {
  try {
    return fitOf(config, options, free);
  } catch (error) {
    if (error instanceof LoRAError && error.code === 'ERR_UNSUPPORTED') return undefined;
    throw error;
  }
}

/** Says whether the run fits into memory, before its weights are loaded. Throws ERR_OUT_OF_MEMORY where they alone do not. */
export async function checkMemory(
  values: MemoryValues,
  trained: MemoryOptions,
  console: Console,
  head?: HeadInput,
): Promise<void> {
  const { dtype, quantize, device, batchSize, maxLength: length } = values;
  const { gradientCheckpointing, optimizer } = values;
  const used = device === 'auto' ? bestDevice() : deviceName('train', device);
  const kind = used === 'cpu' ? 'cpu' : used.startsWith('cuda') ? 'cuda' : undefined;
  if (dtype === 'f16' || kind === undefined) return;
  const stored = await readModelConfig(values, console, 'model');
  const config = head ? withHead(stored, head) : stored;
  const options: MemoryOptions = {
    ...{ dtype, quantize, batchSize, length, gradientCheckpointing, optimizer, device: kind },
    ...trained,
  };
  const fit = kind === 'cpu' ? fitOf(config, options) : gpuFit(config, options, freeBytes(used));
  if (fit?.free === undefined) return;
  const { weights } = fit.estimate;
  const bound =
    kind === 'cpu'
      ? 'LORA_MEMORY_LIMIT, or what the system leaves'
      : 'LORA_CUDA_MEMORY_LIMIT, or what the GPU has';
  if (weights > fit.free)
    throw loraError(
      'train',
      'ERR_OUT_OF_MEMORY',
      `the weights of ${values.model} take ${sizeText(weights)}, and ${sizeText(fit.free)} of memory are free (${bound})${fit.remedy === undefined ? '' : `: with ${fit.remedy} the run would fit`}`,
    );
  note(console, fitText(fit));
}
