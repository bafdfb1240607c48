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
import type { Parameter } from '../tensor/tensor';
import { largestActivations } from './activations';
import type { StepEvent } from './events';
import { meanMetrics, type Metrics } from './metrics';
import type { Objective, TrainingPass } from './objectives/objective';
import type { ResolvedOptions } from './options';
import type { TrainingSubject } from './subject';

export type StepFigures = Pick<StepEvent, 'loss' | 'lr' | 'gradNorm' | 'tokens' | 'metrics'>;

export const tokensOf = (rows: readonly (readonly number[])[]): number =>
  rows.reduce((sum, row) => sum + row.length, 0);

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
  ) {
    this.withGradients = new Set([...parameters, ...subject.parameters()]);
  }

  /**
   * Takes step `step` + 1 on its batches.
   * @throws ERR_DATA for batches of which nothing counts, ERR_NON_FINITE before the weights change, the reason of the signal between two batches.
   */
  async make(step: number, given: readonly Batch[], signal: AbortSignal | undefined): Promise<StepFigures> {
    const { lr } = this.options;
    const { adapter } = this.subject;
    const made = await this.objective.prepareStep?.(this.model, given, { adapter, step, signal });
    const group = made?.batches ?? given;
    const plan = new SequencePlan(adapter);
    const weights = group.map((batch) => this.objective.weightOf(batch, plan));
    const weight = weights.reduce((sum, own) => sum + own, 0);
    if (weight === 0)
      throw loraError('Trainer', 'ERR_DATA', `step ${step + 1}: ${this.objective.weightless}`);
    const last = weights.findLastIndex((own) => own > 0);
    const metrics: Metrics[] = [];
    let loss = 0;
    let gradNorm = Number.NaN;
    let tokens = 0;
    /** The batch whose loss was no number, else the last. */
    let suspect: { batch: number; again: () => Promise<string> } | undefined;
    for (const [i, batch] of group.entries()) {
      signal?.throwIfAborted();
      tokens += tokensOf(batch.inputIds);
      if (weights[i] === 0) continue; // a batch of prompts alone adds nothing to the sum
      const pass = this.#passOf(step, i);
      const mark = this.subject.mark();
      const { part, measured } = await tidy(async () => {
        const { sum, measured: own } = await this.objective.loss(this.model, batch, pass);
        return { part: sum.div(weight), measured: own };
      });
      try {
        await enqueueInSlices(part.device, backwardSteps(part));
        if (Number.isFinite(loss)) {
          const again = (): Promise<string> => {
            mark(); // the same dropout masks
            return largestActivations(this.model, batch, pass);
          };
          suspect = { batch: i + 1, again };
        }
        // The norm is queued before the last loss is awaited, so that the device goes on.
        const [own, norm, values] = await Promise.all([
          part.item(),
          i === last ? this.#clip() : Promise.resolve(gradNorm),
          measured?.values.data(),
        ]);
        loss += own;
        gradNorm = norm;
        if (values) metrics.push(measured!.read(values));
      } finally {
        part.dispose();
        measured?.values.dispose();
      }
    }
    if (!Number.isFinite(loss) || !Number.isFinite(gradNorm))
      throw new LoRAError(
        'ERR_NON_FINITE',
        `[Trainer] step ${step + 1}, batch ${suspect!.batch} of ${group.length}: the loss is ${loss} and the gradient norm ${gradNorm}; the weights are those of step ${step}. ` +
          `${await suspect!.again()}. Try a smaller lr (it is ${lr})`,
        { op: 'Trainer' },
      );
    this.optimizer.lr = lr * this.options.scheduleOf(step);
    this.optimizer.step();
    this.clearGradients();
    const own = made || metrics.length > 0;
    const means = own && { metrics: { ...made?.metrics, ...meanMetrics(metrics) } };
    return { loss, lr: this.optimizer.lr, gradNorm, tokens, ...means };
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
    const { neftuneNoiseAlpha: alpha, seed, gradientAccumulationSteps, gradientCheckpointing } = this.options;
    return {
      adapter: this.subject.adapter,
      train: this.objective.dropout,
      gradientCheckpointing,
      ...(alpha > 0 && { noise: { alpha, seed, stream: step * gradientAccumulationSteps + batch } }),
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
