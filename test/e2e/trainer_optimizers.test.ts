// Which optimizer takes the steps of a Trainer, at which rates.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AdamW, AdamW8bit, Lion, SGD, Trainer, type Adapter, type TrainerOptions } from '../../lib/index';
import { expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { collect, makeRows, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const dir = temporaryFolder();
const data = makeRows(6);
const options = { data, maxSteps: 6, batchSize: 2, lr: 0.01, weightDecay: 0.2, schedule: 'linear' } as const;

async function another(): Promise<Adapter> {
  for (const name of [...fixture.model.adapters.keys()]) await fixture.model.removeAdapter(name);
  return fixture.addAdapter('mine');
}
async function trained(changes: (adapter: Adapter) => Partial<TrainerOptions>): Promise<string> {
  const adapter = await another();
  await collect(new Trainer({ model: fixture.model, ...options, ...changes(adapter) }));
  return weights(adapter);
}
const rates = { lr: 0.01, weightDecay: 0.2 };

test('a name is the optimizer with lr and weightDecay', async () => {
  const optimizers = { adamw: AdamW, adamw8bit: AdamW8bit, sgd: SGD, lion: Lion } as const;
  const results = new Set<string>();
  for (const name of ['adamw', 'adamw8bit', 'sgd', 'lion'] as const) {
    const named = await trained(() => ({ optimizer: name }));
    const made = await trained((adapter) => ({
      optimizer: new optimizers[name](adapter.parameters(), rates),
    }));
    expect([name, named === made]).toEqual([name, true]);
    results.add(named);
  }
  expect(results.size).toBe(4);
  expect(results.has(await trained(() => ({})))).toBe(true); // adamw is the default
});

test('an optimizer of your own keeps its rate, and is not disposed', async () => {
  const { model } = fixture;
  const optimizer = new Lion((await another()).parameters(), { lr: 0.004 });
  const { steps } = await collect(new Trainer({ model, data, maxSteps: 2, schedule: 'constant', optimizer }));
  expect(steps.map(({ lr }) => lr)).toEqual([0.004, 0.004]);
  expect(optimizer.disposed).toBe(false);
  optimizer.dispose();
});

describe('loraPlusRatio', () => {
  const isUp = ({ name }: { name: string }): boolean => name.endsWith('lora_B.weight');
  const split = (adapter: Adapter) => {
    const all = adapter.parameters();
    return { up: all.filter(isUp), down: all.filter((p) => !isUp(p)) };
  };

  test.each(['adamw', 'adamw8bit', 'sgd', 'lion'] as const)(
    '%s: lora_B learns at the ratio times lr',
    async (optimizer) => {
      const plus = await trained(() => ({ optimizer, loraPlusRatio: 8 }));
      const Kind = { adamw: AdamW, adamw8bit: AdamW8bit, sgd: SGD, lion: Lion }[optimizer];
      const grouped = await trained((adapter) => {
        const { up, down } = split(adapter);
        return { optimizer: new Kind([{ params: up, lr: 0.08 }, { params: down }], rates) };
      });
      expect(plus).toBe(grouped);
      expect(plus).not.toBe(await trained(() => ({ optimizer })));
    },
  );

  test('moves what is named, and only that, by as much more', async () => {
    const moved = async (loraPlusRatio?: number): Promise<[number, number]> => {
      const adapter = await another();
      const before = adapter.parameters().map((p) => p.dataSync());
      await collect(
        new Trainer({
          model: fixture.model,
          ...{
            data,
            maxSteps: 1,
            lr: 2 ** -10,
            optimizer: 'sgd',
            loraPlusRatio,
            maxGradNorm: 0,
            schedule: 'constant',
          },
        }),
      );
      const largest = { up: 0, down: 0 };
      adapter.parameters().forEach((p, at) => {
        const after = p.dataSync();
        const kind = isUp(p) ? 'up' : 'down';
        after.forEach((x, i) => (largest[kind] = Math.max(largest[kind], Math.abs(x - before[at]![i]!))));
      });
      return [largest.up, largest.down];
    };
    const [[up, down], [upPlus, downPlus]] = [await moved(), await moved(16)];
    expect(upPlus / up).toBeCloseTo(16, 2);
    expect(downPlus).toBe(down);
  });

  test('needs an optimizer by name, and parameters that are lora_B', async () => {
    const { model } = fixture;
    const adapter = await another();
    const optimizer = new AdamW(adapter.parameters());
    expectThrow(
      () => new Trainer({ model, ...options, optimizer, loraPlusRatio: 16 }),
      'ERR_ARGUMENT',
      '[Trainer] expected loraPlusRatio or an optimizer of your own, whose groups have rates, but received both',
    );
    expectThrow(
      () => new Trainer({ model, ...options, parameters: split(adapter).down, loraPlusRatio: 16 }),
      'ERR_ARGUMENT',
      '[Trainer] expected a parameter that ends in lora_B.weight, since loraPlusRatio is given',
    );
    optimizer.dispose();
    expect(
      () => new Trainer({ model, ...options, parameters: split(adapter).up, loraPlusRatio: 2 }),
    ).not.toThrow();
  });
});

test.each(['adamw8bit', 'sgd', 'lion'] as const)(
  '%s: a run that was stopped goes on bit for bit',
  async (optimizer) => {
    const plan = { optimizer, loraPlusRatio: 4, schedule: 'wsd', warmupSteps: 0.2, decaySteps: 0.5 } as const;
    const want = await trained(() => plan);
    const outDir = join(dir, optimizer);
    const first = await another();
    for await (const event of new Trainer({
      model: fixture.model,
      ...options,
      ...plan,
      outDir,
      saveEvery: 3,
    }).run())
      if (event.type === 'checkpoint') break;
    expect(weights(first)).not.toBe(want);
    expect(await trained(() => ({ ...plan, outDir, resume: true }))).toBe(want);
    const card = readFileSync(join(outDir, 'README.md'), 'utf8');
    expect(card).toMatch(new RegExp(`Optimizer.*${optimizer}`));
    expect(card).toMatch(/LoRA\+ ratio.*4/);
  },
);

test.each(['sgd', 'lion'] as const)('%s with a checkpoint of an optimizer of your own', async (name) => {
  const outDir = join(dir, `own-${name}`);
  const own = (adapter: Adapter) =>
    name === 'sgd'
      ? new SGD(adapter.parameters(), { ...rates, momentum: 0.9 })
      : new Lion(adapter.parameters(), { ...rates, betas: [0.5, 0.6] });
  const want = await trained((adapter) => ({ optimizer: own(adapter) }));
  const adapter = await another();
  const trainer = new Trainer({
    model: fixture.model,
    ...options,
    optimizer: own(adapter),
    outDir,
    saveEvery: 2,
  });
  for await (const event of trainer.run()) if (event.type === 'checkpoint') break;
  expect(await trained((next) => ({ optimizer: own(next), outDir, resume: true }))).toBe(want);
});
