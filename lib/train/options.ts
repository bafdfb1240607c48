import { checkGroupable, checkRereadable, checkSource } from '../data/batches';
import type { DataSource, Example } from '../data/example';
import type { LabeledRow, PreferenceRow } from '../data/preference_rows';
import { classRows, type ClassRow } from '../data/class_rows';
import { promptRows, type PromptRow } from '../data/prompt_rows';
import { contrastiveRows, rankRows, type ContrastiveRow, type RankRow } from '../data/retrieval_rows';
import { exampleRows, type RowKind } from '../data/row_groups';
import type { CausalLM } from '../models/causal_lm';
import type { Optimizer } from '../optim/optimizer';
import { ProcessGroup } from '../distributed/process_group';
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
import { loraError } from '../errors';
import { checkedOptions, checkValue, lackOf, type CheckedValues } from '../options/option';
import type { ObjectiveName } from '../options/objectives';
import { trainerOptions, type OptimizerName } from '../options/table';
import { check, checkOptions, describe } from '../validate';
import {
  grpoSettings,
  refuseKnownRows,
  type GRPOSettings,
  type RewardOptions,
} from './objectives/grpo_settings';
import type { ClassifySettings } from './objectives/classify';
import { rowsOf } from './objectives/preference';
import {
  preferenceSettings,
  classWeightsOf,
  refuseForeign,
  retrievalSettings,
  type ContrastiveOptions,
  type RetrievalSettings,
  type LossType,
  type PreferenceOptions,
  type PreferenceSettings,
} from './objectives/settings';
import { checkLogs, type LogName } from './logs/names';
import { checkOptimizer } from './optimizer';
import { autoRate, usualRate } from './rates';

const schedules = {
  constant: constantSchedule,
  linear: linearSchedule,
  cosine: cosineSchedule,
  wsd: wsdSchedule,
} as const satisfies Record<(typeof trainerOptions.schedule.choices)[number], unknown>;
/** How the learning rate changes: see {@link constantSchedule}, {@link linearSchedule}, {@link cosineSchedule}, {@link wsdSchedule}. */
export type ScheduleName = keyof typeof schedules;

/**
 * What a {@link Trainer} trains, on what, for how long.
 *
 * @example
 * const options: TrainerOptions = { model, data, outDir: 'run', epochs: 3, batchSize: 4, lr: 2e-4 };
 */
