import { checkRereadable } from '../data/batches';
import type { DataSource } from '../data/example';
import { LoRAError } from '../errors';
import { holdFor, RunHandle } from '../handle';
import type { Adapter } from '../peft/adapter';
import type { CausalLM } from '../models/causal_lm';
import type { Optimizer } from '../optim/optimizer';
import { settle } from '../tensor/state';
import type { Parameter } from '../tensor/tensor';
import { checkOptions, checkSignal, refuseF16Training } from '../validate';
import { takeForTraining } from './exclusive';
import { BestEvaluation } from './best';
import { makeOptimizer } from './optimizer';
import type { RunSubject } from './facts';
import { OutputDirectory } from './output';
import { modelCard } from './model_card';
import { Progress } from './progress';
import { RunRecord } from './record';
import { Report } from './report/report';
import { loadCheckpoint } from '../formats/checkpoint';
import {
  bestCheckpoint,
  DataDigest,
  newestCheckpoint,
  readRunState,
  replay,
  settingsOf,
  type Resumed,
  type RunSettings,
} from './resume';
import { stepBatches } from './step_batches';
import { Updates } from './update';
import { resolveOptions, type ResolvedOptions, type TrainerOptions } from './options';
import type { CheckpointEvent, EvalEvent, RunOptions, TrainerEvent, TrainerResult } from './events';

/**
 * Trains the active LoRA adapter of a model.
 *
 * A step takes `gradientAccumulationSteps` batches, and its loss is Σ token losses ÷ counted tokens over all
 * of them, so that a token weighs the same wherever it stands. Gradients are clipped to `maxGradNorm`, and the
 * optimizer steps with lr·schedule(step). A loss or gradient that is not finite stops the run (ERR_NON_FINITE) before
 * the weights change. Any other error after a step, as an abort, leaves a checkpoint of the last whole step in `outDir`.
 *
 * @example
 * const trainer = new Trainer({ model, data, outDir: 'run', maxSteps: 200, lr: 2e-4 });
 * for await (const e of trainer.run()) if (e.type === 'step') console.log(e.step, e.loss);
 */
export class Trainer {
  readonly #options: ResolvedOptions;
  readonly #model: CausalLM;
  readonly #data: DataSource;
  readonly #adapter: Adapter;
  readonly #parameters: readonly Parameter[];
  readonly #updates: Updates;
  readonly #optimizer: Optimizer;
  readonly #ownsOptimizer: boolean;
  readonly #output: OutputDirectory | undefined;
  /** What its checkpoints are compared with. */
  #settings: RunSettings = {};
  readonly #record = new RunRecord();
  #report: Report | undefined;
  /** Where the adapter of the best evaluation lies, with keepBest. */
  #best: string | undefined;
  #ran = false;

