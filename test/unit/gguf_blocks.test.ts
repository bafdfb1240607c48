/** Blocks of ggml's that are written, against the bytes that its own library makes of the same values. */
import { createHash } from 'node:crypto';
import { bytesOfFloats } from '../../lib/formats/floats';
import { quantizedBlocks } from '../../lib/formats/gguf_blocks';
import type { WrittenBlocks } from '../../lib/native/block_formats';
import { generator } from '../support/tiny_model';

const count = 256 * 32;

/** Values of several kinds, by products and sums alone, which are the same everywhere. */
function valuesOf(kind: string): Float32Array {
  const random = generator(35);
  const make: Record<string, (i: number, u: number) => number> = {
    uniform: (_, u) => u / 16,
    heavy: (_, u) => u * u * u * u * u,
    above: (_, u) => u + 3,
    below: (_, u) => u - 3,
    sparse: (_, u) => (Math.abs(u) < 0.9 ? 0 : u),
    steps: (_, u) => Math.round(u * 8) / 100,
    constant: (i, u) => ((i >> 5) % 3 === 0 ? 0.25 : u),
    scales: (i, u) => u * 2 ** (((i >> 5) % 24) - 16),
  };
  return Float32Array.from({ length: count }, (_, i) => make[kind]!(i, random()));
}

/** The first 16 digits of SHA-256 of what quantize_row_FORMAT_ref of libggml-base makes of them, in node-llama-cpp 3.22.1 for linux-x64. */
const digests: Record<string, Record<WrittenBlocks, string>> = {
  uniform: {
    q4_k: '5c557e0a2cfc0910',
    q5_0: '5263ca3d5dc88e8a',
    q4_0: '5e8478f2abbc79b4',
    q8_0: '99e6e085bedee4ff',
  },
  heavy: {
    q4_k: 'd895a46b67934a64',
    q5_0: 'b30500eed217477a',
    q4_0: '6ce74a09cc1823e7',
    q8_0: 'a0dfc10f7c913173',
  },
  above: {
    q4_k: '456f6a8b66ec8e54',
    q5_0: '65da4966907a7069',
    q4_0: '66af144d9c5179f5',
    q8_0: '9697fc03948b021e',
  },
  below: {
    q4_k: '781e1313397a3177',
    q5_0: '4619df34d3139d11',
    q4_0: '3571a039fdf47f28',
    q8_0: '809530673daa6cc8',
  },
  sparse: {
    q4_k: 'c8734ced56404762',
    q5_0: '30379209f6569841',
    q4_0: '94227ba60eb82f9c',
    q8_0: 'e787f262e5aa619a',
  },
  steps: {
    q4_k: '6858723689ba7877',
    q5_0: 'e72bb252034181f0',
    q4_0: 'c5849f53bf529a41',
    q8_0: '067021ab0f2e793b',
  },
  constant: {
    q4_k: '1a082113ad57b685',
    q5_0: 'c58a96de1183a1a2',
    q4_0: '78f4f42a29dba22f',
    q8_0: '14ef23a0c153dccd',
  },
  scales: {
    q4_k: '593f9a6afa51a678',
    q5_0: '81f6ce60df5de445',
    q4_0: '9bd71716e150cd0e',
    q8_0: 'a34556d18f48c098',
  },
};

test.each(Object.keys(digests))('%s values', async (kind) => {
  const bytes = bytesOfFloats(valuesOf(kind));
  for (const [format, digest] of Object.entries(digests[kind]!)) {
    const blocks = await quantizedBlocks(bytes, 'f32', format as WrittenBlocks);
    expect([format, createHash('sha256').update(blocks!).digest('hex').slice(0, 16)]).toEqual([
      format,
      digest,
    ]);
  }
});
