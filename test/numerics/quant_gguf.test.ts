/** GGUF's blocks on the devices of the CPU; cuda_emulated.test.ts has them on a GPU. */
import { FrozenWeight, quantisedBytes } from '../../lib/tensor/frozen_weight';
import { blockFormats, isBlockFormat } from '../../lib/tensor/block_formats';
import { blockFormatCases, goldenBlocks } from '../support/block_format_cases';
import { describeWithData } from '../support/shared_data';

describeWithData('quant-gguf', 'golden/quant-gguf', (dir) => {
  test('there is a format for every type of the file', async () => {
    const names = [...(await goldenBlocks(dir)).keys()];
    expect(names.length).toBe(20);
    expect(names.filter((name) => !isBlockFormat(name))).toEqual(['f16', 'bf16']);
    expect(Object.keys(blockFormats).sort()).toEqual(names.filter(isBlockFormat).sort());
  });

  for (const device of ['cpu', 'reference'] as const)
    blockFormatCases(dir, device, (title, body) => void test(title, body), [1, 3, 37]);
});

test('other bytes than whole blocks are refused', () => {
  const pack = (bytes: number, cols: number, scales: Float32Array | null = null): FrozenWeight =>
    FrozenWeight.packQuantised('q4_k', new Uint8Array(bytes), scales, [2, cols], 'f32', 'cpu');
  expect(() => pack(288, 255)).toThrow(
    '[pack] expected rows of whole blocks of 256 values (q4_k) but received a weight of shape [2, 255]',
  );
  expect(() => pack(287, 256)).toThrow(
    '[pack] expected weight of shape [288] (bytes of blocks) but received [287]',
  );
  expect(() => pack(288, 256, new Float32Array(2))).toThrow(
    '[pack] expected no scales with a weight in q4_k',
  );
  using weight = pack(288, 256);
  expect(weight.format).toBe('q4_k');
  expect(quantisedBytes('q4_k', 2, 256)).toBe(288);
  expect(() =>
    FrozenWeight.packQuantised('q4_k', new Uint8Array(288), null, [2, 256], 'f16', 'reference'),
  ).toThrow('does not read q4_k weights for f16 activations');
});
