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

/** What vectors of texts are trained with, in the words of sentence-transformers. */
export interface ContrastiveOptions {
  /** What cosines are multiplied by before the softmax: 1 ÷ its temperature. Default 20. */
  scale?: number | undefined;
  /** Trains the first so many numbers of vectors to be vectors themselves (Matryoshka), for each of these. Default: whole vectors alone. */
  matryoshkaDims?: readonly number[] | undefined;
  /** What the loss of each of them weighs. Default: 1. */
  matryoshkaWeights?: readonly number[] | undefined;
  /**
   * Texts that are computed at a time, of a batch that is larger than memory: each text is computed twice, and the gradient is that of the whole batch
   * (GradCache, Gao et al. 2021). Default: all texts of the batch.
   */
  miniBatchSize?: number | undefined;
  /** What of a text becomes its vector. Default: as of {@link CausalLM.embed}. */
  pool?: 'last' | 'mean' | undefined;
}
export interface ContrastiveSettings {
  readonly objective: 'contrastive';
  readonly scale: number;
  readonly matryoshkaDims: readonly number[] | undefined;
  readonly matryoshkaWeights: readonly number[] | undefined;
  readonly miniBatchSize: number | undefined;
  readonly pool: 'last' | 'mean' | undefined;
}
export interface RankSettings {
  readonly objective: 'rank';
}
/** What runs on texts that belong together are trained with. */
export type RetrievalSettings = ContrastiveSettings | RankSettings;

const ofPreferences = ['beta', 'disableDropout'] as const;
/** The options that each objective takes. */
const taken = {
  dpo: [...ofPreferences, 'reference', 'precomputeReference', 'lossType', 'lossWeights', 'labelSmoothing'],
  kto: [...ofPreferences, 'reference', 'precomputeReference', 'desirableWeight', 'undesirableWeight'],
  orpo: ofPreferences,
  cpo: [...ofPreferences, 'lossType', 'simpoGamma', 'cpoAlpha'],
  grpo: [
    ...ofPreferences,
    ...['lossType', 'rewards', 'rewardWeights', 'rewardTimeout', 'numGenerations', 'numIterations'],
    ...['maxCompletionLength', 'temperature', 'epsilon', 'epsilonHigh', 'scaleRewards'],
    ...['multiObjectiveAggregation', 'importanceSamplingLevel', 'generation', 'rollout'],
  ],
  classify: ['classWeights'],
  contrastive: ['scale', 'matryoshkaDims', 'matryoshkaWeights', 'miniBatchSize', 'pool'],
  rank: [],
} as const satisfies Record<Exclude<ObjectiveName, 'sft'>, readonly string[]>;

/** The objectives that take an option. */
export const objectivesWith = (option: string): ObjectiveName[] =>
  (Object.keys(taken) as (keyof typeof taken)[]).filter((name) =>
    (taken[name] as readonly string[]).includes(option),
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

/** Numbers, as a list or the texts of a command line; undefined for anything else. */
function numbersOf(given: unknown): number[] | undefined {
  // A command line gives texts.
  const texts = typeof given === 'string' ? given.split(',') : given;
  const list = isListOf(texts, (text) => typeof text === 'string') ? texts.map(Number) : texts;
  return isListOf(list, (weight) => Number.isFinite(weight)) ? (list as number[]) : undefined;
}

function weightsOf(op: string, given: unknown, count: number): number[] {
  if (given === undefined) return Array<number>(count).fill(1);
  const list = numbersOf(given);
  check(
    list?.length === count,
    op,
    `expected lossWeights to be ${count} numbers, one for each lossType, but received ${describe(given)}`,
  );
  return list;
}

/** What labels weigh, in their order; undefined: all the same. @throws ERR_ARGUMENT. */
export function classWeightsOf(op: string, given: unknown): number[] | undefined {
  if (given === undefined || given === null) return undefined;
  const list = numbersOf(given);
  check(
    list?.every((weight) => weight >= 0) && list.some((weight) => weight > 0),
    op,
    `expected classWeights to be numbers of at least 0, one for each label, but received ${describe(given)}`,
  );
  return list;
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

/** Numbers of which each fits; undefined where nothing is given. @throws ERR_ARGUMENT. */
function numberListOf(
  op: string,
  name: string,
  given: unknown,
  what: string,
  isOne: (x: unknown) => boolean,
): number[] | undefined {
  if (given === undefined) return undefined;
  const list = numbersOf(given);
  check(
    list !== undefined && list.length > 0 && list.every(isOne),
    op,
    () => `expected ${name} to be a list of ${what} but received ${describe(given)}`,
  );
  return list;
}

/** The settings of runs on texts that belong together. @throws ERR_ARGUMENT. */
export function retrievalSettings(
  op: string,
  objective: RetrievalSettings['objective'],
  options: ContrastiveOptions,
): RetrievalSettings {
  refuseForeign(op, objective, options);
  if (objective === 'rank') return { objective };
  const { scale = 20, miniBatchSize, pool } = checkedOptions(op, objectiveOptions, options);
  const isSize = (x: unknown): boolean => Number.isInteger(x) && (x as number) > 0;
  const dims = numberListOf(op, 'matryoshkaDims', options.matryoshkaDims, 'positive whole numbers', isSize);
  const weights = numberListOf(
    op,
    'matryoshkaWeights',
    options.matryoshkaWeights,
    'numbers',
    Number.isFinite,
  );
  check(
    weights === undefined || weights.length === dims?.length,
    op,
    () =>
      `expected matryoshkaWeights to be ${dims?.length ?? 0} numbers, one for each of matryoshkaDims, but received ${weights!.length}`,
  );
  return { objective, scale, matryoshkaDims: dims, matryoshkaWeights: weights, miniBatchSize, pool };
}
