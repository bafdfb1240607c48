/** Several examples in one row: each is computed as if it stood alone. */
import { batches, CausalLM, Trainer, type Batch } from '../../lib/index';
import { expectThrow } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { list, relativeError } from '../support/numbers';
import { tinyModel } from '../support/tiny_model';
import { collect, counted, makeRows, trainingFixture } from '../support/training';

const rows = [
  [256, 72, 101, 108, 108],
  [256, 9, 9, 7, 200, 31, 4, 77],
  [5, 6],
  [256, 1, 2, 3],
];
/** The rows in two: three in the first, with padding behind, and one in the second. */
const packed = {
  ids: [[...rows[0]!, ...rows[1]!, ...rows[2]!, 0, 0], [...rows[3]!]],
  segmentIds: [
    [...rows[0]!.map(() => 3), ...rows[1]!.map(() => 1), ...rows[2]!.map(() => 2), 0, 0],
    rows[3]!.map(() => 1),
  ],
};

async function observe(
  model: CausalLM,
  ids: number[][],
  segmentIds?: number[][],
): Promise<{ loss: number; gradients: number[]; logits: number[][] }> {
  const { loss } = model.forward(ids, { labels: ids, segmentIds, reduction: 'sum', train: false });
  loss.backward();
  const gradients: number[] = [];
  for (const p of model.activeAdapter!.parameters()) {
    gradients.push(...(await list(p.grad)));
    p.grad!.dispose();
    p.grad = null;
  }
  const all = await list(model.forward(ids, { segmentIds, logits: true, train: false }).logits);
  const { vocabSize } = model.config;
  const width = Math.max(...ids.map(({ length }) => length));
  const logits: number[][] = [];
  ids.forEach((row, i) =>
    row.forEach((_, t) => {
      if (segmentIds?.[i]?.[t] === 0) return;
      logits.push(all.slice((i * width + t) * vocabSize, (i * width + t + 1) * vocabSize));
    }),
  );
  return { loss: await loss.item(), gradients, logits };
}

describe.each([
  ['llama', {}],
  ['mistral with a window of 3', { model_type: 'mistral', sliding_window: 3 }],
  ['qwen3', { model_type: 'qwen3' }],
])('%s', (_, config) => {
  test.each(['cpu', 'reference'])(
    'loss, gradients and logits are those of the rows alone, on %s',
    async (device) => {
      const dir = await tinyModel({ tokenizer: false, config });
      const model = await CausalLM.fromPretrained(dir, { device });
      try {
        fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }));
        const alone = await observe(model, rows);
        const together = await observe(model, packed.ids, packed.segmentIds);
        expect(Math.abs(together.loss - alone.loss) / alone.loss).toBeLessThan(1e-6);
        expect(relativeError(together.gradients, alone.gradients)).toBeLessThan(1e-5);
        expect(relativeError(together.logits.flat(), alone.logits.flat())).toBeLessThan(1e-5);
      } finally {
        await model.dispose();
      }
    },
  );
});

describe('segmentIds that are none', () => {
  const fixture = trainingFixture();
  test.each<[unknown, string]>([
    [[[1, 1, 1]], 'expected segmentIds of 2 rows, as ids, but received an array of 1'],
    [[[1, 1], [1]], 'expected row 0 of segmentIds to hold 3 numbers, as ids, but received [1, 1]'],
    [
      [[1, 1.5, 2], [1]],
      'expected segmentIds to be whole numbers, 0 for padding, but received 1.5 at row 0, position 1',
    ],
    [
      [[1, -1, 2], [1]],
      'expected segmentIds to be whole numbers, 0 for padding, but received -1 at row 0, position 1',
    ],
    [
      [[2, 1, 2], [1]],
      'expected the tokens of a segment to follow each other but segment 2 begins again at row 0, position 2',
    ],
  ])('%j', (segmentIds, message) => {
    expectThrow(
      () => fixture.model.forward([[1, 2, 3], [4]], { segmentIds: segmentIds as number[][] }),
      'ERR_ARGUMENT',
      `[forward] ${message}`,
    );
  });
});

