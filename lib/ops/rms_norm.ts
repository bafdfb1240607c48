/** y = x / √(mean(x²) + eps) · weight over the last dimension; f32 inside, rounded once. */
import { type BackwardFunction, needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import type { DType } from '../tensor/dtype';
import { rawBinary, rawReduceSum, rawView } from '../tensor/raw';
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

/** x [..., d], weight [d] → [..., d] in `dtype`, which may be another one where x is f32. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, dtype: DType = x.dtype): Tensor {
  const [handle, rstdHandle] = call().rmsNormForward(
    handleOf(x, op, 'x'),
    handleOf(weight, op, 'weight'),
    eps,
    dtype,
    needsGrad([x, weight]),
  );
  const y = wrap(handle, dtype, x.shape, x.device);
  if (rstdHandle === null) return y;
  const rows = numelOf(x.shape.slice(0, -1));
  const rstd = wrap(rstdHandle, 'f32', [rows], x.device);
  const [wantX, wantW] = [x.requiresGrad, weight.requiresGrad];
  const backward: BackwardFunction = ([g], [kx, kw, kr]) => {
    const dx = wantX && call().rmsNormBackward(kx!.handle, kw!.handle, kr!.handle, g!.handle);
    return [
      dx ? wrap(dx, kx!.dtype, kx!.shape, kx!.device) : null,
      wantW ? weightGradient(kx!, kr!, g!) : null,
    ];
  };
  const again = ([kx, kw]: Tensor[]): Tensor =>
    wrap(call().rmsNormForward(kx!.handle, kw!.handle, eps, dtype, false)[0], dtype, kx!.shape, kx!.device);
  record([x, weight], [y], [x, weight, rstd], backward, { again });
  rstd.dispose();
  return y;
}