export interface TrainerOptions
  extends
    Omit<PreferenceOptions, 'beta' | 'lossType'>,
    Omit<RewardOptions, 'beta' | 'lossType'>,
    ContrastiveOptions {
  /** The model, with a trainable active adapter, or after `trainAll()`. */
  model: CausalLM;
  /** The examples, shuffled in every epoch, by `seed`: as a whole if `data` has a length, else in a window (`shuffleWindow`). */
  data: DataSource<Example | PreferenceRow | LabeledRow | PromptRow | ClassRow | ContrastiveRow | RankRow>;
  /** Held-out examples, for `evalEvery`. */
  evalData?:
    | DataSource<Example | PreferenceRow | LabeledRow | PromptRow | ClassRow | ContrastiveRow | RankRow>
    | undefined;
  /**
   * What is optimized: 'sft', the likelihood of the tokens that count, or preferences between answers: 'dpo', 'orpo' and 'cpo' read rows
   * { promptIds, chosenIds, rejectedIds }, 'kto' rows { promptIds, completionIds, label }; or with 'grpo' the `rewards` of what the model completes prompts with,
   * of rows { prompt } or { promptIds }. 'classify' trains a model with a head of classes on rows { text | inputIds, label },
   * 'contrastive', the vectors of texts, of rows { anchor, positive, negative? }, and 'rank', the order of documents, of rows
   * { query, positive, negative }. Default 'sft'.
   */
  objective?: ObjectiveName | undefined;
  /** Preferences: how much a change of an answer's probability against the reference weighs, by default 0.1. 'grpo': the weight of the KL divergence from the base, by default 0. */
  beta?: number | undefined;
  /** The loss of 'dpo' ('sigmoid', 'ipo', 'robust', 'sft', or a list of them), of 'cpo' ('sigmoid', 'simpo') and of 'grpo' ('dapo', 'grpo', 'bnpo', 'dr_grpo'). Default: the first of these. */
  lossType?: LossType | readonly LossType[] | RewardOptions['lossType'] | undefined;
  /**
   * Computes the reference of 'dpo' or 'kto' once, before the first step; the only way where all weights are trained. 'kto' then pairs prompts with answers in the order of the
   * data, as TRL does, not in that of its batches. Default false.
   */
  precomputeReference?: boolean | undefined;
  /** 'classify', of one label for a text: what each label weighs in the loss, in the order of the labels, as PyTorch's CrossEntropyLoss has it. Default: 1 each. */
  classWeights?: readonly number[] | undefined;
  /** Preferences and 'grpo': trains without dropout. Default true. */
  disableDropout?: boolean | undefined;
  /**
   * The folder for the final adapter or model, and for checkpoint-N folders during the run. If absent, nothing is written. A checkpoint of a whole model is a
   * model directory with the optimizer's state (f32, AdamW: 12 bytes per parameter); too little disk space is an error before the first step.
   */
  outDir?: string | undefined;
  /** Steps, epochs or tokens; one of them. Default: one epoch. */
  maxSteps?: number | undefined;
  /** Passes over the data. */
  epochs?: number | undefined;
  /** Tokens, without padding; the run ends with the step that reaches this number. */
  maxTokens?: number | undefined;
  /** Examples in a batch, padded to the longest of them; of 'grpo' prompts, of which each has `numGenerations` completions. Default 4. */
  batchSize?: number | undefined;
  /** Number of batches whose gradients are summed for a step; with `distributed`, of each rank. Default 1. */
  gradientAccumulationSteps?: number | undefined;
  /**
   * The learning rate before the schedule, or 'auto': by the method, the width of the model and α, for LoRA, DoRA and all weights with AdamW; the start event
   * and the model card say which and why. Default: that of `optimizer`, else 2e-4; of preferences 1e-5, where all weights are trained 1e-6.
   */
  lr?: number | 'auto' | undefined;
  /** The factor on `lr` over the steps. Default 'cosine'. */
  schedule?: ScheduleName | undefined;
  /** Steps over which the learning rate rises from 0; below 1, their share of all steps. Default 0. */
  warmupSteps?: number | undefined;
  /** Steps over which the 'wsd' schedule falls at its end; below 1, their share of all steps. Default 0.1. */
  decaySteps?: number | undefined;
  /** Weight decay: decoupled in AdamW (also with 8 bits) and Lion, part of the gradient in SGD. Default 0. */
  weightDecay?: number | undefined;
  /** Maximum norm of all gradients together; 0 turns clipping off. Default 1. */
  maxGradNorm?: number | undefined;
  /**
   * Puts several examples into a row of at most `packLength` tokens instead of padding; attention stays inside each. `batchSize` then counts
   * rows. Default false.
   */
  packing?: boolean | undefined;
  /** Tokens of a row with `packing`. Default: the `maxLength` of the data set, else 2048. */
  packLength?: number | undefined;
  /**
   * Batches examples of similar lengths to reduce padding; `seed` determines the batches and their order. For data with a
   * `length`. Default false.
   */
  groupByLength?: boolean | undefined;
  /** Keeps only the input of each block for the backward pass, which computes the block once more: less memory, more time, the same bits. Default false. */
  gradientCheckpointing?: boolean | undefined;
  /** Seed of the order of the data, and of the rounding of weights trained with `stochasticRounding`. Default 0. */
  seed?: number | undefined;
  /**
   * The number of examples from which the next one is drawn; 1 keeps their order. Default: all of data with a `length`, and 1000 of other data, which may be endless.
   */
  shuffleWindow?: number | undefined;
  /** Steps between evaluations on `evalData`. Default: none. */
  evalEvery?: number | undefined;
  /** Stops when evaluations no longer improve. The adapter is then that of the last step, unless `keepBest` is given. */
  earlyStopping?: EarlyStopping | undefined;
  /**
   * Ends with the adapter of the best evaluation, in `outDir` and in memory, or that of the last step if no evaluation gave a number. Its checkpoint
   * is kept whatever `saveLimit` says. Default false: the adapter of the last step.
   */
  keepBest?: boolean | undefined;
  /** Noise on the embeddings while training, which may make answers better (NEFTune, Jain et al. 2023): uniform, times α/√(L·d) for a text of L tokens of width d. Default: none. */
  neftuneNoiseAlpha?: number | undefined;
  /** Steps between checkpoints in `outDir`. Default: none. */
  saveEvery?: number | undefined;
  /**
   * Resumes from a checkpoint, bit for bit as if the run had not stopped: from the newest in `outDir` (true; if it holds no run yet, a new run
   * starts), or from the given folder. With more `maxSteps` or `epochs` the run continues beyond its original end, with the rate of the schedule
   * over all steps.
   */
  resume?: boolean | string | undefined;
  /** How many checkpoints `outDir` keeps, besides that of the best evaluation; older ones are removed when a newer one is complete. Default 2. */
  saveLimit?: number | undefined;
  /**
   * Logs of the run in `outDir`: 'tensorboard' writes event files with its numbers, facts and settings into the folder `tensorboard`, 'jsonl' a line for each
   * event into `log.jsonl`. A resumed run adds to them. Default: none.
   */
  log?: readonly LogName[] | undefined;
  /**
   * Writes `report.html` beside the final adapter: curves, settings, sample texts before and after. If the run is aborted or fails after a
   * checkpoint, it has no samples. Default false.
   */
  report?: boolean | undefined;
  /**
   * The processes that train together, which {@link mpi} gives. Each computes `gradientAccumulationSteps` batches of a step, so that N of them are one process with N times as
   * many; all are given the same options, data and model. Rank 0 writes `outDir`. Default: this process alone.
   */
  distributed?: ProcessGroup | undefined;
  /** Seconds for which a process may make no progress, while others wait for it, before they end; evaluating and saving are progress. Default 600. */
  distributedTimeout?: number | undefined;
  /** The dtype in which gradients cross the network: 'bf16' halves the bytes and rounds each gradient once, and each sum. Default 'f32'. */
  distributedDtype?: 'f32' | 'bf16' | undefined;
  /** What is trained: the active adapter, or the weights after `model.trainAll()`. Default: 'all' after that, else 'adapter'. */
  train?: 'adapter' | 'all' | undefined;
  /** Which of its parameters are trained. Default: all of them. */
  parameters?: readonly Parameter[] | undefined;
  /**
   * The optimizer: a name, to create one with `lr` and `weightDecay`, or your own, which is not disposed at the end. Default 'adamw'.
   */
  optimizer?: OptimizerName | Optimizer | undefined;
  /**
   * LoRA+ (Hayou, Ghosh, Yu, "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024): `up`, which PEFT calls lora_B, learns at
   * loraPlusRatio·lr; 16 is usual. Default: all at lr.
   */
  loraPlusRatio?: number | undefined;
}

