/** How the commands that generate draw their tokens. */
import type { SamplingOptions } from '../engine/sampling';
import type { Flags, Values } from './command';

export const samplingFlags = {
  temperature: { type: 'number', value: 'T', minimum: 0, default: 0.7, help: '0 is greedy' },
  topK: {
    type: 'integer',
    value: 'K',
    minimum: 0,
    help: 'only the K likeliest tokens, 0 for all',
    defaultText: "the model's",
  },
  topP: {
    type: 'number',
    value: 'P',
    minimum: 0,
    help: 'only the likeliest tokens of mass P',
    defaultText: "the model's",
  },
  minP: {
    type: 'number',
    value: 'P',
    minimum: 0,
    help: "only what has P of the likeliest's probability",
    defaultText: "the model's",
  },
  repetitionPenalty: {
    type: 'number',
    value: 'X',
    minimum: 0,
    help: 'above 1: avoids tokens of prompt and text',
    defaultText: "the model's",
  },
  presencePenalty: {
    type: 'number',
    value: 'X',
    help: 'avoids tokens that the text has',
    defaultText: '0',
  },
  frequencyPenalty: {
    type: 'number',
    value: 'X',
    help: 'the same, for each time that it has them',
    defaultText: '0',
  },
  seed: { type: 'integer', minimum: 0, default: 0, help: 'of the random draws' },
} as const satisfies Flags;

/** The options that these flags stand for. */
export function samplingOptions(values: Values<typeof samplingFlags>): SamplingOptions {
  const { temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, seed } =
    values;
  return { temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, seed };
}
