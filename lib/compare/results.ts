/** The events and results of a comparison. */
import type { Setting, Variant, MethodName } from './methods';

/** A text that a variant wrote. */
export interface ComparedText {
  /** What the model read. */
  prompt: string;
  /** The expected answer. */
  expected: string;
  /** The model's answer, greedy, at most 64 tokens. */
  text: string;
}

/** How good a model is on the held-out data. */
export interface HeldOutScores {
  /** The mean of −log p over all counted tokens, in nats. */
  loss: number;
  /** The share of exactly right answers, if the rows have prompts. */
  exactMatch?: number;
  /** The mean F1 of the words of answers, as of {@link TaskScores}. */
  f1?: number;
  /** Its answers to the first five prompts. */
  samples: ComparedText[];
}

/** The cost and the quality of a variant. */
export interface VariantResult extends Variant, Partial<HeldOutScores> {
  /** Its name, which is also that of its folder in `outDir/adapters`. */
  id: string;
  /** The learning rate, before the schedule. */
  lr: number;
  /** How many numbers were trained. */
  trainableParameters: number;
  /** Peak bytes of tensors while it was trained: base, adapter, optimizer, activations, workspace. */
  peakBytes: number;
  /** Optimizer steps. */
  steps: number;
  /** Tokens of these steps, without padding. */
  tokens: number;
  /** Seconds of these steps. */
  seconds: number;
  /** tokens / seconds. */
  tokensPerSecond: number;
  /** The training loss over the steps, [step, loss]: at most 200 points, each the mean of the steps since the one before. */
  curve: [step: number, loss: number][];
  /** Bytes of the file of weights. */
  fileBytes?: number;
  /** Why there are no scores: the loss was not finite, or memory ran out. */
  failed?: string;
}

/** A learning rate that was tried. */
export interface Trial {
  /** The method. */
  method: MethodName;
  /** The learning rate. */
  lr: number;
  /** The held-out loss after a quarter of the budget; null if the loss was not finite, or memory ran out. */
  loss: number | null;
}

/** The learning rate of a method, and how it was chosen. */
export interface ChosenRate {
  /** The method. */
  method: MethodName;
  /** The rate with the lowest held-out loss. */
  lr: number;
  /** Whether it is the lowest or the highest that was tried, so that one further out may be better. */
  atEdge: boolean;
  /** The setting used to try the rates. */
  setting: Setting;
  /** All that were tried. */
  trials: Trial[];
}

/** Mean, median and range over seeds. */
export interface Spread {
  /** The mean. */
  mean: number;
  /** The median: of an even number of seeds the mean of the two in the middle. */
  median: number;
  /** The lowest. */
  least: number;
  /** The highest. */
  most: number;
}

/** A setting over its seeds. */
export interface ComparisonRow extends Setting {
  /** The name of the setting. */
  id: string;
  /** The learning rate. */
  lr: number;
  /** How many seeds have scores. */
  seeds: number;
  /** Why the others have none. */
  failed?: string;
  /** How many numbers were trained. */
  trainableParameters: number;
  /** Their share of all numbers, those of the base included, from 0 to 1. */
  share: number;
  /** Peak bytes of tensors over all seeds. */
  peakBytes: number;
  /** Tokens per second of training. */
  tokensPerSecond: Spread;
  /** Optimizer steps of a seed, rounded mean. */
  steps: number;
  /** The held-out loss. */
  loss?: Spread;
  /** The share of exactly right answers. */
  exactMatch?: Spread;
  /** The mean F1 of the words of answers. */
  f1?: Spread;
  /** Bytes of the file of weights. */
  fileBytes?: number;
}

/** What {@link compareMethods} and {@link sweep} give. */
export interface Comparison {
  /** Everything that the figures depend on. */
  question: Record<string, unknown>;
  /** How many numbers the base has. */
  baseParameters: number;
  /** The base alone. */
  base: HeldOutScores;
  /** The learning rate of each method; of a sweep none is chosen before. */
  rates: ChosenRate[];
  /** Of a sweep: the id of the row with the lowest median of the loss, where one has a loss. */
  best?: string;
  /** A row for each setting, in the order of the question. */
  rows: ComparisonRow[];
  /** All variants. */
  results: VariantResult[];
  /** The path of the HTML file. */
  report: string;
  /** The path of this object as JSON. */
  file: string;
}

