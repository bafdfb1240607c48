import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CausalLM,
  memoryUsage,
  noGrad,
  setThreads,
  type Adapter,
  type Device,
  type TensorValues,
} from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { fillAdapter } from '../support/fill_adapter';
import { relativeError } from '../support/numbers';
import { tinyModel } from '../support/tiny_model';

const rows = [
  [256, 72, 101, 108],
  [97, 98, 99],
  [5, 6, 7, 8],
  [9, 8],
  [1, 2, 3],
];
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
afterAll(async () => {
  for (const model of models) {
    await model.dispose();
    rmSync(model.directory, { recursive: true, force: true });
  }
});

async function load(device: Device = 'cpu'): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(await tinyModel(), { device });
  models.push(model);
  return model;
}
function add(model: CausalLM, name: string, config: object, seed: number): Adapter {
  const adapter = model.addAdapter({ loraAlpha: 8, ...config }, { name, seed });
  fillAdapter(adapter, seed);
  return adapter;
}
async function logitsOf(
  model: CausalLM,
  ids: number[][],
  adapter: string | null | (string | null)[],
): Promise<TensorValues> {
  const { logits } = model.forward(ids, { logits: true, adapter });
  const values = await logits.data();
  logits.dispose();
  return values;
}

/** Each row, alone with its adapter, is what it is among others. */
async function expectRowsAsAlone(model: CausalLM, who: (string | null)[]): Promise<void> {
  const together = await logitsOf(model, rows, who);
  const width = together.length / rows.length;
  const vocab = width / 4;
  for (const [i, row] of rows.entries()) {
    const alone = await logitsOf(model, [row], who[i]!);
    expect(relativeError(together.subarray(i * width, i * width + row.length * vocab), alone)).toBeLessThan(
      1e-5,
    );
  }
}

const who = ['a', null, 'b', 'b', 'a'];

test.each(['cpu', 'reference'] as const)(
  'each row of a batch has its own adapter on %s, of another rank and other layers',
  async (device) => {
    const model = await load(device);
    add(model, 'a', { r: 4, targetModules: 'all-linear' }, 1);
    add(model, 'b', { r: 7, targetModules: ['q_proj', 'down_proj'] }, 2);
    await noGrad(() => expectRowsAsAlone(model, who));
    const [a, b] = await Promise.all(
      ['a', 'b'].map((name) => noGrad(() => logitsOf(model, rows, [name, name, name, name, name]))),
    );
    expect(relativeError(a!, b!)).toBeGreaterThan(1e-3);
  },
);

test('DoRA and LoRA share a call without gradients, whose rows read one table', async () => {
  const model = await load();
  add(model, 'a', { r: 4, targetModules: 'all-linear', useDora: true }, 1);
  add(model, 'b', { r: 7, targetModules: ['q_proj', 'down_proj'] }, 2);
  const made = jest.spyOn(binding(), 'createDeltaTable');
  await noGrad(() => expectRowsAsAlone(model, who));
  expect(made).toHaveBeenCalled();
  jest.restoreAllMocks();
});

test('a recorded call gives the gradients of one call per row', async () => {
  const model = await load();
  const adapters = [
    add(model, 'a', { r: 4, targetModules: 'all-linear' }, 1),
    add(model, 'b', { r: 7, targetModules: ['q_proj', 'v_proj'] }, 2),
  ];
  await expectRowsAsAlone(model, who);
  const gradients = async (): Promise<TensorValues[]> => {
    const values: TensorValues[] = [];
    for (const p of adapters.flatMap((adapter) => adapter.parameters())) {
      values.push(await p.grad!.data());
      p.grad!.dispose();
      p.grad = null;
    }
    return values;
  };
  for (const gradientCheckpointing of [false, true]) {
    const { loss } = model.forward(rows, {
      labels: rows,
      reduction: 'sum',
      adapter: who,
      gradientCheckpointing,
    });
    loss.backward();
    const together = await gradients();
    for (const [i, row] of [...rows.entries()].filter(([at]) => who[at] !== null))
      model.forward([row], { labels: [row], reduction: 'sum', adapter: who[i]! }).loss.backward();
    const alone = await gradients();
    together.forEach((g, i) => expect(relativeError(g, alone[i]!)).toBeLessThan(1e-4));
  }
});

test('adapters that compute their layers in ways of their own share a batch too', async () => {
  const model = await load();
  add(model, 'a', { r: 4, targetModules: ['q_proj'], useDora: true }, 1);
  add(model, 'b', { r: 2, targetModules: ['o_proj'], modulesToSave: ['lm_head'] }, 2);
  await noGrad(() => expectRowsAsAlone(model, who));
});

// Every way to ask for dropout, for one adapter and for rows with their own: it drops where it trains, unless it is told.
describe.each(['one adapter', 'rows of their own'])('dropout of %s', (whose) => {
  let model: CausalLM;
  let folder: string;
  beforeAll(async () => {
    model = await load();
    folder = mkdtempSync(join(tmpdir(), 'row-adapters-'));
    await add(model, 'trainable', { r: 4, loraDropout: 0.5, targetModules: 'all-linear' }, 1).save(folder);
    await model.loadAdapter(folder, { name: 'frozen' });
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const cases = [undefined, true, false].flatMap((train) =>
    [false, true].flatMap((quiet) => ['trainable', 'frozen'].map((name) => [train, quiet, name] as const)),
  );
  test.each(cases)('train: %p, noGrad: %p, a %s one', async (train, quiet, name) => {
    const adapter = whose === 'one adapter' ? name : [name, null, name, name, null];
    const values = async (): Promise<TensorValues> => {
      const forward = () =>
        model.forward(rows, { logits: true, adapter, ...(train !== undefined && { train }) });
      const { logits } = quiet ? noGrad(forward) : forward();
      const read = await logits.data();
      logits.dispose();
      return read;
    };
    const drops = train ?? (!quiet && name === 'trainable');
    expect(relativeError(await values(), await values()) > 1e-3).toBe(drops);
  });
});

test('the loss of a row is that of its own head', async () => {
  const model = await load();
  add(model, 'a', { r: 4, targetModules: ['q_proj'] }, 1);
  add(model, 'b', { r: 2, targetModules: ['o_proj'], modulesToSave: ['lm_head'] }, 2);
  const lossOf = (ids: number[][], adapter: string | null | (string | null)[]): Promise<number> =>
    model.forward(ids, { labels: ids, reduction: 'sum', adapter }).loss.item();
  let alone = 0;
  for (const [i, row] of rows.entries()) alone += await lossOf([row], who[i]!);
  expect(await lossOf(rows, who)).toBeCloseTo(alone, 3);
});

test('a training that goes on is seen at once, and nothing is left behind', async () => {
  const model = await load();
  const a = add(model, 'a', { r: 4, targetModules: ['q_proj'] }, 1);
  const before = await noGrad(() =>
    logitsOf(
      model,
      rows,
      who.map((name) => name && 'a'),
    ),
  );
  fillAdapter(a, 9);
  const { tensors, bytes } = memoryUsage();
  const after = await noGrad(() =>
    logitsOf(
      model,
      rows,
      who.map((name) => name && 'a'),
    ),
  );
  expect(relativeError(after, before)).toBeGreaterThan(1e-3);
  expect(memoryUsage()).toMatchObject({ tensors, bytes });
});

test('what is no adapter of the model is refused by row', async () => {
  const model = await load();
  expect(() => model.forward(rows, { adapter: ['x', null, null, null, null] })).toThrow(/no adapter/);
  expect(() => model.forward(rows, { adapter: [null] })).toThrow(
    'expected one adapter for each of 5 rows but received 1',
  );
});
