/** The options of objectives of preferences, checked. */
import { checkedOptions } from '../../options/option';
import { objectiveOptions, type ObjectiveName, type PreferenceObjectiveName } from '../../options/objectives';
import { check, describe, isListOf } from '../../validate';

/** What preferences are trained with, in the words of TRL. */
export interface PreferenceOptions {
  /** How much a change of an answer's probability against the reference weighs. Default 0.1. */
  beta?: number | undefined;
  /** What 'dpo' and 'kto' compare with: null is the base, without the adapter; else the name of an adapter that is not trained. Default null. */
  reference?: string | null | undefined;
  /** The loss of 'dpo' ('sigmoid', 'ipo', 'robust', 'sft', or a list of them) and of 'cpo' ('sigmoid', 'simpo'). Default 'sigmoid'. */
  lossType?: LossType | readonly LossType[] | undefined;
  /** What each of several losses of 'dpo' weighs. Default: 1. */
  lossWeights?: readonly number[] | undefined;
  /** The share of pairs of 'dpo' that are taken to be the wrong way round, below 0.5. Default 0. */
  labelSmoothing?: number | undefined;
  /** What good answers weigh in 'kto'. Default 1. */
  desirableWeight?: number | undefined;
  /** What bad answers weigh in 'kto'. Default 1. */
  undesirableWeight?: number | undefined;
  /** The margin of 'simpo'. Default 0.5. */
  simpoGamma?: number | undefined;
  /** What the loss of better answers weighs in 'cpo'; SimPO has 0. Default 1. */
  cpoAlpha?: number | undefined;
}

const dpoLosses = ['sigmoid', 'ipo', 'robust', 'sft'] as const;
const cpoLosses = ['sigmoid', 'simpo'] as const;
/** A loss of {@link PreferenceOptions}. */
export type LossType = (typeof dpoLosses)[number] | (typeof cpoLosses)[number];

interface Referring {
  readonly beta: number;
  /** null: the base. */
  readonly reference: string | null;
}
export interface DPOSettings extends Referring {
  readonly objective: 'dpo';
  readonly lossType: readonly (typeof dpoLosses)[number][];
  readonly lossWeights: readonly number[];
  readonly labelSmoothing: number;
}
export interface KTOSettings extends Referring {
  readonly objective: 'kto';
  readonly desirableWeight: number;
  readonly undesirableWeight: number;
}
export interface ORPOSettings {
  readonly objective: 'orpo';
  readonly beta: number;
}
export interface CPOSettings {
  readonly objective: 'cpo';
  readonly beta: number;
  readonly lossType: (typeof cpoLosses)[number];
  readonly simpoGamma: number;
  readonly cpoAlpha: number;
}
export type PreferenceSettings = DPOSettings | KTOSettings | ORPOSettings | CPOSettings;

/** The options that each objective takes, beside `beta`. */
const taken = {
  dpo: ['reference', 'precomputeReference', 'lossType', 'lossWeights', 'labelSmoothing'],
  kto: ['reference', 'precomputeReference', 'desirableWeight', 'undesirableWeight'],
  orpo: [],
  cpo: ['lossType', 'simpoGamma', 'cpoAlpha'],
  grpo: [
    ...['lossType', 'rewards', 'rewardWeights', 'rewardTimeout', 'numGenerations', 'numIterations'],
    ...['maxCompletionLength', 'temperature', 'epsilon', 'epsilonHigh', 'scaleRewards'],
    ...['multiObjectiveAggregation', 'importanceSamplingLevel', 'generation', 'rollout'],
  ],
} as const satisfies Record<Exclude<ObjectiveName, 'sft'>, readonly string[]>;

/** The objectives that take an option. */
export const objectivesWith = (option: string): ObjectiveName[] =>
  (Object.keys(taken) as (keyof typeof taken)[]).filter(
    (name) =>
      ['beta', 'disableDropout'].includes(option) || (taken[name] as readonly string[]).includes(option),
  );

/** @throws ERR_ARGUMENT for an option of another objective. */
export function refuseForeign(op: string, objective: ObjectiveName, options: object): void {
  for (const name of Object.keys(objectiveOptions)) {
    const value = (options as Record<string, unknown>)[name];
    if (name === 'objective' || value === undefined || value === null || value === false) continue;
    if (name === 'disableDropout' && value === true) continue;
    const own = objectivesWith(name);
    check(
      (own as string[]).includes(objective),
      op,
      `expected ${name} with the objective ${own.join(', ')} but received it with ${objective}`,
    );
  }
}

/** The losses as a list of one or several words. */
function lossesOf<Word extends string>(op: string, words: readonly Word[], given: unknown): Word[] {
  const list = typeof given === 'string' ? given.split(',') : given;
  check(
    isListOf(list, (word) => (words as readonly unknown[]).includes(word)) && list.length > 0,
    op,
    `expected lossType to be one of ${words.join(', ')} but received ${describe(given)}`,
  );
  return list as Word[];
}

function weightsOf(op: string, given: unknown, count: number): number[] {
  if (given === undefined) return Array<number>(count).fill(1);
  // A command line gives texts.
  const texts = typeof given === 'string' ? given.split(',') : given;
  const list = isListOf(texts, (text) => typeof text === 'string') ? texts.map(Number) : texts;
  check(
    isListOf(list, (weight) => Number.isFinite(weight)) && list.length === count,
    op,
    `expected lossWeights to be ${count} numbers, one for each lossType, but received ${describe(given)}`,
  );
  return list as number[];
}

/** The settings of an objective, with its defaults. @throws ERR_ARGUMENT. */
export function preferenceSettings(
  op: string,
  objective: PreferenceObjectiveName,
  options: PreferenceOptions,
): PreferenceSettings {
  refuseForeign(op, objective, options);
  const values = checkedOptions(op, objectiveOptions, options);
  const { beta = 0.1, desirableWeight = 1, undesirableWeight = 1 } = values;
  const { labelSmoothing = 0, simpoGamma = 0.5, cpoAlpha = 1 } = values;
  const { reference = null, lossType = 'sigmoid' } = options;
  check(
    reference === null || (typeof reference === 'string' && reference !== ''),
    op,
    `expected reference to be null or the name of an adapter but received ${describe(reference)}`,
  );
  if (objective === 'orpo') return { objective, beta };
  if (objective === 'kto') return { objective, beta, reference, desirableWeight, undesirableWeight };
  if (objective === 'cpo') {
    const [loss, ...more] = lossesOf(op, cpoLosses, lossType);
    check(more.length === 0, op, 'expected one lossType with the objective cpo');
    return { objective, beta, lossType: loss!, simpoGamma, cpoAlpha };
  }
  const losses = lossesOf(op, dpoLosses, lossType);
  const lossWeights = weightsOf(op, options.lossWeights, losses.length);
  check(
    labelSmoothing < 0.5,
    op,
    `expected labelSmoothing to be below 0.5, else pairs would be taken the wrong way round, but received ${labelSmoothing}`,
  );
  check(beta > 0 || !losses.includes('ipo'), op, "expected beta above 0 with lossType 'ipo' but received 0");
  return { objective, beta, reference, lossType: losses, lossWeights, labelSmoothing };
}
