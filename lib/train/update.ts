/** The steps of a run: forward and backward of each batch, clipping, the optimizer. */
import type { Batch } from '../data/batches';
import { SequencePlan } from '../data/sequence_plan';
import { LoRAError, loraError } from '../errors';
import { roomInQueue } from '../native/device';
import type { CausalLM } from '../models/causal_lm';
import { clipGradNorm } from '../optim/clip';
import type { Optimizer } from '../optim/optimizer';
import { backwardSteps } from '../tensor/autograd';
import { enqueueInSlices } from '../tensor/op_slices';
import { tidy } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import { largestActivations } from './activations';
import type { StepEvent } from './events';
import { meanMetrics, type Metrics } from './metrics';
import type { Measured, Objective, TrainingPass } from './objectives/objective';
import type { ResolvedOptions } from './options';
import type { Reducer } from './reducer';
import type { TrainingSubject } from './subject';

export type StepFigures = Pick<StepEvent, 'loss' | 'lr' | 'gradNorm' | 'tokens' | 'metrics'>;

export const tokensOf = (rows: readonly (readonly number[])[]): number =>
  rows.reduce((sum, row) => sum + row.length, 0);

/** What a rank adds to a step beside gradients. */
interface StepSums {
  loss: number;
  readonly metrics: Metrics[];
}

/** A batch whose loss was no number, else the last one, and how its activations are found. */
interface Suspect {
  readonly batch: number;
  readonly again: () => Promise<string>;
}

export class Updates {
  /** All that backward() fills: the parameters to train, and the others of the subject. */
  readonly withGradients: ReadonlySet<Parameter>;

  constructor(
    private readonly model: CausalLM,
    private readonly subject: TrainingSubject,
    private readonly parameters: readonly Parameter[],
    private readonly optimizer: Optimizer,
    private readonly options: ResolvedOptions,
    private readonly objective: Objective,
    private readonly reducer: Reducer,
  ) {
    this.withGradients = new Set([...parameters, ...subject.parameters()]);
  }

  /**
   * Takes step `step` + 1 on its batches, of which rank r computes r, r + size, …
   * @throws ERR_DATA for batches of which nothing counts, ERR_NON_FINITE before the weights change, the reason of the signal between two batches.
   */
  async make(step: number, given: readonly Batch[], signal: AbortSignal | undefined): Promise<StepFigures> {
    const { lr } = this.options;
    const { rank, size } = this.reducer;
    const { adapter } = this.subject;
    const prepared = { adapter, step, signal, ranks: this.reducer };
    // It may take longer than the others wait for a batch.
    const made = await this.reducer.during(async () =>
      this.objective.prepareStep?.(this.model, given, prepared),
    );
    const group = made?.batches ?? given;
    const plan = new SequencePlan(adapter);
    const weights = group.map((batch) => this.objective.weightOf(batch, plan));
    const weight = weights.reduce((sum, own) => sum + own, 0);
    if (weight === 0)
      throw loraError('Trainer', 'ERR_DATA', `step ${step + 1}: ${this.objective.weightless}`);
    const last = weights.findLastIndex((own, i) => own > 0 && i % size === rank);
    const sums: StepSums = { loss: 0, metrics: [] };
    const reduce = (own: Promise<StepSums>) => this.#reduce(own, group, signal);
    let tokens = 0;
    let suspect: Suspect | undefined;
    // A rank without a batch of its own gives zeros.
    let reduced = last < 0 ? await reduce(Promise.resolve(sums)) : undefined;
    for (const [i, batch] of group.entries()) {
      signal?.throwIfAborted();
      tokens += tokensOf(batch.inputIds);
      if (weights[i] === 0) continue; // a batch of prompts alone adds nothing to the sum
      const pass = this.#passOf(step, i);
      if (i % size !== rank) {
        for (let n = this.objective.forwardsOf?.(batch) ?? 1; pass.train && n > 0; n--)
          this.subject.skipForward();
        continue;
      }
      const mark = this.subject.mark();
      const { part, measured } = await tidy(async () => {
        const { sum, measured: own } = await this.objective.loss(this.model, batch, pass);
        return { part: sum.div(weight), measured: own };
      });
      try {
        await enqueueInSlices(part.device, backwardSteps(part));
        if (Number.isFinite(sums.loss)) {
          const again = (): Promise<string> => {
            mark(); // the same dropout masks
            return largestActivations(this.model, batch, pass);
          };
          suspect = { batch: i + 1, again };
        }
        const added = addFigures(sums, part, measured);
        // The norm is queued before the last loss is awaited, so that the device goes on.
        const [, all] = await Promise.all([added, i === last ? reduce(added) : undefined]);
        reduced ??= all;
        this.reducer.progress();
      } finally {
        part.dispose();
        measured?.values.dispose();
      }
    }
    const { gradNorm, all } = reduced!;
    const loss = all.reduce((sum, own) => sum + own.loss, 0);
    if (!Number.isFinite(loss) || !Number.isFinite(gradNorm))
      throw await this.#nonFinite(step, group.length, { loss, gradNorm, all, suspect });
    await this.objective.shareStep?.(this.reducer);
    this.optimizer.lr = lr * this.options.scheduleOf(step);
    this.optimizer.step();
    this.clearGradients();
    const metrics = all.flatMap((own) => own.metrics);
    const measuredSome = made || metrics.length > 0;
    const means = measuredSome && { metrics: { ...made?.metrics, ...meanMetrics(metrics) } };
    return { loss, lr: this.optimizer.lr, gradNorm, tokens, ...means };
  }

