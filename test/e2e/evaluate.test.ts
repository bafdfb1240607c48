// model.evaluate: the mean over all tokens of a data set, as the model is when it serves.
import { memoryUsage, noGrad, type Adapter } from '../../lib/index';
import { expectReject } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { counted, makeRows, recordBatches, trainingFixture, weights, type Row } from '../support/training';

const fixture = trainingFixture();
const { addAdapter } = fixture;

/** Σ loss ÷ tokens, a row at a time and without dropout. */
async function meanByHand(rows: readonly Row[], adapter: Adapter | null): Promise<number> {
  const { model } = fixture;
  let sum = 0;
  for (const { inputIds, labels } of rows) {
    if (counted([labels]) === 0) continue;
    const options = { labels: [labels], reduction: 'sum', adapter, train: false } as const;
    sum += await noGrad(() => model.forward([inputIds], options).loss).item();
  }
  return sum / counted(rows.map(({ labels }) => labels));
}

test('the mean over the tokens of every batch, the last and smaller one too', async () => {
  const { model } = fixture;
  const rows = makeRows(5, { prompt: 2 });
  const mine = addAdapter('mine');
  const recorded = recordBatches(model);
  const result = await model.evaluate(rows, { batchSize: 2 });
  recorded.stop();
  expect(recorded.batches.map(({ inputIds }) => inputIds)).toEqual([
    [rows[0]!.inputIds, rows[1]!.inputIds],
    [rows[2]!.inputIds, rows[3]!.inputIds],
    [rows[4]!.inputIds],
  ]);
  expect(result.tokens).toBe(counted(rows.map(({ labels }) => labels)));
  expect(result.loss).toBeCloseTo(await meanByHand(rows, mine), 5);
  expect(result.perplexity).toBe(Math.exp(result.loss));
});

test('batches of 4 by default; rows of prompts alone are passed over', async () => {
  const { model } = fixture;
  const rows = makeRows(9);
  rows.slice(0, 4).forEach(({ labels }) => labels.fill(-100));
  const mine = addAdapter('mine');
  const recorded = recordBatches(model);
  const result = await model.evaluate(rows);
  recorded.stop();
  expect(recorded.batches.map(({ inputIds }) => inputIds.length)).toEqual([4, 1]);
  expect(result.loss).toBeCloseTo(await meanByHand(rows, mine), 5);
});

test('without dropout and without gradients, and it leaves the adapter as it was', async () => {
  const { model } = fixture;
  const rows = makeRows(3);
  const dropped = addAdapter('dropped', { loraDropout: 0.5 });
  const before = weights(dropped);
  const first = await model.evaluate(rows, { adapter: 'dropped' });
  expect(await model.evaluate(rows, { adapter: 'dropped' })).toEqual(first);
  addAdapter('plain', { loraDropout: 0 });
  expect(await model.evaluate(rows, { adapter: 'plain' })).toEqual(first);
  expect(dropped.stateDict().forwards).toBe(0);
  expect(weights(dropped)).toBe(before);
  await collectGarbage();
  const { tensors } = memoryUsage();
  await model.evaluate(rows, { adapter: 'dropped' });
  expect(memoryUsage().tensors).toBe(tensors);
});

test('of the active adapter by default, of a named one, or of the base alone', async () => {
  const { model } = fixture;
  const rows = makeRows(3);
  addAdapter('mine');
  const bare = await model.evaluate(rows, { adapter: null });
  const mine = await model.evaluate(rows);
  expect(mine.loss).not.toBe(bare.loss);
  model.setAdapter(null);
  expect(await model.evaluate(rows)).toEqual(bare);
  expect(await model.evaluate(rows, { adapter: 'mine' })).toEqual(mine);
});

test('a signal ends it before the next batch, and nothing is held any more', async () => {
  const { model } = fixture;
  addAdapter('mine');
  const recorded = recordBatches(model);
  const stop = new AbortController();
  const reason = new Error('enough');
  const rows = makeRows(6);
  function* source(): Generator<Row> {
    for (const [i, row] of rows.entries()) {
      if (i === 3) stop.abort(reason); // while the second batch is put together
      yield row;
    }
  }
  await expect(model.evaluate(source(), { batchSize: 2, signal: stop.signal })).rejects.toBe(reason);
  expect(recorded.batches).toHaveLength(1);
  await model.removeAdapter('mine');
});

test('while it runs, its adapter cannot be removed, nor the base be merged', async () => {
  const { model } = fixture;
  addAdapter('mine');
  const busy: Promise<unknown>[] = [];
  function* source(): Generator<Row> {
    for (const row of makeRows(2)) {
      for (const call of [model.removeAdapter('mine'), model.merge('mine')])
        busy.push(call.catch((e: unknown) => (e as { code: string }).code));
      yield row;
    }
  }
  await model.evaluate(source());
  expect(await Promise.all(busy)).toEqual(Array(4).fill('ERR_BUSY'));
});

test('data without labels that count is ERR_DATA', async () => {
  const { model } = fixture;
  for (const rows of [
    [],
    makeRows(2).map(({ inputIds }) => ({ inputIds, labels: inputIds.map(() => -100) })),
  ])
    await expectReject(
      model.evaluate(rows),
      'ERR_DATA',
      '[evaluate] expected labels that count but the data has none',
    );
});
