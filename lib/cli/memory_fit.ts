/** Whether a run fits into memory: what is said and refused before the weights of a model are read. */
import { loraError } from '../errors';
import { sourceFolder } from '../hub/source';
import type { ModelConfig } from '../models/config/model_config';
import { modelConfigOf, openModelFiles } from '../models/files/model_source';
import { quantizedByConfig } from '../models/quantized/quantize_options';
import type { QuantizedFormat } from '../tensor/frozen_weight';
import { estimateMemory, type MemoryEstimate, type MemoryOptions } from '../models/memory';
import { bestDevice, freeBytes } from '../native/device';
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

/** Whether a process on the CPU fits into the memory that is free, and the first flags with which training would. */
export function fitOf(config: ModelConfig, options: MemoryOptions, free = freeBytes('cpu')) {
  const needOf = (changes: MemoryOptions): number =>
    tensorBytes(estimateMemory(config, { ...options, ...changes }));
  const estimate = estimateMemory(config, options);
  const fits = tensorBytes(estimate) <= free;
  const whole =
    options.quantize === undefined && options.train !== 'all' && quantizedByConfig(config) === undefined;
  const possible = (options.streams === undefined ? remedies : servingRemedies).filter(
    ([, { quantize }]) => whole || quantize === undefined,
  );
  const remedy = fits ? undefined : possible.find(([, changes]) => needOf(changes) <= free);
  return { estimate, free, fits, remedy: remedy?.[0] };
}

/** One line about it. */
export function fitText({ estimate, free, fits, remedy }: ReturnType<typeof fitOf>): string {
  const need = `about ${sizeText(tensorBytes(estimate))} of memory for tensors, ${sizeText(free)} are free`;
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

/** Says whether the run fits into memory, before its weights are loaded. Throws ERR_OUT_OF_MEMORY where they alone do not. */
export async function checkMemory(
  values: MemoryValues,
  trained: MemoryOptions,
  console: Console,
): Promise<void> {
  const { dtype, quantize, device, batchSize, maxLength: length } = values;
  const { gradientCheckpointing, optimizer } = values;
  if (dtype === 'f16' || (device === 'auto' ? bestDevice() : device) !== 'cpu') return;
  const config = await readModelConfig(values, console, 'model');
  const fit = fitOf(config, {
    ...{ dtype, quantize, batchSize, length, gradientCheckpointing, optimizer },
    ...trained,
  });
  const { weights } = fit.estimate;
  if (weights > fit.free)
    throw loraError(
      'train',
      'ERR_OUT_OF_MEMORY',
      `the weights of ${values.model} take ${sizeText(weights)}, and ${sizeText(fit.free)} of memory are free (LORA_MEMORY_LIMIT, or what the system leaves)${fit.remedy === undefined ? '' : `: with ${fit.remedy} the run would fit`}`,
    );
  note(console, fitText(fit));
}
