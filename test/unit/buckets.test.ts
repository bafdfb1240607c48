// Gradients and parameters in the pieces that cross the network.
import { tensor } from '../../lib/index';
import { cut, gradientsOf, spread, valuesOf } from '../../lib/train/buckets';
import type { Parameter } from '../../lib/tensor/tensor';

const full = 2 ** 22;
const of = (values: Float32Array): Parameter => tensor(values, { requiresGrad: true }) as Parameter;
const numbers = Float32Array.from({ length: 2 * full + 7 }, (_, i) => i % 8191);
const parameters = [of(Float32Array.of(1, 2, 3)), of(numbers), of(Float32Array.of(4))];
const buckets = cut(parameters);
afterAll(() => {
  for (const parameter of parameters) {
    parameter.grad?.dispose();
    parameter.dispose();
  }
});

test('buckets are full, and cut what does not fit', async () => {
  expect(buckets.map((bucket) => bucket.map(({ count }) => count))).toEqual([[3, full - 3], [full], [10, 1]]);
  const all = await Promise.all(buckets.map(valuesOf));
  expect(all[0]!.slice(0, 5)).toEqual(Float32Array.of(1, 2, 3, 0, 1));
  expect(Buffer.from(all[1]!.buffer).equals(Buffer.from(numbers.buffer, 4 * (full - 3), 4 * full))).toBe(
    true,
  );
  expect([...all[2]!]).toEqual([...numbers.subarray(-10), 4]);
});

test('sums take the place of gradients; one that only other ranks have is made, one that none has is not', async () => {
  parameters[0]!.grad = tensor([5, 6, 7]);
  const given = await Promise.all(buckets.map(gradientsOf));
  expect(given[0]!.slice(0, 4)).toEqual(Float32Array.of(5, 6, 7, 0));
  expect([...given[0]!.slice(-2), ...given[2]!.slice(-2)]).toEqual([1, 0, 0, 0]);
  for (const [i, bucket] of buckets.entries()) {
    const sums = given[i]!.map((value, at) => 2 * value + (at % 3));
    // Another rank has the gradient of the large parameter.
    sums.set(i === 0 ? [1, 1] : i === 1 ? [1] : [1, 0], sums.length - bucket.length);
    spread(bucket, sums);
  }
  expect(await parameters[0]!.grad.data()).toEqual(Float32Array.of(10, 13, 16));
  const made = await parameters[1]!.grad!.data();
  const expected = numbers.map((_, i) =>
    i < full - 3 ? (i + 3) % 3 : i < 2 * full - 3 ? (i - full + 3) % 3 : (i - 2 * full + 3) % 3,
  );
  expect(Buffer.from(made.buffer).equals(Buffer.from(expected.buffer))).toBe(true);
  expect(parameters[2]!.grad).toBeNull();
});
