/** Gradient clipping. */
import { call, entry } from '../native/calls';
import { rawFilled } from '../tensor/raw';
import { type Parameter, type Tensor, wrap } from '../tensor/tensor';
import { check, describe } from '../validate';
import { checkParameters, withGrad } from './parameters';

/**
 * Scales the gradients by min(1, maxNorm / (‖g‖₂ + 1e-6)), in place, where ‖g‖₂ is over all of them together.
 * Gives the norm before clipping, a scalar. Parameters without a gradient count nothing.
 *
 * @example
 * const norm = await clipGradNorm(layer.parameters(), 1.0).item();
 */
export function clipGradNorm(params: Iterable<Parameter>, maxNorm: number): Tensor {
  const op = 'clipGradNorm';
  const list = checkParameters(op, params);
  check(
    typeof maxNorm === 'number' && maxNorm > 0,
    op,
    () => `expected maxNorm to be a number above 0 but received ${describe(maxNorm)}`,
  );
  return entry(() => {
    const grads = withGrad(list).map((p) => p.grad!.handle);
    const device = list[0]?.device ?? 'cpu';
    if (grads.length === 0) return rawFilled([], 0, 'f32', device);
    const norm = wrap(call().globalNorm(grads), 'f32', [], device);
    if (maxNorm !== Infinity) call().clipByNorm(grads, norm.handle, maxNorm);
    return norm;
  });
}
