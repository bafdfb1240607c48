/** The loop of a training run: its steps, evaluations and checkpoints, and what is kept when it ends early or fails. */
import type { DataSource } from '../data/example';
import { LoRAError, loraError } from '../errors';
import type { CausalLM } from '../models/causal_lm';
import type { Optimizer } from '../optim/optimizer';
import { settle } from '../tensor/state';
import { BestEvaluation } from './best';
import type { CheckpointEvent, TrainerEvent, TrainerResult } from './events';
import type { ResolvedOptions } from './options';
import type { OutputDirectory } from './output';
import { Progress } from './progress';
import type { RunRecord } from './record';
import type { Reducer } from './reducer';
import { DataDigest, earlierEnd, readRunState, replay, type Resumed, type RunSettings } from './resume';
import { stepBatches, type StepBatches } from './step_batches';
import type { TrainingSubject } from './subject';
import type { Objective } from './objectives/objective';
import type { Updates } from './update';

/** What the loop works on. */
interface LoopParts {
  readonly options: ResolvedOptions;
  readonly model: CausalLM;
  readonly data: DataSource<unknown>;
  readonly objective: Objective;
  readonly subject: TrainingSubject;
  readonly optimizer: Optimizer;
  readonly updates: Updates;
  readonly reducer: Reducer;
  readonly trainableParameters: number;
  readonly output: OutputDirectory | undefined;
  /** What its checkpoints are compared with. */
  readonly settings: RunSettings;
  /** What a command line gave, as JSON. */
  readonly command: string | undefined;
  readonly record: RunRecord;
  /** The model card of the run so far. */
  readonly card: () => string;
  /** Writes the report where one is wanted. */
  readonly writeReport: (withSamples: boolean, signal?: AbortSignal) => Promise<string | undefined>;
}

/** A checkpoint that the loop goes on from, and with keepBest where the adapter of the best evaluation lies. */
export interface LoopBegin {
  readonly from: Resumed;
  readonly best: string | undefined;
}

export class TrainingLoop {
  readonly #parts: LoopParts;
  readonly #from: Resumed | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #evaluations: BestEvaluation;
  readonly #progress: Progress;
  /** Of the batches that were taken. */
  readonly #taken = new DataDigest();
  /** Where it began. */
  readonly #start: number;
  #step: number;
  #tokens = 0;
  #loss = Number.NaN;
  #evalLoss: number | undefined;
  /** The step of the newest checkpoint; −1: there is none. */
  #savedAt: number;
  /** Whether a checkpoint is being written. */
  #saving = false;
  /** Where the adapter of the best evaluation lies, with keepBest. */
  #best: string | undefined;

  constructor(parts: LoopParts, begin: LoopBegin | undefined, signal: AbortSignal | undefined) {
    const { options, record } = parts;
    const from = begin?.from;
    this.#parts = parts;
    this.#from = from;
    this.#best = begin?.best;
    this.#signal = signal;
    this.#start = this.#step = from?.step ?? 0;
    this.#savedAt = from?.step ?? -1;
    this.#progress = new Progress(options.totalSteps);
    this.#evaluations = new BestEvaluation(options.earlyStopping?.minDelta);
    if (from !== undefined) this.#evaluations.restore(from.evaluations);
    record.best = this.#evaluations.best;
  }

