import { memoryUsage, type Tensor } from '../../lib/index';
import { KVCache } from '../../lib/models/kv_cache';
import { tidy } from '../../lib/tensor/scope';
import { collectGarbage } from '../support/garbage';
import { seeded } from '../support/numbers';

const shape = { layers: 2, heads: 2, headDim: 3 };
const width = 6;

test('grows by half at least, in steps of 64 positions', () => {
  const cache = new KVCache(shape, 'f32', 'cpu');
  const capacities = [1, 64, 65, 129, 193, 1000].map((positions) => {
    cache.reserve(positions);
    return cache.capacity;
  });
  expect(capacities).toEqual([64, 64, 128, 192, 320, 1024]);
  cache.dispose();
  expect([cache.capacity, cache.length]).toEqual([0, 0]);
});

test('keeps what was appended, layer by layer, when it grows', async () => {
  const cache = new KVCache(shape, 'f32', 'cpu');
  const want = Array.from({ length: shape.layers }, () => ({ k: [] as number[], v: [] as number[] }));
  let last: { k: Tensor; v: Tensor }[] = [];
  for (const [step, positions] of [60, 1, 70, 5].entries()) {
    cache.reserve(cache.length + positions);
    last = want.map((kept, layer) => {
      const part = (seed: number): Tensor => seeded([1, positions, shape.heads, shape.headDim], seed);
      const [k, v] = [part(100 * step + layer), part(100 * step + layer + 50)];
      kept.k.push(...k.dataSync());
      kept.v.push(...v.dataSync());
      return cache.append(layer, k, v);
    });
    cache.length += positions;
  }
  expect(cache.length).toBe(136);
  for (const [layer, { k, v }] of last.entries()) {
    expect(k.shape).toEqual([1, cache.capacity, 2, 3]);
    expect([...(await k.data()).subarray(0, 136 * width)]).toEqual(want[layer]!.k);
    expect([...(await v.data()).subarray(0, 136 * width)]).toEqual(want[layer]!.v);
  }
  cache.dispose();
});

test('frees what it outgrew, and all when it is disposed; a scope that it grows in does not free it', async () => {
  await collectGarbage(); // of other tests
  const before = memoryUsage().bytes;
  const token = seeded([1, 1, shape.heads, shape.headDim], 1, { dtype: 'bf16' });
  const cache = new KVCache(shape, 'bf16', 'cpu');
  cache.reserve(10);
  const small = cache.append(0, token, token);
  tidy(() => cache.reserve(100));
  expect([small.k.disposed, small.v.disposed]).toEqual([true, true]);
  const large = cache.append(0, token, token);
  expect([large.k.disposed, large.v.disposed]).toEqual([false, false]);
  expect(large.k.dtype).toBe('bf16');
  cache.dispose();
  expect([large.k.disposed, large.v.disposed]).toEqual([true, true]);
  await token.data(); // what is queued keeps its operands until it has run
  token.dispose();
  expect(memoryUsage().bytes).toBe(before);
});
