/**
 * Blocks of Q4_K, rounded as ggml rounds them, in f32. 256 values are 8 groups of 32, of which each has a scale s and a minimum m of 6 bits:
 *
 *     x ≈ d·s·q − e·m with q of 4 bits        bytes: d and e in f16, 12 of s and m, 128 of q
 *
 * A group is first fitted in floats: x ≈ a·q + c with c ≤ 0, so that Σ w·(a·q + c − x)² is small, where w = √(Σx²/32) + |x| makes large
 * values count more. It is cut into 15 steps from its least value, or from 0, to its largest; then into 14.0, 14.1 … 16.0 steps from the
 * best c so far to its largest value. To the codes of each cut a and c are fitted by least squares, and the first cut of least error is
 * taken. Then d = max a / 63 and e = max −c / 63; a and c become s = round(a / d) and m = round(−c / e), and each q is rounded once
 * more, by the values of the stored d·s and e·m.
 */
import { floatOfHalf, halfOf } from './floats';

const { fround } = Math;

const groups = 8;
const size = 32;
const mostCode = 15;
const mostScale = 63;
const cuts = 21;

/** The whole number nearest to an f32 below 2²², of two equally near ones the even: adding this and taking it away rounds. */
const rounder = 1.5 * 2 ** 23;
const rounded = (value: number): number => fround(fround(value + rounder) - rounder);

/** The code of a place between 0 and 15. In a range so small that 1 / range is infinite no place is a number below 2²². */
function codeAt(place: number): number {
  if (!(place > 0 && place < 2 ** 22)) return 0;
  return place >= mostCode ? mostCode : rounded(place);
}

/** What is at work on one group: one block is quantised at a time. */
const weights = new Float32Array(size);
const tried = new Float32Array(size);

/** Fills `weights`. */
function weigh(x: Float32Array): void {
  let squares = 0;
  for (let i = 0; i < size; i++) squares = fround(squares + fround(x[i]! * x[i]!));
  const mean = fround(Math.sqrt(fround(squares / size)));
  for (let i = 0; i < size; i++) weights[i] = fround(mean + Math.abs(x[i]!));
}

/** Σ w·(a·q + c − x)². */
function errorOf(x: Float32Array, q: Float32Array, a: number, c: number): number {
  let sum = 0;
  for (let i = 0; i < size; i++) {
    const off = fround(fround(fround(a * q[i]!) + c) - x[i]!);
    sum = fround(sum + fround(weights[i]! * fround(off * off)));
  }
  return sum;
}

interface Line {
  readonly a: number;
  readonly c: number;
}

/** Of the weighted values of a group: the sum of the weights, and that of the products. */
interface Sums {
  readonly w: number;
  readonly wx: number;
}

/** Fills `tried` with the codes from `from` on, in steps of 1 / perStep, and gives the line through them; undefined where they are one. */
function cutGroup(x: Float32Array, { w, wx }: Sums, from: number, perStep: number): Line | undefined {
  let [wq, wqq, wqx] = [0, 0, 0];
  for (let i = 0; i < size; i++) {
    const q = codeAt(fround(perStep * fround(x[i]! - from)));
    const weighted = fround(weights[i]! * q);
    tried[i] = q;
    wq = fround(wq + weighted);
    wqq = fround(wqq + fround(weighted * q));
    wqx = fround(wqx + fround(weighted * x[i]!));
  }
  const determinant = fround(fround(w * wqq) - fround(wq * wq));
  if (!(determinant > 0)) return undefined;
  const c = fround(fround(fround(wqq * wx) - fround(wq * wqx)) / determinant);
  if (c > 0) return { a: fround(wqx / wqq), c: 0 };
  return { a: fround(fround(fround(w * wqx) - fround(wx * wq)) / determinant), c };
}

