/** Numbers for tests: seeded values, comparisons, central differences. */
import { Tensor, tensor, type DType } from '../../lib/index';
import type { Device } from '../../lib/index';

/** n numbers of [-1, 1) by a linear congruential generator: the same everywhere. */
export function values(n: number, seed = 1): number[] {
  let state = seed >>> 0;
  return Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

export const numel = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** A tensor of seeded values. */
export function seeded(
  shape: readonly number[],
  seed: number,
  options: { dtype?: DType; device?: Device; requiresGrad?: boolean } = {},
): Tensor {
  return tensor(Float32Array.from(values(numel(shape), seed)), { shape, ...options });
}

/** The bytes of tensors as text, for comparisons bit for bit. */
export const bits = (...tensors: readonly Tensor[]): string =>
  tensors.map((t) => Buffer.from(t.bytesSync()).toString('hex')).join();

/** The values of a tensor as a list, for comparisons that show them. */
export const list = async (t: Tensor | null): Promise<number[]> => [...(await t!.data())];

/** The nearest bf16 of a number that f32 holds exactly, ties to even. */
export function roundToBf16(x: number): number {
  const word = new Uint32Array(Float32Array.of(x).buffer);
  word[0] = (word[0]! + 0x7fff + ((word[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(word.buffer)[0]!;
}

/** Largest |got − want| over the largest |want|; NaN or a wrong length gives Infinity. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) return Infinity;
  let worst = 0;
  let scale = 0;
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    if (!(error <= worst)) worst = error;
    scale = Math.max(scale, Math.abs(want[i]!));
  }
  return Number.isNaN(worst) ? Infinity : worst / (scale || 1);
}

/** Scalar Σ y·w with fixed w, so that every element of y matters differently. */
export function weigh(y: Tensor): Tensor {
  const w = seeded(y.shape, 77, { device: y.device });
  return y.mul(w).sum();
}

export interface Input {
  shape: readonly number[];
  /** The values to start at; default: seeded. */
  at?: readonly number[];
}

/**
 * The largest error of the gradients of Σ w·fn(inputs) against central differences, relative to the largest
 * gradient of the same input.
 */
export async function gradientError(
  fn: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Input[],
  { device = 'reference', eps = 1e-2 }: { device?: Device; eps?: number } = {},
): Promise<number> {
  const start = inputs.map((x, i) => Float32Array.from(x.at ?? values(numel(x.shape), 10 + i)));
  const run = (data: Float32Array[], requiresGrad: boolean): { xs: Tensor[]; loss: Tensor } => {
    const xs = data.map((d, i) => tensor(d, { shape: inputs[i]!.shape, device, requiresGrad }));
    return { xs, loss: weigh(fn(...xs)) };
  };
  const { xs, loss } = run(start, true);
  loss.backward();
  let worst = 0;
  for (const [i, x] of xs.entries()) {
    const want: number[] = [];
    for (let j = 0; j < start[i]!.length; j++) {
      const at = (delta: number): Promise<number> => {
        const moved = start.map((d) => d.slice());
        moved[i]![j]! += delta;
        return run(moved, false).loss.item();
      };
      const [hi, lo] = [start[i]![j]! + eps, start[i]![j]! - eps].map(Math.fround) as [number, number];
      want.push(((await at(eps)) - (await at(-eps))) / (hi - lo));
    }
    const got = x.grad === null ? new Float32Array(0) : await x.grad.data();
    worst = Math.max(worst, relativeError(got, want));
  }
  return worst;
}
