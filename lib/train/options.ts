import { checkGroupable, checkRereadable, checkSource } from '../data/batches';
import type { DataSource } from '../data/example';
import type { CausalLM } from '../models/causal_lm';
import type { Optimizer } from '../optim/optimizer';
import { checkEarlyStopping, type EarlyStopping } from './best';
import {
  constantSchedule,
  cosineSchedule,
  linearSchedule,
  stepsOf,
  wsdSchedule,
  type Schedule,
} from '../optim/schedules';
import type { Parameter } from '../tensor/tensor';
import { check, checkBoolean, checkOptions, describe } from '../validate';
import { checkOptimizer, type OptimizerName } from './optimizer';

const schedules = {
  constant: constantSchedule,
  linear: linearSchedule,
  cosine: cosineSchedule,
  wsd: wsdSchedule,
} as const;
/** How the learning rate goes: see {@link constantSchedule}, {@link linearSchedule}, {@link cosineSchedule}, {@link wsdSchedule}. */
export type ScheduleName = keyof typeof schedules;

/**
 * What a {@link Trainer} trains, on what, for how long.
 *
 * @example
 * const options: TrainerOptions = { model, data, outDir: 'run', epochs: 3, batchSize: 4, lr: 2e-4 };
 */
export interface TrainerOptions {
  /** The model, with a trainable active adapter. */
  model: CausalLM;
  /** The examples; shuffled anew in every epoch, by `seed`: all of them where `data` says its length, else in a window. */
  data: DataSource;
  /** Held-out examples, for `evalEvery`. */
  evalData?: DataSource | undefined;
  /** The final adapter, and checkpoint-N folders while it runs. Nothing is written when absent. */
  outDir?: string | undefined;
  /** Steps, epochs or tokens; one of them. Default: one epoch. */
  maxSteps?: number | undefined;
  /** Passes over the data. */
  epochs?: number | undefined;
  /** Tokens, padding excluded: the run ends with the step that reaches them. */
  maxTokens?: number | undefined;
  /** Examples in a batch, padded to the longest of them. Default 4. */
  batchSize?: number | undefined;
  /** Batches whose gradients make one step. Default 1. */
  gradientAccumulationSteps?: number | undefined;
  /** The learning rate before the schedule. Default: that of `optimizer`, else 2e-4. */
  lr?: number | undefined;
  /** The factor on `lr` over the steps. Default 'cosine'. */
  schedule?: ScheduleName | undefined;
  /** Steps in which the learning rate rises from 0, or below 1 their share of all steps. Default 0. */
  warmupSteps?: number | undefined;
  /** Steps of the fall at the end of the 'wsd' schedule, or below 1 their share of all steps. Default 0.1. */
  decaySteps?: number | undefined;
  /** The decay of the weights: decoupled in AdamW (in 8 bits, too) and Lion, part of the gradient in SGD. Default 0. */
  weightDecay?: number | undefined;
  /** Of all gradients together; 0 turns clipping off. Default 1. */
  maxGradNorm?: number | undefined;
  /**
   * Several examples in a row of at most `packLength` tokens, so that no time goes into padding; attention stays inside each. `batchSize` counts rows
   * then. Default false.
   */
  packing?: boolean | undefined;
  /** Tokens of a row with `packing`. Default: the `maxLength` of the data set, else 2048. */
  packLength?: number | undefined;
  /**
   * Batches of examples of similar lengths, so that little of them is padding; which ones meet, and the order of the batches, is decided by `seed`. For data
   * that says its `length`. Default false.
   */
  groupByLength?: boolean | undefined;
  /** Keeps only the input of each block for the backward pass, which computes the block once more: less memory, more time, the same bits. Default false. */
  gradientCheckpointing?: boolean | undefined;
  /** Decides the order of the data. Default 0. */
  seed?: number | undefined;
  /** How many examples of data without a `length` are held to draw the next one from; such data may be endless. Default 1000. */
  shuffleWindow?: number | undefined;
  /** Steps between evaluations on `evalData`. Default: none. */
  evalEvery?: number | undefined;
  /** Stops when evaluations no longer improve. The adapter is then that of the last step, unless `keepBest` is given. */
  earlyStopping?: EarlyStopping | undefined;
  /**
   * Ends with the adapter of the best evaluation, in `outDir` and in memory; that of the last step where no evaluation gave a number. Until then it
   * lies in a checkpoint, which `saveLimit` does not remove, and stays there. Default false: the adapter of the last step.
   */
  keepBest?: boolean | undefined;
  /** Noise on the embeddings while training, which may make answers better (NEFTune, Jain et al. 2023): uniform, times α/√(L·d) for a text of L tokens of width d. Default: none. */
  neftuneNoiseAlpha?: number | undefined;
  /** Steps between checkpoints in `outDir`. Default: none. */
  saveEvery?: number | undefined;
  /**
   * Goes on from a checkpoint, bit for bit as if the run had not stopped: from the newest in `outDir` (true; where it holds no run yet, the run
   * begins), or from the folder that is named.
   */
  resume?: boolean | string | undefined;
  /** How many checkpoints `outDir` keeps; older ones are removed when a newer one is whole. Default: all. */
  saveLimit?: number | undefined;
  /**
   * Writes `report.html` beside the final adapter: curves, settings, samples of text before and after; also where the run is aborted or fails after a
   * checkpoint, without the samples. Default false.
   */
  report?: boolean | undefined;
  /** What is trained. Default: the parameters of the active adapter. */
  parameters?: readonly Parameter[] | undefined;
  /**
   * Takes the steps: a name, for one with `lr` and `weightDecay`, or an optimizer of your own, which is not disposed at the end. Default 'adamw'.
   */
  optimizer?: OptimizerName | Optimizer | undefined;
  /**
   * LoRA+ (Hayou, Ghosh, Yu, "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024): `up`, which PEFT calls lora_B, learns at
   * loraPlusRatio·lr; 16 is usual. Default: all at lr.
   */
  loraPlusRatio?: number | undefined;
}

