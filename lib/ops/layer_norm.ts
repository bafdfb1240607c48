/** y = (x − mean) / √(variance + eps) · weight + bias over the last dimension; f32 inside, rounded once. */
import { needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { rawBinary, rawReduceSum, rawView } from '../tensor/raw';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { numelOf } from '../validate';

const op = 'layer_norm';

/**
 * x [..., d], weight and bias [d] → [..., d] in the dtype of x; the variance is Σ (x − mean)²/d, as GPT-2 and BERT have it. With
 * n = (x − mean)·rstd: dx = rstd·(g·weight − mean(g·weight) − n·mean(g·weight·n)), dweight = Σ g·n and dbias = Σ g over the rows.
 *
 * @example
 * const y = layerNorm(tensor([[1, 3]]), tensor([1, 1]), tensor([0, 0]), 0); // [[-1, 1]]
 */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const inputs = [x, weight, bias];
  const keep = needsGrad(inputs);
  const [handle, meanHandle, rstdHandle] = call().layerNormForward(
    handleOf(x, op, 'x'),
    handleOf(weight, op, 'weight'),
    handleOf(bias, op, 'bias'),
    eps,
    keep,
    keep,
  );
  const y = wrap(handle, x.dtype, x.shape, x.device);
  if (meanHandle === null || rstdHandle === null) return y;
  const d = x.shape.at(-1)!;
  const rows = numelOf(x.shape.slice(0, -1));
  const [mean, rstd] = [meanHandle, rstdHandle].map((one) => wrap(one, 'f32', [rows], x.device));
  const [wantX, wantWeight, wantBias] = inputs.map(({ requiresGrad }) => requiresGrad);
  record(inputs, [y], [x, weight, mean!, rstd!], ([g], [kx, kw, km, kr]) => {
    const [flat, grad] = [kx!, g!].map((one) => rawView(one, 0, [rows, d]));
    const [means, rstds] = [km!, kr!].map((one) => rawView(one, 0, [rows, 1]));
    const sumOfRows = (product: Tensor): Tensor => rawView(rawReduceSum(product, [1, d], 'f32'), 0, [d]);
    const weightGradient = (): Tensor => {
      const deviation = rawBinary('sub', flat!, means!, 'f32', [rows, d]);
      const normed = rawBinary('mul', deviation, rstds!, 'f32', [rows, d]);
      return sumOfRows(rawBinary('mul', grad!, normed, 'f32', [rows, d]));
    };
    const dx = wantX
      ? wrap(
          call().layerNormBackward(kx!.handle, kw!.handle, km!.handle, kr!.handle, g!.handle),
          kx!.dtype,
          kx!.shape,
          kx!.device,
        )
      : null;
    return [dx, wantWeight ? weightGradient() : null, wantBias ? sumOfRows(grad!) : null];
  });
  mean!.dispose();
  rstd!.dispose();
  return y;
}
