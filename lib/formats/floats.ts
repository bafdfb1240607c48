/** The floats of a file as numbers of JavaScript. */
import { LoRAError } from '../errors';
import type { SafetensorsTensor } from './safetensors';

/** A float of 16 bits, as IEEE 754 has it. */
function ofHalf(bits: number): number {
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
  if (dtype === 'F16') return Float32Array.from(new Uint16Array(copy), ofHalf);
  if (dtype !== 'BF16') throw new LoRAError('ERR_UNSUPPORTED', `expected floats but received ${dtype}`);
  const words = new Uint32Array(copy.byteLength / 2);
  for (const [i, word] of new Uint16Array(copy).entries()) words[i] = word * 2 ** 16;
  return new Float32Array(words.buffer);
}

/** The bytes of a list of floats; the same memory. */
export const bytesOfFloats = (floats: Float32Array): Uint8Array =>
  new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
