/** A file of its own: garbage of other tests would blur the numbers. */
import { rmSync } from 'node:fs';
import { AdamW, CausalLM, clipGradNorm, memoryUsage, noGrad, setThreads, tidy } from '../../lib/index';
import { collectGarbage } from '../support/garbage';
import { tinyModel } from '../support/tiny_model';

const rows = [
  [256, 72, 101, 108, 108, 111, 44, 32, 119],
  [97, 98, 99, 100, 101],
];
let model: CausalLM;
beforeAll(async () => {
  setThreads(1);
  model = await CausalLM.fromPretrained(await tinyModel());
});
afterAll(async () => {
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});

test('nothing of a training step, a generation or a merge is left', async () => {
  const untouched = memoryUsage();
  const adapter = model.addAdapter({ r: 2, loraDropout: 0.1, targetModules: 'all-linear' });
  const optimizer = new AdamW(adapter.parameters(), { lr: 1e-3 });
  const step = async (logits: boolean): Promise<void> => {
    const { loss, logits: all } = model.forward(rows, { labels: rows, logits });
    loss.backward();
    const norm = clipGradNorm(adapter.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    await norm.item();
    for (const t of [loss, norm, all]) t?.dispose();
  };
  const serve = async (): Promise<void> => {
    await model.generate([256, 72], { maxNewTokens: 3 });
    model.configureEngine(); // frees what the engine keeps for later requests
    const { logits } = noGrad(() => model.forward(rows, { logits: true }));
    await logits.data();
    logits.dispose();
  };
  await step(false);
  await step(true);
  await serve();
  await collectGarbage(); // what loading left must not be freed in between
  const before = memoryUsage();
  for (let i = 0; i < 4; i++) {
    await step(i % 2 === 1);
    await serve();
  }
  expect(memoryUsage()).toMatchObject({ bytes: before.bytes, tensors: before.tensors });
  await model.merge('default');
  expect(memoryUsage().bytes).toBeGreaterThan(before.bytes);
  await model.unmerge();
  expect(memoryUsage()).toMatchObject({ bytes: before.bytes, tensors: before.tensors });

  // Failing half way leaves nothing either.
  expect(() => model.forward(rows, { labels: [[1], [2]] })).toThrow();
  expect(memoryUsage().bytes).toBe(before.bytes);
  await model.removeAdapter('default');
  expect(memoryUsage().bytes).toBeLessThan(before.bytes);
  expect(untouched.bytes).toBeGreaterThan(0);
});

test('a frozen adapter and the base alone record nothing', async () => {
  const { loss } = model.forward(rows, { labels: rows, adapter: null });
  expect(loss.requiresGrad).toBe(false);
  await loss.item();
  loss.dispose();
  await collectGarbage();
  const before = memoryUsage().bytes;
  const held = model.forward(rows, { labels: rows }).loss;
  await held.item();
  expect(memoryUsage().bytes - before).toBeLessThanOrEqual(64); // the loss alone
  held.dispose();
});

test('what belongs to a model outlives the tidy() it was made in', async () => {
  const dir = await tinyModel({ seed: 3 });
  const other = await tidy(async () => {
    const made = await CausalLM.fromPretrained(dir);
    made.addAdapter({ r: 2, targetModules: 'all-linear' });
    const { loss } = made.forward(rows, { labels: rows }); // makes the rope table, too
    loss.backward();
    await made.generate([256], { maxNewTokens: 2 });
    await made.merge('default');
    return made;
  });
  await other.unmerge();
  const { loss } = other.forward(rows, { labels: rows });
  expect(await loss.item()).toBeGreaterThan(0);
  loss.dispose();
  await other.dispose();
  rmSync(dir, { recursive: true });
});

test('a load that is aborted half way leaves nothing', async () => {
  await collectGarbage();
  const before = memoryUsage().tensors;
  const stop = new AbortController();
  const onProgress = ({ loaded, total }: { loaded: number; total: number }) => {
    if (loaded > total / 2) stop.abort(new Error('half is enough'));
  };
  const load = CausalLM.fromPretrained(model.directory, { signal: stop.signal, onProgress });
  await expect(load).rejects.toThrow('half is enough');
  expect(memoryUsage().tensors).toBe(before);
});

test('dispose gives everything back', async () => {
  await collectGarbage();
  const before = memoryUsage().tensors;
  const dir = await tinyModel({ seed: 2 });
  const other = await CausalLM.fromPretrained(dir);
  other.addAdapter({ r: 2, targetModules: 'all-linear' });
  await other.merge('default');
  other.forward(rows, { labels: rows }).loss.dispose();
  expect(memoryUsage().tensors).toBeGreaterThan(before);
  await other.dispose();
  await other.dispose();
  expect(memoryUsage().tensors).toBe(before);
  rmSync(dir, { recursive: true });
});
