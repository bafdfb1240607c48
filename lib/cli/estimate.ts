import { join } from 'node:path';
import { LoRAError } from '../errors';
import { ModelFolder } from '../formats/model_folder';
import { sourceFolder } from '../hub/source';
import { parseModelConfig, type ModelConfig } from '../models/config';
import { estimateMemory, type MemoryEstimate, type MemoryOptions } from '../models/memory';
import { freeBytes } from '../native/device';
import { optimizerNames } from '../train/optimizer';
import { printJson, targets } from './common';
import { defineCommand, helpFlag, type Console } from './command';
import { hubOptions, sizeText } from './hub_report';

/** The configuration of a model. Of a name of the hub it downloads what the purpose needs. */
export async function readModelConfig(
  source: string,
  console: Console,
  purpose: 'config' | 'model' = 'config',
): Promise<ModelConfig> {
  const op = 'from_pretrained';
  const directory = await sourceFolder(source, op, purpose, hubOptions(console));
  const json = await (await ModelFolder.open(directory, { signal: console.signal })).json('config.json');
  if (json === undefined)
    throw new LoRAError('ERR_FILE', `[${op}] ${join(directory, 'config.json')} does not exist`, { op });
  return parseModelConfig(json);
}

/** What is taken from LORA_MEMORY_LIMIT, or from what the system leaves. */
const tensorBytes = ({ total, runtime }: MemoryEstimate): number => total - runtime;

const remedies: readonly (readonly [flags: string, options: MemoryOptions])[] = [
  ['--gradient-checkpointing', { gradientCheckpointing: true }],
  ['--batch-size 1', { batchSize: 1 }],
  ['--batch-size 1 --gradient-checkpointing', { batchSize: 1, gradientCheckpointing: true }],
  [
    '--batch-size 1 --gradient-checkpointing --optimizer adamw8bit --max-length 128',
    { batchSize: 1, gradientCheckpointing: true, optimizer: 'adamw8bit', length: 128 },
  ],
];

/** Whether a run on the CPU fits into the memory that is free, and the first flags with which it would. */
export function fitOf(config: ModelConfig, options: MemoryOptions, free = freeBytes('cpu')) {
  const estimate = estimateMemory(config, options);
  const fits = tensorBytes(estimate) <= free;
  const remedy = fits
    ? undefined
    : remedies.find(([, changes]) => tensorBytes(estimateMemory(config, { ...options, ...changes })) <= free);
  return { estimate, free, fits, remedy: remedy?.[0] };
}

/** One line about it. */
export function fitText({ estimate, free, fits, remedy }: ReturnType<typeof fitOf>): string {
  const need = `about ${sizeText(tensorBytes(estimate))} of memory for tensors, ${sizeText(free)} are free`;
  if (fits) return need;
  return `${need}: it may not fit${remedy === undefined ? ', whatever the options' : `; ${remedy} would`}`;
}

export const estimate = defineCommand({
  summary: 'Says how much memory a model takes to train or to serve, from its config.json alone.',
  usage: '--model DIR [flags]',
  flags: {
    model: {
      type: 'string',
      value: 'DIR',
      required: true,
      help: 'a Hugging Face directory, or a name of the hub',
    },
    dtype: {
      type: 'string',
      value: 'TYPE',
      choices: ['auto', 'f32', 'bf16'],
      default: 'auto',
      help: 'of activations',
    },
    r: { type: 'integer', minimum: 1, default: 16, help: 'rank' },
    targetModules: {
      type: 'string',
      value: 'LIST',
      default: 'all-linear',
      help: 'names with commas, or all-linear',
    },
    batchSize: { type: 'integer', minimum: 1, default: 4, help: 'examples per batch' },
    maxLength: { type: 'integer', minimum: 1, default: 512, help: 'tokens per example' },
    gradientCheckpointing: { type: 'boolean', help: 'compute each block twice' },
    optimizer: {
      type: 'string',
      value: 'NAME',
      choices: optimizerNames,
      default: 'adamw',
      help: 'optimizer',
    },
    streams: {
      type: 'integer',
      minimum: 1,
      help: 'serve so many sequences at once, instead of training',
    },
    json: { type: 'boolean', help: 'the bytes as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { weights, adapters, optimizer, activations, logits, kvCache, workspace, runtime, total, free, fits }, in bytes',

  async run(values, console) {
    const { dtype, r, batchSize, maxLength: length, gradientCheckpointing, optimizer, streams } = values;
    const config = await readModelConfig(values.model, console);
    const fit = fitOf(config, {
      ...{ dtype, r, batchSize, length, gradientCheckpointing, optimizer, streams },
      targetModules: targets(values.targetModules),
    });
    const { estimate, free, fits } = fit;
    if (values.json) return printJson(console, { ...estimate, free, fits });
    for (const [name, bytes] of Object.entries(estimate) as [string, number][])
      if (bytes > 0) console.stdout.write(`${name.padEnd(12)} ${sizeText(Math.round(bytes)).padStart(10)}\n`);
    console.stdout.write(`${fitText(fit)}\n`);
  },
});
