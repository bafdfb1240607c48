/** Full fine-tuning of a bf16 model without f32 masters: rounding, learning, runs that go on, files. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  AdamW,
  AdamW8bit,
  CausalLM,
  estimateMemory,
  Lion,
  noGrad,
  setThreads,
  SGD,
  tensor,
  Trainer,
  type Device,
  type MemoryOptions,
  type Parameter,
  type TrainerOptions,
} from '../../lib/index';
import { adoptParameter } from '../../lib/tensor/create';
import { expectReject, expectThrow } from '../support/errors';
import { bits } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';
import { collect, makeRows } from '../support/training';

const rows = [
  [256, 72, 101, 108, 3, 4, 72],
  [97, 98, 99, 97],
];
const data = makeRows(11);
const out = temporaryFolder();
const models: CausalLM[] = [];

afterAll(async () => {
  for (const model of models) {
    await model.dispose();
    rmSync(model.directory, { recursive: true, force: true });
  }
});
afterEach(() => setThreads(1));

async function load(seed: number, dtype: 'f32' | 'bf16' = 'bf16'): Promise<CausalLM> {
  setThreads(1); // tiny matrices
  const model = await CausalLM.fromPretrained(await tinyModel({ seed }), { dtype });
  models.push(model);
  return model;
}
const lossOf = async (model: CausalLM): Promise<number> =>
  noGrad(async () => model.forward(rows, { labels: rows }).loss.item());
function backward(model: CausalLM): void {
  model.forward(rows, { labels: rows }).loss.backward();
}

describe('a step of Lion', () => {
  const size = 2 ** 16;
  const lr = 2 ** -11; // a sixteenth of the distance between 1 and the next bf16, which rounding to nearest drops
  const ones = (device: Device = 'cpu'): Parameter => {
    const p = adoptParameter(tensor(new Float32Array(size).fill(1), { device }).to({ dtype: 'bf16' }), 'p');
    p.grad = tensor(new Float32Array(size).fill(-1), { device });
    return p;
  };
  const stepped = (options: { seed?: number; steps?: number; device?: Device; before?: number } = {}) => {
    const { seed, steps = 1, device, before = 0 } = options;
    const parameters = [...Array.from({ length: before }, () => ones(device)), ones(device)];
    using optimizer = new Lion(parameters, { lr, seed });
    for (let i = 0; i < steps; i++) optimizer.step();
    return parameters.at(-1)!;
  };

  test('that is less than the last bit moves weights of bf16 on the average', async () => {
    for (const steps of [1, 8]) {
      const values = await stepped({ steps }).data();
      const mean = values.reduce((sum, x) => sum + (x - 1), 0) / size;
      const error = Math.sqrt((steps * (1 / 16) * (15 / 16)) / size) * 2 ** -7;
      expect(Math.abs(mean - steps * lr)).toBeLessThan(5 * error);
      expect(new Set(values).has(1)).toBe(true);
    }
    const values = new Set(await stepped().data());
    expect(values).toEqual(new Set([1, 1 + 2 ** -7]));
  });

  test('has the bits that seed, parameter and step decide, on every device, with any threads', () => {
    const expected = bits(stepped());
    setThreads(3);
    expect(bits(stepped())).toBe(expected);
    expect(bits(stepped({ seed: 0 }))).toBe(expected);
    expect(bits(stepped({ device: 'reference' }))).toBe(expected);
    expect(bits(stepped({ seed: 1 }))).not.toBe(expected);
    expect(bits(stepped({ seed: 2 ** 40 }))).not.toBe(expected);
    expect(bits(stepped({ before: 1 }))).not.toBe(expected);
    // The draws of the second step are not those of the first.
    const [p, q] = [stepped({ steps: 2 }), stepped()];
    const both = (values: Float32Array): number[] => [...values].map((x) => Math.round((x - 1) * 2 ** 7));
    const sums = new Set(both(new Float32Array(p.dataSync())));
    expect(sums).toEqual(new Set([0, 1, 2]));
    expect(bits(p)).not.toBe(bits(q));
  });

  test('numbers the parameters of all groups on', () => {
    const [p, q] = [ones(), ones()];
    using optimizer = new Lion([{ params: [p] }, { params: [q] }], { lr });
    optimizer.step();
    expect([bits(p), bits(q)]).toEqual([bits(stepped()), bits(stepped({ before: 1 }))]);
  });

  test('refuses a seed that is none', () => {
    const p = ones();
    expectThrow(
      () => new Lion([p], { seed: -1 }),
      'ERR_ARGUMENT',
      /^\[Lion\] expected seed to be an integer/,
    );
    using optimizer = new Lion([p], { seed: 3 });
    const state = optimizer.stateDict();
    expect(state).toMatchObject({ groups: [{ seed: 3 }] });
    using other = new Lion([ones()]);
    other.loadStateDict(state);
    expect(other.stateDict()).toMatchObject({ groups: [{ seed: 3 }] });
  });
});

test('the first gradients are those of f32 masters, in f32', async () => {
  const [own, masters] = [await load(3), await load(3)];
  const [a, b] = [own.trainAll({ stochasticRounding: true }), masters.trainAll()];
  expect(new Set(a.map((p) => p.dtype))).toEqual(new Set(['bf16']));
  expect(own.numTrainable).toBe(own.parameterCount);
  backward(own);
  backward(masters);
  expect(new Set(a.map((p) => p.grad!.dtype))).toEqual(new Set(['f32']));
  expect(bits(...a.map((p) => p.grad!))).toBe(bits(...b.map((p) => p.grad!)));
});

test.each([
  ['AdamW', AdamW, 0.003],
  ['AdamW8bit', AdamW8bit, 0.003],
  ['Lion', Lion, 0.001],
  ['SGD', SGD, 0.5],
] as const)('%s learns; files and freeze() have the bits that it left', async (_, Kind, lr) => {
  const model = await load(3);
  const parameters = model.trainAll({ stochasticRounding: true });
  using optimizer = new Kind(parameters, { lr });
  const before = await lossOf(model);
  for (let i = 0; i < 20; i++) {
    backward(model);
    optimizer.step();
    optimizer.zeroGrad();
  }
  const after = await lossOf(model);
  expect(after).toBeLessThan(0.6 * before);
  const dir = join(out, optimizer.kind);
  await model.save(dir);
  const again = await CausalLM.fromPretrained(dir);
  models.push(again);
  expect([again.dtype, await lossOf(again)]).toEqual(['bf16', after]);
  model.freeze();
  expect(await lossOf(model)).toBe(after);
});

describe('a run', () => {
  const options = { data, maxSteps: 6, batchSize: 2, lr: 0.01, seed: 4, warmupSteps: 1 } as const;
  const run = (model: CausalLM, changes: Partial<TrainerOptions> = {}) =>
    collect(new Trainer({ model, ...options, ...changes }));

  test.each(['adamw', 'adamw8bit', 'lion'] as const)('goes on bit for bit with %s', async (optimizer) => {
    const whole = await load(9);
    const expected = whole.trainAll({ stochasticRounding: true });
    const { steps } = await run(whole, { optimizer });
    const dir = join(out, `run-${optimizer}`);
    const changes = { outDir: dir, saveEvery: 2, saveLimit: 1, optimizer } as const;
    const stop = new AbortController();
    const first = await load(9);
    first.trainAll({ stochasticRounding: true });
    const reason = new Error('stop');
    const stopped = (async () => {
      const trainer = new Trainer({ model: first, ...options, ...changes });
      for await (const event of trainer.run({ signal: stop.signal }))
        if (event.type === 'step' && event.step === 3) stop.abort(reason);
    })();
    await expect(stopped).rejects.toBe(reason);
    // The files of the model have all of its bits: there is no second copy.
    const saved = readFileSync(join(dir, 'checkpoint-3', 'checkpoint.safetensors'));
    const header = saved.subarray(8, 8 + Number(saved.readBigUInt64LE())).toString();
    const { __metadata__: _, ...tensors } = JSON.parse(header) as Record<string, unknown>;
    expect(Object.keys(tensors).filter((name) => !name.startsWith('optimizer.'))).toEqual([]);

    const second = await load(9);
    const parameters = second.trainAll({ stochasticRounding: true });
    const rest = await run(second, { ...changes, resume: true });
    expect(rest.steps.map(({ loss }) => loss)).toEqual(steps.slice(3).map(({ loss }) => loss));
    expect(bits(...parameters)).toBe(bits(...expected));
    const masters = await load(9);
    masters.trainAll();
    await expectReject(
      run(masters, { ...changes, resume: true }),
      'ERR_ARGUMENT',
      /run with other settings: stochasticRounding was true/,
    );
  });

  test('rounds by its seed', async () => {
    const last = async (seed: number): Promise<string> => {
      const model = await load(9);
      const parameters = model.trainAll({ stochasticRounding: true });
      await run(model, { data: data.slice(0, 1), maxSteps: 1, warmupSteps: 0, seed });
      return bits(...parameters);
    };
    const expected = await last(1);
    expect(await last(1)).toBe(expected);
    expect(await last(2)).not.toBe(expected);
  });
});

test('its memory is estimated', async () => {
  const { config, parameterCount } = await load(1);
  const parts = (options: MemoryOptions) =>
    estimateMemory(config, { train: 'all', dtype: 'bf16', ...options });
  const [own, masters] = [parts({ stochasticRounding: true }), parts({})];
  expect([own.adapters, masters.adapters]).toEqual([6 * parameterCount, 8 * parameterCount]);
  expect(own.weights).toBe(masters.weights);
  expect(own.total).toBeLessThan(masters.total);
  for (const wrong of [{ dtype: 'f32' }, { train: 'adapter' }] as const)
    expectThrow(
      () => parts({ stochasticRounding: true, ...wrong }),
      'ERR_ARGUMENT',
      "[estimateMemory] expected stochasticRounding with train: 'all' and a dtype of bf16 alone",
    );
});

test('is refused for a model of f32, and for what is no boolean', async () => {
  const model = await load(1, 'f32');
  expectThrow(
    () => model.trainAll({ stochasticRounding: true }),
    'ERR_ARGUMENT',
    "[trainAll] expected a model of bf16 for stochasticRounding but received one of f32: load it with dtype: 'bf16'",
  );
  expectThrow(
    () => model.trainAll({ stochasticRounding: 1 as never }),
    'ERR_ARGUMENT',
    /^\[trainAll\] expected stochasticRounding to be true or false but received 1$/,
  );
  model.addAdapter({ r: 1 }); // nothing was locked
});
