/** Gradient checkpointing: memory for time. Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016). */
import { backwardOf, needsGrad, record } from '../tensor/autograd';
import type { Device } from '../native/device';
import { enqueueInSlices } from '../tensor/op_slices';
import { atOnce } from '../tensor/pace';
import { recordedLater, recordedTemporaries, tidy, track } from '../tensor/scope';
import { alias, type Parameter, type Tensor } from '../tensor/tensor';
import { reshape } from './layout';

/**
 * ys = f(xs, ...others), of which only xs and the others are kept until backward(), which computes f once more. f must give the same bits each
 * time, and consumes the first of its xs; `parameters` are those that it reads. The others have no gradient.
 */
export function recomputedAll(
  xs: readonly [Tensor, ...Tensor[]],
  others: readonly Tensor[],
  parameters: readonly Parameter[],
  f: (xs: readonly [Tensor, ...Tensor[]], ...others: Tensor[]) => Tensor[],
): Tensor[] {
  const [x, ...rest] = xs;
  if (!needsGrad([...xs, ...parameters])) return f(xs, ...others);
  const wanted = xs.map(({ requiresGrad }) => requiresGrad);
  const ys = recordedLater(() => f([reshape(x, x.shape), ...rest], ...others));
  record([...xs, ...parameters], ys, [...xs, ...others], (gs, kept) => {
    const leaves = kept.slice(0, xs.length).map(alias);
    for (const [i, leaf] of leaves.entries()) leaf.requiresGrad = wanted[i]!;
    const [first, ...own] = leaves as [Tensor, ...Tensor[]];
    try {
      // The gradients of parameters are added up by the inner backward.
      recordedTemporaries(() =>
        backwardOf(f([reshape(first, first.shape), ...own], ...kept.slice(xs.length)), gs),
      );
      const gradients = leaves.map(({ grad }) => grad);
      for (const leaf of leaves) leaf.grad = null;
      for (const g of gradients) if (g) track(g);
      return [...gradients, ...parameters.map(() => null)];
    } finally {
      for (const leaf of leaves) leaf.dispose();
    }
  });
  x.dispose();
  return ys;
}

/** The same of one x and one y. */
export const recomputed = (
  x: Tensor,
  others: readonly Tensor[],
  parameters: readonly Parameter[],
  f: (x: Tensor, ...others: Tensor[]) => Tensor,
): Tensor => recomputedAll([x], others, parameters, ([own], ...rest) => [f(own, ...rest)])[0]!;

/**
 * y = steps(), of which nothing is kept until backward(), which runs the steps once more: for work that reads `parameters` and no tensor with a gradient, and
 * gives the same bits each time. The event loop goes on in the first run.
 */
export async function recomputedInSlices(
  device: Device,
  parameters: readonly Parameter[],
  steps: () => Generator<void, Tensor, void>,
): Promise<Tensor> {
  if (!needsGrad(parameters)) return tidy(() => enqueueInSlices(device, steps()));
  const y = await recordedLater(() => tidy(() => enqueueInSlices(device, steps())));
  record(parameters, [y], [], ([g]) => {
    // The gradients of parameters are added up by the inner backward.
    recordedTemporaries(() => backwardOf([atOnce(steps())], [g!]));
    return parameters.map(() => null);
  });
  return y;
}
