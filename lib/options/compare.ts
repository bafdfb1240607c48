/** The options of comparisons. */
import type { Options } from './option';
import { generationOptions, trainerOptions } from './table';

/** A comparison of methods, beside how the model is loaded and the data are read. */
export const compareOptions = {
  model: { type: 'object' },
  modelDir: { type: 'object' },
  data: trainerOptions.data,
  evalData: { ...trainerOptions.evalData, required: true, help: 'held-out: chooses the rates, measures all' },
  outDir: { ...trainerOptions.outDir, help: 'results, adapters and the report' },
  budget: { type: 'object' },
  methods: {
    type: 'names',
    value: 'LIST',
    own: true,
    help: 'lora, dora, ia3, bottleneck, prompt, full',
    defaultText: 'all but full',
  },
  ranks: { type: 'names', value: 'LIST', own: true, help: 'ranks, with commas', defaultText: '16' },
  alphas: { type: 'names', value: 'LIST', own: true, help: 'numbers, or r, 2r', defaultText: '2r' },
  targets: {
    type: 'names',
    value: 'LIST',
    own: true,
    help: 'attention, mlp, or names with +',
    defaultText: 'all-linear',
  },
  seeds: { type: 'integer', minimum: 1, default: 3, help: 'how many times each setting is trained' },
  learningRates: {
    type: 'names',
    value: 'LIST',
    own: true,
    help: 'that are tried for each method',
    defaultText: 'five',
  },
  batchSize: trainerOptions.batchSize,
  gradientAccumulationSteps: trainerOptions.gradientAccumulationSteps,
  gradientCheckpointing: trainerOptions.gradientCheckpointing,
  evalLimit: { type: 'integer', minimum: 1, help: 'only the first rows of --eval-data', defaultText: 'all' },
  maxNewTokens: {
    type: 'integer',
    minimum: 1,
    help: 'most tokens of an answer',
    defaultText: "twice the data's",
  },
  stop: { ...generationOptions.stop, own: true, help: 'ends an answer; may be repeated' },
  signal: { type: 'object' },
} as const satisfies Options;

const { methods: _, maxNewTokens: __, stop: ___, ...sweptOptions } = compareOptions;

/** A sweep over learning rates and ranks of one method. */
export const sweepOptions = {
  ...sweptOptions,
  evalData: { ...compareOptions.evalData, help: 'held-out: measures all' },
  method: {
    type: 'string',
    value: 'NAME',
    choices: ['lora', 'dora', 'ia3', 'bottleneck', 'prompt', 'full'],
    default: 'lora',
    own: true,
    help: 'trained',
  },
  learningRates: {
    ...compareOptions.learningRates,
    help: 'with commas; auto is one',
    defaultText: 'five and auto',
  },
} as const satisfies Options;
