/**
 * Floats as blocks of ggml's, rounded as ggml rounds them, in f32. Of 32 values with one f16 scale d, m the value of largest magnitude:
 *
 *     Q8_0: d = |m| / 127,  32 bytes q = round(x / d), halves away from zero;   x ≈ d·q
 *     Q4_0: d = m / −8,     q = min(15, ⌊x / d + 8.5⌋);                         x ≈ d·(q − 8)
 *           16 bytes, value j in the low half of byte j, value j + 16 in the high one
 *     Q5_0: d = m / −16,    q = min(31, ⌊x / d + 16.5⌋);                        x ≈ d·(q − 16)
 *           32 bits with the fifth of each value, and the other four as in Q4_0
 *
 * Q4_K is described in gguf_q4_k.ts.
 */
import { blockFormats, type BlockFormat } from '../tensor/block_formats';
import { halfOf } from './floats';
import { fillQ4K } from './gguf_q4_k';

const { fround } = Math;

/** Writes one block, or gives false where its scale is too large for f16. */
type Quantiser = (values: Float32Array, into: Uint8Array) => boolean;

/** Of several values of that magnitude, the first. */
function ofLargestMagnitude(block: Float32Array): number {
  let found = 0;
  for (const value of block) if (Math.abs(value) > Math.abs(found)) found = value;
  return found;
}

/** A block whose scale comes first, and what comes of its values and 1 / d behind it. */
const ofOneScale =
  (
    scaleOf: (extreme: number) => number,
    fill: (block: Float32Array, inverse: number, into: Uint8Array) => void,
  ): Quantiser =>
  (block, into) => {
    const scale = fround(scaleOf(ofLargestMagnitude(block)));
    const half = halfOf(scale);
    if (half === undefined) return false;
    into.set([half & 0xff, half >> 8]);
    fill(block, scale === 0 ? 0 : fround(1 / scale), into.subarray(2));
    return true;
  };

function fillQ8(block: Float32Array, inverse: number, into: Uint8Array): void {
  for (const [i, value] of block.entries()) {
    const x = fround(value * inverse);
    into[i] = Math.sign(x) * Math.floor(Math.abs(x) + 0.5); // a negative one wraps to two's complement
  }
}

/** The code of a value, of 2 · `middle` ones. */
const codeOf = (value: number, inverse: number, middle: number): number =>
  Math.min(2 * middle - 1, Math.floor(fround(fround(value * inverse) + (middle + 0.5))));

function fillQ4(block: Float32Array, inverse: number, into: Uint8Array): void {
  for (let i = 0; i < 16; i++)
    into[i] = codeOf(block[i]!, inverse, 8) | (codeOf(block[i + 16]!, inverse, 8) << 4);
}

function fillQ5(block: Float32Array, inverse: number, into: Uint8Array): void {
  into.fill(0, 0, 4);
  for (let i = 0; i < 32; i++) {
    const code = codeOf(block[i]!, inverse, 16);
    into[i >> 3]! |= (code >> 4) << (i & 7);
    if (i < 16) into[4 + i] = code & 15;
    else into[4 + i - 16]! |= (code & 15) << 4;
  }
}

const quantisers = {
  q8_0: ofOneScale((extreme) => Math.abs(extreme) / 127, fillQ8),
  q4_0: ofOneScale((extreme) => extreme / -8, fillQ4),
  q5_0: ofOneScale((extreme) => extreme / -16, fillQ5),
  q4_k: fillQ4K,
} as const satisfies Partial<Record<BlockFormat, Quantiser>>;

/** The block formats that files are written in. */
export type WrittenBlocks = keyof typeof quantisers;

export const isWrittenBlocks = (format: string): format is WrittenBlocks => Object.hasOwn(quantisers, format);

/** Whole blocks of values; undefined where one is not finite, or its scale too large for f16. */
export function quantisedBlocks(floats: Float32Array, format: WrittenBlocks): Uint8Array | undefined {
  const { values, bytes: size } = blockFormats[format];
  const bytes = new Uint8Array((floats.length / values) * size);
  for (let at = 0, to = 0; at < floats.length; at += values, to += size) {
    const block = floats.subarray(at, at + values);
    if (!block.every(Number.isFinite)) return undefined;
    if (!quantisers[format](block, bytes.subarray(to, to + size))) return undefined;
  }
  return bytes;
}
