/** States of a model whose layers are not all attention: which requests have a slot, and which beginnings of texts go on from where. */
import type { Request } from '../../lib/engine/request';
import { keptFor, slotBytes, type Slot } from '../../lib/engine/states';
import { pageBytes } from '../../lib/engine/pages';
import { writeBytes } from '../../lib/tensor/create';
import { rawView } from '../../lib/tensor/raw';
import { text, world } from '../support/scheduler_world';

type World = ReturnType<typeof world>;

const numbersOf = ({ slots }: World, { number }: Slot) => rawView(slots!.tensors[0]!, number * 3, [3]);

/** Computes what runs next, and writes into the slots of all that was computed how many positions that were. */
function stepWriting(w: World): ReturnType<World['step']> {
  const plan = w.step((request) => request.slot !== undefined);
  for (const request of [...plan.rows, ...(plan.chunk ? [plan.chunk.request] : [])])
    if (request.slot)
      writeBytes(
        numbersOf(w, request.slot),
        new Uint8Array(new Float32Array(3).fill(request.computed).buffer),
      );
  return plan;
}

/** Steps until the prompt of a request is computed; where its parts ended. */
function prefilled(w: World, request: Request): number[] {
  const ends: number[] = [];
  while (request.generated === 0) {
    const { chunk } = w.step();
    if (chunk?.request === request) ends.push(chunk.end);
  }
  return ends;
}

function end(w: World, ...requests: Request[]): void {
  for (const request of requests) request.cancel(new Error('done'));
  w.step();
}

test('a request has a slot while it runs', () => {
  const w = world({ slots: 2 });
  const [a, b, c] = [text(10), text(10, 100), text(10, 200)].map((ids) => w.submit(ids)) as [
    Request,
    Request,
    Request,
  ];
  for (let i = 0; i < 5; i++) w.step();
  // The third one waits for a slot.
  expect([a.slot, b.slot].map((slot) => slot?.references)).toEqual([1, 1]);
  expect(a.slot).not.toBe(b.slot);
  expect([c.slot, w.slots!.free, w.scheduler.waiting]).toEqual([undefined, 0, 1]);
  expect(w.scheduler.preemptions).toBe(0);
  end(w, a);
  for (let i = 0; i < 3; i++) w.step();
  expect([a.slot, c.slot?.references, c.generated > 0]).toEqual([undefined, 1, true]);
  end(w, b, c);
  expect(w.slots!.used).toBe(0);
});

test.each([
  [100, [64, 128, 192, 256, 300]],
  [128, [128, 256, 300]],
  [10, [64, 128, 192, 256, 300]],
  [1000, [256, 300]],
])('parts of a prompt of 300 end at whole chunks, prefillChunk %i', (prefillChunk, ends) => {
  const w = world({ slots: 4, prefillChunk });
  expect(prefilled(w, w.submit(text(300)))).toEqual(ends);
});

test('a prompt keeps its states at its last page end, and the same one and longer ones go on there', () => {
  const w = world({ slots: 8, prefillChunk: 1000 });
  const first = w.submit(text(200));
  expect(prefilled(w, first)).toEqual([192, 200]);
  expect(w.slots!.used).toBe(2);
  const again = w.submit(text(200));
  expect(prefilled(w, again)).toEqual([200]);
  const longer = w.submit(text(400));
  expect(prefilled(w, longer)).toEqual([384, 400]);
  // The end of a page that another prompt has passed is no place to go on from.
  const shorter = w.submit(text(150));
  expect(prefilled(w, shorter)).toEqual([128, 150]);
  expect([again, longer, shorter].map(({ cachedTokens }) => cachedTokens)).toEqual([192, 192, 0]);
  expect(w.prefixes.hits).toBe(2);
  end(w, first, again, longer, shorter);
  // A prompt that ends with a page is computed again from before its last one.
  const whole = text(128, 5000);
  expect(prefilled(w, w.submit(whole))).toEqual([64, 128]);
  expect(prefilled(w, w.submit(whole))).toEqual([128]);
});

test('states are kept where a second prompt leaves the first, and a third goes on there', () => {
  const w = world({ slots: 8, prefillChunk: 1000 });
  const begin = text(140);
  const asked = [1, 2, 3].map((i) => [...begin, ...text(100, 1000 * i)]);
  const ends = asked.map((ids) => prefilled(w, w.submit(ids)));
  expect(ends).toEqual([
    [192, 240],
    [128, 192, 240],
    [192, 240],
  ]);
  expect(w.prefixes.cachedTokens).toBe(128);
});

test('what is kept is what was computed up to there, whatever is computed after it', async () => {
  const w = world({ slots: 8, prefillChunk: 64 });
  const first = w.submit(text(200));
  while (first.generated === 0) {
    const before = first.computed;
    // The state of a part is written while it is computed, before its end is noted.
    const plan = w.scheduler.plan();
    writeBytes(numbersOf(w, first.slot!), new Uint8Array(new Float32Array(3).fill(plan.chunk!.end).buffer));
    w.scheduler.chunkDone(plan.chunk!);
    expect(first.computed).toBeGreaterThan(before);
    if (!first.prefilling) first.take([{ id: 1 }]);
  }
  const second = w.submit(text(220));
  w.scheduler.plan();
  expect(second.computed).toBe(192);
  expect(second.slot).not.toBe(first.slot);
  expect([...(await numbersOf(w, second.slot!).data())]).toEqual([192, 192, 192]);
  expect([...(await numbersOf(w, first.slot!).data())]).toEqual([200, 200, 200]);
});