  /**
   * Checks every option; nothing runs yet.
   *
   * @throws ERR_ARGUMENT for a bad option, without a trainable active adapter, and for a one-shot iterator where the data
   * is read twice; ERR_UNSUPPORTED for a model in f16.
   */
  constructor(options: TrainerOptions) {
    this.#options = resolveOptions(options);
    const { model, data } = options;
    this.#model = model;
    this.#data = data;
    if ((this.#options.epochs ?? 1) > 1) checkRereadable('Trainer', data);
    if (model.dtype === 'f16') refuseF16Training('Trainer');
    const adapter = model.activeAdapter;
    if (!adapter?.trainable)
      throw new LoRAError(
        'ERR_ARGUMENT',
        adapter
          ? `[Trainer] expected a trainable active adapter but ${adapter.name} was loaded with trainable: false`
          : '[Trainer] expected an active adapter but the model has none: call model.addAdapter({ r: 16 }) first',
        { op: 'Trainer' },
      );
    this.#adapter = adapter;
    this.#parameters = options.parameters ?? adapter.parameters();
    const { lr, weightDecay, outDir } = this.#options;
    const { optimizer: given = 'adamw' } = options;
    const rates = { lr, weightDecay, loraPlusRatio: this.#options.loraPlusRatio };
    this.#optimizer = typeof given === 'string' ? makeOptimizer(given, this.#parameters, rates) : given;
    this.#updates = new Updates(model, adapter, this.#parameters, this.#optimizer, this.#options);
    this.#ownsOptimizer = this.#optimizer !== given;
    this.#output = outDir === undefined ? undefined : new OutputDirectory(outDir);
  }

  /**
   * Trains. Iterate the handle for its events, which wait for the consumer, or await it for the result. A Trainer runs once.
   *
   * @throws (when it runs) ERR_BUSY while another run trains the adapter, ERR_DATA for examples that are none, ERR_NON_FINITE for a loss or gradient that is no number,
   * ERR_FILE for an `outDir` that holds a run or cannot be written, the reason of the signal when aborted.
   * @example
   * const { step, loss, dir } = await new Trainer({ model, data, outDir: 'run', maxSteps: 200 }).run({ signal });
   */
  run(options: RunOptions = {}): RunHandle<TrainerEvent, TrainerResult> {
    checkOptions('run', options, ['signal']);
    checkSignal('run', options.signal);
    const handle: RunHandle<TrainerEvent, TrainerResult> = new RunHandle('run', () =>
      this.#run(options, handle),
    );
    return handle;
  }

  /** Takes what the run changes, and its model, until the returned function is called. */
  #take(): () => void {
    const release = this.#model.acquireForTraining('Trainer', this.#adapter);
    try {
      const leave = takeForTraining(
        new Set([...this.#updates.withGradients, this.#optimizer]),
        this.#adapter.name,
      );
      return () => {
        leave();
        release();
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  async *#run({ signal }: RunOptions, handle: object): AsyncGenerator<TrainerEvent, TrainerResult, void> {
    if (this.#ran)
      throw new LoRAError('ERR_ARGUMENT', '[Trainer] expected a fresh Trainer but this one has already run', {
        op: 'Trainer',
      });
    const release = holdFor(handle, this.#take());
    try {
      this.#ran = true;
      signal?.throwIfAborted();
      if (this.#output || this.#options.resume !== false)
        this.#settings = await settingsOf(this.#options, this.#model, this.#adapter);
      const from = await this.#resume();
      await this.#output?.open(from !== undefined);
      this.#updates.clearGradients(); // what the program left would enter the first step
      return yield* this.#record.watch(this.#steps(from, signal));
    } finally {
      this.#updates.clearGradients(); // those of a step that failed
      release();
      if (this.#ownsOptimizer) this.#optimizer.dispose();
    }
  }

  /** @internal Notes an evaluation that the program made after the run: model card and report then have it. */
  async addEvaluation(event: EvalEvent): Promise<void> {
    this.#record.add(event);
    await this.#output?.saveCard(modelCard(this.#subject()));
    await this.#report?.write(true);
  }

  /** @internal The path of the report, once it is written: also that of a run which was interrupted or failed. */
  get reportPath(): string | undefined {
    return this.#report?.path;
  }

  /** Writes the report where one is wanted. */
  async #writeReport(withSamples: boolean, signal?: AbortSignal): Promise<string | undefined> {
    if (!this.#output || !this.#options.report) return undefined;
    this.#report ??= new Report(this.#output.dir, this.#subject());
    return this.#report.write(withSamples, signal);
  }

  #subject(): RunSubject {
    const subject = { model: this.#model, adapter: this.#adapter, data: this.#data };
    return { ...subject, options: this.#options, record: this.#record };
  }

  /** Reads the place from which the run goes on, where there is one. */
  async #resume(): Promise<Resumed | undefined> {
    const { resume, outDir, totalSteps, maxTokens, keepBest } = this.#options;
    const dir = resume === true ? await newestCheckpoint(outDir!) : resume || undefined;
    if (dir === undefined) return undefined;
    // Each step has a token at least.
    const state = await readRunState(dir, { settings: this.#settings, mostSteps: totalSteps ?? maxTokens });
    const from = { ...state, dir };
    if (keepBest) this.#best = await bestCheckpoint(from, outDir!);
    return from;
  }

  async *#steps(
    from: Resumed | undefined,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<TrainerEvent, TrainerResult, void> {
    const { maxSteps, maxTokens, saveEvery, evalEvery, totalSteps, keepBest } = this.#options;
    const { earlyStopping } = this.#options;
    const start = from?.step ?? 0;
    const trainable = this.#parameters.reduce((sum, p) => sum + p.numel, 0);
    const progress = new Progress(totalSteps);
    yield { type: 'start', step: start, maxSteps: totalSteps, trainableParameters: trainable };

    const taken = new DataDigest();
    let step = start;
    let loss = Number.NaN;
    let evalLoss: number | undefined;
    let savedAt = from === undefined ? -1 : start;
    let saving = false;
    let tokens = 0;
    const evaluations = new BestEvaluation(earlyStopping?.minDelta);
    if (from !== undefined) evaluations.restore(from.evaluations);
    this.#record.best = evaluations.best;
    const due = (): boolean => evalEvery !== undefined && step % evalEvery === 0 && evaluations.at !== step;
    const { patience = Infinity } = earlyStopping ?? {};
    const early = (): boolean => evaluations.waited >= patience;
    const ended = (): boolean =>
      early() || step >= (maxSteps ?? Infinity) || tokens >= (maxTokens ?? Infinity);
    const groups = stepBatches(this.#data, this.#options, signal);
    try {
      if (from !== undefined) {
        tokens = await replay(from, groups, taken, { maxTokens, signal });
        await loadCheckpoint(from.dir, { adapter: this.#adapter, optimizer: this.#optimizer });
        // An abort may have come between the step and its evaluation.
        if (start > 0 && due()) {
          const evaluation = yield* this.#evaluation(step, evaluations, signal);
          evalLoss = evaluation.loss;
          if (evaluation.best && keepBest) this.#best = from.dir;
        }
      }
      // The checkpoint may be that of a run that had ended.
      while (!ended()) {
        const { value: group } = await groups.next();
        signal?.throwIfAborted();
        if (!group) break; // the data have ended
        const { batches, epoch } = group;
        const rewind = this.#adapter.forwardMark();
        const update = await this.#updates.make(step, batches, signal).catch((error: unknown) => {
          rewind(); // a step that does not end leaves the state of the one before
          throw error;
        });
        taken.add(batches);
        step++;
        tokens += update.tokens;
        loss = update.loss;
        yield { type: 'step', step, epoch, ...update, ...progress.advance(step, update.tokens) };
        let better = false;
        if (due()) {
          const evaluation = yield* this.#evaluation(step, evaluations, signal);
          evalLoss = evaluation.loss;
          better = evaluation.best && keepBest;
        }
        if (this.#output && (better || (saveEvery !== undefined && step % saveEvery === 0))) {
          saving = true;
          const event = await this.#checkpoint(this.#output, step, taken.value, evaluations);
          saving = false;
          savedAt = step;
          if (better) this.#best = event.dir;
          yield event;
        }
      }
      if (early()) this.#record.ended = `early, since ${evaluations.sentence}`;
      await this.#optimizer[settle](); // no later step tells whether the last one failed
      await this.#saveFinal(step);
    } catch (error) {
      this.#record.kept = undefined; // the adapter is that of the last step
      const aborted = signal?.aborted === true && error === signal.reason;
      // What was trained is kept, wherever the abort or the failure came; a step that was not finite is left to the checkpoints before it.
      const keep = aborted || (step > start && !saving && !isNonFinite(error));
      if (this.#output && keep && savedAt !== step) {
        try {
          const event = await this.#checkpoint(this.#output, step, taken.value, evaluations);
          savedAt = step;
          yield event;
        } catch (failure) {
          if (aborted) throw failure;
          warn(`the weights of step ${step} could not be saved: ${messageOf(failure)}`);
        }
      }
      // Without a step of its own it would replace the report of the run that it continues.
      if (savedAt >= 0 && step > start) {
        this.#record.ended = aborted ? 'interrupted' : messageOf(error);
        await this.#writeReport(false).catch((failure: unknown) =>
          warn(`the report could not be written: ${messageOf(failure)}`),
        );
      }
      throw error;
    } finally {
      await groups.return();
    }

    // A run that had ended before has no step of its own: the report of its steps stays.
    const report = from !== undefined && step === start ? undefined : await this.#writeReport(true, signal);
    const result: TrainerResult = {
      step,
      loss,
      ...(evalLoss === undefined ? {} : { evalLoss }),
      ...(evaluations.best ? { best: this.#bestOf(evaluations.best) } : {}),
      adapterStep: this.#record.kept?.step ?? step,
      ...(this.#output ? { dir: this.#output.dir } : {}),
      ...(report === undefined ? {} : { report }),
      ...(early() ? { stopped: 'early', reason: evaluations.sentence } : { stopped: 'done' }),
    };
    yield { type: 'end', ...result };
    return result;
  }

  /** Measures the held-out data after a step; gives its loss, and whether it is the best so far. */
  async *#evaluation(
    step: number,
    evaluations: BestEvaluation,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<TrainerEvent, { loss: number; best: boolean }, void> {
    const { evalData, batchSize } = this.#options;
    if (evalData === undefined)
      throw new LoRAError('ERR_ARGUMENT', '[Trainer] expected evalData with evalEvery');
    const evaluation = await this.#model.evaluate(evalData, { adapter: this.#adapter, batchSize, signal });
    const best = evaluations.add(step, evaluation.loss);
    this.#record.best = evaluations.best;
    yield { type: 'eval', step, ...evaluation, best };
    return { loss: evaluation.loss, best };
  }

  /** The best evaluation of the result. */
  #bestOf(best: { step: number; loss: number }): NonNullable<TrainerResult['best']> {
    return { ...best, ...(this.#best === undefined ? {} : { dir: this.#best }) };
  }

  /** Saves the final adapter. With keepBest that is the one of the best evaluation, which the adapter in memory then is, too. */
  async #saveFinal(step: number): Promise<void> {
    if (!this.#output) return;
    const best = this.#options.keepBest ? this.#record.best : undefined;
    this.#record.kept = best;
    const card = modelCard(this.#subject());
    if (best === undefined || best.step === step) return this.#output.saveFinal(this.#adapter, card);
    const dir = this.#best!;
    const saved = await readRunState(dir, { settings: this.#settings, mostSteps: step });
    if (saved.step !== best.step)
      throw new LoRAError(
        'ERR_FILE',
        `[Trainer] expected the adapter of step ${best.step}, the best evaluation, in ${dir} but found that of step ${saved.step}`,
        { op: 'Trainer' },
      );
    await this.#output.saveFinal(this.#adapter, card, dir);
    // Last, so that after a failure before it the adapter is still that of the last step.
    await loadCheckpoint(dir, { adapter: this.#adapter });
  }

  async #checkpoint(
    output: OutputDirectory,
    step: number,
    data: string,
    evaluations: BestEvaluation,
  ): Promise<CheckpointEvent> {
    const state = { step, settings: this.#settings, data, evaluations: evaluations.state };
    const { saveLimit: limit, keepBest } = this.#options;
    const keep = keepBest ? evaluations.best?.step : undefined;
    const card = modelCard(this.#subject());
    const dir = await output.saveCheckpoint(state, this.#adapter, this.#optimizer, { limit, keep, card });
    return { type: 'checkpoint', step, dir };
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const isNonFinite = (error: unknown): boolean =>
  error instanceof LoRAError && error.code === 'ERR_NON_FINITE';

/** Says what went wrong while another error is on its way. */
function warn(message: string): void {
  process.emitWarning(`[Trainer] ${message}`, { code: 'LORA_RUN_FAILED' });
}
