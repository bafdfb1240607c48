import { rmSync } from 'node:fs';
import { CausalLM, setThreads, type Adapter } from '../../lib/index';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { tinyModel } from '../support/tiny_model';

let model: CausalLM;
let adapter: Adapter;
beforeAll(async () => {
  setThreads(1); // tiny matrices
  model = await CausalLM.fromPretrained(await tinyModel());
  adapter = model.addAdapter({ r: 2, loraDropout: 0.5, targetModules: 'all-linear' }, { name: 'a' });
  fillAdapter(adapter, 3, 0.3);
});
afterAll(async () => {
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});

/** Five rows of different lengths, with labels of which some do not count; the third has none that counts. */
const data = [5, 3, 4, 7, 2].map((length, i) => {
  const inputIds = Array.from({ length }, (_, t) => (31 * i + 7 * t) % 256);
  const labels = inputIds.map((id, t) => (i === 2 || (t + i) % 3 === 0 ? -100 : id));
  return { inputIds, labels };
});

/** Sum of the losses of single rows, and how many labels count. */
async function byRow(use: Adapter | null): Promise<{ sum: number; count: number }> {
  let [sum, count] = [0, 0];
  for (const { inputIds, labels } of data) {
    const counted = labels.slice(1).filter((label) => label !== -100).length;
    if (counted === 0) continue;
    const { loss } = model.forward([inputIds], {
      labels: [labels],
      reduction: 'sum',
      train: false,
      adapter: use,
    });
    sum += await loss.item();
    count += counted;
  }
  return { sum, count };
}

test.each([1, 2, 4, 5, 9, undefined])(
  'the mean over all labels that count, without dropout, in batches of %p',
  async (batchSize) => {
    for (const use of [adapter, null]) {
      const { sum, count } = await byRow(use);
      const { loss, perplexity, tokens } = await model.evaluate(data, { adapter: use, batchSize });
      expect(tokens).toBe(count);
      expect(Math.abs(loss / (sum / count) - 1)).toBeLessThan(1e-6);
      expect(perplexity).toBe(Math.exp(loss));
    }
  },
);

test('of the active adapter, unless another is named', async () => {
  const [active, base] = [await model.evaluate(data), await model.evaluate(data, { adapter: null })];
  expect(active).toEqual(await model.evaluate(data, { adapter: 'a' }));
  expect(active.loss).not.toBe(base.loss);
  model.setAdapter(null);
  expect(await model.evaluate(data)).toEqual(base);
  model.setAdapter('a');
});

test('data of which no label counts has no mean', async () => {
  await expectReject(
    model.evaluate([{ inputIds: [1, 2], labels: [1, -100] }]),
    'ERR_DATA',
    '[evaluate] expected labels that count but the data has none',
  );
});

test('holds the adapter and the base until it ends', async () => {
  const held: unknown[] = [];
  async function* watching() {
    for (const attempt of [() => model.removeAdapter('a'), () => model.merge('a'), () => model.merge('b')])
      held.push(await attempt().catch((error: { code: string }) => error.code));
    yield* data;
  }
  model.addAdapter({ r: 2 }, { name: 'b' });
  await model.evaluate(watching(), { adapter: 'a' });
  expect(held).toEqual(['ERR_BUSY', 'ERR_BUSY', 'ERR_BUSY']);

  async function* failing() {
    yield* data.slice(0, 1);
    throw new Error('the data ended');
  }
  await expect(model.evaluate(failing(), { adapter: 'b' })).rejects.toThrow('the data ended');
  await model.removeAdapter('b');
  await model.merge('a');
  await expectReject(model.evaluate(data, { adapter: 'a' }), 'ERR_BUSY', /is merged into the base weights/);
  await model.unmerge();
});

test('rejects with the reason of its signal, and asks for no more data', async () => {
  const reason = new Error('enough');
  await expect(model.evaluate(data, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  const stop = new AbortController();
  let asked = 0;
  function* source() {
    for (const example of data) {
      if (++asked === 3) stop.abort(reason);
      yield example;
    }
  }
  await expect(model.evaluate(source(), { batchSize: 1, signal: stop.signal })).rejects.toBe(reason);
  expect(asked).toBe(3);
});

test.each<[object, string]>([
  [{ signal: 5 }, 'expected signal to be an AbortSignal but received 5'],
  [{ batch: 5 }, "unknown option 'batch'; did you mean 'batchSize'?"],
  [{ batchSize: 0 }, 'expected batchSize to be a positive whole number but received 0'],
  [{ adapter: 'x' }, "the model has no adapter 'x'"],
])('%j is refused', async (options, sentence) => {
  const error = await expectReject(model.evaluate(data, options), 'ERR_ARGUMENT', /./);
  expect(error.message).toContain(sentence);
});
