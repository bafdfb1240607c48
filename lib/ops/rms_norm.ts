/** y = x / √(mean(x²) + eps) · (offset + weight) over the last dimension, also of a sum; f32 inside, rounded once. */
import { type BackwardFunction, needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import type { DType } from '../native/dtype';
import { rawBinary, rawCast, rawReduceSum, rawView } from '../tensor/raw';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { numelOf } from '../validate';

const op = 'rms_norm';

/** dw = Σ over rows of g ⊙ x·rstd, in f32: x, g [.., d], rstd [rows] → [d]. */
function weightGradient(x: Tensor, rstd: Tensor, g: Tensor): Tensor {
  const rows = rstd.numel;
  const shape = [rows, x.shape.at(-1)!];
  const normed = rawBinary('mul', rawView(x, 0, shape), rawView(rstd, 0, [rows, 1]), 'f32', shape);
  const product = rawBinary('mul', rawView(g, 0, shape), normed, 'f32', shape);
  return rawView(rawReduceSum(product, [1, shape[1]!], 'f32'), 0, [shape[1]!]);
}

/** [sum, y] of x + addend; without an addend the sum is x itself. */
function norm(
  x: Tensor,
  addend: Tensor | null,
  weight: Tensor,
  eps: number,
  dtype: DType,
  offset: number,
): [Tensor, Tensor] {
  const inputs = addend ? [x, addend, weight] : [x, weight];
  const [sumHandle, handle, rstdHandle] = call().rmsNormForward(
    handleOf(x, op, 'x'),
    addend && handleOf(addend, op, 'addend'),
    handleOf(weight, op, 'weight'),
    eps,
    offset,
    dtype,
    needsGrad(inputs),
  );
  const sum = sumHandle ? wrap(sumHandle, x.dtype, x.shape, x.device) : x;
  const y = wrap(handle, dtype, x.shape, x.device);
  if (rstdHandle === null) return [sum, y];
  const rstd = wrap(rstdHandle, 'f32', [numelOf(x.shape.slice(0, -1))], x.device);
  const [wantX, wantAddend, wantW] = [x.requiresGrad, addend?.requiresGrad ?? false, weight.requiresGrad];
  const addendType = addend?.dtype ?? x.dtype;
  const backward: BackwardFunction = (grads, [ks, kw, kr], rematerialize) => {
    const g = grads.at(-1)!;
    const gSum = addend ? grads[0]! : null;
    let [dx, dAddend, rematerialized] = [gSum, null as Tensor | null, null as Tensor | null];
    const dw = g && wantW ? weightGradient(ks!, kr!, g) : null; // first, since y may take the place of g
    if (g && (wantX || wantAddend)) {
      const cast = wantAddend && addendType !== ks!.dtype;
      const handles = call().rmsNormBackward(
        ks!.handle,
        kw!.handle,
        kr!.handle,
        g.handle,
        gSum?.handle ?? null,
        eps,
        offset,
        rematerialize ? g.handle : null,
        cast,
      );
      dx = wrap(handles[0], ks!.dtype, ks!.shape, ks!.device);
      if (rematerialize) rematerialized = g;
      if (handles[1]) dAddend = wrap(handles[1], addendType, ks!.shape, ks!.device);
    }
    if (wantAddend && dx) dAddend ??= addendType === dx.dtype ? dx : rawCast(dx, addendType);
    return [wantX ? dx : null, ...(addend ? [dAddend] : []), dw, rematerialized];
  };
  const rematerialize = ([ks, kw]: Tensor[]): Tensor => norm(ks!, null, kw!, eps, dtype, offset)[1];
  record(inputs, addend ? [sum, y] : [y], [sum, weight, rstd], backward, { rematerialize });
  rstd.dispose();
  return [sum, y];
}

/**
 * x [..., d], weight [d] → [..., d] in `dtype`, which may be another one where x is f32. An offset of 1 is for weights that
 * are stored less 1: the sum is made in f32, since bf16 would round it.
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, dtype: DType = x.dtype, offset = 0): Tensor {
  return norm(x, null, weight, eps, dtype, offset)[1];
}

/** x and addend [..., d], the latter in `dtype` → [x + addend in the dtype of x, its norm in `dtype`]. */
export function addRmsNorm(
  x: Tensor,
  addend: Tensor,
  weight: Tensor,
  eps: number,
  dtype: DType = x.dtype,
  offset = 0,
): [sum: Tensor, y: Tensor] {
  return norm(x, addend, weight, eps, dtype, offset);
}
