/** What a run optimizes. An objective is a file beside this one; they meet in objectives.ts. */
import type { Batch } from '../../data/batches';
import type { DataSource } from '../../data/example';
import type { RowGroup, RowKind } from '../../data/row_groups';
import type { SequencePlan } from '../../data/sequence_plan';
import type { CausalLM } from '../../models/causal_lm';
import type { EmbeddingNoise } from '../../models/inputs/noise';
import type { Adapter } from '../../peft/adapter';
import type { StateValue } from '../../tensor/state';
import type { Tensor, TensorValues } from '../../tensor/tensor';
import type { EvalEvent } from '../events';
import type { Metrics } from '../metrics';
import type { Ranks } from '../reducer';

/** How the model runs for a batch of a step. */
export interface TrainingPass {
  readonly adapter: Adapter | null;
  /** With dropout. */
  readonly train: boolean;
  readonly gradientCheckpointing: boolean;
  readonly noise?: EmbeddingNoise;
}

/** Numbers on the device, and what figures they are. */
export interface Measured {
  readonly values: Tensor;
  readonly read: (values: TensorValues) => Metrics;
}

/** What a batch adds to a step. */
export interface BatchLoss {
  /** Times 1 ÷ the weight of all batches of the step, it is the part of the batch in the loss of the step. */
  readonly sum: Tensor;
  /** Figures beside the loss, whose mean over the batches that have them a step reports. */
  readonly measured?: Measured;
}

/** A step that is about to be taken. */
export interface StepPass {
  readonly adapter: Adapter | null;
  /** How many steps were taken before it. */
  readonly step: number;
  readonly signal: AbortSignal | undefined;
  /** Rank r learns from batches r, r + size, … of what is made. */
  readonly ranks: Ranks;
}

/** What a step learns from, and the figures of how it was made. */
export interface StepRows {
  readonly batches: readonly Batch[];
  readonly metrics: Metrics;
}

/** What an evaluation gives. */
export interface ObjectiveEvaluation {
  /** What its event tells. Early stopping and keepBest compare its score where it has one, else its loss. */
  readonly figures: Omit<EvalEvent, 'type' | 'step' | 'best'>;
  readonly higherIsBetter: boolean;
}

/** How evaluations run. */
export interface EvaluationPass {
  readonly adapter: Adapter | null;
  readonly batchSize: number;
  readonly signal: AbortSignal | undefined;
  /** Rank r measures batches r, r + size, … */
  readonly ranks: Ranks;
}

/** What the model writes to a prompt, for a report. */
export interface Written {
  readonly text: string;
  /** What the objective says of it. */
  readonly note?: string;
}

/** The loop, checkpoints and reports know nothing else of what a run optimizes. */
export interface Objective {
  /** The rows that it reads, and which of their texts belong together. */
  readonly rows: RowKind;
  /** Its own settings, which checkpoints are compared with. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** What model cards and reports say of it. */
  readonly facts: readonly (readonly [name: string, value: string])[];
  /** Whether its loss is the mean of −log p over tokens, so that exp(loss) is a perplexity. */
  readonly isPerToken: boolean;
  /** Whether steps drop out. */
  readonly dropout: boolean;
  /** What a batch weighs in the loss of its step; 0: it is left out. */
  weightOf(batch: Batch, plan: SequencePlan): number;
  /** How many forward passes with dropout a batch takes. Default: one. */
  forwardsOf?(batch: Batch): number;
  /** Why a step cannot be taken of batches that weigh nothing together. */
  readonly weightless: string;
  /** Reads what its settings depend on. */
  identify?(): Promise<void>;
  /** What is computed before the first step, also that of a run that goes on: what it has restored is there. */
  prepare?(
    model: CausalLM,
    sources: readonly (DataSource<unknown> | undefined)[],
    pass: EvaluationPass,
  ): Promise<void>;
  /** How many steps the rows of a step serve, one after the other. Default: one. */
  readonly stepsPerRows?: number;
  /** Makes what a step learns from of the rows of the data. Default: the rows themselves. */
  prepareStep?(model: CausalLM, batches: readonly Batch[], pass: StepPass): Promise<StepRows>;
  /** Called before the weights change: tells all ranks what later steps on the same rows need of this one. */
  shareStep?(ranks: Ranks): Promise<void>;
  /** What later steps depend on beside the weights and the data, for checkpoints. */
  readonly state?: StateValue | undefined;
  /** Takes it from a checkpoint of step `step`, whose settings are those of the run. @throws ERR_FILE for what it is not. */
  restore?(state: unknown, step: number): void;
  /** Another adapter that it reads, which nobody may remove meanwhile. */
  readonly reads?: Adapter | null;
  /** Answers the prompt of a row, for a report; undefined where the adapter is not its choice. Default: greedily. */
  write?(
    model: CausalLM,
    row: RowGroup,
    pass: Pick<EvaluationPass, 'adapter' | 'signal'>,
  ): Promise<Written | undefined>;
  /** What the data say of a row, for a report. Default: what follows the prompt. */
  expected?(row: RowGroup): string;
  /** A batch, with its graph. */
  loss(model: CausalLM, batch: Batch, pass: TrainingPass): Promise<BatchLoss>;
  /** The held-out rows. */
  evaluate(model: CausalLM, data: DataSource<unknown>, pass: EvaluationPass): Promise<ObjectiveEvaluation>;
}
