/** The scheduler over a real pool, without a model: a chunk or a step is computed by saying so. */
import type { Drawn } from '../../lib/engine/delivery';
import { pageLength, type PagePool } from '../../lib/engine/pages';
import type { Speculation } from '../../lib/engine/proposals';
import type { Request } from '../../lib/engine/request';
import { plainDefaults, planGeneration } from '../../lib/engine/sampling';
import { patienceMs } from '../../lib/engine/scheduler';
import { propose } from '../../lib/engine/speculation';
import { LoRAError } from '../../lib/errors';
import type { TokenStream } from '../../lib/text/token_stream';
import { text, world } from '../support/scheduler_world';

test('a prompt is computed in parts, between steps of the others', () => {
  const { submit, step } = world({ prefillChunk: 100 });
  const short = submit(text(10));
  step();
  expect([short.computed, short.generated]).toEqual([10, 1]);
  const long = submit(text(250, 1000));
  const ends = [step(), step(), step()].map(({ chunk, rows }) => [chunk?.end, rows]);
  expect(ends).toEqual([
    [100, [short]],
    [200, [short]],
    [250, [short]],
  ]);
  expect(step().rows).toEqual([short, long]);
});

test('two long prompts take turns', () => {
  const { submit, step } = world({ prefillChunk: 10 });
  const [a, b] = [submit(text(30)), submit(text(30, 500))];
  const order = [1, 2, 3, 4, 5, 6].map(() => step().chunk!.request);
  expect(order).toEqual([a, b, a, b, a, b]);
});

test('no more than maxBatchSize sequences run; those that came first are served first, and none starves', () => {
  const { scheduler, submit, step } = world({ maxBatchSize: 2 });
  const requests = [1, 2, 3].map((i) => submit(text(3, 100 * i), { maxNewTokens: 5 }));
  for (let i = 0; i < 4; i++) step();
  expect(scheduler.waiting).toBe(1);
  for (let i = 0; i < 20; i++) step();
  expect(requests.map(({ ended }) => ended)).toEqual([true, true, true]);
  expect([scheduler.running, scheduler.waiting]).toEqual([0, 0]);
});

test('one whose consumer is behind sits out, and its place is free', () => {
  const { submit, step } = world({ maxBatchSize: 1 });
  const [slow, other] = [submit(text(3)), submit(text(3, 50))];
  for (let i = 0; i < 8; i++) step((request) => request !== slow);
  expect(slow.generated).toBe(2);
  expect(other.generated).toBeGreaterThan(3);
  const before = slow.generated;
  for (let i = 0; i < 4; i++) step();
  expect(slow.generated).toBe(before); // its consumer has fetched nothing yet
  while (slow.delivery.fetch());
  for (let i = 0; i < 8; i++) step();
  expect(slow.generated).toBeGreaterThan(before);
});

test('pages go back when a request ends or is cancelled', () => {
  const { pool, prefixes, submit, step } = world();
  const request = submit(text(100), { maxNewTokens: 50 });
  const other = submit(text(100, 1000));
  for (let i = 0; i < 60; i++) step();
  expect(request.ended).toBe(true);
  const held = other.pages.length;
  expect(held).toBe(3);
  expect(pool.used).toBe(held + 2); // the whole pages of `request` are kept for others
  other.cancel(new Error('left'));
  expect(other.pages).toEqual([]);
  step();
  prefixes.evict(100);
  expect(pool.used).toBe(0);
});

test('tokens that were drawn behind a stop string are no part of the result', () => {
  const { submit } = world();
  const stream = { push: (id: number) => String.fromCharCode(id), flush: () => '' } as unknown as TokenStream;
  const generation = planGeneration({ stop: 'b' }, plainDefaults);
  const request = submit([1], { stream, generation });
  for (const letter of 'abc') request.take([{ id: letter.charCodeAt(0) }]);
  request.deliver();
  expect(request.delivery.completion).toMatchObject({ text: 'a', ids: [97, 98], finishReason: 'stop' });
});