describe('batches with packing', () => {
  const of = (...lengths: number[]): { inputIds: number[]; labels: number[] }[] =>
    lengths.map((length, i) => ({
      inputIds: Array.from({ length }, () => i + 1),
      labels: Array.from({ length }, () => i + 1),
    }));
  const packs = async (lengths: number[], options: object): Promise<Batch[]> => {
    const all: Batch[] = [];
    for await (const batch of batches(of(...lengths), { packing: true, ...options })) all.push(batch);
    return all;
  };
  const ids = (all: Batch[]): string[][] => all.map(({ inputIds }) => inputIds.map((row) => row.join('')));

  test('fills rows first fit, in order; a longer example has a row of its own', async () => {
    const all = await packs([3, 4, 2, 6, 1, 9, 2], { batchSize: 2, packLength: 6 });
    expect(ids(all)).toEqual([
      ['11133', '2222'],
      ['444444', '5'],
      ['666666666', '77'],
    ]);
    for (const { inputIds, segmentIds, labels } of all) {
      expect(labels).toEqual(inputIds); // the model knows what predicts the first token of each
      inputIds.forEach((row, i) => {
        expect(row.length <= 6 || new Set(row).size === 1).toBe(true);
        const segments = segmentIds![i]!;
        row.forEach((id, t) => {
          const begins = t === 0 || segments[t - 1] !== segments[t];
          expect(begins).toBe(t === 0 || row[t - 1] !== id); // a segment is one example
        });
      });
    }
    expect(all.flatMap(({ inputIds }) => inputIds.flat()).sort()).toEqual(
      of(3, 4, 2, 6, 1, 9, 2)
        .flatMap(({ inputIds }) => inputIds)
        .sort(),
    );
  });

  test('first fit: an example goes into the first row that has room', async () => {
    expect(ids(await packs([4, 3, 2, 3], { batchSize: 2, packLength: 6 }))).toEqual([['111133', '222444']]);
    expect(ids(await packs([4, 3, 4], { batchSize: 2, packLength: 6 }))).toEqual([['1111', '222'], ['3333']]);
  });

  test('the length of a row is that of the data set, and dropLast leaves out fewer rows', async () => {
    const data = Object.assign(of(4, 3, 4), { maxLength: 8 });
    const all: Batch[] = [];
    for await (const batch of batches(data, { packing: true, batchSize: 1 })) all.push(batch);
    expect(ids(all)).toEqual([['1111222'], ['3333']]);
    expect(ids(await packs([4, 3, 4], { batchSize: 2, packLength: 6, dropLast: true }))).toEqual([
      ['1111', '222'],
    ]);
  });
});

describe('a Trainer with packing', () => {
  const fixture = trainingFixture();

  test('takes the step of the same examples in rows of their own', async () => {
    const data = makeRows(6);
    const step = async (packing: boolean): Promise<{ loss: number; gradNorm: number; tokens: number }> => {
      const adapter = fixture.addAdapter(packing ? 'packed' : 'plain', { loraDropout: 0 });
      fixture.model.setAdapter(adapter.name);
      const { steps } = await collect(
        new Trainer({ model: fixture.model, data, maxSteps: 1, batchSize: 6, packing, packLength: 20 }),
      );
      return steps[0]!;
    };
    const [packedStep, plain] = [await step(true), await step(false)];
    expect(packedStep.tokens).toBe(plain.tokens);
    expect(packedStep.loss).toBeCloseTo(plain.loss, 5);
    expect(packedStep.gradNorm).toBeCloseTo(plain.gradNorm, 4);
    expect(counted(data.map(({ labels }) => labels))).toBeGreaterThan(0);
  });

  test('needs the number of steps for a schedule that ends', () => {
    fixture.addAdapter('mine');
    expectThrow(
      () => new Trainer({ model: fixture.model, data: makeRows(4), epochs: 1, packing: true }),
      'ERR_ARGUMENT',
      '[Trainer] expected maxSteps, since the cosine schedule needs the number of steps and packing does not tell its length',
    );
  });
});
