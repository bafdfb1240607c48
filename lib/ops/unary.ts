/** y = f(x), elementwise, by the formulas of native/core/maths/kinds.h; f32 arithmetic. */
import { record } from '../tensor/autograd';
import type { UnaryKind } from '../native/binding';
import type { Tensor } from '../tensor/tensor';
import { checkFloat } from '../tensor/arguments';
import { rawUnary, rawUnaryBackward } from '../tensor/raw';

/** dx = g·f′(x). `alpha`: the number that some kinds have. */
export function unary(kind: Exclude<UnaryKind, 'copy' | 'scale'>, x: Tensor, alpha = 1): Tensor {
  checkFloat(kind, x, 'the tensor');
  const y = rawUnary(kind, alpha, x);
  record([x], [y], [x], ([g], [kept]) => [rawUnaryBackward(kind, alpha, kept!, g!)]);
  return y;
}

/** cap·tanh(x / cap), which stays within ±cap. */
export const softcap = (x: Tensor, cap: number): Tensor => unary('softcap', x, cap);
