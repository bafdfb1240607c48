/** What a run optimizes, and the options of objectives beside supervised fine-tuning: the words and defaults of TRL. */
import type { Options } from './option';

export const objectiveOptions = {
  objective: {
    type: 'string',
    value: 'NAME',
    choices: ['sft', 'dpo', 'orpo', 'kto', 'cpo'],
    default: 'sft',
    help: 'what is optimized',
  },
  beta: {
    type: 'number',
    value: 'B',
    minimum: 0,
    rare: true,
    help: 'preferences: how much a change of probabilities weighs',
    defaultText: '0.1',
  },
  reference: { type: 'object' },
  precomputeReference: {
    type: 'boolean',
    rare: true,
    help: 'dpo: computes the reference before the first step',
  },
  lossType: {
    type: 'names',
    value: 'LIST',
    own: true,
    rare: true,
    help: 'dpo: sigmoid, ipo, robust, sft, or several; cpo: sigmoid, simpo',
    defaultText: 'sigmoid',
  },
  lossWeights: {
    type: 'names',
    value: 'LIST',
    own: true,
    rare: true,
    help: 'dpo: what each of several losses weighs',
    defaultText: '1 each',
  },
  labelSmoothing: {
    type: 'number',
    value: 'P',
    minimum: 0,
    rare: true,
    help: 'dpo: the share of pairs that are the wrong way round',
    defaultText: '0',
  },
  desirableWeight: {
    type: 'number',
    value: 'W',
    minimum: 0,
    rare: true,
    help: 'kto: what good answers weigh',
    defaultText: '1',
  },
  undesirableWeight: {
    type: 'number',
    value: 'W',
    minimum: 0,
    rare: true,
    help: 'kto: what bad answers weigh',
    defaultText: '1',
  },
  simpoGamma: {
    type: 'number',
    value: 'G',
    minimum: 0,
    rare: true,
    help: 'cpo: the margin of simpo',
    defaultText: '0.5',
  },
  cpoAlpha: {
    type: 'number',
    value: 'A',
    minimum: 0,
    rare: true,
    help: 'cpo: what the loss of good answers weighs',
    defaultText: '1',
  },
  disableDropout: {
    type: 'boolean',
    default: true,
    rare: true,
    help: 'preferences: trains without dropout',
  },
} as const satisfies Options;

/** What a run optimizes: supervised fine-tuning, or preferences. */
export type ObjectiveName = (typeof objectiveOptions.objective.choices)[number];