test('a request that has ended keeps its end', async () => {
  const { submit } = world();
  const [whole, failed] = [submit([1]), submit([2])];
  whole.finishEmpty();
  const { completion } = whole.delivery;
  whole.deliver();
  expect(whole.delivery.completion).toBe(completion);
  whole.cancel(new Error('too late'));
  expect(await whole.delivery.next()).toEqual({ value: undefined, done: true });
  failed.cancel(new Error('first'));
  failed.cancel(new Error('second'));
  failed.finishEmpty();
  await expect(failed.delivery.next()).rejects.toThrow('first');
});

test('pages that other weights computed are given back with all that follow them', () => {
  const { pool, prefixes, submit, step, setWeights } = world({ prefillChunk: 500 });
  for (const name of ['base', 'trained']) {
    setWeights(name);
    submit(text(300), { maxNewTokens: 1 });
    for (let i = 0; i < 3; i++) step();
  }
  expect([prefixes.size, pool.used]).toEqual([8, 8]);
  prefixes.keepOnly((weights) => weights === 'trained');
  expect([prefixes.size, pool.used]).toEqual([4, 4]);
  prefixes.keepOnly(() => false);
  expect([prefixes.size, pool.used]).toEqual([0, 0]);
});

test('whole pages of the same beginning are shared, of a prompt that is being computed too', () => {
  const { submit, step } = world({ prefillChunk: 64 });
  const a = submit(text(200));
  for (let i = 0; i < 3; i++) step();
  const b = submit([...text(150), 999, 998]);
  step();
  step();
  expect(b.cachedTokens).toBe(128);
  expect(b.pages.slice(0, 2)).toEqual(a.pages.slice(0, 2));
  expect(a.pages[0]!.references).toBe(3); // a, b and the cache
});

test('a page of other weights is not shared, even where they change in the middle of a request', () => {
  const { submit, step, setWeights } = world();
  submit(text(100), { maxNewTokens: 40 });
  for (let i = 0; i < 10; i++) step();
  setWeights('trained');
  for (let i = 0; i < 40; i++) step();
  const again = submit(text(100), { maxNewTokens: 2 });
  for (let i = 0; i < 3; i++) step();
  expect(again.cachedTokens).toBe(0);
  const third = submit(text(100), { maxNewTokens: 2 });
  for (let i = 0; i < 3; i++) step();
  expect(third.cachedTokens).toBe(64);
});

test.each([
  [128, 64],
  [129, 128],
])(
  'of a prompt of %i tokens whose pages are all known %i are read: the last one is computed',
  (length, cached) => {
    const { submit, step } = world();
    submit(text(length), { maxNewTokens: 2 });
    for (let i = 0; i < 4; i++) step();
    const again = submit(text(length), { maxNewTokens: 2 });
    expect(step().chunk).toMatchObject({ request: again, end: length });
    expect(again.cachedTokens).toBe(cached);
  },
);

test.each<[string, Parameters<typeof world>[0]]>([
  ['the limit', { pages: 5 }],
  ['memory', { pages: 100, memoryFor: 5 }],
])('where %s is not enough for all to their ends, some wait: nobody loses a page', (_, sizes) => {
  const { pool, scheduler, submit, step } = world(sizes);
  const requests = [1, 2, 3].map((i) => submit(text(60, 1000 * i), { maxNewTokens: 120 }));
  let most = 0;
  for (let i = 0; i < 1000 && requests.some(({ ended }) => !ended); i++) {
    step();
    most = Math.max(most, pool.used);
  }
  expect(scheduler.preemptions).toBe(0);
  expect(most).toBeLessThanOrEqual(5);
  for (const request of requests) expect(request.ids.slice(60)).toEqual(text(120, 60));
});

test('a beginning that is shared takes room once', () => {
  const { scheduler, submit, step } = world({ pages: 6 });
  const requests = [1, 2, 3].map((i) => submit([...text(192), i], { maxNewTokens: 60 }));
  for (let i = 0; i < 6; i++) step();
  expect(scheduler.running).toBe(3);
  for (let i = 0; i < 100; i++) step();
  expect(requests.map(({ ended }) => ended)).toEqual([true, true, true]);
  expect(scheduler.preemptions).toBe(0);
});