test('states that are kept give way to requests, those first that were used longest ago', () => {
  const w = world({ slots: 3, prefillChunk: 1000 });
  const prompts = [0, 1000, 2000].map((from) => text(100, from));
  for (const ids of prompts) {
    const request = w.submit(ids);
    prefilled(w, request);
    end(w, request);
  }
  // Two were kept beside the slot of the one that ran.
  expect([w.slots!.capacity, w.slots!.used]).toEqual([3, 2]);
  const { size } = w.prefixes;
  const pagesToGoOn = (): number[] => prompts.map((ids) => w.prefixes.known('base', ids, 99).length);
  expect(pagesToGoOn()).toEqual([0, 1, 1]);
  const [a, b] = [w.submit(text(10, 5000)), w.submit(text(10, 6000))];
  for (let i = 0; i < 3; i++) w.step();
  expect([a.generated, b.generated].every((count) => count > 0)).toBe(true);
  expect(pagesToGoOn()).toEqual([0, 0, 1]);
  // Their pages are still there, for the prompts that begin alike and go further.
  expect(w.prefixes.size).toBe(size);
});

test('a request that lost its slot computes its prompt as it did, then its text', () => {
  const w = world({ slots: 4, pages: 6, prefillChunk: 64, maxBatchSize: 2 });
  const request = w.submit(text(100), { maxNewTokens: 100 });
  const ends = prefilled(w, request);
  while (request.generated < 50) stepWriting(w);
  const { ids } = request;
  w.scheduler.restart([request]);
  expect([request.slot, request.computed, w.slots!.used]).toEqual([undefined, 0, 1]);
  const again = [];
  while (request.computed < ids.length - 1) {
    const { chunk, rows } = w.step();
    if (chunk) again.push(chunk.end);
    else expect(rows).toEqual([request]);
  }
  // From the states at its last page end; its own pages do not stand for steps.
  expect([ends, again]).toEqual([[64, 100], [100]]);
});

test('pages of generated tokens are not shared', () => {
  const w = world({ slots: 4, prefillChunk: 64 });
  const request = w.submit(text(100), { maxNewTokens: 100 });
  while (!request.ended) w.step();
  w.step();
  expect([request.generated, w.prefixes.size, w.pool.used]).toEqual([100, 1, 1]);
});

test('memory that is wanted elsewhere is that of kept states first', () => {
  const w = world({ slots: 8, prefillChunk: 1000 });
  const request = w.submit(text(200));
  prefilled(w, request);
  const pages = w.pool.capacity;
  expect([w.slots!.capacity, w.slots!.used]).toEqual([4, 2]);
  const slot = request.slot!;
  expect(w.scheduler.freePages()).toBe(true);
  expect([w.slots!.capacity, w.slots!.used, w.pool.capacity]).toEqual([1, 1, pages]);
  expect([request.slot, slot.number]).toEqual([slot, 0]);
  expect(w.scheduler.freePages()).toBe(true);
  expect(w.pool.capacity).toBeLessThan(pages);
});

test('a slot is copied wherever the pool moves it', async () => {
  const w = world({ slots: 8 });
  const [a, b, c] = [0, 1, 2].map((i) => w.submit(text(10, 100 * i))) as [Request, Request, Request];
  for (let i = 0; i < 6; i++) stepWriting(w);
  const kept = [...(await numbersOf(w, c.slot!).data())];
  end(w, a, b);
  expect(w.scheduler.freePages()).toBe(true);
  expect([c.slot!.number, w.slots!.capacity]).toEqual([0, 1]);
  expect([...(await numbersOf(w, c.slot!).data())]).toEqual(kept);
});

test('slots and pages are within one limit', () => {
  const layers = [
    { kind: 'attention', kvHeads: 1, headDim: 2 },
    { kind: 'state', states: { past: [3, 4], sums: [5] } },
  ] as const;
  const model = { layers, dtype: 'bf16', device: 'cpu' } as const;
  const [page, slot] = [pageBytes(model), slotBytes(layers)];
  expect(slot).toBe(4 * (12 + 5)); // states are f32 in any model
  const counts = (kvCacheBytes: number, maxBatchSize = 16): number[] => {
    const { pages, slots } = keptFor(model, { kvCacheBytes, maxBatchSize });
    expect(pages.most * page + slots!.most * slot).toBeLessThanOrEqual(Math.max(slot, kvCacheBytes));
    return [slots!.most, pages.most];
  };
  expect(counts(100 * page, 2)).toEqual([8, Math.floor((100 * page - 8 * slot) / page)]);
  expect(counts(4 * page)).toEqual([Math.floor((2 * page) / slot), 2]);
  expect(counts(slot / 2)).toEqual([1, 0]);
  expect(keptFor({ ...model, layers: [layers[0]] }, { kvCacheBytes: page, maxBatchSize: 1 })).toMatchObject({
    pages: { most: 1 },
    slots: undefined,
  });
});

test('two prompts that are computed at once keep their states once', () => {
  const w = world({ slots: 8, prefillChunk: 64 });
  const both = [w.submit(text(200)), w.submit(text(200))];
  while (both.some(({ generated }) => generated === 0)) w.step();
  // Of both requests, at their last page end, and where the second one left what the first had computed by then.
  expect(w.slots!.used).toBe(4);
  end(w, ...both);
  w.prefixes.keepOnly(() => false);
  expect([w.slots!.used, w.pool.used]).toEqual([0, 0]);
});
