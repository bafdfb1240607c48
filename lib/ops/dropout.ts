/** y = drop(x): the inverted dropout of lora_linear's LoRA path as an op of its own, with the same masks. */
import { record } from '../tensor/autograd';
import { checkFloat } from '../tensor/arguments';
import type { NativeDropout } from '../native/binding';
import { call } from '../native/calls';
import { type Tensor, wrap } from '../tensor/tensor';

/** x [..., d]: an element is 0 with probability p, else x/(1 − p); its mask follows from (seed, layer, forward, row, column).  dx = drop(g). */
export function dropout(x: Tensor, mask: NativeDropout): Tensor {
  checkFloat('dropout', x, 'x');
  const { shape, dtype, device } = x;
  const drop = (t: Tensor): Tensor => wrap(call().dropout(t.handle, mask), dtype, shape, device);
  const y = drop(x);
  record([x], [y], [], ([g]) => [drop(g!)]);
  return y;
}
