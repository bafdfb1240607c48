/** y = f(x), elementwise: square, relu, gelu (exact, x·Φ(x)), silu (x·σ(x)); f32 arithmetic. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { type Tensor, wrap } from '../tensor/tensor';
import { checkFloat } from '../tensor/arguments';
import { rawUnary } from '../tensor/raw';

/** dx = g·f′(x). */
export function unary(kind: 'square' | 'relu' | 'gelu' | 'silu', x: Tensor): Tensor {
  checkFloat(kind, x, 'the tensor');
  const y = rawUnary(kind, 1, x);
  record([x], [y], [x], ([g], [kept]) => {
    const dx = call().unaryBackward(kind, 1, kept!.handle, g!.handle);
    return [wrap(dx, kept!.dtype, kept!.shape, kept!.device)];
  });
  return y;
}
