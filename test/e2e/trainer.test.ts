import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  AdamW,
  CausalLM,
  memoryUsage,
  Trainer,
  type TrainerEvent,
  type TrainerOptions,
} from '../../lib/index';
import { collectGarbage } from '../support/garbage';

const base = join(__dirname, '../../examples/base-model');
const rows = ['Mia finds three red apples.', 'Leo hides two blue hats.', 'On Monday Ida sells six cakes.'];

let model: CausalLM;
let scratch: string;
let data: { inputIds: number[] }[];
beforeAll(async () => {
  model = await CausalLM.fromPretrained(base, { dtype: 'f32' });
  scratch = mkdtempSync(join(tmpdir(), 'trainer-'));
  data = Array.from({ length: 12 }, (_, i) => ({ inputIds: model.tokenizer.encode(rows[i % 3] as string) }));
});
afterAll(async () => {
  await model.dispose();
  rmSync(scratch, { recursive: true });
});
afterEach(async () => {
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
});

function start(options: Partial<TrainerOptions> = {}, adapterSeed = 0): Trainer {
  model.addAdapter({ r: 4, loraAlpha: 8, targetModules: 'all-linear' }, { seed: adapterSeed });
  return new Trainer({ model, data, lr: 1e-2, maxSteps: 6, ...options });
}
async function collect(trainer: Trainer): Promise<TrainerEvent[]> {
  const events: TrainerEvent[] = [];
  for await (const event of trainer.run()) events.push(event);
  return events;
}
const losses = (events: TrainerEvent[]) => events.flatMap((e) => (e.type === 'step' ? [e.loss] : []));

test('events come in order, the loss falls, and the saved adapter gives the trained loss', async () => {
  const outDir = join(scratch, 'run');
  const trainer = start({ outDir, maxSteps: 12, evalData: data, evalEvery: 6, saveEvery: 6 });
  const events = await collect(trainer);
  expect(events.map((e) => e.type)).toEqual([
    'start',
    ...Array<string>(6).fill('step'),
    'eval',
    'checkpoint',
    ...Array<string>(6).fill('step'),
    'eval',
    'checkpoint',
    'end',
  ]);
  const seen = losses(events);
  expect(seen.at(-1)).toBeLessThan((seen[0] as number) / 2);
  const steps = events.filter((e) => e.type === 'step');
  expect(steps.map((e) => e.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  expect(steps.at(-1)).toMatchObject({ etaSeconds: 0, epoch: 3 });
  expect(existsSync(join(outDir, 'checkpoint-6/adapter_model.safetensors'))).toBe(true);
  expect(existsSync(join(outDir, 'checkpoint-6/checkpoint.safetensors'))).toBe(true);

  const trained = await model.evaluate(data);
  await model.removeAdapter('default');
  const before = await model.evaluate(data);
  await model.loadAdapter(outDir, { name: 'again' });
  const again = await model.evaluate(data);
  expect(again.loss).toBe(trained.loss);
  expect(again.loss).toBeLessThan(before.loss);
  expect(again.perplexity).toBeCloseTo(Math.exp(again.loss), 10);
  // An outDir that holds a run is never overwritten.
  const second = new Trainer({ model: await withAdapter(), data, outDir, maxSteps: 1 });
  await expect(second.run()).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: expect.stringContaining('holds a run already') as string,
  });
});

async function withAdapter(): Promise<CausalLM> {
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
  model.addAdapter({ r: 2 }, { seed: 1 });
  return model;
}

test('the same seed twice gives the same bytes, another seed does not', async () => {
  const bytes: Buffer[] = [];
  for (const [i, seed] of [0, 0, 1].entries()) {
    const outDir = join(scratch, `seed-${i}`);
    await (await fresh({ outDir, seed })).run();
    bytes.push(readFileSync(join(outDir, 'adapter_model.safetensors')));
  }
  expect(bytes[0]?.equals(bytes[1] as Buffer)).toBe(true);
  expect(bytes[0]?.equals(bytes[2] as Buffer)).toBe(false);
});
async function fresh(options: Partial<TrainerOptions>): Promise<Trainer> {
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
  return start(options);
}

