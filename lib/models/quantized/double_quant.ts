/**
 * The second quantization of QLoRA (Dettmers et al. 2023, section 3): the magnitudes of blocks minus their mean, in 8 bits, 256 of which
 * share a magnitude. All of it as bitsandbytes 0.50 computes it.
 */
import { breathe } from '../../tensor/pace';

/** Magnitudes that share a second magnitude. */
export const nestedBlock = 256;

/** Magnitudes in 8 bits: map[codes[i]]·magnitudes[i / 256] + offset. */
export interface NestedMagnitudes {
  readonly codes: Uint8Array;
  readonly magnitudes: Float32Array;
  readonly offset: number;
}

const f32 = Math.fround;

/** The values of 8-bit codes, in their order: Dettmers' dynamic tree with a sign (see native/core/maths/dynamic_code.h), rounded as PyTorch does. */
export const nestedMap: Float32Array = (() => {
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const parts = 2 ** decade;
    const [first, last] = [f32(0.1), 1];
    const step = f32((last - first) / parts);
    const bound = (i: number): number =>
      f32(i < Math.floor((parts + 1) / 2) ? first + step * i : last - step * (parts - i));
    for (let j = 0; j < parts; j++) {
      const value = f32(f32(10 ** (decade - 6)) * f32(f32(bound(j) + bound(j + 1)) / 2));
      values.push(value, -value);
    }
  }
  return Float32Array.from(values).sort();
})();
const middles = nestedMap.subarray(1).map((value, i) => f32(f32(value + nestedMap[i]!) / 2));

/** The code whose value is nearest to u in [−1, 1]; of two the lower one. */
function codeOf(u: number): number {
  let [low, high] = [0, middles.length];
  while (low < high) {
    const half = (low + high) >> 1;
    if (u > middles[half]!) low = half + 1;
    else high = half;
  }
  return low;
}

/** Quantizes the magnitudes of a matrix; a finite number each. */
export async function nest(magnitudes: Float32Array): Promise<NestedMagnitudes> {
  const { length } = magnitudes;
  const offset = f32(magnitudes.reduce((sum, x) => sum + x, 0) / Math.max(1, length));
  const codes = new Uint8Array(length);
  const second = new Float32Array(Math.ceil(length / nestedBlock));
  for (let block = 0; block < second.length; block++) {
    if (block % 256 === 255) await breathe();
    const centred = magnitudes
      .subarray(block * nestedBlock, (block + 1) * nestedBlock)
      .map((x) => x - offset);
    const magnitude = centred.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    second[block] = magnitude;
    const inverse = f32(1 / magnitude);
    centred.forEach((x, i) => {
      codes[block * nestedBlock + i] = codeOf(x === 0 ? 0 : f32(x * inverse));
    });
  }
  return { codes, magnitudes: second, offset };
}

/** Magnitudes as they are after the second quantization. */
export async function roundedTwice(magnitudes: Float32Array): Promise<Float32Array> {
  const nested = await nest(magnitudes);
  const rounded = new Float32Array(magnitudes.length);
  for (let i = 0; i < rounded.length; i++) {
    if (i % 65_536 === 65_535) await breathe();
    rounded[i] = unnested(nested, i);
  }
  return rounded;
}

/** Magnitude i. `blocksize`: how many share a second magnitude; `map`: the values of the codes. */
export function unnested(
  { codes, magnitudes, offset }: NestedMagnitudes,
  i: number,
  map = nestedMap,
  blocksize = nestedBlock,
): number {
  return f32(f32(map[codes[i]!]! * magnitudes[Math.floor(i / blocksize)]!) + offset);
}