/** Every option with its default: what the table checks, and what is checked here. */
export interface ResolvedOptions extends Omit<CheckedValues<typeof trainerOptions>, 'lr'> {
  /** Of 'auto' that of the run which a resumed one goes on with. */
  lr: number;
  /** Of 'auto': why it is that. */
  lrReason: string | undefined;
  /** Of all ranks together. */
  readonly batchesPerStep: number;
  /** Of an objective of preferences. */
  readonly preference: PreferenceSettings | undefined;
  /** Of rewards. */
  readonly grpo: GRPOSettings | undefined;
  /** Of labels. */
  readonly classify: ClassifySettings | undefined;
  /** Of texts that belong together. */
  readonly retrieval: RetrievalSettings | undefined;
  readonly evalData: DataSource<unknown> | undefined;
  readonly distributed: boolean;
  readonly earlyStopping: EarlyStopping | undefined;
  readonly resume: boolean | string;
  readonly log: readonly LogName[];
  readonly warmupSteps: number;
  readonly decaySteps: number | undefined;
  readonly scheduleOf: Schedule;
  /** The name of the optimizer. */
  readonly optimizer: string;
  /** The settings that follow from the number of steps: the shares among them, and the number itself. */
  readonly ofTotal: readonly string[];
  /** Known for maxSteps, and for epochs over data that says its length. */
  readonly totalSteps: number | undefined;
}

/** The ends of a run, of which it has one. */
export const runEnds = ['maxSteps', 'epochs', 'maxTokens'] as const;

const op = 'Trainer';

