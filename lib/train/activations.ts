/** The largest activations of a forward pass: where numbers that are none come from. */
import type { Batch } from '../data/batches';
import type { CausalLM } from '../models/causal_lm';
import { noGrad } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { describe } from '../validate';
import type { TrainingPass } from './objectives/objective';

/** max |x|; NaN counts as more than everything. */
function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (Number.isNaN(size)) return NaN;
    if (size > most) most = size;
  }
  return most;
}

/**
 * Runs a forward pass once more and tells the largest activations between its blocks, in order: 'The largest activations: model.layers.3 Infinity, …'.
 * It explains another error, so a failure of its own is told and not thrown.
 */
export async function largestActivations(
  model: CausalLM,
  { inputIds, labels, segmentIds }: Batch,
  pass: TrainingPass,
): Promise<string> {
  const seen: { module: string; size: Promise<number | undefined> }[] = [];
  let failure: unknown;
  const failed = (error: unknown): undefined => void (failure ??= error);
  try {
    await noGrad(async () => {
      const watch = (module: string, x: Tensor): void =>
        void seen.push({ module, size: x.data().then(largest, failed) });
      const counted = model.config.head ? {} : { labels, segmentIds, reduction: 'sum' as const };
      const { loss, logits } = await model.forwardInSlices(inputIds, { ...pass, ...counted, watch });
      for (const made of [loss, logits]) made?.dispose();
    });
  } catch (error) {
    failed(error);
  }
  const sizes: { module: string; size: number }[] = [];
  for (const { module, size } of seen) {
    const known = await size;
    if (known !== undefined) sizes.push({ module, size: known });
  }
  const order = (size: number): number => (Number.isNaN(size) ? Infinity : size);
  // The first module with the largest number is where it comes from: sort() keeps their order.
  const top = sizes.sort((a, b) => order(b.size) - order(a.size) || 0).slice(0, 3);
  const found = top.map(({ module, size }) => `${module} ${Number(size.toPrecision(3))}`).join(', ');
  if (failure === undefined) return `The largest activations: ${found}`;
  const reason = failure instanceof Error ? failure.message : describe(failure);
  return `${found === '' ? 'No activation could be read' : `The largest activations before it failed: ${found}`}: the forward pass that looks for them failed: ${reason}`;
}
