/** Powers, elementwise with NumPy broadcasting; f32 arithmetic. */
import { record } from '../tensor/autograd';
import { rawBinary, rawFilled, rawScalar, rawUnary, reduceTo, sameShape } from '../tensor/raw';
import type { Tensor } from '../tensor/tensor';
import { broadcast, leftOperand } from './binary';
import { unary } from './unary';

/** y = aᵇ;  da = g·b·aᵇ⁻¹, 0 where b is 0, and db = g·y·ln a, 0 where a is 0. */
export function pow(a: Tensor, exponent: Tensor | number): Tensor {
  leftOperand('pow', a);
  if (typeof exponent === 'number') return numberPower(a, exponent);
  const b = exponent;
  const { shape, dtype } = broadcast('pow', a, b);
  const y = rawBinary('pow', a, b, dtype, shape);
  const [wantA, wantB] = [a.requiresGrad, b.requiresGrad];
  record([a, b], [y], [a, b, y], ([g], [keptA, keptB, keptY]) => {
    // `factor` is f32, and what `zeros` is 0 for gets no gradient.
    const gradient = (factor: Tensor, zeros: Tensor, like: Tensor): Tensor => {
      const selected = rawBinary('where', factor, zeros, 'f32', shape);
      const first = sameShape(like.shape, shape) ? like.dtype : 'f32';
      return reduceTo(rawBinary('mul', g!, selected, first, shape), like.shape, like.dtype);
    };
    const ofA = (): Tensor => {
      const less = rawBinary('sub', keptB!, rawScalar(1, keptB!.device), 'f32', keptB!.shape);
      const power = rawBinary('pow', keptA!, less, 'f32', shape);
      return gradient(rawBinary('mul', power, keptB!, 'f32', shape), keptB!, keptA!);
    };
    const ofB = (): Tensor => {
      const ln = rawUnary('log', 1, keptA!, 'f32');
      return gradient(rawBinary('mul', keptY!, ln, 'f32', shape), keptA!, keptB!);
    };
    return [wantA ? ofA() : null, wantB ? ofB() : null];
  });
  return y;
}

function numberPower(a: Tensor, n: number): Tensor {
  if (n === 2) return unary('square', a);
  const scalar = rawScalar(n, a.device);
  const y = rawBinary('pow', a, scalar, a.dtype, a.shape);
  scalar.dispose();
  const { shape, dtype, device } = a;
  record([a], [y], [a], ([g], [kept]) => {
    if (n === 0) return [rawFilled(shape, 0, dtype, device)];
    const power = rawBinary('pow', kept!, rawScalar(n - 1, device), 'f32', shape);
    return [rawBinary('mul', g!, rawUnary('scale', n, power), dtype, shape)];
  });
  return y;
}
