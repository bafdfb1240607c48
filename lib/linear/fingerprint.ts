/** Numbers that tell a frozen layer from another, so that a saved change is not put onto a wrong one. */
import { randomUniform } from '../ops/random';
import { rawBinary, rawCast, rawMatmul, rawView } from '../tensor/raw';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { runDetached } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';

const streams = { left: 0, right: 1 };

/**
 * U·(W·V + b·1) of a weight W [out, in] and a bias b [out], with fixed random U [2, out] and V [in, 2] from U(−1, 1): four numbers [2, 2] in
 * f32. Another layer has others with near certainty; rounding on another device or to bf16 moves them by a small part.
 */
export function fingerprint(weight: Tensor, bias: Tensor | undefined): Tensor {
  const { device, dtype } = weight;
  const [out, inside] = weight.shape as [number, number];
  const draw = (shape: number[], stream: number): Tensor =>
    randomUniform(shape, { seed: 0, stream, lo: -1, hi: 1, device });
  const right = draw([inside, 2], streams.right);
  const product = rawMatmul(weight, dtype === 'f32' ? right : rawCast(right, dtype), false, false, 'f32', [
    out,
    2,
  ]);
  const y = bias ? rawBinary('add', product, rawView(bias, 0, [out, 1]), 'f32', [out, 2]) : product;
  return rawMatmul(draw([2, out], streams.left), y, false, false, 'f32', [2, 2]);
}

/** The fingerprint of a packed weight, as numbers. */
export async function fingerprintOf(weight: FrozenWeight): Promise<number[]> {
  const made = runDetached(null, () => {
    const rows = weight.unpack();
    const numbers = fingerprint(rows, undefined);
    rows.dispose();
    return numbers;
  });
  try {
    return [...(await made.data())];
  } finally {
    made.dispose();
  }
}

/** Whether two fingerprints are those of one layer. */
export function sameNumbers(x: ArrayLike<number>, y: ArrayLike<number>): boolean {
  if (x.length !== y.length) return false;
  const [a, b] = [Array.from(x), Array.from(y)];
  const size = Math.max(...a.map(Math.abs), ...b.map(Math.abs));
  return a.every((value, i) => Math.abs(value - b[i]!) <= 1e-2 * size);
}

/** The same of tensors. Waits for both. */
export function sameFingerprint(a: Tensor, b: Tensor): boolean {
  return sameNumbers(a.dataSync(), b.dataSync());
}