export interface ResolvedOptions {
  evalData: DataSource | undefined;
  outDir: string | undefined;
  maxSteps: number | undefined;
  epochs: number | undefined;
  batchSize: number;
  gradientAccumulationSteps: number;
  lr: number;
  weightDecay: number;
  maxGradNorm: number;
  seed: number;
  shuffleWindow: number;
  evalEvery: number | undefined;
  saveEvery: number | undefined;
  saveLimit: number | undefined;
  report: boolean;
  maxTokens: number | undefined;
  earlyStopping: EarlyStopping | undefined;
  keepBest: boolean;
  neftuneNoiseAlpha: number;
  gradientCheckpointing: boolean;
  packing: boolean;
  packLength: number | undefined;
  groupByLength: boolean;
  resume: boolean | string;
  schedule: ScheduleName;
  warmupSteps: number;
  decaySteps: number | undefined;
  scheduleOf: Schedule;
  /** The name of the optimizer. */
  optimizer: string;
  loraPlusRatio: number | undefined;
  /** Known for maxSteps, and for epochs over data that says its length. */
  totalSteps: number | undefined;
}

const names = [
  'model',
  'data',
  'evalData',
  'outDir',
  'maxSteps',
  'epochs',
  'batchSize',
  'gradientAccumulationSteps',
  'lr',
  'schedule',
  'warmupSteps',
  'decaySteps',
  'weightDecay',
  'maxGradNorm',
  'seed',
  'shuffleWindow',
  'evalEvery',
  'saveEvery',
  'resume',
  'saveLimit',
  'report',
  'maxTokens',
  'earlyStopping',
  'keepBest',
  'neftuneNoiseAlpha',
  'gradientCheckpointing',
  'packing',
  'packLength',
  'groupByLength',
  'parameters',
  'optimizer',
  'loraPlusRatio',
];

