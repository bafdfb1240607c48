/** y = f(x), elementwise, by the formulas of native/core/maths/kinds.h; f32 arithmetic. */
import { record } from '../tensor/autograd';
import type { UnaryKind } from '../native/binding';
import { call } from '../native/calls';
import { type Tensor, wrap } from '../tensor/tensor';
import { checkFloat } from '../tensor/arguments';
import { rawUnary } from '../tensor/raw';

/** dx = g·f′(x). */
export function unary(kind: Exclude<UnaryKind, 'copy' | 'scale'>, x: Tensor): Tensor {
  checkFloat(kind, x, 'the tensor');
  const y = rawUnary(kind, 1, x);
  record([x], [y], [x], ([g], [kept]) => {
    const dx = call().unaryBackward(kind, 1, kept!.handle, g!.handle);
    return [wrap(dx, kept!.dtype, kept!.shape, kept!.device)];
  });
  return y;
}
