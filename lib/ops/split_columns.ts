/** Parts of the columns of a tensor: a layer that computes q, k and v, or gate and up, in one product gives them side by side. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';

/**
 * x [.., Σ sizes] → parts [.., sizes[i]], of which there are at most eight;  dx is their gradients side by side, zeros where a part has none.
 */
export function splitColumns(x: Tensor, sizes: readonly number[]): Tensor[] {
  const { shape, dtype, device } = x;
  const parts = call()
    .splitColumns(
      handleOf(x, 'split_columns', 'x'),
      sizes,
      sizes.map(() => true),
    )
    .map((handle, i) => wrap(handle!, dtype, [...shape.slice(0, -1), sizes[i]!], device));
  record([x], parts, [], (grads) => {
    const handles = grads.map((g) => g?.handle ?? null);
    return [wrap(call().joinColumns(handles, sizes), dtype, shape, device)];
  });
  return parts;
}