test('pages that are kept for later requests keep none from beginning', () => {
  const { pool, scheduler, submit, step } = world({ pages: 6 });
  submit(text(200, 5000), { maxNewTokens: 1 });
  for (let i = 0; i < 3; i++) step();
  const first = submit(text(10), { maxNewTokens: 30 });
  step();
  expect([first.pages.length, pool.used]).toEqual([1, 4]);
  const second = submit(text(200, 1000), { maxNewTokens: 30 });
  step();
  expect(scheduler.running).toBe(2);
  for (let i = 0; i < 40; i++) step();
  expect([first.ended, second.ended, scheduler.preemptions]).toEqual([true, true, 0]);
});

test.each<[what: string, lack: (sizes: { pages: number }, pool: PagePool) => void]>([
  // It had been free when both began.
  ['others have taken', (sizes) => (sizes.pages = 0)],
  [
    'the system refuses',
    (_, pool) =>
      jest.spyOn(pool, 'take').mockImplementationOnce(() => {
        throw new LoRAError('ERR_OUT_OF_MEMORY', '[alloc] found no memory');
      }),
  ],
])('where %s memory, a row whose pages an older prompt takes is not in its step', (_, lack) => {
  const { pool, submit, step, sizes } = world({ prefillChunk: pageLength });
  const prompt = submit(text(500));
  const row = submit(text(10, 1000));
  for (let i = 0; i < 8; i++) step();
  expect([prompt.pages.length, row.pages.length, pool.free]).toEqual([7, 1, 0]);
  expect(row.generated).toBeGreaterThan(0);
  lack(sizes, pool);
  const { chunk, rows } = step();
  expect([chunk?.request, prompt.pages.length, row.pages.length, rows]).toEqual([prompt, 8, 0, []]);
});

test('one that is alone gets pages where nothing else is to have memory, and one that comes then waits', () => {
  const { scheduler, submit, step, sizes } = world({ memoryFor: 2 });
  const first = submit(text(100), { maxNewTokens: 200 });
  const second = submit(text(100, 1000), { maxNewTokens: 2 });
  for (let i = 0; i < 150; i++) step();
  expect([first.pages.length, second.generated, scheduler.running]).toEqual([4, 0, 1]);
  sizes.pages = 10;
  for (let i = 0; i < 3; i++) step();
  expect(second.ended).toBe(true);
});

test('one that sits out for long keeps no other from beginning, though it has all pages', () => {
  const { scheduler, submit, step, wait } = world({ pages: 2 });
  const slow = submit(text(100), { maxNewTokens: 20 });
  for (let i = 0; i < 5; i++) step(() => false);
  expect([slow.held, slow.pages.length]).toEqual([true, 2]);
  const other = submit(text(100, 1000), { maxNewTokens: 20 });
  const others = (request: Request): boolean => request !== slow;
  for (let i = 0; i < 25; i++) step(others);
  expect([other.generated, scheduler.blocked]).toEqual([0, true]);
  wait(patienceMs);
  for (let i = 0; i < 25; i++) step(others);
  expect([other.ended, scheduler.blocked]).toEqual([true, false]);
  while (slow.delivery.fetch());
  for (let i = 0; i < 40; i++) step();
  expect(slow.ids.slice(100)).toEqual(text(20, 100));
});

test('of two that could lose pages it is the one that sits out for long, though the other is younger', () => {
  const { scheduler, submit, step, wait } = world({ pages: 4 });
  const slow = submit(text(100), { maxNewTokens: 20 });
  for (let i = 0; i < 5; i++) step(() => false);
  expect([slow.held, slow.pages.length]).toEqual([true, 2]);
  wait(patienceMs);
  const others = [1, 2].map((i) => submit(text(60, 1000 * i), { maxNewTokens: 10 }));
  for (let i = 0; i < 15; i++) step((request) => request !== slow);
  expect(others.map(({ ended }) => ended)).toEqual([true, true]);
  expect([slow.pages, scheduler.preemptions]).toEqual([[], 1]);
});

