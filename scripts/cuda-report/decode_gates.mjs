// How many instructions the decode kernels issue for each byte of a weight. Issuing bounds them where it takes longer than the bytes do: a
// multiprocessor starts 4 instructions of a warp in a clock.
import { weightFormats } from './names.mjs';

/**
 * The most instructions of a pass for a byte of the weight, by kernel and by what the loop reads. Lower one when a kernel gets better. A
 * kernel without a row here is refused.
 */
export const gates = [
  { kernel: /^Decode<(BF16|F16), 1, false>$/, reads: 'elements', most: 0.019 },
  { kernel: /^Decode<(BF16|F16), 2, false>$/, reads: 'elements', most: 0.029 },
  { kernel: /^Decode<BF16, [12], true>$/, reads: 'codes', most: 0.265 },
  { kernel: /^Decode<BF16, [12], true>$/, reads: 'int8', most: 0.15 },
  { kernel: /^DecodeBlocks<[12], q4_0>$/, reads: 'q4_0', most: 0.335 },
  { kernel: /^DecodeBlocks<[12], q8_0>$/, reads: 'q8_0', most: 0.178 },
  { kernel: /^DecodeBlocks<[12], q4_k>$/, reads: 'q4_k', most: 0.342 },
  { kernel: /^DecodeBlocks<[12], q5_k>$/, reads: 'q5_k', most: 0.315 },
  { kernel: /^DecodeBlocks<[12], q6_k>$/, reads: 'q6_k', most: 0.275 },
  { kernel: /^DecodeBlocks<[12], iq4_nl>$/, reads: 'iq4_nl', most: 0.35 },
  // Blocks of 17 bytes: each word is shifted by its own number of bytes.
  { kernel: /^DecodeBlocks<[12], mxfp4>$/, reads: 'mxfp4', most: 0.445 },
];

const bytesOf = {
  ...{ elements: 2, codes: 0.5625, int8: 1 }, // of a value, scales of blocks of 64 among them
  ...Object.fromEntries(
    weightFormats
      .filter(({ values }) => values >= 32)
      .map(({ name, values, bytes }) => [name, bytes / values]),
  ),
};
/** Values of W that a product with one tile of x reads: the first operand of m16n8k16. */
const valuesOfAProduct = 16 * 16;

/**
 * Of a decode kernel on tensor cores the loops that do all of its work, those with the most products; others are for edges.
 * @param name 'Decode<BF16, 2, true>': the type, tiles of 8 rows of x, whether W has scales; or 'DecodeBlocks<2, q4_k>': the tiles, and the format
 * @param passes of its loops (passes.mjs)
 * @returns for each loop { reads, bytes, perByte, pass, most }; undefined where the name is of no such kernel
 */
export function decodeLoops(name, passes) {
  const [, tiles, of] =
    /^Decode<\w+, (\d+), (true|false)>$/.exec(name) ?? /^DecodeBlocks<(\d+), (\w+)>$/.exec(name) ?? [];
  if (!of) return undefined;
  const most = Math.max(...passes.map(({ matrix }) => matrix));
  return passes
    .filter(({ matrix }) => matrix === most)
    .map((pass) => {
      // Only codes are looked up.
      const scaled = pass.LDS > 0 ? 'codes' : 'int8';
      const reads = of === 'false' ? 'elements' : of === 'true' ? scaled : of;
      const bytes = (pass.matrix / Number(tiles)) * valuesOfAProduct * bytesOf[reads];
      const gate = gates.find((one) => one.kernel.test(name) && one.reads === reads);
      return { reads, bytes, perByte: pass.pass / bytes, pass, most: gate?.most };
    });
}

/** What is wrong with the loops of a decode kernel, as sentences; empty where nothing is, and for other kernels. */
export function gateFaults(name, passes) {
  const loops = decodeLoops(name, passes);
  if (loops === undefined) return [];
  if (loops.length === 0) return ['a decode kernel without a loop around products'];
  return loops.flatMap(({ reads, perByte, most, pass }) => {
    const has = `${pass.pass} instructions of a pass, ${perByte.toFixed(3)} for a byte of ${reads}`;
    if (most === undefined) return [`${has}: there is no gate for it (scripts/cuda-report/decode_gates.mjs)`];
    return perByte > most ? [`${has}: at most ${most} expected`] : [];
  });
}
