import { batches, checkRereadable, epochs, type BatchesOptions } from '../../lib/data/batches';
import type { DataSource, Example } from '../../lib/data/example';
import { Random } from '../../lib/data/random';
import { SequencePlan } from '../../lib/data/sequence_plan';
import { expectReject } from '../support/errors';
import { pausesOf } from '../support/gaps';

const examples = (n: number): Example[] => Array.from({ length: n }, (_, i) => ({ inputIds: [i, i + 1] }));
async function firsts(source: AsyncIterable<{ inputIds: number[][] }>): Promise<number[][]> {
  const out: number[][] = [];
  for await (const { inputIds } of source) out.push(inputIds.map((row) => row[0] as number));
  return out;
}

describe('batches', () => {
  test('keeps order and gives the last small batch', async () => {
    expect(await firsts(batches(examples(5), { batchSize: 2 }))).toEqual([[0, 1], [2, 3], [4]]);
    expect(await firsts(batches(examples(5), { batchSize: 2, dropLast: true }))).toEqual([
      [0, 1],
      [2, 3],
    ]);
  });

  test('shuffles by the seed alone, and loses nothing', async () => {
    const order = async (seed: number) =>
      (await firsts(batches(examples(50), { batchSize: 7, shuffle: true, seed }))).flat();
    expect(await order(3)).toEqual(await order(3));
    expect(await order(3)).not.toEqual(await order(4));
    expect(await order(3)).not.toEqual(examples(50).map(({ inputIds }) => inputIds[0]));
    expect((await order(3)).sort((a, b) => a - b)).toEqual(examples(50).map(({ inputIds }) => inputIds[0]));
  });

  test('takes async sources and functions; labels default to the ids', async () => {
    async function* source() {
      yield { inputIds: [1, 2, 3] };
      yield { inputIds: [4, 5], labels: [-100, 5] };
    }
    for (const data of [source(), source]) {
      const { value } = await batches(data, { batchSize: 2 }).next();
      expect(value).toEqual({
        inputIds: [
          [1, 2, 3],
          [4, 5],
        ],
        labels: [
          [1, 2, 3],
          [-100, 5],
        ],
      });
    }
  });

  test.each([
    [
      { inputIds: [1, 2], labels: [1] },
      '[batches] example 0: expected 2 labels, one per token, but received 1',
    ],
    [{ inputIds: [] }, '[batches] example 0: expected inputIds to be token ids but received []'],
    [{ inputIds: Array(2) }, '[batches] example 0: expected inputIds to be token ids but received [, ]'],
    [{ inputIds: [1.5] }, '[batches] example 0: expected inputIds to be token ids but received [1.5]'],
    [{ inputIds: [1, 'a'] }, "[batches] example 0: expected inputIds to be token ids but received [1, 'a']"],
    [
      { inputIds: [1, 2], labels: [1, null] },
      '[batches] example 0: expected labels to be token ids or -100 but received an array of 2',
    ],
    [null, '[batches] example 0: expected an example { inputIds, labels? } but received null'],
    ['text', "[batches] example 0: expected an example { inputIds, labels? } but received 'text'"],
  ])('%j is ERR_DATA with its place', async (example, message) => {
    await expectReject(firsts(batches([example as Example])), 'ERR_DATA', message);
  });

  test('wrong options and sources', async () => {
    await expect(firsts(batches(examples(1), { batchSize: 0 }))).rejects.toMatchObject({
      code: 'ERR_ARGUMENT',
    });
    await expect(firsts(batches(examples(1), { batch: 2 } as never))).rejects.toThrow('batchSize');
    for (const [wrong, words] of [
      [7, '7'],
      [null, 'null'],
      [{ length: 1 }, 'an object'],
    ] as const)
      await expectReject(
        firsts(batches(wrong as never)),
        'ERR_ARGUMENT',
        new RegExp(`^\\[batches\\] expected data to be an Iterable .* but received ${words}$`),
      );
  });
});

describe('epochs', () => {
  /** The order of the examples in the first epochs of a run, one array for each. */
  async function orders(seed: number, count: number, size = 20): Promise<number[][]> {
    const out: number[][] = Array.from({ length: count }, () => []);
    for await (const { inputIds, epoch } of epochs(examples(size), {
      batchSize: 3,
      shuffle: true,
      seed,
      dropLast: false,
    })) {
      if (epoch === count) break;
      out[epoch]!.push(...inputIds.map((row) => row[0] as number));
    }
    return out;
  }

  test('each shows every example once, in an order that its seed repeats', async () => {
    const three = await orders(5, 3);
    expect(three).toEqual(await orders(5, 3));
    for (const order of three) expect([...order].sort((a, b) => a - b)).toEqual([...Array(20).keys()]);
  });

  test('the orders of neighboring seeds and epochs have no more in common than chance', async () => {
    const all = (await Promise.all([0, 1, 2, 3, 4, 5].map((seed) => orders(seed, 6)))).flat();
    expect(new Set(all.map((order) => order.join())).size).toBe(36);
    // Two random permutations agree in one place on average (variance 1); there are 630 pairs.
    let agreements = 0;
    for (const [i, one] of all.entries())
      for (const other of all.slice(i + 1)) agreements += one.filter((x, at) => x === other[at]).length;
    expect(agreements / 630).toBeGreaterThan(0.85);
    expect(agreements / 630).toBeLessThan(1.15);
  });

  test('data that gives no batch is ERR_DATA, at first and when it is read again', async () => {
    const options = { batchSize: 2, shuffle: false, seed: 0, dropLast: true };
    await expect(firsts(epochs(examples(1), options))).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: '[Trainer] expected data with at least one batch of 2 but received none',
    });
    const once = examples(2)[Symbol.iterator]();
    const seen: number[] = [];
    const reading = (async () => {
      for await (const { epoch } of epochs(() => once, options)) seen.push(epoch);
    })();
    await expect(reading).rejects.toMatchObject({
      code: 'ERR_DATA',
      message:
        '[Trainer] the data was empty when read again: pass a function that returns a new source each time',
    });
    expect(seen).toEqual([0]);
  });
});

