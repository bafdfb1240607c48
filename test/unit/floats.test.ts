/** Floats of 16 bits as numbers, and back. */
import { floatOfHalf, floatsOf, roundedTo } from '../../lib/formats/floats';

const bytesOf = (words: readonly number[]): Uint8Array => new Uint8Array(Uint16Array.from(words).buffer);
const finite = (exponentBits: number): number[] =>
  [...Array(2 ** 16).keys()].filter((bits) => (bits & exponentBits) !== exponentBits);

test.each([
  [0x0001, 2 ** -24],
  [0x8001, -(2 ** -24)],
  [0x03ff, 1023 * 2 ** -24],
  [0x0400, 2 ** -14],
  [0x3c01, 1 + 2 ** -10],
  [0xc000, -2],
  [0x7bff, 65504],
  [0x7c00, Infinity],
  [0xfc00, -Infinity],
  [0x7e00, NaN],
])('the f16 %i is %d', (bits, value) => {
  expect(floatOfHalf(bits)).toBe(value);
});

test.each([
  ['F16', 'f16', 0x7c00],
  ['BF16', 'bf16', 0x7f80],
] as const)('every finite value of %s is itself after the way through f32', (dtype, to, exponentBits) => {
  const words = finite(exponentBits);
  const floats = floatsOf({ dtype, bytes: bytesOf(words) });
  expect(roundedTo(floats, to)).toEqual(bytesOf(words));
});
