import { checkRereadable } from '../data/batches';
import type { DataSource } from '../data/example';
import { loraError } from '../errors';
import { holdFor, plannedRun, type RunHandle } from '../handle';
import type { CausalLM } from '../models/causal_lm';
import type { Optimizer } from '../optim/optimizer';
import type { Parameter } from '../tensor/tensor';
import { checkOptions, checkSignal, refuseF16Training } from '../validate';
import { takeForTraining } from './exclusive';
import { TrainingLoop, type LoopBegin } from './loop';
import { makeOptimizer } from './optimizer';
import { settingFacts, subjectFacts, type RunFacts } from './facts';
import { Membership } from './membership';
import type { EvaluationPass, Objective } from './objectives/objective';
import { objectiveOf } from './objectives/objectives';
import { OutputDirectory } from './output';
import { alone, type Ranks } from './reducer';
import { logged, plainSettings, type LoggedRun } from './logs/run_log';
import { loraLimits } from './lora_limits';
import { modelCard } from './model_card';
import { RunRecord } from './record';
import { Report } from './report/report';
import { checkDisk } from './disk';
import type { TrainingSubject } from './subject';
import { checkRoom, subjectOf } from './subjects';
import {
  bestCheckpoint,
  newestCheckpoint,
  readRunState,
  ruledRateOf,
  settingsOf,
  type Resumed,
  type RunSettings,
} from './resume';
import { Updates } from './update';
import { resolveOptions, type ResolvedOptions, type TrainerOptions } from './options';
import type { EvalEvent, RunOptions, TrainerEvent, TrainerResult } from './events';

/**
 * Trains the active adapter of a model, or after `model.trainAll()` the weights themselves.
 *
 * A step takes `gradientAccumulationSteps` batches, and its loss is Σ token losses ÷ counted tokens over all
 * of them, so that a token weighs the same wherever it stands; of an `objective` of preferences it is the mean over the batches. Gradients are clipped to `maxGradNorm`, and the
 * optimizer steps with lr·schedule(step). A loss or gradient that is not finite stops the run (ERR_NON_FINITE) before
 * the weights change. Any other error after a step, as an abort, leaves a checkpoint of the last whole step in `outDir`, and so does leaving the loop.
 *
 * @example
 * const trainer = new Trainer({ model, data, outDir: 'run', maxSteps: 200, lr: 2e-4 });
 * for await (const e of trainer.run()) if (e.type === 'step') console.log(e.step, e.loss);
 */
export class Trainer {
  readonly #options: ResolvedOptions;
  readonly #objective: Objective;
  readonly #model: CausalLM;
  readonly #data: DataSource<unknown>;
  readonly #subject: TrainingSubject;
  readonly #parameters: readonly Parameter[];
  readonly #updates: Updates;
  readonly #optimizer: Optimizer;
  readonly #ownsOptimizer: boolean;
  readonly #output: OutputDirectory | undefined;
  /** What its checkpoints are compared with. */
  #settings: RunSettings = {};
  readonly #membership: Membership;
  readonly #record = new RunRecord();
  #report: Report | undefined;
  #command: string | undefined;
  #ran = false;