/** Checks every option and fills in the defaults, before any work begins. */
export function resolveOptions(options: TrainerOptions): ResolvedOptions {
  checkOptions(op, options, Object.keys(trainerOptions satisfies Record<keyof TrainerOptions, unknown>));
  const { model, data, evalData, earlyStopping, resume = false } = options;
  check(
    typeof (model as Partial<CausalLM> | undefined)?.forwardInSlices === 'function',
    op,
    `expected model to be a CausalLM but received ${describe(model)}`,
  );
  const objectives = objectiveSettings(options);
  const { preference, grpo } = objectives;
  const rows = rowKindOf(objectives, model);
  checkSource(op, 'data', data, rows);
  if (evalData !== undefined) checkSource(op, 'evalData', evalData, rows);
  const optimizer = checkOptimizer(options);
  const own = typeof options.optimizer === 'object' ? options.optimizer.lr : undefined;
  const given = options.lr ?? own ?? usualRate(model, (preference ?? grpo) !== undefined);
  const checked = checkedOptions(op, trainerOptions, { ...options, lr: given });
  const values = { ...checked, batchesPerStep: checked.gradientAccumulationSteps * ranksOf(options) };
  check(
    typeof resume === 'boolean' || (typeof resume === 'string' && resume !== ''),
    op,
    `expected resume to be true, false or a folder but received ${describe(resume)}`,
  );
  const log = checkLogs(op, options.log);
  if (earlyStopping !== undefined) checkEarlyStopping(earlyStopping);
  checkTogether(options);

  const { maxSteps, maxTokens } = values;
  const epochs = maxSteps === undefined && maxTokens === undefined ? (values.epochs ?? 1) : undefined;
  const totalSteps = maxSteps ?? (epochs && stepsOfEpochs(epochs, data, values, grpo?.numIterations));
  const evaluations =
    values.evalEvery === undefined ? 0 : Math.floor((totalSteps ?? Infinity) / values.evalEvery);
  if (evaluations > 1 || (values.precomputeReference && evalData !== undefined))
    checkRereadable(op, evalData as DataSource);
  const steps = resolveSchedule(options, values, totalSteps);
  const ruled =
    given === 'auto' ? autoRate(op, { ...options, totalSteps }) : { lr: given, reason: undefined };
  const distributed = values.batchesPerStep !== values.gradientAccumulationSteps;
  return {
    ...values,
    ...objectives,
    lr: ruled.lr,
    lrReason: ruled.reason,
    distributed,
    evalData,
    earlyStopping,
    resume,
    log,
    epochs,
    ...steps,
    optimizer,
    totalSteps,
  };
}

/** How many processes train. @throws ERR_ARGUMENT for what is no group of them. */
function ranksOf({ distributed }: Pick<TrainerOptions, 'distributed'>): number {
  check(
    distributed === undefined || distributed instanceof ProcessGroup,
    op,
    () => `expected distributed to be what mpi() gives but received ${describe(distributed)}`,
  );
  return distributed?.size ?? 1;
}

type ObjectiveSettings = Pick<ResolvedOptions, 'preference' | 'grpo' | 'classify' | 'retrieval'>;
const noObjective: ObjectiveSettings = {
  preference: undefined,
  grpo: undefined,
  classify: undefined,
  retrieval: undefined,
};

/** The rows that the data have. */
function rowKindOf({ preference, grpo, classify, retrieval }: ObjectiveSettings, model: CausalLM): RowKind {
  if (classify) return classRows(model.core.classifyHead(op), () => model.tokenizer);
  if (grpo) return promptRows(() => model.tokenizer);
  if (retrieval?.objective === 'rank') return rankRows(() => model.tokenizer);
  if (retrieval) return contrastiveRows(() => model.tokenizer);
  return preference ? rowsOf(preference) : exampleRows;
}

/** @throws ERR_UNSUPPORTED for what is for supervised fine-tuning alone. */
function refuseOfExamples(
  options: object,
  objective: ObjectiveName,
  names: readonly (keyof TrainerOptions)[],
): void {
  for (const name of names)
    if ((options as TrainerOptions)[name])
      throw loraError(
        op,
        'ERR_UNSUPPORTED',
        `${name} is for supervised fine-tuning, not for the objective ${objective}`,
      );
}

