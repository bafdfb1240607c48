/** How the commands that generate draw their tokens. */
import type { SamplingOptions } from '../engine/sampling';
import { valuesOf } from '../options/option';
import { generationOptions } from '../options/table';
import type { Flags, Values } from './command';

const { temperature, seed, topK, topP, minP } = generationOptions;
const { repetitionPenalty, presencePenalty, frequencyPenalty, speculate } = generationOptions;

export const samplingFlags = {
  temperature: { ...temperature, default: 0.7 },
  ...{ topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty },
  seed: { ...seed, default: 0 },
  speculate,
} as const satisfies Flags;

/** The options that these flags stand for. */
export function samplingOptions(values: Values<typeof samplingFlags>): SamplingOptions {
  return valuesOf(samplingFlags, values);
}
