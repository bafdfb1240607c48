/** Batches of examples of similar lengths. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { batches, loadDataset, Trainer, type BatchesOptions, type TrainerOptions } from '../../lib/index';
import type { DataSource } from '../../lib/data/example';
import { lengthGroupedOrder } from '../../lib/data/length_groups';
import { atOnce } from '../../lib/tensor/pace';
import { Random } from '../../lib/data/random';
import { expectReject, expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { collect, counted, makeRows, recordBatches, trainingFixture } from '../support/training';

const dir = temporaryFolder();
/** 203 examples of 1 to 64 tokens; the first token is the number of the example. */
const random = new Random(1);
const examples = Array.from({ length: 203 }, (_, i) => {
  const length = 2 + Math.floor(random.below(64) * (random.below(64) / 64));
  return { inputIds: [i, ...Array.from({ length: length - 1 }, () => 7)] };
});

async function all(source: DataSource, options: BatchesOptions): Promise<number[][][]> {
  const found: number[][][] = [];
  for await (const { inputIds } of batches(source, options)) found.push(inputIds);
  return found;
}

/** The share of the tokens of padded batches that are padding. */
function padding(found: readonly number[][][]): number {
  const longest = (rows: readonly number[][]): number => Math.max(...rows.map(({ length }) => length));
  const tokens = found.flat(2).length;
  return 1 - tokens / found.reduce((sum, rows) => sum + rows.length * longest(rows), 0);
}

const numbers = (found: readonly number[][][]): number[] => found.flat().map((row) => row[0]!);
const options = { batchSize: 4, groupByLength: true, shuffle: true, seed: 3 };

test('each example comes once, in batches that hold little padding', async () => {
  const found = await all(examples, options);
  expect(numbers(found).sort((a, b) => a - b)).toEqual(examples.map((_, i) => i));
  expect(found.map(({ length }) => length)).toEqual([...Array.from({ length: 50 }, () => 4), 3]);
  const plain = await all(examples, { ...options, groupByLength: false });
  expect(padding(plain)).toBeGreaterThan(0.4);
  expect(padding(found)).toBeLessThan(padding(plain) / 3);
});

test('the seed alone decides the order, of the batches too', async () => {
  const found = await all(examples, options);
  expect(await all(examples, options)).toEqual(found);
  const other = await all(examples, { ...options, seed: 4 });
  expect(numbers(other)).not.toEqual(numbers(found));
  // Lengths do not rise with the steps: about as many batches are longer than the one before as are shorter.
  const longer = found.filter((rows, i) => i > 0 && rows[0]!.length > found[i - 1]![0]!.length).length;
  expect(longer).toBeGreaterThan(12);
  expect(longer).toBeLessThan(38);
  // Which examples meet differs between seeds.
  const groups = (of: number[][][]): Set<string> =>
    new Set(of.map((rows) => String(rows.map((row) => row[0]).sort())));
  const same = [...groups(found)].filter((group) => groups(other).has(group));
  expect(same.length).toBeLessThan(5);
});

test('a file that stays on disk gives the batches of the same file in memory', async () => {
  const path = join(dir, 'd.jsonl');
  writeFileSync(path, examples.map((example) => JSON.stringify(example)).join('\n'));
  const memory = await loadDataset(path, { maxLength: 32 });
  const file = await loadDataset(path, { maxLength: 32, inMemory: false });
  const expected = await all(memory, options);
  expect(padding(expected)).toBeLessThan(0.15);
  for (const signal of [undefined, new AbortController().signal])
    expect(await all(file, { ...options, signal })).toEqual(expected);
  const inOrder = { batchSize: 4, groupByLength: true };
  expect(await all(file, inOrder)).toEqual(await all(memory, inOrder));
});

test('the last small batch stays the last and is not of one length; dropLast leaves it out', async () => {
  const rest = numbers((await all(examples, options)).slice(-1));
  expect(rest).toEqual(numbers(await all(examples, { ...options, groupByLength: false })).slice(-3));
  expect(await all(examples, { ...options, dropLast: true })).toHaveLength(50);
});

test.each([0, 1, 3, 4, 5, 15, 16, 17, 900])('an order of %i examples is one', (n) => {
  const lengths = Array.from({ length: n }, (_, i) => (i * 37) % 11);
  for (const order of [
    atOnce(lengthGroupedOrder(lengths, 4, undefined)),
    atOnce(lengthGroupedOrder(lengths, 4, new Random(n))),
  ])
    expect([...order].sort((a, b) => a - b)).toEqual(lengths.map((_, i) => i));
});

const needsLength =
  'expected data that says its length, such as an array or what loadDataset gives, since groupByLength looks at all examples first, but received an object';
const both = 'expected groupByLength or packing, not both: rows that are packed are not padded';
function* stream(): Generator<{ inputIds: number[] }> {
  yield* examples;
}

test('data without a length, and packing, are refused', async () => {
  for (const source of [stream(), stream])
    await expectReject(all(source, options), 'ERR_ARGUMENT', `[batches] ${needsLength}`);
  await expectReject(all(examples, { ...options, packing: true }), 'ERR_ARGUMENT', `[batches] ${both}`);
  await expectReject(
    all([{ inputIds: [1] }, { inputIds: [] }], options),
    'ERR_DATA',
    '[batches] example 1: expected inputIds to be token ids but received []',
  );
});

describe('Trainer', () => {
  const fixture = trainingFixture();
  test('refuses them before it runs', () => {
    fixture.addAdapter('mine');
    const make = (changes: Partial<TrainerOptions>) => () =>
      new Trainer({ model: fixture.model, data: examples, maxSteps: 1, groupByLength: true, ...changes });
    expectThrow(make({ data: stream() }), 'ERR_ARGUMENT', `[Trainer] ${needsLength}`);
    expectThrow(make({ packing: true }), 'ERR_ARGUMENT', `[Trainer] ${both}`);
    expectThrow(
      make({ groupByLength: 1 as never }),
      'ERR_ARGUMENT',
      '[Trainer] expected groupByLength to be true or false but received 1',
    );
    make({})();
  });

  test('the loss of each batch is that of its rows alone', async () => {
    const { model } = fixture;
    fixture.addAdapter('mine', { loraDropout: 0 });
    const data = makeRows(18, { prompt: 1 });
    const recorded = recordBatches(model);
    // Without a learning rate the weights stay.
    const { steps } = await collect(
      new Trainer({ model, data, epochs: 1, lr: 0, batchSize: 4, groupByLength: true }),
    );
    recorded.stop();
    expect(steps).toHaveLength(5);
    let padded = 0;
    for (const [i, { inputIds, labels }] of recorded.batches.entries()) {
      const sums = inputIds.map((row, j) =>
        model.forward([row], { labels: [labels[j]!], reduction: 'sum' }).loss.itemSync(),
      );
      const alone = sums.reduce((sum, loss) => sum + loss) / counted(labels);
      expect(Math.abs(steps[i]!.loss - alone) / alone).toBeLessThan(1e-6);
      padded += Number(new Set(inputIds.map(({ length }) => length)).size > 1);
    }
    expect(padded).toBeGreaterThan(0);
  });
});