  /**
   * Checks every option; nothing runs yet.
   *
   * @throws ERR_ARGUMENT for a bad option, without a trainable active adapter or trainable weights, and for a one-shot iterator where the data
   * is read twice, for examples of a data set that the context does not hold behind the vectors of prompt tuning; ERR_UNSUPPORTED for a model in f16.
   */
  constructor(options: TrainerOptions) {
    this.#options = resolveOptions(options);
    const { model, data } = options;
    this.#model = model;
    this.#data = data;
    const { epochs, precomputeReference } = this.#options;
    if ((epochs ?? 1) > 1 || precomputeReference) checkRereadable('Trainer', data);
    if (model.dtype === 'f16') refuseF16Training('Trainer');
    this.#subject = subjectOf(model, this.#options.train);
    checkRoom(model, this.#subject.adapter, { data, evalData: options.evalData });
    this.#objective = objectiveOf(this.#options, model, this.#subject, data);
    this.#parameters = options.parameters ?? this.#subject.parameters();
    const { lr, weightDecay, outDir, seed } = this.#options;
    const { optimizer: given = 'adamw' } = options;
    const rates = { lr, weightDecay, loraPlusRatio: this.#options.loraPlusRatio, seed };
    this.#optimizer = typeof given === 'string' ? makeOptimizer(given, this.#parameters, rates) : given;
    const parts = [model, this.#subject, this.#parameters, this.#optimizer] as const;
    this.#membership = new Membership(options.distributed, this.#options);
    this.#updates = new Updates(...parts, this.#options, this.#objective, this.#membership.reducer);
    this.#ownsOptimizer = this.#optimizer !== given;
    this.#output = outDir === undefined || !this.#membership.writes ? undefined : new OutputDirectory(outDir);
  }

  /**
   * Trains. Iterate the handle for its events, which wait for the consumer, or await it for the result. A Trainer runs once.
   *
   * @throws (into the loop, or to who awaits) ERR_ARGUMENT for a bad option, ERR_BUSY while another run trains the adapter, ERR_DATA for examples that are none, ERR_NON_FINITE for a loss or gradient that is no number,
   * ERR_FILE for an `outDir` that holds a run or cannot be written, and for a disk with too little room, the reason of the signal when aborted.
   * @example
   * const { step, loss, dir } = await new Trainer({ model, data, outDir: 'run', maxSteps: 200 }).run({ signal });
   */
  run(options: RunOptions = {}): RunHandle<TrainerEvent, TrainerResult> {
    return plannedRun('run', () => {
      checkOptions('run', options, ['signal']);
      checkSignal('run', options.signal);
      return (handle) => this.#run(options, handle);
    });
  }

  /** Takes what the run changes, and its model, until the returned function is called. */
  #take(): () => void {
    const freed = this.#subject.acquire('Trainer');
    let held: (() => void) | undefined;
    const release = (): void => {
      held?.();
      freed();
    };
    try {
      held = this.#objective.reads?.acquire();
      const leave = takeForTraining(
        new Set([...this.#updates.withGradients, this.#optimizer]),
        this.#subject.label,
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
      throw loraError('Trainer', 'ERR_ARGUMENT', 'expected a fresh Trainer but this one has already run');
    const release = holdFor(handle, this.#take());
    try {
      this.#ran = true;
      return yield* this.#membership.run(signal, (shared) => this.#train(shared));
    } finally {
      this.#updates.clearGradients(); // those of a step that failed
      release();
      if (this.#ownsOptimizer) this.#optimizer.dispose();
    }
  }

  async *#train(signal: AbortSignal | undefined): AsyncGenerator<TrainerEvent, TrainerResult, void> {
    signal?.throwIfAborted();
    await this.#objective.identify?.();
    const { resume, distributed, totalSteps, maxTokens, evalEvery, earlyStopping } = this.#options;
    const from = await this.#checkpoint();
    await this.#keepRate(from);
    if (this.#output || resume !== false || distributed)
      this.#settings = await settingsOf(this.#options, this.#model, this.#subject, this.#objective);
    const begin = await this.#resume(from);
    await this.#openOutput(begin !== undefined);
    const { length } = this.#data as { length?: unknown };
    const run = { length, resumed: begin?.from.step ?? 0, totalSteps, maxTokens, evalEvery, earlyStopping };
    const { distributedDtype } = this.#options;
    await this.#membership.checkSame({ ...this.#settings, ...run, distributedDtype });
    this.#warn();
    await this.#prepare(begin?.from, signal);
    this.#updates.clearGradients(); // what the program left would enter the first step
    return yield* this.#logged(this.#record.watch(this.#loop(begin, signal).run()));
  }

  /** @internal What a command line gave: its checkpoints hold it, so that it need not be said again. */
  remember(options: object): void {
    this.#command = JSON.stringify(options);
  }

  /** @internal Evaluates what the run ended with, that of step `step`; model card and report then have it. */
  async evaluate(
    step: number,
    data: DataSource<unknown>,
    signal: AbortSignal | undefined,
  ): Promise<EvalEvent> {
    const pass = this.#evaluationPass(signal, alone);
    const { figures } = await this.#objective.evaluate(this.#model, data, pass);
    const event: EvalEvent = { type: 'eval', step, ...figures };
    this.#record.add(event);
    await this.#output?.saveCard(modelCard(this.#facts()));
    await this.#report?.write(true);
    return event;
  }

  #evaluationPass(signal: AbortSignal | undefined, ranks: Ranks): EvaluationPass {
    return { adapter: this.#subject.adapter, batchSize: this.#options.batchSize, signal, ranks };
  }

  /** @internal The path of the report, once it is written: also that of a run which was interrupted or failed. */
  get reportPath(): string | undefined {
    return this.#report?.path;
  }

  /** Refuses a folder and a disk that the run could not be written to. */
  async #openOutput(resumed: boolean): Promise<void> {
    if (!this.#output) return;
    const { dir } = this.#output;
    await this.#subject.checkFolder(dir);
    await this.#output.open(resumed);
    const { saveEvery, saveLimit, totalSteps = Infinity, evalEvery } = this.#options;
    const every = saveEvery ?? Infinity;
    // While one is written, those before it are there; an abort writes one, too.
    const wanted = Math.min(saveLimit + (evalEvery === undefined ? 1 : 2), Math.floor(totalSteps / every));
    const { bytes } = this.#subject;
    const masters = Object.keys(this.#subject.states).length * 4 * this.#trainable;
    const checkpoint = bytes + masters + this.#optimizer.stateBytes;
    await checkDisk(dir, {
      files: bytes,
      checkpoint,
      checkpoints: Number.isFinite(wanted) ? Math.max(1, wanted) : 1,
    });
  }

  /** Writes the report where one is wanted. */
  async #writeReport(withSamples: boolean, signal?: AbortSignal): Promise<string | undefined> {
    if (!this.#output || !this.#options.report) return undefined;
    this.#report ??= new Report(this.#output.dir, this.#facts());
    return this.#report.write(withSamples, signal);
  }

  /** The events, each of which the logs have before the consumer gets it; of the ranks of a group the first one writes. */
  #logged(
    events: AsyncGenerator<TrainerEvent, TrainerResult, void>,
  ): AsyncGenerator<TrainerEvent, TrainerResult, void> {
    const { log } = this.#options;
    if (log.length === 0 || !this.#output) return events;
    const begun = (): LoggedRun => {
      const facts = [...subjectFacts(this.#facts()), ...settingFacts(this.#facts())];
      return { settings: plainSettings(this.#settings), facts };
    };
    return logged(log, this.#output.dir, begun, events);
  }

  #facts(): RunFacts {
    const run = { model: this.#model, subject: this.#subject, objective: this.#objective, data: this.#data };
    return { ...run, options: this.#options, record: this.#record };
  }

  /** The folder from which the run goes on, where there is one. */
  async #checkpoint(): Promise<string | undefined> {
    const { resume, outDir } = this.#options;
    return resume === true ? newestCheckpoint(outDir!) : resume || undefined;
  }

  /** With lr: 'auto' a run goes on with the rate that it began with, also where a later version has another rule. */
  async #keepRate(dir: string | undefined): Promise<void> {
    if (dir === undefined || this.#options.lrReason === undefined) return;
    const had = await ruledRateOf(dir);
    if (had) [this.#options.lr, this.#options.lrReason] = [had.lr, had.reason];
  }

  /** Says what the adapter may not hold; of the ranks of a group the first one does. */
  #warn(): void {
    if (!this.#membership.writes) return;
    for (const { code, message } of loraLimits({ ...this.#facts(), trainable: this.#trainable }))
      process.emitWarning(`[Trainer] ${message}`, { code });
  }

  /** Reads the place from which the run goes on, where there is one. */
  async #resume(dir: string | undefined): Promise<LoopBegin | undefined> {
    const { outDir, totalSteps, maxTokens, keepBest, ofTotal } = this.#options;
    if (dir === undefined) return undefined;
    // Each step has a token at least.
    const maxSteps = totalSteps ?? maxTokens;
    const ranks = this.#membership.reducer.size;
    const state = await readRunState(dir, { settings: this.#settings, maxSteps, ofTotal, ranks });
    const from = { ...state, dir };
    return {
      from,
      best: keepBest && this.#membership.writes ? await bestCheckpoint(from, outDir!) : undefined,
    };
  }

  /** What the objective computes before the first step, beside what a checkpoint has of it. */
  async #prepare(from: Resumed | undefined, signal: AbortSignal | undefined): Promise<void> {
    if (from?.objective !== undefined) this.#objective.restore?.(from.objective, from.step);
    const sources = [this.#data, this.#options.evalData];
    const pass = this.#evaluationPass(signal, this.#membership.reducer);
    await this.#objective.prepare?.(this.#model, sources, pass);
  }

  get #trainable(): number {
    return this.#parameters.reduce((sum, { numel }) => sum + numel, 0);
  }

  #loop(begin: LoopBegin | undefined, signal: AbortSignal | undefined): TrainingLoop {
    const parts = {
      ...this.#facts(),
      optimizer: this.#optimizer,
      updates: this.#updates,
      reducer: this.#membership.reducer,
      trainableParameters: this.#trainable,
      output: this.#output,
      settings: this.#settings,
      command: this.#command,
      card: () => modelCard(this.#facts()),
      writeReport: (withSamples: boolean, aborting?: AbortSignal) => this.#writeReport(withSamples, aborting),
    };
    return new TrainingLoop(parts, begin, signal);
  }
}