  /** Trains; a loop runs once. */
  async *run(): AsyncGenerator<TrainerEvent, TrainerResult, void> {
    const { options, data, objective, optimizer, trainableParameters, record } = this.#parts;
    const earlier = this.#from && earlierEnd(this.#from.settings, this.#parts.settings);
    const { lr, lrReason: reason } = options;
    yield {
      ...{ type: 'start', step: this.#start, maxSteps: options.totalSteps, trainableParameters },
      ...(earlier === undefined ? {} : { previousMaxSteps: earlier }),
      ...(reason === undefined ? {} : { autoRate: { lr, reason } }),
    };
    const groups = stepBatches(data, objective.rows, options, objective.stepsPerRows ?? 1, this.#signal);
    let left = true;
    try {
      if (this.#from !== undefined) yield* this.#goOn(this.#from, groups);
      // The checkpoint may be that of a run that had ended.
      while (!this.#ended) {
        const { value: group } = await groups.next();
        this.#signal?.throwIfAborted();
        if (!group) break; // the data have ended
        yield* this.#train(group);
      }
      if (this.#stopsEarly) record.ended = `early, since ${this.#evaluations.sentence}`;
      await optimizer[settle](); // no later step tells whether the last one failed
      await this.#saveFinal();
      // A process that was killed behind its last checkpoint has removed none of the older ones, and this run may have made none.
      await this.#parts.output?.prune(this.#kept);
      left = false;
    } catch (error) {
      left = false;
      yield* this.#keep(error);
      throw error;
    } finally {
      if (left) await this.#keepWhenLeft();
      await groups.return();
    }
    const result = await this.#result();
    yield { type: 'end', ...result };
    return result;
  }

  /** Goes over the batches before the checkpoint, and takes its adapter and optimizer. */
  async *#goOn(
    from: Resumed,
    groups: AsyncGenerator<StepBatches, void, void>,
  ): AsyncGenerator<TrainerEvent, void, void> {
    const { options, subject, optimizer } = this.#parts;
    const { maxTokens } = options;
    this.#tokens = await replay(from, groups, this.#taken, { maxTokens, signal: this.#signal });
    await subject.load(from.dir, optimizer);
    // An abort may have come between the step and its evaluation.
    if (this.#start > 0 && this.#evaluationIsDue && (yield* this.#evaluate())) this.#best = from.dir;
  }

  /** A step, and the evaluation and the checkpoint that follow it. */
  async *#train({ batches, epoch }: StepBatches): AsyncGenerator<TrainerEvent, void, void> {
    const { options, subject, updates, output } = this.#parts;
    const rewind = subject.mark();
    const update = await updates.make(this.#step, batches, this.#signal).catch((error: unknown) => {
      rewind(); // a step that does not end leaves the state of the one before
      throw error;
    });
    this.#taken.add(batches);
    const step = ++this.#step;
    this.#tokens += update.tokens;
    this.#loss = update.loss;
    yield { type: 'step', step, epoch, ...update, ...this.#progress.advance(step, update.tokens) };
    const better = this.#evaluationIsDue && (yield* this.#evaluate());
    const { saveEvery } = options;
    if (!output || !(better || (saveEvery !== undefined && step % saveEvery === 0))) return;
    this.#saving = true;
    const event = await this.#checkpoint(output);
    this.#saving = false;
    if (better) this.#best = event.dir;
    yield event;
  }

  get #evaluationIsDue(): boolean {
    const { evalEvery } = this.#parts.options;
    return evalEvery !== undefined && this.#step % evalEvery === 0 && this.#evaluations.at !== this.#step;
  }

  get #stopsEarly(): boolean {
    const { patience = Infinity } = this.#parts.options.earlyStopping ?? {};
    return this.#evaluations.waited >= patience;
  }

  get #ended(): boolean {
    const { maxSteps = Infinity, maxTokens = Infinity } = this.#parts.options;
    return this.#stopsEarly || this.#step >= maxSteps || this.#tokens >= maxTokens;
  }