test('accumulating batches is the larger batch: every token weighs the same', async () => {
  const whole = losses(await collect(start({ batchSize: 4 })));
  const parts = losses(await collect(await fresh({ batchSize: 2, gradientAccumulationSteps: 2 })));
  expect(parts).toHaveLength(whole.length);
  for (const [i, loss] of parts.entries()) expect(Math.abs(loss - (whole[i] as number))).toBeLessThan(1e-4);
});

test('an abort writes a checkpoint, then rejects with the reason', async () => {
  const outDir = join(scratch, 'abort');
  const stop = new AbortController();
  const reason = new Error('enough');
  const seen: string[] = [];
  const run = async () => {
    for await (const event of start({ outDir, maxSteps: 50 }).run({ signal: stop.signal })) {
      seen.push(event.type);
      if (event.type === 'step' && event.step === 3) stop.abort(reason);
    }
  };
  await expect(run()).rejects.toBe(reason);
  expect(seen.at(-1)).toBe('checkpoint');
  expect(existsSync(join(outDir, 'checkpoint-3/adapter_config.json'))).toBe(true);
  // Nothing is held any more.
  await model.removeAdapter('default');
});

test('leaving the loop ends the run and frees the adapter; until then it is busy', async () => {
  for await (const event of start({ maxSteps: 50 }).run())
    if (event.type === 'step') {
      await expect(model.removeAdapter('default')).rejects.toMatchObject({ code: 'ERR_BUSY' });
      break;
    }
  await model.removeAdapter('default');
});

test('the lr is that of the options, else that of a given optimizer, else 2e-4', async () => {
  const lrs = async (options: Partial<TrainerOptions>): Promise<number[]> => {
    const events = await collect(new Trainer({ model, data, maxSteps: 1, schedule: 'constant', ...options }));
    return events.flatMap((e) => (e.type === 'step' ? [e.lr] : []));
  };
  const parameters = model.addAdapter({ r: 2 }).parameters();
  using optimizer = new AdamW(parameters, { lr: 3e-3 });
  expect(await lrs({ optimizer, parameters })).toEqual([3e-3]);
  expect(await lrs({ optimizer, lr: 1e-4 })).toEqual([1e-4]);
  expect(await lrs({})).toEqual([2e-4]);
});

test('a run frees the optimizer that it made, and leaves one that was given', async () => {
  const parameters = model.addAdapter({ r: 2 }).parameters();
  await collectGarbage();
  const before = memoryUsage().bytes;
  await collect(new Trainer({ model, data, maxSteps: 2 }));
  expect(memoryUsage().bytes).toBe(before);
  using optimizer = new AdamW(parameters);
  await collect(new Trainer({ model, data, maxSteps: 2, optimizer }));
  expect(optimizer.disposed).toBe(false);
});

test('a handle is lazy and consumed once', async () => {
  const trainer = start({ maxSteps: 1 });
  const handle = trainer.run();
  expect((await handle).step).toBe(1);
  await expect(handle.then()).rejects.toMatchObject({ code: 'ERR_ARGUMENT' });
});