/** The comparison starts or resumes. */
export interface CompareStartEvent {
  /** Which event it is. */
  type: 'start';
  /** How many variants there are. */
  variants: number;
  /** How many already have results. */
  done: number;
  /** How many learning rates are tried. */
  trials: number;
}

/** A learning rate was tried. */
export interface TrialEvent extends Trial {
  /** Which event it is. */
  type: 'trial';
}

/** A learning rate was chosen. */
export interface RateEvent extends ChosenRate {
  /** Which event it is. */
  type: 'rate';
}

/** A step of a trial or a variant. */
export interface CompareStepEvent {
  /** Which event it is. */
  type: 'step';
  /** The name of the variant, or of the trial. */
  id: string;
  /** The number of the step, from 1. */
  step: number;
  /** The number of steps; undefined with a budget of minutes. */
  maxSteps: number | undefined;
  /** The training loss of the step. */
  loss: number;
}

/** The result of a variant is on disk. */
export interface VariantEvent {
  /** Which event it is. */
  type: 'variant';
  /** The result. */
  result: VariantResult;
  /** How many variants have results. */
  done: number;
  /** How many variants there are. */
  variants: number;
}

/** Everything is done and written. */
export interface CompareEndEvent {
  /** Which event it is. */
  type: 'end';
  /** What awaiting the handle gives. */
  comparison: Comparison;
}

/** The events of {@link compareMethods} and {@link sweep}, told apart by `type`. */
export type CompareEvent =
  CompareStartEvent | TrialEvent | RateEvent | CompareStepEvent | VariantEvent | CompareEndEvent;

/** Mean, lowest and highest; undefined of nothing. */
function spreadOf(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const sorted = [...values].sort((a, b) => a - b);
  const median = (sorted[(values.length - 1) >> 1]! + sorted[values.length >> 1]!) / 2;
  return { mean, median, least: sorted[0]!, most: sorted.at(-1)! };
}

/** The middle by which rows are compared: the median of a sweep, which is not drawn to a seed that failed to learn; the mean of a comparison. */
export const middleOf = ({ rate }: Setting, { mean, median }: Spread): number =>
  rate === undefined ? mean : median;

/** The row with the lowest loss; undefined where none has one. */
export function bestOf(rows: readonly ComparisonRow[]): ComparisonRow | undefined {
  const lossOf = (row: ComparisonRow): number => (row.loss ? middleOf(row, row.loss) : Infinity);
  const least = rows.reduce<ComparisonRow | undefined>(
    (a, b) => (a && lossOf(a) <= lossOf(b) ? a : b),
    undefined,
  );
  return least?.loss && least;
}

/** The row of a setting, out of the results of its seeds. */
export function rowOf(id: string, results: readonly VariantResult[], baseParameters: number): ComparisonRow {
  const { method, rank, alpha, targets, rate, lr, trainableParameters } = results[0]!;
  const scores = (name: 'loss' | 'exactMatch' | 'f1'): Spread | undefined =>
    spreadOf(results.flatMap((result) => result[name] ?? []));
  const loss = scores('loss');
  const exactMatch = scores('exactMatch');
  const f1 = scores('f1');
  const failed = results.find((result) => result.failed !== undefined)?.failed;
  const fileBytes = results.find((result) => result.fileBytes !== undefined)?.fileBytes;
  const whole = results.filter((result) => result.failed === undefined);
  const timed = whole.length > 0 ? whole : results;
  return {
    ...{ id, method, rank, alpha, targets, ...(rate !== undefined && { rate }), lr, trainableParameters },
    seeds: whole.length,
    ...(failed === undefined ? {} : { failed }),
    // The numbers of full fine-tuning are those of the base.
    share: trainableParameters / (baseParameters + (method === 'full' ? 0 : trainableParameters)),
    peakBytes: Math.max(...results.map(({ peakBytes }) => peakBytes)),
    tokensPerSecond: spreadOf(timed.map(({ tokensPerSecond }) => tokensPerSecond))!,
    steps: Math.round(spreadOf(timed.map(({ steps }) => steps))!.mean),
    ...(loss && { loss }),
    ...(exactMatch && { exactMatch }),
    ...(f1 && { f1 }),
    ...(fileBytes === undefined ? {} : { fileBytes }),
  };
}