test('a one-shot source that must be read twice is an error that says what to pass', () => {
  function* once(): Generator<Example> {
    yield { inputIds: [1, 2] };
  }
  async function* slowly(): AsyncGenerator<Example> {
    yield await Promise.resolve({ inputIds: [1, 2] });
  }
  for (const source of [once(), slowly()])
    expect(() => checkRereadable('Trainer', source)).toThrow('pass a function');
  expect(() => checkRereadable('Trainer', once)).not.toThrow();
  expect(() => checkRereadable('Trainer', [])).not.toThrow();
});

test('the first label of a row is never counted: labels are shifted', () => {
  expect(new SequencePlan().countedLabels([[5, 6, -100, 7], [-100, -100], [3]])).toBe(2);
});

test('the first label of each text of a row is counted where vectors before it predict it; padding is not', () => {
  const labels = [
    [5, 6, 7, 8, 9, 0],
    [-100, 3],
  ];
  const segmentIds = [
    [2, 2, 1, 1, 1, 0],
    [1, 1],
  ];
  const behind = new SequencePlan({ name: 'prompt', virtualTokens: 2 });
  expect(new SequencePlan().countedLabels(labels, segmentIds)).toBe(4);
  expect(behind.countedLabels(labels, segmentIds)).toBe(6);
  expect(behind.countedLabels(labels)).toBe(7);
});

test('the room behind a prompt is what the context and the vectors leave; a full context leaves none', () => {
  const plan = new SequencePlan({ name: 'prompt', virtualTokens: 2 }, 10);
  expect([5, 7, 8].map((length) => plan.tokensAfter(length, undefined, 2))).toEqual([2, 1, undefined]);
  expect([0, 3, 4].map((asked) => plan.tokensAfter(5, asked, 2))).toEqual([0, 3, undefined]);
});

describe('Random', () => {
  test('is SplitMix64: the first outputs of seed 0 are the reference values of the generator', () => {
    const random = new Random(0);
    const top32 = () => random.below(2 ** 32);
    // The 64-bit outputs begin e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f, f88bb8a8724c81ec.
    expect([top32(), top32(), top32(), top32()]).toEqual([0xe220a839, 0x6e789e6a, 0x06c45d18, 0xf88bb8a8]);
  });

  test('draws below n evenly, and never n itself', () => {
    const random = new Random(1);
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 10_000; i++) (counts[random.below(10)] as number)++;
    expect(counts).toHaveLength(10);
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  test.each([3, 4])('the shuffle reaches every order of %d things equally often', (n) => {
    const orders = [6, 24][n - 3]!;
    const counts = new Map<string, number>();
    const draws = 200 * orders;
    for (let seed = 0; seed < draws; seed++) {
      const order = new Random(seed).shuffle([...Array(n).keys()]).join();
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(orders);
    // Each count is binomial with mean 200 and standard deviation 14.
    for (const count of counts.values()) expect(Math.abs(count - 200)).toBeLessThan(60);
  });

  test('the shuffle keeps what it is given, and sets of one and none', () => {
    const items = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
    const shuffled = new Random(2).shuffle(items);
    expect(shuffled).toBe(items);
    expect([...shuffled].sort()).toEqual(['a', 'b', 'c', 'd', 'e', 'f', 'g']);
    expect(new Random(2).shuffle(['only'])).toEqual(['only']);
    expect(new Random(2).shuffle([])).toEqual([]);
  });
});

describe('many examples in memory leave the event loop its turns', () => {
  const many = Array.from({ length: 10_000 }, (_, i) => ({ inputIds: [i % 7, 1, 2] }));
  const stream = function* (): Generator<Example> {
    yield* many;
  };
  test.each<[string, BatchesOptions, () => DataSource]>([
    ['in order', {}, () => many],
    ['shuffled', { shuffle: true }, () => many],
    ['shuffled in a window', { shuffle: true, shuffleWindow: 7500 }, () => stream()],
    ['packed', { packing: true, packLength: 12 }, () => many],
    ['grouped by length', { groupByLength: true, shuffle: true }, () => many],
  ])('%s, and an abort is heard at once', async (_, options, source) => {
    const read = async (signal?: AbortSignal): Promise<number> => {
      let rows = 0;
      for await (const { inputIds } of batches(source(), { batchSize: 4, ...options, signal }))
        rows += inputIds.length;
      return rows;
    };
    const { pauses, result } = await pausesOf(() => read());
    expect(result).toBeGreaterThanOrEqual(2500);
    expect(pauses).toBeGreaterThan(1000);
    const stop = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => stop.abort(reason), 5);
    await expect(read(stop.signal)).rejects.toBe(reason);
  });
});