  /** Sums gradients and figures over the ranks, and clips. */
  async #reduce(
    own: Promise<StepSums>,
    group: readonly Batch[],
    signal: AbortSignal | undefined,
  ): Promise<{ gradNorm: number; all: readonly StepSums[] }> {
    const { gradients, scalars } = this.reducer.sum(this.parameters, own, group, signal);
    const [gradNorm, all] = await Promise.all([gradients.then(() => this.#clip()), scalars]);
    return { gradNorm, all };
  }

  async #nonFinite(
    step: number,
    batches: number,
    found: { loss: number; gradNorm: number; all: readonly StepSums[]; suspect: Suspect | undefined },
  ): Promise<LoRAError> {
    const { loss, gradNorm, all, suspect } = found;
    const at = all.findIndex((sums) => !Number.isFinite(sums.loss));
    const own = at < 0 || at === this.reducer.rank ? suspect : undefined;
    const elsewhere = at < 0 ? 'the gradients of another rank' : `a batch of rank ${at}`;
    const where = own ? `batch ${own.batch} of ${batches}` : elsewhere;
    const largest = own ? `${await own.again()}. ` : '';
    return new LoRAError(
      'ERR_NON_FINITE',
      `[Trainer] step ${step + 1}, ${where}: the loss is ${loss} and the gradient norm ${gradNorm}; the weights are those of step ${step}. ` +
        `${largest}Try a smaller lr (it is ${this.options.lr})`,
      { op: 'Trainer' },
    );
  }

  /** Clips the gradients; gives the norm that they had. */
  async #clip(): Promise<number> {
    const { maxGradNorm } = this.options;
    await roomInQueue(this.model.device);
    const norm = clipGradNorm(this.parameters, maxGradNorm === 0 ? Infinity : maxGradNorm);
    try {
      return await norm.item();
    } finally {
      norm.dispose();
    }
  }

  /** How the model runs for one batch of a step. */
  #passOf(step: number, batch: number): TrainingPass {
    const { neftuneNoiseAlpha: alpha, seed, batchesPerStep, gradientCheckpointing } = this.options;
    return {
      adapter: this.subject.adapter,
      train: this.objective.dropout,
      gradientCheckpointing,
      ...(alpha > 0 && { noise: { alpha, seed, stream: step * batchesPerStep + batch } }),
    };
  }

  /** Clears the gradients of all that a step may fill, whoever left them. */
  clearGradients(): void {
    if (!this.optimizer.disposed) this.optimizer.zeroGrad(); // it may hold parameters of its own
    for (const p of this.withGradients) {
      p.grad?.dispose();
      p.grad = null;
    }
  }
}

/** Adds what a batch gave, once it is known. */
async function addFigures(sums: StepSums, part: Tensor, measured: Measured | undefined): Promise<StepSums> {
  const [own, values] = await Promise.all([part.item(), measured?.values.data()]);
  sums.loss += own;
  if (values) sums.metrics.push(measured!.read(values));
  return sums;
}