/** Checks every option and fills in the defaults, before any work begins. */
export function resolveOptions(options: TrainerOptions): ResolvedOptions {
  checkOptions('Trainer', options, names);
  check(
    typeof (options.model as Partial<CausalLM> | undefined)?.acquireForTraining === 'function',
    'Trainer',
    `expected model to be a CausalLM but received ${describe(options.model)}`,
  );
  checkSource('Trainer', 'data', options.data);
  if (options.evalData !== undefined) checkSource('Trainer', 'evalData', options.evalData);
  const whole = (name: keyof TrainerOptions, lowest: number, fallback?: number): number | undefined => {
    const value = options[name] ?? fallback;
    check(
      value === undefined || (Number.isInteger(value) && (value as number) >= lowest),
      'Trainer',
      `expected ${name} to be a whole number of at least ${lowest} but received ${describe(value)}`,
    );
    return value as number | undefined;
  };
  const real = (name: keyof TrainerOptions, fallback: number): number => {
    const value = options[name] ?? fallback;
    check(
      typeof value === 'number' && Number.isFinite(value) && value >= 0,
      'Trainer',
      `expected ${name} to be a number of at least 0 but received ${describe(value)}`,
    );
    return value;
  };
  const ends = (['maxSteps', 'epochs', 'maxTokens'] as const).filter((name) => options[name] !== undefined);
  check(
    ends.length <= 1,
    'Trainer',
    `expected one of maxSteps, epochs and maxTokens but received ${ends.join(' and ')}`,
  );
  const { resume = false } = options;
  check(
    typeof resume === 'boolean' || (typeof resume === 'string' && resume !== ''),
    'Trainer',
    `expected resume to be true, false or a folder but received ${describe(resume)}`,
  );
  check(
    resume !== true || options.outDir !== undefined,
    'Trainer',
    'expected outDir, in which resume: true looks for the newest checkpoint',
  );

  const batchSize = whole('batchSize', 1, 4) as number;
  const gradientAccumulationSteps = whole('gradientAccumulationSteps', 1, 1) as number;
  const maxSteps = whole('maxSteps', 1);
  const maxTokens = whole('maxTokens', 1);
  const epochs =
    maxSteps === undefined && maxTokens === undefined ? (whole('epochs', 1, 1) as number) : undefined;
  const evalEvery = whole('evalEvery', 1);
  check(
    evalEvery === undefined || options.evalData !== undefined,
    'Trainer',
    'expected evalData, since evalEvery is given',
  );
  const saveEvery = whole('saveEvery', 1);
  check(
    saveEvery === undefined || options.outDir !== undefined,
    'Trainer',
    'expected outDir, since saveEvery is given',
  );
  const { earlyStopping, keepBest = false } = options;
  if (earlyStopping !== undefined) checkEarlyStopping(earlyStopping);
  checkBoolean('Trainer', 'keepBest', keepBest);
  check(
    evalEvery !== undefined || (earlyStopping === undefined && !keepBest),
    'Trainer',
    `expected evalEvery, since ${keepBest ? 'keepBest' : 'earlyStopping'} is given`,
  );
  check(!keepBest || options.outDir !== undefined, 'Trainer', 'expected outDir, since keepBest is given');
  const { packing = false, groupByLength = false } = options;
  const { gradientCheckpointing = false, report = false } = options;
  checkBoolean('Trainer', 'gradientCheckpointing', gradientCheckpointing);
  checkBoolean('Trainer', 'packing', packing);
  checkBoolean('Trainer', 'groupByLength', groupByLength);
  if (groupByLength) checkGroupable('Trainer', options.data, packing);
  checkBoolean('Trainer', 'report', report);
  check(!report || options.outDir !== undefined, 'Trainer', 'expected outDir, since report is given');
  const length = (options.data as { length?: unknown }).length;
  const totalSteps =
    maxSteps ??
    (epochs !== undefined && typeof options.data !== 'function' && typeof length === 'number' && !packing
      ? epochs * Math.ceil(Math.ceil(length / batchSize) / gradientAccumulationSteps)
      : undefined);

  const evaluations = evalEvery === undefined ? 0 : Math.floor((totalSteps ?? Infinity) / evalEvery);
  if (evaluations > 1) checkRereadable('Trainer', options.evalData as DataSource);

  const optimizer = checkOptimizer(options);
  const schedule = options.schedule ?? 'cosine';
  check(
    Object.hasOwn(schedules, schedule),
    'Trainer',
    `expected schedule to be one of ${Object.keys(schedules).join(', ')} but received ${describe(schedule)}`,
  );
  check(
    totalSteps !== undefined || schedule === 'constant',
    'Trainer',
    `expected maxSteps, since the ${schedule} schedule needs the number of steps and ${packing ? 'packing' : maxTokens !== undefined ? 'maxTokens' : 'the data'} does not tell its length`,
  );
  const warmupSteps = stepsOf('Trainer', 'warmupSteps', options.warmupSteps ?? 0, totalSteps, 'maxSteps');
  check(
    options.decaySteps === undefined || schedule === 'wsd',
    'Trainer',
    "expected the schedule 'wsd', since decaySteps is given",
  );
  const decaySteps =
    schedule === 'wsd' ? stepsOf('Trainer', 'decaySteps', options.decaySteps ?? 0.1, totalSteps) : undefined;
  const falls = decaySteps === undefined ? {} : { decaySteps };
  return {
    evalData: options.evalData,
    outDir: options.outDir,
    maxSteps,
    epochs,
    batchSize,
    gradientAccumulationSteps,
    lr: real('lr', typeof options.optimizer === 'object' ? options.optimizer.lr : 2e-4),
    weightDecay: real('weightDecay', 0),
    maxGradNorm: real('maxGradNorm', 1),
    seed: whole('seed', 0, 0) as number,
    shuffleWindow: whole('shuffleWindow', 1, 1000) as number,
    evalEvery,
    saveEvery,
    saveLimit: whole('saveLimit', 1),
    report,
    maxTokens,
    earlyStopping,
    keepBest,
    gradientCheckpointing,
    neftuneNoiseAlpha: real('neftuneNoiseAlpha', 0),
    packing,
    packLength: whole('packLength', 1),
    groupByLength,
    resume,
    schedule,
    warmupSteps,
    decaySteps,
    scheduleOf: schedules[schedule]({ totalSteps: totalSteps ?? 1, warmupSteps, ...falls }),
    optimizer,
    loraPlusRatio: options.loraPlusRatio,
    totalSteps,
  };
}
