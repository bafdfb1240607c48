/** y = x / √(mean(x²) + eps) · weight over the last dimension; f32 inside, rounded once. */
import { type BackwardFunction, needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { LoRAError } from '../errors';
import type { DType } from '../tensor/dtype';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { numelOf } from '../validate';

const op = 'rms_norm';

/** x [..., d], weight [d] (frozen) → [..., d] in `dtype`, which may be another one where x is f32. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, dtype: DType = x.dtype): Tensor {
  if (weight.requiresGrad) {
    throw new LoRAError('ERR_UNSUPPORTED', `[${op}] the weight of a norm is frozen`, { op });
  }
  const [handle, rstdHandle] = call().rmsNormForward(
    handleOf(x, op, 'x'),
    handleOf(weight, op, 'weight'),
    eps,
    dtype,
    needsGrad([x]),
  );
  const y = wrap(handle, dtype, x.shape, x.device);
  if (rstdHandle === null) return y;
  const rows = numelOf(x.shape.slice(0, -1));
  const rstd = wrap(rstdHandle, 'f32', [rows], x.device);
  const backward: BackwardFunction = ([g], [kx, kw, kr]) => {
    const dx = call().rmsNormBackward(kx!.handle, kw!.handle, kr!.handle, g!.handle);
    return [wrap(dx, kx!.dtype, kx!.shape, kx!.device)];
  };
  const again = ([kx, kw]: Tensor[]): Tensor =>
    wrap(call().rmsNormForward(kx!.handle, kw!.handle, eps, dtype, false)[0], dtype, kx!.shape, kx!.device);
  record([x], [y], [x, weight, rstd], backward, { again });
  rstd.dispose();
  return y;
}
