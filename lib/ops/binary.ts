/** y = a ∘ b, elementwise with NumPy broadcasting, for ∘ of +, −, ·, /; f32 arithmetic. */
import { needsGrad, record } from '../tensor/autograd';
import type { BinaryKind } from '../native/binding';
import type { DType } from '../native/dtype';
import { Tensor } from '../tensor/tensor';
import { check, describe } from '../validate';
import { broadcastShapes, checkFloat, checkSameDevice, promote } from '../tensor/arguments';
import { rawBinary, rawScalar, rawUnary, reduceTo, sameShape } from '../tensor/raw';

type Arithmetic = 'add' | 'sub' | 'mul' | 'div';

export function leftOperand(op: string, a: Tensor): void {
  checkFloat(op, a, 'the left operand');
}

/** Checks the right operand of an elementwise op, and gives the shape and the dtype of its result. */
export function broadcast(op: string, a: Tensor, b: Tensor): { shape: readonly number[]; dtype: DType } {
  check(b instanceof Tensor, op, () => `expected a tensor or a number but received ${describe(b)}`);
  checkFloat(op, b, 'the right operand');
  checkSameDevice(op, 'the right operand', b.device, a.device);
  return { shape: broadcastShapes(op, a.shape, b.shape), dtype: promote(a.dtype, b.dtype) };
}

/**
 * da = g, g, g·b, g/b and db = g, −g, g·a, −g·y/b, summed over the dimensions that were stretched.
 * A number takes the dtype of the tensor.
 */
export function binary(kind: Arithmetic, a: Tensor, other: Tensor | number): Tensor {
  leftOperand(kind, a);
  if (typeof other === 'number') return withNumber(kind, a, other);
  const b = other;
  const { shape, dtype } = broadcast(kind, a, b);
  const y = rawBinary(kind, a, b, dtype, shape);
  if (!needsGrad([a, b])) return y;

  const [wantA, wantB] = [a.requiresGrad, b.requiresGrad];
  const saveA = kind === 'mul' && wantB;
  const saveB = (kind === 'mul' && wantA) || kind === 'div';
  const saveY = kind === 'div' && wantB;
  const saved = [...(saveA ? [a] : []), ...(saveB ? [b] : []), ...(saveY ? [y] : [])];
  const [like, likeB] = [
    { shape: a.shape, dtype: a.dtype },
    { shape: b.shape, dtype: b.dtype },
  ];
  record([a, b], [y], saved, ([g], kept) => {
    const grad = g!;
    const next = kept.values();
    const [ka, kb, ky] = [saveA, saveB, saveY].map((s) => (s ? next.next().value! : null));
    const fit = (x: Tensor, to: typeof like): Tensor => reduceTo(x, to.shape, to.dtype);
    // In the dtype of the operand at once, unless there is something to sum up first.
    const product = (b: Tensor, op: BinaryKind, to: typeof like): Tensor =>
      fit(rawBinary(op, grad, b, sameShape(to.shape, shape) ? to.dtype : 'f32', shape), to);
    switch (kind) {
      case 'add':
        return [wantA ? fit(grad, like) : null, wantB ? fit(grad, likeB) : null];
      case 'sub':
        return [wantA ? fit(grad, like) : null, wantB ? fit(rawUnary('scale', -1, grad), likeB) : null];
      case 'mul':
        return [wantA ? product(kb!, 'mul', like) : null, wantB ? product(ka!, 'mul', likeB) : null];
      case 'div': {
        const da = wantA ? product(kb!, 'div', like) : null;
        if (!wantB) return [da, null];
        const ratio = rawBinary('div', ky!, kb!, 'f32', shape);
        const db = rawBinary('mul', grad, ratio, 'f32', shape);
        return [da, fit(rawUnary('scale', -1, db), likeB)];
      }
    }
  });
  return y;
}

function withNumber(kind: Arithmetic, a: Tensor, value: number): Tensor {
  if (kind === 'mul' && !Number.isNaN(value)) {
    const y = rawUnary('scale', value, a);
    record([a], [y], [], ([g]) => [rawUnary('scale', value, g!)]);
    return y;
  }
  const scalar = rawScalar(value, a.device);
  const y = rawBinary(kind, a, scalar, a.dtype, a.shape);
  const scaled = kind === 'div' || kind === 'mul';
  record([a], [y], scaled ? [scalar] : [], ([g], [s]) => [
    scaled ? rawBinary(kind, g!, s!, g!.dtype, g!.shape) : g!,
  ]);
  scalar.dispose();
  return y;
}
