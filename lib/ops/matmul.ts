/** y = a·b over the last two dimensions; leading dimensions broadcast. f32 accumulation, one rounding. */
import { needsGrad, record } from '../tensor/autograd';
import type { Tensor } from '../tensor/tensor';
import { check, numelOf, shapeText } from '../validate';
import { broadcastShapes, checkFloat, checkSameDevice, promote } from '../tensor/arguments';
import { cast } from './cast';
import { gradientMade } from '../tensor/gradient_memory';
import { rawMatmul, rawView, reduceTo, sameShape } from '../tensor/raw';

/** x [.., m, k], w [n, k] of one dtype → y = x·wᵀ [.., m, n];  dx = g·w, dw = gᵀ·x over all rows, in f32. Copies nothing. */
export function matmulTransposed(x: Tensor, w: Tensor): Tensor {
  const [n, k] = w.shape as [number, number];
  const lead = x.shape.slice(0, -1);
  const rows = numelOf(lead);
  const flat = rawView(x, 0, [rows, k]);
  const y = rawMatmul(flat, w, false, true, x.dtype, [rows, n]);
  const out = rawView(y, 0, [...lead, n]);
  const [wantX, wantW] = [x.requiresGrad, w.requiresGrad];
  const { shape, dtype } = x;
  // x itself, which its op may compute once more, and no view of it.
  record([x, w], [out], [w, ...(wantW ? [x] : [])], ([g], [keptW, keptX]) => {
    const grad = rawView(g!, 0, [rows, n]);
    return [
      wantX ? rawView(rawMatmul(grad, keptW!, false, false, dtype, [rows, k]), 0, shape) : null,
      wantW ? gradientMade(rawMatmul(grad, rawView(keptX!, 0, [rows, k]), true, false, 'f32', [n, k])) : null,
    ];
  });
  y.dispose();
  flat.dispose();
  return out;
}

/** a [.., m, k], b [.., k, n] → y [.., m, n];  da = g·bᵀ, db = aᵀ·g, summed over stretched dimensions. */
export function matmul(a: Tensor, b: Tensor): Tensor {
  checkFloat('matmul', a, 'the left operand');
  checkFloat('matmul', b, 'the right operand');
  checkSameDevice('matmul', 'the right operand', b.device, a.device);
  const fits = a.shape.length >= 2 && b.shape.length >= 2 && a.shape.at(-1) === b.shape.at(-2);
  check(
    fits,
    'matmul',
    () =>
      `expected shapes [.., m, k] and [.., k, n] but received ${shapeText(a.shape)} and ${shapeText(b.shape)}`,
  );
  const dtype = promote(a.dtype, b.dtype);
  if (a.dtype !== dtype || b.dtype !== dtype) {
    const [wideA, wideB] = [a.dtype === dtype ? a : cast(a, dtype), b.dtype === dtype ? b : cast(b, dtype)];
    const y = matmul(wideA, wideB);
    if (wideA !== a) wideA.dispose();
    if (wideB !== b) wideB.dispose();
    return y;
  }
  const [m, n] = [a.shape.at(-2)!, b.shape.at(-1)!];
  const lead = broadcastShapes('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2));
  const y = rawMatmul(a, b, false, false, dtype, [...lead, m, n]);
  if (!needsGrad([a, b])) return y;

  const k = a.shape.at(-1)!;
  const [wantA, wantB] = [a.requiresGrad, b.requiresGrad];
  const [shapeA, shapeB] = [a.shape, b.shape];
  record([a, b], [y], [...(wantA ? [b] : []), ...(wantB ? [a] : [])], ([g], saved) => {
    const [keptA, keptB] = [saved.at(-1)!, saved[0]!];
    // In the dtype of the operand at once, unless there is something to sum up first.
    const product = (
      l: Tensor,
      r: Tensor,
      turned: 'l' | 'r',
      shape: number[],
      to: readonly number[],
    ): Tensor => {
      const first = sameShape(shape, to) ? dtype : 'f32';
      return reduceTo(rawMatmul(l, r, turned === 'l', turned === 'r', first, shape), to, dtype);
    };
    return [
      wantA ? product(g!, keptB, 'r', [...lead, m, k], shapeA) : null,
      wantB ? product(keptA, g!, 'l', [...lead, k, n], shapeB) : null,
    ];
  });
  return y;
}