test('consumers that are a little slow cost no second computation', () => {
  const { scheduler, submit, step, wait } = world({ pages: 4 });
  const requests = [1, 2, 3].map((i) => submit(text(100, 1000 * i), { maxNewTokens: 60 }));
  for (let i = 0; i < 3000 && requests.some(({ ended }) => !ended); i++) {
    step(() => false);
    if (i % 7 === 0) for (const request of requests) while (request.delivery.fetch());
    wait(patienceMs / 10);
  }
  expect(requests.map(({ generated }) => generated)).toEqual([60, 60, 60]);
  expect(scheduler.preemptions).toBe(0);
});

test('work that finds too little memory gets that of pages that nobody uses, then that of the youngest', () => {
  const { pool, scheduler, submit, step } = world();
  submit(text(300, 5000), { maxNewTokens: 1 });
  for (let i = 0; i < 5; i++) step(); // four whole pages are kept
  const [first, second] = [submit(text(100)), submit(text(100, 1000))];
  for (let i = 0; i < 10; i++) step();
  const given: [capacity: number, first: number, second: number][] = [];
  while (scheduler.freePages()) given.push([pool.capacity, first.pages.length, second.pages.length]);
  expect(given.slice(0, 3)).toEqual([
    [7, 2, 2],
    [6, 2, 2],
    [5, 2, 2],
  ]);
  expect(given.at(-1)).toEqual([2, 2, 0]);
  expect([first.ended, second.ended, scheduler.waiting]).toEqual([false, false, 1]);
  for (let i = 0; i < 3; i++) step();
  expect(second.pages).toHaveLength(2); // the limit has room
});

test('what nobody uses can be had, also before a page that somebody reads', () => {
  const { pool, prefixes, submit, step } = world({ prefillChunk: 50 });
  const a = submit(text(100), { maxNewTokens: 31 });
  while (a.generated < 30) step();
  const b = submit(text(200));
  for (let i = 0; i < 4; i++) step();
  expect([a.ended, b.prefilling, pool.used]).toEqual([true, false, b.pages.length + 1]); // both have computed the second page
  prefixes.evict(Infinity);
  expect(pool.used).toBe(b.pages.length);
});

