/** The floats of a file as numbers of JavaScript. */
import { LoRAError } from '../errors';
import type { SafetensorsTensor } from './safetensors';

/** A float of 16 bits, as IEEE 754 has it. */
export function floatOfHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The elements of an F32, BF16 or F16 tensor in f32, which holds them all; a copy. @throws ERR_UNSUPPORTED for other types. */
export function floatsOf({ dtype, bytes }: Omit<SafetensorsTensor, 'shape'>): Float32Array {
  const copy = bytes.slice().buffer; // aligned
  if (dtype === 'F32') return new Float32Array(copy);
  if (dtype === 'F16') return Float32Array.from(new Uint16Array(copy), floatOfHalf);
  if (dtype !== 'BF16') throw new LoRAError('ERR_UNSUPPORTED', `expected floats but received ${dtype}`);
  const words = new Uint32Array(copy.byteLength / 2);
  for (const [i, word] of new Uint16Array(copy).entries()) words[i] = word * 2 ** 16;
  return new Float32Array(words.buffer);
}

/** The bits of the nearest f16, of two equally near ones the even; undefined for what becomes an infinity. */
export function halfOf(value: number): number | undefined {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (!(size < 65520)) return undefined;
  // Below 2⁻¹⁴ all steps are 2⁻²⁴.
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const step = 2 ** (exponent - 10);
  let units = Math.floor(size / step);
  const rest = size / step - units;
  if (rest > 0.5 || (rest === 0.5 && units % 2 === 1)) units++;
  // A carry goes into the exponent by itself.
  return sign | (exponent === -14 ? units : ((exponent + 14) << 10) + units);
}

/** f32 values as the bytes of bf16 or f16, each rounded to the nearest; undefined where one is not finite, or too large for f16. */
export function roundedTo(floats: Float32Array, to: 'bf16' | 'f16'): Uint8Array | undefined {
  const words = new Uint16Array(floats.length);
  const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  for (const [i, value] of floats.entries()) {
    if (to === 'bf16') {
      const word = bits[i]!;
      // Of an infinity or NaN nothing is rounded: it is refused.
      if ((word & 0x7f800000) === 0x7f800000) return undefined;
      words[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
    } else {
      const half = halfOf(value);
      if (half === undefined) return undefined;
      words[i] = half;
    }
  }
  return new Uint8Array(words.buffer);
}

/** The bytes of a list of floats; the same memory. */
export const bytesOfFloats = (floats: Float32Array): Uint8Array =>
  new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
