/** Gradient checkpointing: the same bits in less memory. */
import { memoryUsage, noGrad, Trainer } from '../../lib/index';
import { collectGarbage } from '../support/garbage';
import { bits, list } from '../support/numbers';
import { collect, makeRows, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const rounding = trainingFixture({ dtype: 'bf16' });
const rows = [
  Array.from({ length: 60 }, (_, i) => (i * 7) % 250),
  Array.from({ length: 41 }, (_, i) => (i * 11) % 250),
];
const segmentIds = rows.map((row) => row.map((_, i) => 1 + Math.floor(i / 20)));

/** Loss and gradients with dropout, and the most memory that was held beyond what was there. */
async function observe(
  gradientCheckpointing: boolean,
  packed = false,
  changes = {},
  { model, addAdapter } = fixture,
) {
  const adapter = addAdapter('mine', changes);
  adapter.loadStateDict({ ...adapter.stateDict(), forwards: 3 });
  const options = { labels: rows, reduction: 'sum', train: true, gradientCheckpointing } as const;
  const before = memoryUsage().bytes;
  const { loss } = model.forward(rows, { ...options, segmentIds: packed ? segmentIds : undefined });
  const held = memoryUsage().bytes - before;
  loss.backward();
  const gradients = adapter.parameters().map((p) => p.grad!);
  const seen = { loss: await loss.item(), gradients: bits(...gradients) };
  expect((await list(gradients[0]!)).some((g) => g !== 0)).toBe(true);
  loss.dispose();
  await model.removeAdapter('mine');
  return { ...seen, held };
}

test.each([
  ['rows', false, {}],
  ['packed rows', true, {}],
  ['DoRA', false, { useDora: true, r: 2 }],
  ['DoRA without dropout, in bf16', false, { useDora: true, r: 2, loraDropout: 0 }, rounding],
  ['q and v alone', false, { targetModules: ['q_proj', 'v_proj'] }],
])(
  '%s: loss and gradients have the same bits, and less is held meanwhile',
  async (_, packed, changes, where = fixture) => {
    await collectGarbage(); // of other tests
    const plain = await observe(false, packed, changes, where);
    const checkpointed = await observe(true, packed, changes, where);
    expect({ ...checkpointed, held: 0 }).toEqual({ ...plain, held: 0 });
    expect(checkpointed.held).toBeLessThan(0.5 * plain.held);
  },
);

test('nothing is left when the graph is dropped, or backward has run', async () => {
  const { model } = fixture;
  fixture.addAdapter('mine');
  noGrad(() => model.forward(rows)).logits.dispose(); // makes the table of positions
  await collectGarbage(); // of other tests
  const before = memoryUsage();
  const { loss } = model.forward(rows, { labels: rows, gradientCheckpointing: true });
  loss.dispose();
  expect(['dropped', memoryUsage().tensors]).toEqual(['dropped', before.tensors]);
  const again = model.forward(rows, { labels: rows, gradientCheckpointing: true }).loss;
  again.backward();
  again.dispose();
  for (const p of model.activeAdapter!.parameters()) {
    p.grad!.dispose();
    p.grad = null;
  }
  expect(memoryUsage().tensors).toBe(before.tensors);
});

test('a step between forward and backward is noticed', async () => {
  const { model } = fixture;
  const adapter = fixture.addAdapter('mine');
  const { loss } = model.forward(rows, { labels: rows, gradientCheckpointing: true });
  adapter.parameters()[0]!.version++;
  expect(() => loss.backward()).toThrow(/was changed by a step\(\) after this graph was recorded/);
  loss.dispose();
});

test('a Trainer ends with the same weights', async () => {
  const train = async (gradientCheckpointing: boolean): Promise<string> => {
    const adapter = fixture.addAdapter('mine');
    const options = { data: makeRows(6), maxSteps: 3, batchSize: 2, lr: 0.02, gradientCheckpointing };
    await collect(new Trainer({ model: fixture.model, ...options }));
    const trained = weights(adapter);
    await fixture.model.removeAdapter('mine');
    return trained;
  };
  expect(await train(true)).toBe(await train(false));
});
