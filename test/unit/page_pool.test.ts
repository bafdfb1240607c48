/** Pages of a real pool: they keep what they hold when the pool grows, shrinks, and runs out of memory while it does. */
import { pageBytes, pageLength, PagePool, type Page } from '../../lib/engine/pages';
import { binding } from '../../lib/native/calls';
import { pagesOf } from '../../lib/ops/attention_paged';
import { fromBytes } from '../../lib/tensor/create';
import { rawView } from '../../lib/tensor/raw';
import { noGrad } from '../../lib/tensor/scope';
import type { Tensor } from '../../lib/tensor/tensor';

/** Two layers that keep more or less of a token. */
const layers = [
  { kind: 'attention', kvHeads: 1, headDim: 2 },
  { kind: 'attention', kvHeads: 2, headDim: 3 },
] as const;
const shape = { layers, dtype: 'f32', device: 'cpu' } as const;
/** Numbers of a page in [k, v, k, v]. */
const sizes = layers.flatMap(({ kvHeads, headDim }) => [0, 0].map(() => pageLength * kvHeads * headDim));
const bytes = 4 * sizes.reduce((sum, size) => sum + size, 0);

/** Pages in the tensors of a pool, [k, v, k, v]. */
const placesOf = (pool: PagePool, { number }: Page): Tensor[] =>
  layers
    .map((_, i) => pagesOf(pool, i))
    .flatMap(({ k, v }) => [k, v])
    .map((one, j) => rawView(one, number * sizes[j]!, [sizes[j]!]));

/** A pool whose page i holds i, i + 0.25, i + 0.5 and i + 0.75 in its four tensors. */
function filled(count: number): { pool: PagePool; pages: Page[] } {
  const pool = new PagePool(shape, 64 * bytes);
  const pages = pool.take(count)!;
  for (const [i, page] of pages.entries())
    for (const [j, place] of placesOf(pool, page).entries()) {
      const bytes = new Uint8Array(new Float32Array(place.numel).fill(i + j / 4).buffer);
      noGrad(() => binding().copyInto(fromBytes(bytes, 'f32', place.shape, 'cpu').handle, place.handle));
    }
  return { pool, pages };
}

async function expectKept(pool: PagePool, pages: ReadonlyMap<number, Page>): Promise<void> {
  expect(new Set([...pages.values()].map(({ number }) => number)).size).toBe(pages.size);
  for (const [i, page] of pages) {
    expect(page.number).toBeLessThan(pool.capacity);
    for (const [j, place] of placesOf(pool, page).entries())
      expect(new Set(await place.data())).toEqual(new Set([i + j / 4]));
  }
}

const all = (pages: readonly Page[]): Map<number, Page> => new Map(pages.entries());
/** Gives some back; those that stay. */
function keepOnly(pool: PagePool, pages: readonly Page[], kept: readonly number[]): Map<number, Page> {
  const left = new Map(kept.map((i) => [i, pages[i]!]));
  for (const [i, page] of pages.entries()) if (!left.has(i)) pool.release(page);
  return left;
}

test('a pool that grows', async () => {
  const { pool, pages } = filled(8);
  expect(pool.take(12)).toHaveLength(12);
  expect([pool.capacity, pool.used]).toEqual([20, 20]);
  await expectKept(pool, all(pages));
});

test.each<[string, number[], number]>([
  ['from the end', [0, 1, 2], 3],
  ['with pages that move', [1, 6, 9], 3],
  ['with room to spare', [9], 5],
  ['to nothing', [], 0],
])('a pool that shrinks %s', async (_, kept, capacity) => {
  const { pool, pages } = filled(10);
  const left = keepOnly(pool, pages, kept);
  pool.shrink(capacity);
  expect([pool.capacity, pool.used]).toEqual([capacity, kept.length]);
  await expectKept(pool, left);
  expect(pool.take(6)).toHaveLength(6);
  await expectKept(pool, left);
});

test('memory that runs out in the middle loses nothing', async () => {
  for (let nth = 1; nth <= 4; nth++) {
    const { pool, pages } = filled(10);
    binding().injectOutOfMemory(nth);
    expect(pool.take(2)).toHaveLength(2); // as many as are wanted, in the place of twice as many
    expect(pool.capacity).toBe(12);
    await expectKept(pool, all(pages));
    const left = keepOnly(pool, pages, [2, 8]);
    binding().injectOutOfMemory(nth);
    expect(() => pool.shrink(6)).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
    expect(pool.capacity).toBe(6);
    await expectKept(pool, left);
    expect(pool.take(9)).toHaveLength(9);
    await expectKept(pool, left);
  }
});

test('a layer that reads the keys of another has its pages, and one with states none', () => {
  const own = { kind: 'attention', kvHeads: 1, headDim: 2 } as const;
  const state = { kind: 'state', states: { past: [3, 2] } } as const;
  const mixed = { ...shape, layers: [own, state, own, { ...own, keysOf: 0 }] };
  const pool = new PagePool(mixed, 2 ** 20);
  expect(pool.partBytes).toBe(2 * pageBytes({ ...shape, layers: [own] }));
  pool.take(2);
  const { layers } = pool;
  const [first, , third, fourth] = layers;
  expect(first).not.toBe(third);
  expect(fourth).toBe(first);
  expect(() => pagesOf({ layers }, 1)).toThrow('expected layer 1 to keep keys and values');
});
