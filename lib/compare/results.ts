/** What a comparison tells while it goes on, and what it gives. */
import type { Setting, Variant, MethodName } from './methods';

/** A text that a variant wrote. */
export interface ComparedText {
  /** What the model read. */
  prompt: string;
  /** What the data says. */
  expected: string;
  /** What the model wrote, greedily, 64 tokens at most. */
  text: string;
}

/** How good a model is on the held-out data. */
export interface HeldOutScores {
  /** The mean of −log p over all tokens that count, in nats. */
  loss: number;
  /** The share of answers that are those of the data; where its rows have prompts. */
  exactMatch?: number;
  /** The mean F1 of the words of answers, as of {@link TaskScores}. */
  f1?: number;
  /** What it writes for the first five prompts. */
  samples: ComparedText[];
}

/** What a variant cost and was worth. */
export interface VariantResult extends Variant, Partial<HeldOutScores> {
  /** Its name, also that of its folder in `outDir/adapters`. */
  id: string;
  /** The learning rate, before the schedule. */
  lr: number;
  /** How many numbers were trained. */
  trainableParameters: number;
  /** The most bytes of tensors that were held at once while it was trained: base, adapter, optimizer, activations, workspace. */
  peakBytes: number;
  /** Optimizer steps. */
  steps: number;
  /** Tokens of these steps, padding excluded. */
  tokens: number;
  /** Seconds of these steps. */
  seconds: number;
  /** tokens / seconds. */
  tokensPerSecond: number;
  /** The training loss over the steps, [step, loss]: at most 200 points, each the mean of the steps since the one before. */
  curve: [step: number, loss: number][];
  /** Bytes of the file of weights. */
  fileBytes?: number;
  /** Why there are no scores: the loss was no number, or memory ran out. */
  failed?: string;
}

/** A learning rate that was tried. */
export interface Trial {
  /** The method. */
  method: MethodName;
  /** The learning rate. */
  lr: number;
  /** The held-out loss after a quarter of the budget; null where the loss was no number, or memory ran out. */
  loss: number | null;
}

/** The learning rate of a method, and how it was chosen. */
export interface ChosenRate {
  /** The method. */
  method: MethodName;
  /** The rate with the lowest held-out loss. */
  lr: number;
  /** Whether it is the lowest or the highest that was tried: one further out may be better. */
  atEdge: boolean;
  /** The setting with which the rates were tried. */
  setting: Setting;
  /** All that were tried. */
  trials: Trial[];
}

/** A mean over seeds, and how far they lie apart. */
export interface Spread {
  /** The mean. */
  mean: number;
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
  /** Their part of all numbers, those of the base and the trained ones, from 0 to 1. */
  share: number;
  /** The most bytes of tensors, of any seed. */
  peakBytes: number;
  /** Tokens per second of training. */
  tokensPerSecond: Spread;
  /** Optimizer steps of a seed, rounded mean. */
  steps: number;
  /** The held-out loss. */
  loss?: Spread;
  /** The share of answers that are those of the data. */
  exactMatch?: Spread;
  /** The mean F1 of the words of answers. */
  f1?: Spread;
  /** Bytes of the file of weights. */
  fileBytes?: number;
}

/** What {@link compareMethods} gives. */
export interface Comparison {
  /** The question: everything that the figures depend on. */
  question: Record<string, unknown>;
  /** How many numbers the base has. */
  baseParameters: number;
  /** The base alone. */
  base: HeldOutScores;
  /** The learning rate of each method. */
  rates: ChosenRate[];
  /** A row for each setting, in the order of the question. */
  rows: ComparisonRow[];
  /** All variants. */
  results: VariantResult[];
  /** The path of the HTML file. */
  report: string;
  /** The path of this object as JSON. */
  file: string;
}

/** The comparison begins, or goes on. */
export interface CompareStartEvent {
  /** Which event it is. */
  type: 'start';
  /** How many variants there are. */
  variants: number;
  /** How many have results already. */
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
  /** How many there will be; undefined with a budget of minutes. */
  maxSteps: number | undefined;
  /** The training loss of the step. */
  loss: number;
}

/** A variant has its result, which is on disk. */
export interface VariantEvent {
  /** Which event it is. */
  type: 'variant';
  /** The result. */
  result: VariantResult;
  /** How many variants have results. */
  done: number;
  /** Of so many. */
  variants: number;
}

/** All is done and written. */
export interface CompareEndEvent {
  /** Which event it is. */
  type: 'end';
  /** What awaiting the handle gives. */
  comparison: Comparison;
}

/** What {@link compareMethods} tells while it goes on: `type` says which it is. */
export type CompareEvent =
  CompareStartEvent | TrialEvent | RateEvent | CompareStepEvent | VariantEvent | CompareEndEvent;

/** Mean, lowest and highest; undefined of nothing. */
function spreadOf(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, least: Math.min(...values), most: Math.max(...values) };
}

/** The row of a setting, out of the results of its seeds. */
export function rowOf(id: string, results: readonly VariantResult[], baseParameters: number): ComparisonRow {
  const { method, rank, alpha, targets, lr, trainableParameters } = results[0]!;
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
    ...{ id, method, rank, alpha, targets, lr, trainableParameters },
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
