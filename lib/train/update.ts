/** The steps of a run: forward and backward of each batch, clipping, the optimizer. */
import type { Batch } from '../data/batches';
import { ignoredLabel } from '../data/example';
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
import type { ResolvedOptions } from './options';
import type { TrainingSubject } from './subject';

export type StepFigures = Pick<StepEvent, 'loss' | 'lr' | 'gradNorm' | 'tokens'>;

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
  ) {
    this.withGradients = new Set([...parameters, ...subject.parameters()]);
  }

  /**
   * Takes step `step` + 1 on its batches.
   * @throws ERR_DATA for batches of which nothing counts, ERR_NON_FINITE before the weights change, the reason of the signal between two batches.
   */
  async make(step: number, group: readonly Batch[], signal: AbortSignal | undefined): Promise<StepFigures> {
    const { lr } = this.options;
    const plan = new SequencePlan(this.subject.adapter);
    const counts = group.map(({ labels, segmentIds }) => plan.countedLabels(labels, segmentIds));
    const counted = counts.reduce((sum, count) => sum + count, 0);
    if (counted === 0)
      throw loraError(
        'Trainer',
        'ERR_DATA',
        `step ${step + 1}: expected labels that count but all are ${ignoredLabel}`,
      );
    const last = counts.findLastIndex((count) => count > 0);
    let loss = 0;
    let gradNorm = Number.NaN;
    let tokens = 0;
    /** The batch whose loss was no number, else the last. */
    let suspect: { batch: number; again: () => Promise<string> } | undefined;
    for (const [i, batch] of group.entries()) {
      const { inputIds, labels, segmentIds } = batch;
      signal?.throwIfAborted();
      tokens += tokensOf(inputIds);
      if (counts[i] === 0) continue; // a batch of prompts alone adds nothing to the sum
      const options = this.#forwardOptions(step, i, { labels, segmentIds });
      const mark = this.subject.mark();
      const part = await tidy(async () => {
        const { loss: sum } = await this.model.forwardInSlices(inputIds, options);
        return sum.div(counted);
      });
      try {
        await enqueueInSlices(part.device, backwardSteps(part));
        if (Number.isFinite(loss)) {
          const again = (): Promise<string> => {
            mark(); // the same dropout masks
            return largestActivations(this.model, inputIds, options);
          };
          suspect = { batch: i + 1, again };
        }
        // The norm is queued before the last loss is awaited, so that the device goes on.
        const [own, norm] = await Promise.all([
          part.item(),
          i === last ? this.#clip() : Promise.resolve(gradNorm),
        ]);
        loss += own;
        gradNorm = norm;
      } finally {
        part.dispose();
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
    return { loss, lr: this.optimizer.lr, gradNorm, tokens };
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

  /** The options of the forward pass of one batch of a step. */
  #forwardOptions(step: number, batch: number, { labels, segmentIds }: Omit<Batch, 'inputIds'>) {
    const { neftuneNoiseAlpha: alpha, seed, gradientAccumulationSteps, gradientCheckpointing } = this.options;
    return {
      labels,
      segmentIds,
      gradientCheckpointing,
      ...(alpha > 0 && { noise: { alpha, seed, stream: step * gradientAccumulationSteps + batch } }),
      reduction: 'sum' as const,
      adapter: this.subject.adapter,
      train: true,
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
