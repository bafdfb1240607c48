import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AdamW, CausalLM, Trainer, type TrainerOptions } from '../../lib/index';
import type { TrainerEvent } from '../../lib/train';

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

test('a run has one result, however often it is awaited', async () => {
  const handle = start({ maxSteps: 1 }).run();
  expect((await handle).step).toBe(1);
  expect(await handle.result).toBe(await handle);
});
