/** GGUF's blocks on the devices of the CPU; cuda_emulated.test.ts has them on a GPU. */
import { loraLinear } from '../../lib/ops/lora_linear';
import { FrozenWeight, quantizedBytes } from '../../lib/tensor/frozen_weight';
import { blockFormats, isBlockFormat, type BlockFormat } from '../../lib/native/block_formats';
import { blockFormatCases, goldenBlocks, goldenShape, goldenValues } from '../support/block_format_cases';
import { seeded } from '../support/numbers';
import { describeWithData } from '../support/shared_data';

describeWithData('quant-gguf', 'golden/quant-gguf', (dir) => {
  test('there is a format for every type of the file', async () => {
    const names = [...(await goldenBlocks(dir)).keys()];
    expect(names.length).toBe(20);
    expect(names.filter((name) => !isBlockFormat(name))).toEqual(['f16', 'bf16']);
    expect(Object.keys(blockFormats).sort()).toEqual(names.filter(isBlockFormat).sort());
  });

  // Up to four rows are a decode step on the CPU, which multiplies codes.
  blockFormatCases(dir, 'cpu', (title, body) => void test(title, body), [5, 37]);
  blockFormatCases(dir, 'reference', (title, body) => void test(title, body), [1, 3, 37]);

  test.each(Object.keys(blockFormats) as BlockFormat[])('%s in a decode step on the CPU', async (format) => {
    const blocks = (await goldenBlocks(dir)).get(format)!;
    const values = (await goldenValues(dir)).get(format)!;
    const [out, inside] = goldenShape;
    using kept = FrozenWeight.packQuantized(format, blocks, null, goldenShape, 'f32', 'cpu');
    using x = seeded([3, inside], 1);
    using y = loraLinear(x, { weight: kept });
    const [given, found] = [await x.data(), await y.data()];
    for (let at = 0; at < found.length; at++) {
      const row = given.subarray(Math.floor(at / out) * inside).subarray(0, inside);
      const weights = values.subarray((at % out) * inside).subarray(0, inside);
      const sum = weights.reduce((all, w, i) => all + w * row[i]!, 0);
      expect(Math.abs(found[at]! - sum)).toBeLessThanOrEqual(
        1e-6 * Math.hypot(...row) * Math.hypot(...weights),
      );
    }
  });
});

test('other bytes than whole blocks are refused', () => {
  const pack = (bytes: number, cols: number, scales: Float32Array | null = null): FrozenWeight =>
    FrozenWeight.packQuantized('q4_k', new Uint8Array(bytes), scales, [2, cols], 'f32', 'cpu');
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
  expect(quantizedBytes('q4_k', 2, 256)).toBe(288);
  expect(() =>
    FrozenWeight.packQuantized('q4_k', new Uint8Array(288), null, [2, 256], 'f16', 'reference'),
  ).toThrow('does not read q4_k weights for f16 activations');
});