describe('options are checked before any work', () => {
  test.each([
    [{ resume: true }, 'ERR_UNSUPPORTED', 'resume is not supported yet'],
    [{ maxSteps: 0 }, 'ERR_ARGUMENT', 'expected maxSteps to be a whole number of at least 1 but received 0'],
    [{ epochs: 1 }, 'ERR_ARGUMENT', 'expected maxSteps or epochs but received both'],
    [{ lr: Number.NaN }, 'ERR_ARGUMENT', 'expected lr to be a number of at least 0 but received NaN'],
    [
      { schedule: 'cosin' as 'cosine' },
      'ERR_ARGUMENT',
      "expected schedule to be one of constant, linear, cosine but received 'cosin'",
    ],
    [{ saveEvery: 1 }, 'ERR_ARGUMENT', 'expected outDir, since saveEvery is given'],
    [{ evalEvery: 1 }, 'ERR_ARGUMENT', 'expected evalData, since evalEvery is given'],
    [{ learningRate: 1 }, 'ERR_ARGUMENT', "did you mean 'lr'?"],
    [{ steps: 1 }, 'ERR_ARGUMENT', "did you mean 'maxSteps'?"],
    [{ model: undefined }, 'ERR_ARGUMENT', 'expected model to be a CausalLM but received undefined'],
    [{ data: undefined }, 'ERR_ARGUMENT', 'expected data to be an Iterable or AsyncIterable of'],
    [{ data: 'train.jsonl' }, 'ERR_ARGUMENT', "but received 'train.jsonl'"],
    [{ evalData: 7 }, 'ERR_ARGUMENT', 'expected evalData to be an Iterable or AsyncIterable of'],
  ])('%j', (options: object, code, sentence) => {
    expect(() => start(options as Partial<TrainerOptions>)).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(sentence) as string }),
    );
  });

  const whole = 'to be a whole number of at least';
  const real = 'to be a number of at least 0';
  const oneOrMore = ['epochs', 'batchSize', 'gradientAccumulationSteps', 'evalEvery', 'saveEvery'];
  test.each([
    ...oneOrMore.flatMap((name) => [0, 1.5].map((value) => ({ name, value, expected: `${whole} 1` }))),
    ...['warmupSteps', 'seed'].flatMap((name) =>
      [-1, 0.5].map((value) => ({ name, value, expected: `${whole} 0` })),
    ),
    ...['lr', 'weightDecay', 'maxGradNorm'].flatMap((name) =>
      [-1, Infinity].map((value) => ({ name, value, expected: real })),
    ),
  ])('$name: $value', ({ name, value, expected }) => {
    const steps = name === 'epochs' ? { maxSteps: undefined } : {};
    const others = { evalData: data, outDir: 'unused', ...steps };
    expect(() => start({ ...others, [name]: value })).toThrow(
      `[Trainer] expected ${name} ${expected} but received ${value}`,
    );
  });

  test('without a trainable adapter', () => {
    expect(() => new Trainer({ model, data })).toThrow('call model.addAdapter');
  });

  test('a one-shot source for several epochs', () => {
    model.addAdapter({ r: 2 });
    const once = data[Symbol.iterator]();
    expect(() => new Trainer({ model, data: once, epochs: 2, schedule: 'constant' })).toThrow(
      'pass a function',
    );
  });

  test('a one-shot source for several evaluations', () => {
    const evalData = data[Symbol.iterator]();
    expect(() => start({ evalData, evalEvery: 2 })).toThrow('pass a function');
    model.removeAdapter('default').catch(() => undefined);
    expect(() => start({ evalData, evalEvery: 6 })).not.toThrow(); // read once
  });

  test('no options at all, and those of run()', () => {
    const none = undefined as unknown as TrainerOptions;
    expect(() => new Trainer(none)).toThrow('expected an object of options but received undefined');
    const trainer = start();
    expect(() => trainer.run({ sginal: 1 } as object)).toThrow("did you mean 'signal'?");
    const signal = 5 as unknown as AbortSignal;
    expect(() => trainer.run({ signal })).toThrow('expected signal to be an AbortSignal but received 5');
  });

  test('labels that count nothing are ERR_DATA', async () => {
    model.addAdapter({ r: 2 });
    const masked = [{ inputIds: [1, 2], labels: [-100, -100] }];
    await expect(new Trainer({ model, data: masked, maxSteps: 1 }).run()).rejects.toMatchObject({
      code: 'ERR_DATA',
    });
  });
});