/** What an objective beside supervised fine-tuning asks of the options. */
export function objectiveSettings(
  options: Omit<TrainerOptions, 'model' | 'data' | 'evalData'>,
): ObjectiveSettings {
  const objective = options.objective ?? 'sft';
  checkValue(op, 'objective', trainerOptions.objective, objective);
  if (objective === 'sft') {
    refuseForeign(op, objective, options);
    return noObjective;
  }
  if (objective === 'grpo') {
    refuseKnownRows(op, options);
    return { ...noObjective, grpo: grpoSettings(op, options as RewardOptions) };
  }
  if (objective === 'classify') {
    refuseForeign(op, objective, options);
    refuseOfExamples(options, objective, ['packing', 'packLength']);
    return { ...noObjective, classify: { classWeights: classWeightsOf(op, options.classWeights) } };
  }
  const settings: Partial<ObjectiveSettings> =
    objective === 'contrastive' || objective === 'rank'
      ? { retrieval: retrievalSettings(op, objective, options) }
      : { preference: preferenceSettings(op, objective, options as PreferenceOptions) };
  refuseOfExamples(options, objective, ['packing', 'packLength', 'neftuneNoiseAlpha']);
  check(
    objective !== 'contrastive' || (options.batchSize ?? trainerOptions.batchSize.default) >= 2,
    op,
    'expected a batchSize of at least 2, since the other rows of a batch are what contrastive tells a row from',
  );
  check(
    objective !== 'kto' || (options.batchSize ?? trainerOptions.batchSize.default) >= 2,
    op,
    'expected a batchSize of at least 2, since kto pairs prompts with the answers of other rows',
  );
  return { ...noObjective, ...settings };
}

/** What options ask of each other. */
function checkTogether(options: TrainerOptions): void {
  const given = (name: string): boolean =>
    ![undefined, null, false].includes(options[name as keyof TrainerOptions] as undefined);
  const ends = runEnds.filter(given);
  check(
    ends.length <= 1,
    op,
    `expected one of maxSteps, epochs and maxTokens but received ${ends.join(' and ')}`,
  );
  if (options.groupByLength) checkGroupable(op, options.data, options.packing ?? false);
  check(
    options.resume !== true || options.outDir !== undefined,
    op,
    'expected outDir, in which resume: true looks for the newest checkpoint',
  );
  const lack = lackOf(trainerOptions, { ...options }, given);
  if (lack === undefined) return;
  const { option, needs, word } = lack;
  check(
    false,
    op,
    `expected ${word === undefined ? needs : `the ${needs} '${word}'`}, since ${option} is given`,
  );
}

/** Undefined where the data do not say how many steps they are. */
function stepsOfEpochs(
  epochs: number,
  data: DataSource<unknown>,
  { batchSize, batchesPerStep, packing }: Pick<ResolvedOptions, 'batchSize' | 'batchesPerStep' | 'packing'>,
  stepsPerRows = 1,
): number | undefined {
  const { length } = data as { length?: unknown };
  if (typeof data === 'function' || typeof length !== 'number' || packing) return undefined;
  return epochs * stepsPerRows * Math.ceil(Math.ceil(length / batchSize) / batchesPerStep);
}

/** The option by which only the data tell how many steps a run has; undefined where there is none. */
export function unknownEnd({
  maxSteps,
  maxTokens,
  packing,
}: Pick<TrainerOptions, 'maxSteps' | 'maxTokens' | 'packing'>): 'packing' | 'maxTokens' | undefined {
  if (maxSteps !== undefined) return undefined;
  return packing ? 'packing' : maxTokens === undefined ? undefined : 'maxTokens';
}

/** How the learning rate goes over the steps. */
function resolveSchedule(
  options: TrainerOptions,
  values: CheckedValues<typeof trainerOptions>,
  totalSteps: number | undefined,
): Pick<ResolvedOptions, 'warmupSteps' | 'decaySteps' | 'scheduleOf' | 'ofTotal'> {
  const { schedule } = values;
  const endless = unknownEnd(values) ?? 'the data';
  check(
    totalSteps !== undefined || schedule === 'constant',
    op,
    `expected maxSteps, since the ${schedule} schedule needs the number of steps and ${endless} does not tell its length`,
  );
  const warmupSteps = stepsOf(op, 'warmupSteps', options.warmupSteps ?? 0, totalSteps, 'maxSteps');
  const decaySteps =
    schedule === 'wsd' ? stepsOf(op, 'decaySteps', options.decaySteps ?? 0.1, totalSteps) : undefined;
  const falls = decaySteps === undefined ? {} : { decaySteps };
  const scheduleOf = schedules[schedule]({ totalSteps: totalSteps ?? 1, warmupSteps, ...falls });
  const shares = { warmupSteps: options.warmupSteps ?? 0, decaySteps: options.decaySteps ?? 0.1 };
  const ofTotal = [
    'totalSteps',
    ...Object.entries(shares).flatMap(([name, value]) => (value < 1 ? [name] : [])),
  ];
  return { warmupSteps, decaySteps, scheduleOf, ofTotal };
}