/** Fits a group, and fills `codes` with its codes. */
function fitGroup(x: Float32Array, codes: Float32Array): Line {
  weigh(x);
  let [least, most, w, wx] = [0, x[0]!, 0, 0];
  for (let i = 0; i < size; i++) {
    least = Math.min(least, x[i]!);
    most = Math.max(most, x[i]!);
    w = fround(w + weights[i]!);
    wx = fround(wx + fround(weights[i]! * x[i]!));
  }
  if (most === least) return { a: 0, c: least };
  const perStep = fround(mostCode / fround(most - least));
  for (let i = 0; i < size; i++) codes[i] = codeAt(fround(perStep * fround(x[i]! - least)));
  let best: Line = { a: fround(1 / perStep), c: least };
  let error = errorOf(x, codes, best.a, best.c);
  for (let cut = 0; cut < cuts; cut++) {
    const steps = fround(fround(fround(fround(0.1) * cut) - 1) + mostCode);
    const line = cutGroup(x, { w, wx }, best.c, fround(steps / fround(most - best.c)));
    if (line === undefined) continue;
    const off = errorOf(x, tried, line.a, line.c);
    if (!(off < error)) continue;
    codes.set(tried);
    [best, error] = [line, off];
  }
  return best;
}

/** Eight pairs of 6 bits in 12 bytes: those of the first four groups in 8 bytes, whose upper bits hold the upper bits of the others. */
function packScales(scales: Uint8Array, minima: Uint8Array, into: Uint8Array): void {
  for (let i = 0; i < 4; i++) {
    const [scale, minimum] = [scales[i + 4]!, minima[i + 4]!];
    into[i] = scales[i]! | ((scale >> 4) << 6);
    into[i + 4] = minima[i]! | ((minimum >> 4) << 6);
    into[i + 8] = (scale & 15) | ((minimum & 15) << 4);
  }
}

/** Two groups share 32 bytes, in which the first has the lower bits. */
function packCodes(codes: Float32Array, into: Uint8Array): void {
  for (let i = 0; i < into.length; i++) {
    const at = (i >> 5) * 2 * size + (i & (size - 1));
    into[i] = codes[at]! | (codes[at + size]! << 4);
  }
}

/** The number of 6 bits nearest to each value, in steps of the largest / 63. */
function inSixBits(values: Float32Array, largest: number): Uint8Array {
  const inverse = largest > 0 ? fround(mostScale / largest) : 0;
  return Uint8Array.from(values, (value) => Math.min(mostScale, rounded(fround(inverse * value))));
}

/** Writes one block of 256 finite values, or gives false where d or e is too large for f16. */
export function fillQ4K(values: Float32Array, into: Uint8Array): boolean {
  const codes = new Float32Array(values.length);
  const [a, b] = [new Float32Array(groups), new Float32Array(groups)];
  const group = (of: Float32Array, j: number): Float32Array => of.subarray(j * size, (j + 1) * size);
  for (let j = 0; j < groups; j++) {
    const line = fitGroup(group(values, j), group(codes, j));
    [a[j], b[j]] = [line.a, -line.c];
  }
  const [mostA, mostB] = [Math.max(0, ...a), Math.max(0, ...b)];
  const [d, e] = [halfOf(fround(mostA / mostScale)), halfOf(fround(mostB / mostScale))];
  if (d === undefined || e === undefined) return false;
  const [scales, minima] = [inSixBits(a, mostA), inSixBits(b, mostB)];
  for (let j = 0; j < groups; j++) {
    const step = fround(floatOfHalf(d) * scales[j]!);
    const minimum = fround(floatOfHalf(e) * minima[j]!);
    // Without a step every code means the same: those of the fit stay, as in ggml.
    if (step === 0) continue;
    const [x, q] = [group(values, j), group(codes, j)];
    for (let i = 0; i < size; i++) q[i] = codeAt(fround(fround(x[i]! + minimum) / step));
  }
  into.set([d & 0xff, d >> 8, e & 0xff, e >> 8]);
  packScales(scales, minima, into.subarray(4, 16));
  packCodes(codes, into.subarray(16));
  return true;
}
