import type { Confusion } from '../tasks/class_scores';

/** The run starts. */
export interface StartEvent {
  /** Which event it is. */
  type: 'start';
  /** Steps already taken if the run is resumed, else 0. */
  step: number;
  /** The planned number of steps; undefined while the length of the data is unknown. */
  maxSteps: number | undefined;
  /** The planned number of steps before, if the resumed run now continues beyond it. */
  previousMaxSteps?: number;
  /** How many numbers are trained. */
  trainableParameters: number;
  /** With `lr: 'auto'`: the learning rate that was chosen, before the schedule, and why. */
  autoRate?: { lr: number; reason: string };
}

/** One optimizer step. */
export interface StepEvent {
  /** Which event it is. */
  type: 'step';
  /** The number of the step, from 1. */
  step: number;
  /** The pass over the data, from 0. */
  epoch: number;
  /** The loss of the objective before the weights changed; of supervised fine-tuning the mean of −log p over the counted tokens of the step, in nats. */
  loss: number;
  /** The learning rate of the step, after the schedule. */
  lr: number;
  /** ‖g‖₂ over all gradients, before clipping. */
  gradNorm: number;
  /** Tokens of this step, without padding. */
  tokens: number;
  /** Figures of an objective that has some beside its loss, under their names: the means over the batches of the step. */
  metrics?: Readonly<Record<string, number>>;
  /** Over the last steps. */
  tokensPerSecond: number;
  /** Estimated seconds until the last step; undefined while the number of steps is unknown. */
  etaSeconds: number | undefined;
}

/** The held-out data was evaluated. */
export interface EvalEvent {
  /** Which event it is. */
  type: 'eval';
  /** How many steps had been taken. */
  step: number;
  /** The loss of the objective on `evalData`; of supervised fine-tuning the mean of −log p over its counted tokens, in nats. */
  loss: number;
  /** exp(loss), of supervised fine-tuning. */
  perplexity?: number;
  /** How many tokens were counted. */
  tokens: number;
  /** Figures of an objective that has some beside its loss, under their names. */
  metrics?: Readonly<Record<string, number>>;
  /** Of labels of which a text has one: how often texts of each label got each label. */
  confusion?: Readonly<Confusion>;
  /** What evaluations are compared by, where it is not the loss; higher is better. */
  score?: number;
  /** Whether it is the best evaluation of the run so far, by the `minDelta` of early stopping. */
  best?: boolean;
}

/** A checkpoint has been written completely. */
export interface CheckpointEvent {
  /** Which event it is. */
  type: 'checkpoint';
  /** How many steps had been taken. */
  step: number;
  /** A PEFT directory, `outDir/checkpoint-N`, with the optimizer's state beside the adapter. */
  dir: string;
}

/** The result of a run. */
export interface TrainerResult {
  /** How many steps were taken. */
  step: number;
  /** The loss of the last step; NaN if a resumed run had no step left. */
  loss: number;
  /** The loss of the last evaluation, if there was one. */
  evalLoss?: number;
  /** The best evaluation, if there was one; with `keepBest`, also the folder of its checkpoint. */
  best?: { step: number; loss: number; score?: number; dir?: string };
  /** The step whose weights the adapter finally has, in memory and in `dir`: the last one, or with `keepBest` that of the best evaluation. */
  adapterStep: number;
  /** The folder of the final adapter, if there is an outDir. */
  dir?: string;
  /** The path of the report, with `report: true`. */
  report?: string;
  /** Whether the run completed or stopped early. An aborted run rejects and has no result. */
  stopped: 'done' | 'early';
  /** Why it stopped early, in words: '3 evaluations were no better than that of step 50'. */
  reason?: string;
}

/** The run is done and the final adapter saved; has the fields of {@link TrainerResult}. */
export interface EndEvent extends TrainerResult {
  /** Which event it is. */
  type: 'end';
}

/** The events of a run, told apart by `type`. */
export type TrainerEvent = StartEvent | StepEvent | EvalEvent | CheckpointEvent | EndEvent;

/** The options of {@link Trainer.run}. */
export interface RunOptions {
  /**
   * Checked between batches, while the data gives nothing, and between the batches of an evaluation: an abort writes a checkpoint (with
   * outDir) and the report, then rejects with the signal's reason.
   */
  signal?: AbortSignal | undefined;
}
