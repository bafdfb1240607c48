/** y = a ∘ b, elementwise with NumPy broadcasting, for ∘ of +, −, ·, /; f32 arithmetic. */
import { needsGrad, record } from '../tensor/autograd';
import type { BinaryKind } from '../native/binding';
import { fromBytes } from '../tensor/create';
import { Tensor } from '../tensor/tensor';
import { check, describe } from '../validate';
import { broadcastShapes, checkFloat, checkSameDevice, promote } from '../tensor/arguments';
import { rawBinary, rawUnary, reduceTo, sameShape } from '../tensor/raw';

/**
 * da = g, g, g·b, g/b and db = g, −g, g·a, −g·y/b, summed over the dimensions that were stretched.
 * A number takes the dtype of the tensor.
 */
export function binary(kind: BinaryKind, a: Tensor, other: Tensor | number): Tensor {
  checkFloat(kind, a, 'the left operand');
  if (typeof other === 'number') return withNumber(kind, a, other);
  check(other instanceof Tensor, kind, () => `expected a tensor or a number but received ${describe(other)}`);
  const b = other;
  checkFloat(kind, b, 'the right operand');
  checkSameDevice(kind, 'the right operand', b.device, a.device);
  const shape = broadcastShapes(kind, a.shape, b.shape);
  const dtype = promote(a.dtype, b.dtype);
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

function withNumber(kind: BinaryKind, a: Tensor, value: number): Tensor {
  if (kind === 'mul' && !Number.isNaN(value)) {
    const y = rawUnary('scale', value, a);
    record([a], [y], [], ([g]) => [rawUnary('scale', value, g!)]);
    return y;
  }
  const scalar = fromBytes(new Uint8Array(Float32Array.of(value).buffer), 'f32', [], a.device);
  const y = rawBinary(kind, a, scalar, a.dtype, a.shape);
  const scaled = kind === 'div' || kind === 'mul';
  record([a], [y], scaled ? [scalar] : [], ([g], [s]) => [
    scaled ? rawBinary(kind, g!, s!, g!.dtype, g!.shape) : g!,
  ]);
  scalar.dispose();
  return y;
}
