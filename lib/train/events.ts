export interface StartEvent {
  type: 'start';
  maxSteps: number | undefined;
  trainableParameters: number;
}

/** One optimizer step. `loss` is the mean over its counted tokens, `gradNorm` the norm before clipping. */
export interface StepEvent {
  type: 'step';
  step: number;
  epoch: number;
  loss: number;
  lr: number;
  gradNorm: number;
  /** Tokens of this step, padding excluded. */
  tokens: number;
  tokensPerSecond: number;
  /** Seconds until the last step; undefined while the number of steps is not known. */
  etaSeconds: number | undefined;
}

export interface EvalEvent {
  type: 'eval';
  step: number;
  loss: number;
  perplexity: number;
  tokens: number;
}

export interface CheckpointEvent {
  type: 'checkpoint';
  step: number;
  dir: string;
}

export interface TrainerResult {
  step: number;
  /** Of the last step. */
  loss: number;
  /** Of the last evaluation, if there was one. */
  evalLoss?: number;
  /** Where the final adapter lies, if there is an outDir. */
  dir?: string;
  stopped: 'done';
}

export interface EndEvent extends TrainerResult {
  type: 'end';
}

export type TrainerEvent = StartEvent | StepEvent | EvalEvent | CheckpointEvent | EndEvent;

export interface RunOptions {
  /** Checked between steps: an abort writes a checkpoint (with outDir), then rejects with the signal's reason. */
  signal?: AbortSignal;
}