describe('tokens that are proposed', () => {
  /** Guesses what comes in this world, and more tokens than it is asked for never. */
  const guessing = (most = 8, wrongAt = Infinity): Speculation => {
    const guesser = {
      propose: (ids: readonly number[], max: number) =>
        Array.from({ length: Math.min(most, max) }, (_, i) => ids.length + i + (i >= wrongAt ? 1 : 0)),
      note: () => undefined,
    };
    return guesser as unknown as Speculation;
  };
  const none = (): Speculation => guessing(0);
  /** Draws what comes in this world after each row. */
  const drawsOf = ({ rows, computed }: Request): { id: number }[] =>
    rows.map(({ offset }) => ({ id: computed + 1 + offset }));
  const anyPages = (): boolean => true;

  test('share the rows that are left, and no text has more than it may still take', () => {
    const { submit, step } = world({ prefillChunk: 100, maxBatchSize: 16 });
    const requests = [guessing(), guessing(), none(), guessing()].map((speculation, i) =>
      submit(text(10, 100 * i), { speculation, maxNewTokens: i === 3 ? 4 : 100 }),
    );
    for (let i = 0; i < 4; i++) step();
    const proposed = (maxRows: number): number[] => {
      propose(requests, maxRows, anyPages);
      return requests.map((request) => request.proposed.length);
    };
    const [, , , last] = requests as [Request, Request, Request, Request];
    expect(last.generated).toBe(1);
    expect(proposed(40)).toEqual([8, 8, 0, 2]);
    expect(proposed(11)).toEqual([2, 2, 0, 2]);
    expect(proposed(5)).toEqual([1, 0, 0, 0]);
    expect(proposed(4)).toEqual([0, 0, 0, 0]);
    expect(proposed(1)).toEqual([0, 0, 0, 0]);
  });

  test('end before the token that ends the text, and where there is no page', () => {
    const { submit, step } = world();
    const generation = { ...planGeneration({}, plainDefaults), eosTokenIds: new Set([14]) };
    const request = submit(text(10), { speculation: guessing(), generation });
    step();
    propose([request], 16, anyPages);
    expect(request.proposed).toEqual([11, 12, 13]);
    propose([request], 16, (_, positions) => positions <= 12);
    expect(request.proposed).toEqual([11]);
  });

  test('are taken as far as they are what is drawn', () => {
    const { submit, step, scheduler } = world();
    const request = submit(text(10), { speculation: guessing(5, 3) });
    step();
    propose([request], 16, anyPages);
    expect(request.rows.map(({ offset }) => request.tokenAt(request.computed + offset))).toEqual([
      10, 11, 12, 13, 15, 16,
    ]);
    const draws = drawsOf(request);
    scheduler.rowDone(request);
    expect(request.take(draws)).toBe(4);
    expect([request.ids.slice(10), request.computed, request.proposed]).toEqual([
      [10, 11, 12, 13, 14],
      14,
      [],
    ]);
    expect(request.held).toBe(false); // what one step makes does not make it wait
    request.deliver();
    expect(request.held).toBe(true);
  });

  test('an error behind what is taken is nobody’s, and one in its place fails', async () => {
    const { submit, step, scheduler } = world();
    for (const [at, fails] of [
      [4, false],
      [3, true],
    ] as const) {
      const request = submit(text(10, 1000 * at), { speculation: guessing(5, 3) });
      step();
      propose([request], 16, anyPages);
      const draws: (Drawn | Error)[] = drawsOf(request);
      draws[at] = new Error('nothing to draw');
      scheduler.rowDone(request);
      expect(request.take(draws)).toBe(fails ? 3 : 4);
      expect(request.ended).toBe(fails);
    }
  });

  test('a text that ends among them takes none behind its end', () => {
    const { submit, step, scheduler } = world();
    const generation = { ...planGeneration({}, plainDefaults), eosTokenIds: new Set([12]) };
    const request = submit(text(10), { speculation: none(), generation });
    step();
    request.proposed = [11, 12, 13];
    scheduler.rowDone(request);
    expect(request.take([11, 12, 13, 14].map((id) => ({ id })))).toBe(2);
    request.deliver();
    while (request.delivery.fetch());
    expect(request.delivery.completion).toMatchObject({ ids: [10, 11, 12], finishReason: 'stop' });
  });

  test('tokens behind a stop string are not shared with others', () => {
    const { submit, step, scheduler, prefixes } = world();
    const stream = {
      push: (id: number) => (id === 125 ? 'x' : ''),
      flush: () => '',
    } as unknown as TokenStream;
    const generation = planGeneration({ stop: 'x' }, plainDefaults);
    const request = submit(text(124), { stream, generation, speculation: guessing() });
    for (let i = 0; i < 2; i++) step();
    propose([request], 16, anyPages);
    const draws = drawsOf(request);
    scheduler.rowDone(request);
    expect(request.take(draws)).toBe(9);
    request.deliver();
    expect([request.ids.length, request.computed]).toEqual([126, 126]);
    step();
    expect(prefixes.size).toBe(1);
  });

  test('take no pages from others', () => {
    const { submit, step, scheduler, pool } = world({ pages: 2 });
    const [request, other] = [submit(text(60)), submit(text(10, 1000), { maxNewTokens: 30 })];
    for (let i = 0; i < 3; i++) step();
    expect([request.pages.length, other.pages.length]).toEqual([1, 0]);
    expect(scheduler.hasPagesFor(request, 64)).toBe(true);
    expect(request.pages.length).toBe(1);
    expect(scheduler.hasPagesFor(request, 65)).toBe(true);
    expect([request.pages.length, pool.free]).toEqual([2, 0]);
    expect(scheduler.hasPagesFor(request, 129)).toBe(false);
    expect(request.pages.length).toBe(2);
  });

  test('go with the pages', () => {
    const { submit, step } = world();
    const request = submit(text(10), { speculation: guessing() });
    step();
    propose([request], 16, anyPages);
    request.release();
    expect(request.rows).toHaveLength(1);
    expect(request.maxProposed).toBe(0); // it computes again what it had
  });
});
