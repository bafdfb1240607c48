/** The run begins. */
export interface StartEvent {
  /** Which event it is. */
  type: 'start';
  /** How many steps had been taken before, where a run is resumed; else 0. */
  step: number;
  /** How many steps there will be; undefined while the data does not tell its length. */
  maxSteps: number | undefined;
  /** How many steps the run that is resumed was to have, where it now goes on beyond them. */
  previousMaxSteps?: number;
  /** How many numbers are trained. */
  trainableParameters: number;
}

/** One optimizer step. `loss` is the mean over its counted tokens, `gradNorm` the norm before clipping. */
export interface StepEvent {
  /** Which event it is. */
  type: 'step';
  /** The number of the step, from 1. */
  step: number;
  /** The pass over the data, from 0. */
  epoch: number;
  /** The mean of −log p over the counted tokens of the step, in nats, before the weights changed. */
  loss: number;
  /** The learning rate of the step, after the schedule. */
  lr: number;
  /** ‖g‖₂ over all gradients, before clipping. */
  gradNorm: number;
  /** Tokens of this step, padding excluded. */
  tokens: number;
  /** Over the last steps. */
  tokensPerSecond: number;
  /** Seconds until the last step; undefined while the number of steps is not known. */
  etaSeconds: number | undefined;
}

/** The held-out data was measured. */
export interface EvalEvent {
  /** Which event it is. */
  type: 'eval';
  /** How many steps had been taken. */
  step: number;
  /** The mean of −log p over the counted tokens of `evalData`, in nats. */
  loss: number;
  /** exp(loss). */
  perplexity: number;
  /** How many tokens counted. */
  tokens: number;
  /** Whether no evaluation of the run before was as good, by the `minDelta` of early stopping. */
  best?: boolean;
}

/** A checkpoint is on disk, whole. */
export interface CheckpointEvent {
  /** Which event it is. */
  type: 'checkpoint';
  /** How many steps had been taken. */
  step: number;
  /** A PEFT directory, `outDir/checkpoint-N`, with the optimizer's state beside the adapter. */
  dir: string;
}

/** What a run gives when it is awaited. */
export interface TrainerResult {
  /** How many steps were taken. */
  step: number;
  /** The loss of the last step; NaN where a resumed run had no step left. */
  loss: number;
  /** The loss of the last evaluation, if there was one. */
  evalLoss?: number;
  /** The best evaluation, if there was one; with `keepBest`, where its checkpoint lies. */
  best?: { step: number; loss: number; dir?: string };
  /** The step whose weights the adapter has in the end, in memory and in `dir`: the last one, or with `keepBest` that of the best evaluation. */
  adapterStep: number;
  /** Where the final adapter lies, if there is an outDir. */
  dir?: string;
  /** The path of the report, with `report: true`. */
  report?: string;
  /** Why the run ended: at its end, or by early stopping. An aborted run rejects and has no result. */
  stopped: 'done' | 'early';
  /** Why it stopped early, in words: '3 evaluations were no better than that of step 50'. */
  reason?: string;
}

/** The run is done, and the final adapter is saved: the fields of {@link TrainerResult}. */
export interface EndEvent extends TrainerResult {
  /** Which event it is. */
  type: 'end';
}

/** What a run tells while it goes on: `type` says which it is. */
export type TrainerEvent = StartEvent | StepEvent | EvalEvent | CheckpointEvent | EndEvent;

/** The options of {@link Trainer.run}. */
export interface RunOptions {
  /**
   * Checked between batches, while the data gives nothing, and between the batches of an evaluation: an abort writes a checkpoint (with
   * outDir) and the report, then rejects with the signal's reason.
   */
  signal?: AbortSignal | undefined;
}
