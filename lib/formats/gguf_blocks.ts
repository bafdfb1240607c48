/**
 * Blocks of 32 values with one f16 scale d, rounded as ggml rounds them, in f32:
 *
 *     Q8_0: d = max|x| / 127, 32 bytes q = round(x / d), halves away from zero;              x ≈ d·q
 *     Q4_0: d = m / −8 with m the value of largest magnitude, q = min(15, ⌊x / d + 8.5⌋);    x ≈ d·(q − 8),
 *           16 bytes, value j in the low half of byte j, value j + 16 in the high one
 */
import { halfOf } from './floats';

const { fround } = Math;

/** The formats of blocks that are written here. */
export type BlockFormat = 'q8_0' | 'q4_0';

const values = 32;
const byteCount = { q8_0: 34, q4_0: 18 } as const;

/** Of several values of that magnitude, the first. */
function ofLargestMagnitude(block: Float32Array): number {
  let found = 0;
  for (const value of block) if (Math.abs(value) > Math.abs(found)) found = value;
  return found;
}

function fillQ8(block: Float32Array, inverse: number, into: Uint8Array): void {
  for (const [i, value] of block.entries()) {
    const x = fround(value * inverse);
    into[2 + i] = Math.sign(x) * Math.floor(Math.abs(x) + 0.5); // a negative one wraps to two's complement
  }
}

function fillQ4(block: Float32Array, inverse: number, into: Uint8Array): void {
  const code = (i: number): number => Math.min(15, Math.floor(fround(fround(block[i]! * inverse) + 8.5)));
  for (let i = 0; i < values / 2; i++) into[2 + i] = code(i) | (code(i + values / 2) << 4);
}

/** Whole blocks of values; undefined where one is not finite, or its scale too large for f16. */
export function quantisedBlocks(floats: Float32Array, format: BlockFormat): Uint8Array | undefined {
  const size = byteCount[format];
  const bytes = new Uint8Array((floats.length / values) * size);
  for (let at = 0, to = 0; at < floats.length; at += values, to += size) {
    const block = floats.subarray(at, at + values);
    if (!block.every(Number.isFinite)) return undefined;
    const extreme = ofLargestMagnitude(block);
    const scale = format === 'q8_0' ? fround(Math.abs(extreme) / 127) : fround(extreme / -8);
    const half = halfOf(scale);
    if (half === undefined) return undefined;
    const inverse = scale === 0 ? 0 : fround(1 / scale);
    const into = bytes.subarray(to, to + size);
    into.set([half & 0xff, half >> 8]);
    (format === 'q8_0' ? fillQ8 : fillQ4)(block, inverse, into);
  }
  return bytes;
}
