/** Gradient checkpointing: memory for time. Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016). */
import { backward, needsGrad, record } from '../tensor/autograd';
import { recordedLater, recordedTemporaries, track } from '../tensor/scope';
import { alias, type Parameter, type Tensor } from '../tensor/tensor';
import { reshape } from './layout';

/**
 * y = f(x, ...others), of which only x and the others are kept until backward(), which computes f once more. f must give the same bits each
 * time, and consumes its x; `parameters` are those that it reads. The others have no gradient.
 */
export function recomputed(
  x: Tensor,
  others: readonly Tensor[],
  parameters: readonly Parameter[],
  f: (x: Tensor, ...others: Tensor[]) => Tensor,
): Tensor {
  if (!needsGrad([x, ...parameters])) return f(x, ...others);
  const { requiresGrad } = x;
  const y = recordedLater(() => f(reshape(x, x.shape), ...others));
  record([x, ...parameters], [y], [x, ...others], ([g], [kept, ...rest]) => {
    const leaf = alias(kept!);
    leaf.requiresGrad = requiresGrad;
    try {
      // The gradients of parameters are added up by the inner backward.
      recordedTemporaries(() => backward(f(reshape(leaf, leaf.shape), ...rest), g!));
      const dx = leaf.grad;
      leaf.grad = null;
      if (dx) track(dx);
      return [dx, ...parameters.map(() => null)];
    } finally {
      leaf.dispose();
    }
  });
  x.dispose();
  return y;
}