  /** Measures the held-out data; gives whether its adapter is the best so far, and to be kept. */
  async *#evaluate(): AsyncGenerator<TrainerEvent, boolean, void> {
    const { options, model, objective, subject, record, reducer } = this.#parts;
    const { evalData, batchSize, keepBest } = options;
    if (evalData === undefined)
      throw new LoRAError('ERR_ARGUMENT', '[Trainer] expected evalData with evalEvery');
    const pass = { adapter: subject.adapter, batchSize, signal: this.#signal, ranks: reducer };
    const { figures, higherIsBetter } = await reducer.during(() => objective.evaluate(model, evalData, pass));
    const { loss, score } = figures;
    const compared = { step: this.#step, loss, ...(score === undefined ? {} : { score }) };
    const best = this.#evaluations.add(compared, higherIsBetter);
    record.best = this.#evaluations.best;
    yield { type: 'eval', step: this.#step, ...figures, best };
    this.#evalLoss = loss;
    return best && keepBest;
  }

  async #checkpoint(output: OutputDirectory): Promise<CheckpointEvent> {
    const { subject, objective, optimizer, settings, command, reducer } = this.#parts;
    const step = this.#step;
    const state = {
      ...{ step, settings, data: this.#taken.value, evaluations: this.#evaluations.state, command },
      objective: objective.state,
    };
    const more = { ...this.#kept, card: this.#parts.card() };
    const dir = await reducer.during(() => output.saveCheckpoint(state, subject, optimizer, more));
    this.#savedAt = step;
    return { type: 'checkpoint', step, dir };
  }

  /** Which checkpoints stay. */
  get #kept(): { limit: number; keep: number | undefined } {
    return { limit: this.#parts.options.saveLimit, keep: this.#evaluations.best?.step };
  }

  /** Saves the final adapter. With keepBest that is the one of the best evaluation, which the adapter in memory then is, too. */
  async #saveFinal(): Promise<void> {
    const { options, output, subject, settings, record } = this.#parts;
    if (!output) return;
    const best = options.keepBest ? record.best : undefined;
    record.kept = best;
    const card = this.#parts.card();
    if (best === undefined || best.step === this.#step) return output.saveFinal(subject, card);
    const dir = this.#best!;
    const { ofTotal } = options;
    const saved = await readRunState(dir, { settings, maxSteps: this.#step, ofTotal });
    if (saved.step !== best.step)
      throw loraError(
        'Trainer',
        'ERR_FILE',
        `expected the adapter of step ${best.step}, the best evaluation, in ${dir} but found that of step ${saved.step}`,
      );
    await output.saveFinal(subject, card, dir);
    // Last, so that after a failure before it the adapter is still that of the last step.
    await subject.load(dir);
  }

  /** Keeps what was trained, wherever the abort or the failure came; a step that was not finite is left to the checkpoints before it. */
  async *#keep(error: unknown): AsyncGenerator<TrainerEvent, void, void> {
    const { output, record, writeReport } = this.#parts;
    record.kept = undefined; // the adapter is that of the last step
    const aborted = this.#signal?.aborted === true && error === this.#signal.reason;
    const stepped = this.#step > this.#start;
    const keep = aborted || (stepped && !this.#saving && !isNonFinite(error));
    if (output && keep && this.#savedAt !== this.#step) {
      try {
        yield await this.#checkpoint(output);
      } catch (failure) {
        if (aborted) throw failure;
        warn(`the weights of step ${this.#step} could not be saved: ${messageOf(failure)}`);
      }
    }
    // Without a step of its own it would replace the report of the run that it continues.
    if (this.#savedAt < 0 || !stepped) return;
    record.ended = aborted ? 'interrupted' : messageOf(error);
    await writeReport(false).catch((failure: unknown) =>
      warn(`the report could not be written: ${messageOf(failure)}`),
    );
  }

  /** Keeps what was trained when the consumer has left the loop, as an abort does. */
  async #keepWhenLeft(): Promise<void> {
    const { output, record, writeReport } = this.#parts;
    if (!output || this.#step === this.#start) return;
    record.kept = undefined;
    if (this.#savedAt !== this.#step) await this.#checkpoint(output);
    record.ended = 'interrupted';
    await writeReport(false);
  }

  /** What the run gives, with its report. */
  async #result(): Promise<TrainerResult> {
    const { output, record, writeReport } = this.#parts;
    const step = this.#step;
    // A run that had ended before has no step of its own: the report of its steps stays.
    const had = this.#from !== undefined && step === this.#start;
    const report = had ? undefined : await writeReport(true, this.#signal);
    const { best, sentence } = this.#evaluations;
    const dir = this.#best;
    return {
      step,
      loss: this.#loss,
      ...(this.#evalLoss === undefined ? {} : { evalLoss: this.#evalLoss }),
      ...(best ? { best: { ...best, ...(dir === undefined ? {} : { dir }) } } : {}),
      adapterStep: record.kept?.step ?? step,
      ...(output ? { dir: output.dir } : {}),
      ...(report === undefined ? {} : { report }),
      ...(this.#stopsEarly ? { stopped: 'early', reason: sentence } : { stopped: 'done' }),
    };
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const isNonFinite = (error: unknown): boolean =>
  error instanceof LoRAError && error.code === 'ERR_NON_FINITE';

/** Says what went wrong while another error is on its way. */
function warn(message: string): void {
  process.emitWarning(`[Trainer] ${message}`, { code: 'LORA_RUN_FAILED' });
}
