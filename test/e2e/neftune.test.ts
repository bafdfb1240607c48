/** Noise on the embeddings: its size, where it goes, and that it is drawn anew for each batch and by the seed. */
import { tensor, Trainer } from '../../lib/index';
import { addNoise, noiseFactors } from '../../lib/models/inputs/noise';
import { list } from '../support/numbers';
import { makeRows, trainingFixture } from '../support/training';

const fixture = trainingFixture();
const width = 24; // of the tiny model
const factorsOf = async (ids: number[][], alpha: number, segmentIds?: number[][]): Promise<number[]> => {
  const { factors } = noiseFactors({ alpha, seed: 1, stream: 0 }, ids, segmentIds, width, 'cpu');
  return list(factors);
};

test('the factor is α/√(L·d) of the own text, 0 for padding', async () => {
  const of = (length: number): number => Math.fround(5 / Math.sqrt(length * width));
  expect(
    await factorsOf(
      [
        [1, 2, 3, 4],
        [5, 6],
      ],
      5,
    ),
  ).toEqual([of(4), of(4), of(4), of(4), of(2), of(2), 0, 0]);
  expect(await factorsOf([[1, 2, 3, 4, 0]], 5, [[1, 2, 2, 2, 0]])).toEqual([of(1), of(3), of(3), of(3), 0]);
});

test('the noise is uniform, and drawn by seed and batch', async () => {
  const ids = [Array.from({ length: 400 }, (_, i) => i % 200)];
  const noise = async (seed: number, stream: number, dtype: 'f32' | 'bf16' = 'f32'): Promise<number[]> => {
    const x = tensor(new Float32Array(400 * width).fill(1), { shape: [1, 400, width], dtype });
    return list(addNoise(x, noiseFactors({ alpha: 7, seed, stream }, ids, undefined, width, 'cpu')));
  };
  const values = (await noise(1, 0)).map((value) => value - 1);
  const bound = 7 / Math.sqrt(400 * width);
  const mean = values.reduce((a, b) => a + b) / values.length;
  const variance = values.reduce((a, b) => a + b * b, 0) / values.length;
  expect(Math.max(...values.map(Math.abs))).toBeLessThan(bound * 1.0001);
  expect(Math.max(...values)).toBeGreaterThan(bound * 0.99);
  expect(Math.abs(mean)).toBeLessThan((4 * bound) / Math.sqrt(3 * values.length));
  expect(variance / (bound * bound)).toBeCloseTo(1 / 3, 1);
  expect(await noise(1, 0)).toEqual(await noise(1, 0));
  expect(await noise(1, 1)).not.toEqual(await noise(1, 0));
  expect(await noise(2, 0)).not.toEqual(await noise(1, 0));
  expect(Math.max(...(await noise(1, 0, 'bf16')))).toBeLessThanOrEqual(1 + bound * 1.01 + 2 ** -8);
});

test('a forward with noise has another loss than without, the same for the same batch', async () => {
  const { model } = fixture;
  fixture.addAdapter('mine', { loraDropout: 0 });
  const ids = [[1, 2, 3, 4, 5, 6]];
  const loss = async (stream?: number): Promise<number> =>
    model
      .forward(ids, {
        labels: ids,
        train: true,
        ...(stream !== undefined && { noise: { alpha: 5, seed: 3, stream } }),
      })
      .loss.item();
  expect(await loss(0)).toBe(await loss(0));
  expect(await loss(0)).not.toBe(await loss());
  expect(await loss(0)).not.toBe(await loss(1));
});

test('each batch of a run has noise of its own, also where a step has several', async () => {
  const { model } = fixture;
  fixture.addAdapter('mine');
  const calls = jest.spyOn(model, 'forwardInSlices');
  const run = { batchSize: 1, gradientAccumulationSteps: 3, maxSteps: 3, neftuneNoiseAlpha: 5, lr: 1e-3 };
  await new Trainer({ model, data: makeRows(9), ...run }).run();
  const streams = calls.mock.calls.map(([, { noise }]) => noise!.stream);
  expect(streams).toHaveLength(9);
  expect(new Set(streams).size).toBe(9);
  jest.restoreAllMocks();
});
