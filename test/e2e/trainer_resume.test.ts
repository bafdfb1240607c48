/** Going on with a run: as if it had never stopped, bit for bit, or not at all. */
import { cpSync, existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  loadDataset,
  Trainer,
  type Adapter,
  type ErrorCode,
  type FromPretrainedOptions,
  type TrainerOptions,
} from '../../lib/index';
import type { TrainerEvent } from '../../lib/train';
import { DataDigest } from '../../lib/train/resume';
import { expectReject } from '../support/errors';
import { freshRuns } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';
import { collect, editCheckpoint, makeRows, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const fresh = freshRuns();

const data = makeRows(11);
const options = {
  maxSteps: 10,
  batchSize: 2,
  gradientAccumulationSteps: 2,
  lr: 0.02,
  schedule: 'cosine',
  warmupSteps: 2,
  weightDecay: 0.1,
  seed: 4,
} as const;

/** The adapter of a new process: its weights and seed are others, and a checkpoint must bring its own. */
async function another(name = 'mine'): Promise<Adapter> {
  for (const old of [...fixture.model.adapters.keys()]) await fixture.model.removeAdapter(old);
  return fixture.addAdapter(name);
}
const trainer = (changes: Partial<TrainerOptions>): Trainer =>
  new Trainer({ model: fixture.model, data, ...options, ...changes });

async function undisturbed(
  changes: Partial<TrainerOptions> = {},
): Promise<{ weights: string; losses: number[] }> {
  const adapter = await another();
  const { steps } = await collect(trainer(changes));
  return { weights: weights(adapter), losses: steps.map(({ loss }) => loss) };
}

/** Runs until `stops(forwards)` and aborts there, in the middle of a step where that is. */
async function abortAt(forwards: number, changes: Partial<TrainerOptions>): Promise<number[]> {
  const stop = new AbortController();
  const { model } = fixture;
  const forward = model.forwardInSlices.bind(model);
  let count = 0;
  const spy = jest.spyOn(model, 'forwardInSlices').mockImplementation((ids, given) => {
    if (count++ === forwards) stop.abort();
    return forward(ids, given);
  });
  const losses: number[] = [];
  try {
    for await (const event of trainer(changes).run({ signal: stop.signal }))
      if (event.type === 'step') losses.push(event.loss);
  } catch (error) {
    if (error !== stop.signal.reason) throw error;
  } finally {
    spy.mockRestore();
  }
  return losses;
}

let whole: Awaited<ReturnType<typeof undisturbed>>;
beforeAll(async () => {
  whole = await undisturbed();
});
test.each([0, 1, 2, 5, 9, 12, 15, 18])(
  'a run that is aborted in batch %i of 20 and resumed ends with the same bits',
  async (forwards) => {
    const outDir = fresh();
    await another();
    const losses = await abortAt(forwards, { outDir });
    const adapter = await another();
    const { events, steps } = await collect(trainer({ outDir, resume: true }));
    expect(events[0]).toMatchObject({ type: 'start', step: losses.length });
    expect([...losses, ...steps.map(({ loss }) => loss)]).toEqual(whole.losses);
    expect(steps.map(({ step }) => step)).toEqual(
      Array.from({ length: 10 - losses.length }, (_, i) => losses.length + i + 1),
    );
    expect(weights(adapter)).toBe(whole.weights);
  },
);

test('noise on the embeddings, packing and the best evaluation go on too', async () => {
  const changes = {
    neftuneNoiseAlpha: 5,
    packing: true,
    packLength: 16,
    evalData: makeRows(3, { seed: 8 }),
    evalEvery: 2,
  } as const;
  await another();
  const whole = await collect(trainer(changes));
  const outDir = fresh();
  await another();
  await abortAt(11, { ...changes, outDir });
  const adapter = await another();
  const rest = await collect(trainer({ ...changes, outDir, resume: true }));
  expect(rest.steps).toEqual(
    whole.steps.slice(-rest.steps.length).map((step) => ({
      ...step,
      tokensPerSecond: expect.any(Number) as number,
      etaSeconds: expect.any(Number) as number,
    })),
  );
  expect(rest.events.at(-1)).toEqual({ ...whole.events.at(-1), dir: outDir });
  expect(adapter.trained).toBe(true);
});

test.each([true, false])('batches of similar lengths, the data in memory: %s', async (inMemory) => {
  const path = `${fresh()}.jsonl`;
  writeFileSync(path, data.map((row) => JSON.stringify(row)).join('\n'));
  const changes = {
    data: await (inMemory ? loadDataset(path) : loadDataset(path, { inMemory: false })),
    groupByLength: true,
  };
  const whole = await undisturbed(changes);
  expect(whole.losses).not.toEqual((await undisturbed()).losses);
  const outDir = fresh();
  await another();
  const losses = await abortAt(9, { ...changes, outDir });
  const adapter = await another();
  const { steps } = await collect(trainer({ ...changes, outDir, resume: true }));
  expect(losses.length).toBeGreaterThan(0);
  expect([...losses, ...steps.map(({ loss }) => loss)]).toEqual(whole.losses);
  expect(weights(adapter)).toBe(whole.weights);
});

test('an evaluation that an abort cut off is made when the run goes on', async () => {
  const changes = {
    evalData: makeRows(3, { seed: 8 }),
    evalEvery: 2,
    earlyStopping: { patience: 9 },
  } as const;
  const evaluations = (events: readonly TrainerEvent[]) => events.filter(({ type }) => type === 'eval');
  await another();
  const whole = await collect(trainer(changes));
  const outDir = fresh();
  await another();
  const reason = new Error('enough');
  const stop = new AbortController();
  const evaluate = fixture.model.evaluate.bind(fixture.model);
  let calls = 0;
  const spy = jest.spyOn(fixture.model, 'evaluate').mockImplementation((...args) => {
    if (++calls === 2) stop.abort(reason);
    return evaluate(...args);
  });
  const first: TrainerEvent[] = [];
  const run = async (): Promise<void> => {
    for await (const event of trainer({ ...changes, outDir }).run({ signal: stop.signal })) first.push(event);
  };
  await expect(run()).rejects.toBe(reason);
  spy.mockRestore();
  await another();
  const rest = await collect(trainer({ ...changes, outDir, resume: true }));
  expect(evaluations(first)).toHaveLength(1);
  expect([...evaluations(first), ...evaluations(rest.events)]).toEqual(evaluations(whole.events));
  expect(rest.events.at(-1)).toEqual({ ...whole.events.at(-1), dir: outDir });
});

test('over several epochs, by checkpoints that are written on the way, and twice', async () => {
  const epochs = { maxSteps: undefined, epochs: 3, schedule: 'linear' } as const;
  const whole = await undisturbed(epochs);
  const outDir = fresh();
  await another();
  await abortAt(9, { ...epochs, outDir, saveEvery: 2 });
  await another();
  await abortAt(5, { ...epochs, outDir, saveEvery: 2, resume: true });
  const adapter = await another();
  await collect(trainer({ ...epochs, outDir, saveEvery: 2, resume: true }));
  expect(weights(adapter)).toBe(whole.weights);
});

test('from a checkpoint that is named, into another folder', async () => {
  const outDir = fresh();
  const adapter = await another();
  await collect(trainer({ outDir, saveEvery: 4 }));
  const whole = weights(adapter);
  const again = await another();
  const other = fresh();
  const { events } = await collect(trainer({ outDir: other, resume: join(outDir, 'checkpoint-4') }));
  expect(events[0]).toMatchObject({ step: 4 });
  expect(weights(again)).toBe(whole);
  expect(existsSync(join(other, 'adapter_config.json'))).toBe(true);
});

test('without a run in the folder it begins, and a run that had ended takes no step', async () => {
  const outDir = fresh();
  const adapter = await another();
  const first = await collect(trainer({ outDir, saveEvery: 10, resume: true }));
  expect(first.steps).toHaveLength(10);
  const whole = weights(adapter);
  const again = await another();
  const { events, steps } = await collect(trainer({ outDir, saveEvery: 10, resume: true }));
  expect(steps).toEqual([]);
  expect(events.at(-1)).toMatchObject({ type: 'end', step: 10 });
  expect(weights(again)).toBe(whole);
});

test('a finished run without checkpoints is not begun again', async () => {
  const outDir = fresh();
  await another();
  await collect(trainer({ outDir }));
  await another();
  await expectReject(
    Promise.resolve(trainer({ outDir, resume: true }).run()),
    'ERR_FILE',
    `[Trainer] ${outDir} holds a run already (adapter_config.json): choose another outDir, or remove it`,
  );
});

test('goes on beyond its end, with the rate of the schedule over all steps', async () => {
  const changes = { warmupSteps: 0.25, saveEvery: 4 } as const;
  await another();
  const long = await collect(trainer({ ...changes, maxSteps: 8, outDir: fresh() }));
  const outDir = fresh();
  await another();
  await collect(trainer({ ...changes, maxSteps: 4, outDir }));
  await another();
  const { events, steps } = await collect(trainer({ ...changes, maxSteps: 8, outDir, resume: true }));
  expect(events[0]).toMatchObject({ type: 'start', step: 4, maxSteps: 8, previousMaxSteps: 4 });
  expect(long.events[0]).not.toHaveProperty('previousMaxSteps');
  expect(steps.map(({ step, lr }) => [step, lr])).toEqual(
    long.steps.slice(4).map(({ step, lr }) => [step, lr]),
  );
  await another();
  await expectReject(
    trainer({ ...changes, maxSteps: 6, outDir, resume: true }).run(),
    'ERR_ARGUMENT',
    /totalSteps was 8 and is 6/,
  );
});

test('leaving the loop saves the last whole step, from which it goes on with the same bits', async () => {
  const outDir = fresh();
  await another();
  for await (const event of trainer({ outDir, report: true }).run())
    if (event.type === 'step' && event.step === 3) break;
  expect(readdirSync(outDir).sort()).toEqual(['checkpoint-3', 'report.html']);
  const report = readFileSync(join(outDir, 'report.html'), 'utf8');
  await another();
  // The evaluation of step 3 comes before a step of this run's own.
  const evaluated = { evalData: makeRows(3, { seed: 8 }), evalEvery: 3 };
  for await (const { type } of trainer({ ...evaluated, outDir, resume: true, report: true }).run())
    if (type === 'eval') break;
  expect(readdirSync(outDir).sort()).toEqual(['checkpoint-3', 'report.html']);
  expect(readFileSync(join(outDir, 'report.html'), 'utf8') === report).toBe(true);
  const adapter = await another();
  const { events } = await collect(trainer({ outDir, resume: true }));
  expect(events[0]).toMatchObject({ step: 3 });
  expect(weights(adapter)).toBe(whole.weights);
  await another();
  const none = fresh();
  for await (const _ of trainer({ outDir: none }).run()) break;
  expect(readdirSync(none)).toEqual([]);
});

test('saveLimit keeps the newest checkpoints', async () => {
  const outDir = fresh();
  await another();
  await collect(trainer({ outDir, saveEvery: 2 })); // 2 of them where nothing is said
  expect(
    readdirSync(outDir)
      .filter((name) => /checkpoint/.test(name))
      .sort(),
  ).toEqual(['checkpoint-10', 'checkpoint-8']);
});

test('of a run that was killed before it removed older checkpoints, none stays when it has ended', async () => {
  const outDir = fresh();
  await another();
  await collect(trainer({ outDir, saveEvery: 2, saveLimit: 5 })); // as if each removal had been cut off
  await another();
  const { steps } = await collect(trainer({ outDir, saveEvery: 2, saveLimit: 1, resume: true }));
  expect(steps).toEqual([]);
  expect(readdirSync(outDir).filter((name) => /checkpoint/.test(name))).toEqual(['checkpoint-10']);
});

describe('a checkpoint that does not fit is refused by what differs, and nothing has changed', () => {
  let outDir: string;
  beforeEach(async () => {
    outDir = fresh();
    await another();
    await collect(trainer({ outDir, saveEvery: 5 }));
  });

  test.each<[Partial<TrainerOptions>, string]>([
    [{ batchSize: 3 }, 'batchSize was 2 and is 3'],
    [{ gradientAccumulationSteps: 1 }, 'gradientAccumulationSteps was 2 and is 1'],
    [{ lr: 0.01 }, 'lr was 0.02 and is 0.01'],
    [{ seed: 5 }, 'seed was 4 and is 5'],
    [{ schedule: 'linear' }, 'schedule was "cosine" and is "linear"'],
    [{ maxSteps: 10, warmupSteps: 0.3 }, 'warmupSteps was 2 and is 3'],
    [{ maxSteps: 12, warmupSteps: 3 }, 'warmupSteps was 2 and is 3'],
    [{ maxSteps: 12, lr: 0.01 }, 'lr was 0.02 and is 0.01'],
    [{ weightDecay: 0 }, 'weightDecay was 0.1 and is 0'],
    [{ maxGradNorm: 0.5 }, 'maxGradNorm was 1 and is 0.5'],
    [{ warmupSteps: 0 }, 'warmupSteps was 2 and is 0'],
    [{ optimizer: 'lion' }, 'optimizer was "adamw" and is "lion"'],
    [{ groupByLength: true }, 'groupByLength was nothing and is true'],
    [{ loraPlusRatio: 4 }, 'loraPlusRatio was nothing and is 4'],
  ])('%j', async (changes, message) => {
    const adapter = await another();
    const before = weights(adapter);
    await expectReject(
      Promise.resolve(trainer({ outDir, resume: true, ...changes }).run()),
      'ERR_ARGUMENT',
      `[Trainer] ${join(outDir, 'checkpoint-10')} is of a run with other settings: ${message}; start with a new outDir, or with those of that run`,
    );
    expect(weights(adapter)).toBe(before);
  });

  test.each<[Partial<TrainerOptions>, string, Partial<TrainerOptions>?]>([
    [{ neftuneNoiseAlpha: 5 }, 'neftuneNoiseAlpha was 5 and is nothing'],
    [{ packing: true }, 'packing was true and is nothing'],
    [{ groupByLength: true }, 'groupByLength was true and is nothing'],
    [{ loraPlusRatio: 4 }, 'loraPlusRatio was 4 and is nothing'],
    [{ schedule: 'wsd', decaySteps: 2 }, 'decaySteps was 2 and is 3', { schedule: 'wsd', decaySteps: 3 }],
    [{ schedule: 'wsd', decaySteps: 2 }, 'schedule was "wsd" and is "cosine"'],
  ])('%j of the run before: %s', async (before, message, now = {}) => {
    const folder = fresh();
    await another();
    await abortAt(2, { outDir: folder, ...before });
    await another();
    await expectReject(
      Promise.resolve(trainer({ outDir: folder, resume: true, ...now }).run()),
      'ERR_ARGUMENT',
      `[Trainer] ${join(folder, readdirSync(folder)[0]!)} is of a run with other settings: ${message}; start with a new outDir, or with those of that run`,
    );
  });

  test('another adapter', async () => {
    for (const old of [...fixture.model.adapters.keys()]) await fixture.model.removeAdapter(old);
    fixture.addAdapter('mine', { loraAlpha: 8 });
    await expectReject(
      Promise.resolve(trainer({ outDir, resume: true }).run()),
      'ERR_ARGUMENT',
      /adapter: loraAlpha was 6 and is 8/,
    );
  });

  test('another format of the base, whose weights are almost the same', async () => {
    const base = await tinyModel({ tokenizer: false });
    const out = fresh();
    const run = async (
      quantize: FromPretrainedOptions['quantize'],
      changes: Partial<TrainerOptions>,
    ): Promise<string> => {
      const model = await CausalLM.fromPretrained(base, { quantize });
      try {
        const adapter = model.addAdapter({ r: 3, targetModules: ['q_proj', 'down_proj'] });
        await trainer({ model, ...changes }).run();
        return weights(adapter);
      } finally {
        await model.dispose();
      }
    };
    const whole = await run('nf4', { schedule: 'constant', maxSteps: 3 });
    await run('nf4', { schedule: 'constant', maxSteps: 2, outDir: out, saveEvery: 1 });
    const more = { schedule: 'constant', maxSteps: 3, outDir: out, resume: true } as const;
    await expectReject(
      run('int8', more),
      'ERR_ARGUMENT',
      /other settings: quantized: int8 was nothing and is 21;/,
    );
    await expectReject(run(undefined, more), 'ERR_ARGUMENT', /other settings: the model has other weights;/);
    await expectReject(
      run({ format: 'nf4', doubleQuant: true }, more),
      'ERR_ARGUMENT',
      /other settings: the quantized weights have other values, as with another doubleQuant;/,
    );
    expect(await run('nf4', more)).toBe(whole);
    const skipping = fresh();
    await run(
      { format: 'nf4', skip: ['k_proj'] },
      { ...more, outDir: skipping, resume: false, saveEvery: 1 },
    );
    await expectReject(
      run({ format: 'nf4', skip: ['v_proj'] }, { ...more, maxSteps: 4, outDir: skipping }),
      'ERR_ARGUMENT',
      /other settings: quantized: whole was \["model\.layers\.0\.self_attn\.k_proj".* and is \["model\.layers\.0\.self_attn\.v_proj"/,
    );
  });

  test('another model of the same shape', async () => {
    const model = await CausalLM.fromPretrained(await tinyModel({ tokenizer: false, seed: 9 }));
    try {
      model.addAdapter(
        { r: 3, loraAlpha: 6, targetModules: 'all-linear', loraDropout: 0.3 },
        { name: 'mine' },
      );
      await expectReject(
        Promise.resolve(trainer({ model, outDir, resume: true }).run()),
        'ERR_ARGUMENT',
        /is of a run with other settings: the model has other weights;/,
      );
    } finally {
      await model.dispose();
    }
  });

  test.each([
    ['rows', { seed: 6 }],
    ['labels of the same rows', { prompt: 1 }],
  ])('other %s, which the batches before the checkpoint tell', async (_, others) => {
    const adapter = await another();
    const before = weights(adapter);
    await expectReject(
      Promise.resolve(
        trainer({ outDir, data: makeRows(11, others), resume: join(outDir, 'checkpoint-5') }).run(),
      ),
      'ERR_DATA',
      '[Trainer] the data is not that of the run: the batches of the 5 steps before the checkpoint differ',
    );
    expect(weights(adapter)).toBe(before);
  });

  test('data that ends before the checkpoint', async () => {
    const rows = (n: number) => ({ data: () => data.slice(0, n), maxSteps: undefined, epochs: 1 });
    const constant = {
      schedule: 'constant',
      batchSize: 1,
      gradientAccumulationSteps: 1,
      saveEvery: 1,
    } as const;
    const folder = fresh();
    await another();
    await collect(trainer({ ...constant, ...rows(6), outDir: folder }));
    await another();
    await expectReject(
      Promise.resolve(trainer({ ...constant, ...rows(3), outDir: folder, resume: true }).run()),
      'ERR_DATA',
      '[Trainer] the data is not that of the run: the batches of the 6 steps before the checkpoint differ',
    );
  });

  test('a folder that is no checkpoint of a run', async () => {
    await another();
    const plain = fresh();
    cpSync(outDir, plain, { recursive: true, filter: (path) => !/checkpoint-/.test(path) });
    await expectReject(
      Promise.resolve(trainer({ outDir: fresh(), resume: plain }).run()),
      'ERR_FILE',
      /checkpoint\.safetensors: no such file/,
    );
  });
});

test('with a constant schedule a run may be made longer', async () => {
  const constant = { schedule: 'constant', maxSteps: 8 } as const;
  const whole = await undisturbed(constant);
  const outDir = fresh();
  await another();
  await collect(trainer({ ...constant, maxSteps: 5, outDir, saveEvery: 5 }));
  const adapter = await another();
  await collect(trainer({ ...constant, outDir, resume: true }));
  expect(weights(adapter)).toBe(whole.weights);
});

describe('a checkpoint of a stranger', () => {
  let outDir: string;
  const place = (): string => join(outDir, 'checkpoint-10');
  beforeAll(async () => {
    outDir = fresh();
    await another();
    await collect(trainer({ outDir, saveEvery: 10 }));
  });

  const cannot = (sentence: string): string => `[Trainer] DIR cannot be continued: expected ${sentence}`;
  type Value = string | number | object | null | ((own: string) => string);
  const whole = 'to be a whole number of at least 0';
  const best = (value: unknown) => ({ best: value, waited: 0, at: 4 });
  test.each<[string, string, Value, ErrorCode, string | RegExp]>([
    ['no step', 'step', null, 'ERR_FILE', cannot(`step ${whole} but received null`)],
    ['a step below 0', 'step', -1, 'ERR_FILE', cannot(`step ${whole} but received -1`)],
    ['half a step', 'step', 1.5, 'ERR_FILE', cannot(`step ${whole} but received 1.5`)],
    [
      'a step beyond the end',
      'step',
      2 ** 53 - 1,
      'ERR_ARGUMENT',
      '[Trainer] DIR is of step 9007199254740991, and this run ends after step 10',
    ],
    ['no digest', 'data', null, 'ERR_FILE', cannot('data to be text but received null')],
    ['no settings', 'settings', null, 'ERR_FILE', cannot('settings to be text but received null')],
    [
      'settings that are null',
      'settings',
      'null',
      'ERR_FILE',
      cannot('settings to be an object but received null'),
    ],
    ['a list of settings', 'settings', '[]', 'ERR_FILE', cannot('settings to be an object but received []')],
    [
      'a long setting',
      'settings',
      (own: string) => own.replace('"lr":0.02', `"lr":"${'x'.repeat(100_000)}"`),
      'ERR_ARGUMENT',
      /lr was "x{199}… and is 0\.02;/,
    ],
    [
      'many weights',
      'settings',
      (own: string) => own.replace('"weights":[', `"weights":[${'1,'.repeat(200_000)}`),
      'ERR_ARGUMENT',
      /the model has other weights/,
    ],
    [
      'no evaluations',
      'evaluations',
      null,
      'ERR_FILE',
      cannot('evaluations to be an object but received null'),
    ],
    ['an empty list', 'evaluations', [], 'ERR_FILE', cannot('evaluations to be an object but received []')],
    [
      'a later evaluation',
      'evaluations',
      { best: null, waited: 0, at: 11 },
      'ERR_FILE',
      cannot(`evaluations.at ${whole} and at most 10 but received 11`),
    ],
    [
      'evaluations below 0',
      'evaluations',
      { best: null, waited: -1, at: 4 },
      'ERR_FILE',
      cannot(`evaluations.waited ${whole} and at most 10 but received -1`),
    ],
    [
      'a best that is 1',
      'evaluations',
      best(1),
      'ERR_FILE',
      cannot('evaluations.best to be an object but received 1'),
    ],
    [
      'a best without a loss',
      'evaluations',
      best({ step: 1, loss: null }),
      'ERR_FILE',
      cannot('evaluations.best.loss to be a finite number but received null'),
    ],
    [
      'a best of a later step',
      'evaluations',
      best({ step: 5, loss: 1 }),
      'ERR_FILE',
      cannot('evaluations.best.step to be a whole number of at least 1 and at most 4 but received 5'),
    ],
  ])('with %s is refused, and nothing has changed', async (_, name, value, code, message) => {
    const changed = fresh();
    cpSync(place(), changed, { recursive: true });
    await editCheckpoint(changed, (states) => {
      states[name] = { value: typeof value === 'function' ? value(states[name]!.value as string) : value };
    });
    const adapter = await another();
    const before = weights(adapter);
    await expectReject(
      Promise.resolve(trainer({ resume: changed }).run()),
      code,
      typeof message === 'string' ? message.replace('DIR', changed) : message,
    );
    expect(weights(adapter)).toBe(before);
  });

  type State = Record<string, unknown>;
  const tensorsOf = (state: State): State => state['tensors'] as State;
  test.each<[string, 'adapter' | 'optimizer', (state: State) => unknown, string]>([
    [
      'a group that is null',
      'optimizer',
      (state) => (state['groups'] = [null]),
      '[AdamW] expected group 0 of the state to be an object but received null',
    ],
    [
      'no groups',
      'optimizer',
      (state) => (state['groups'] = null),
      '[AdamW] expected a state of 1 groups but received null',
    ],
    [
      'no tensors',
      'adapter',
      (state) => (state['tensors'] = null),
      '[adapter] expected tensors of the state to be an object but received null',
    ],
    [
      'a tensor too many',
      'adapter',
      (state) => (tensorsOf(state)['other'] = Object.values(tensorsOf(state))[0]),
      "[adapter] the state has the tensor 'other', which the adapter has not",
    ],
    [
      'no count of forwards',
      'adapter',
      (state) => (state['forwards'] = null),
      '[adapter] expected forwards of the state to be an integer of at least 0 but received null',
    ],
    [
      'more forwards than masks are counted by',
      'adapter',
      (state) => (state['forwards'] = 2 ** 32),
      '[adapter] expected forwards of the state to be below 2^32 but received 4294967296',
    ],
  ])('with %s in the %s is refused, and neither has changed', async (_, name, edit, message) => {
    const changed = fresh();
    cpSync(place(), changed, { recursive: true });
    await editCheckpoint(changed, (states) => void edit(states[name]!.state!));
    const adapter = await another();
    const before = weights(adapter);
    await expectReject(Promise.resolve(trainer({ resume: changed }).run()), 'ERR_ARGUMENT', message);
    expect(weights(adapter)).toBe(before);
  });

  test('of a million steps: an abort is heard while the data are gone over', async () => {
    const long = { schedule: 'constant', maxSteps: 2 ** 40 } as const;
    const folder = fresh();
    await another();
    await abortAt(3, { ...long, outDir: folder });
    const [name] = readdirSync(folder);
    await editCheckpoint(join(folder, name!), (states) => (states['step'] = { value: 1_000_000 }));
    await another();
    const stop = new AbortController();
    const reason = new Error('enough');
    const run = trainer({ ...long, resume: join(folder, name!) }).run({ signal: stop.signal });
    setTimeout(() => stop.abort(reason), 20);
    await expect(Promise.resolve(run)).rejects.toBe(reason);
  });

  test('of more steps than maxTokens leaves room for', async () => {
    const tokens = { schedule: 'constant', maxSteps: undefined, maxTokens: 200 } as const;
    const folder = fresh();
    await another();
    await abortAt(3, { ...tokens, outDir: folder });
    const changed = join(folder, readdirSync(folder)[0]!);
    await editCheckpoint(changed, (states) => (states['step'] = { value: 100 }));
    await another();
    await expectReject(
      Promise.resolve(trainer({ ...tokens, resume: changed }).run()),
      'ERR_ARGUMENT',
      /is of step 100, and this run ends after step \d$/,
    );
  });
});

test('a run whose tokens end exactly before a checkpoint does not go on from it', async () => {
  const constant = { schedule: 'constant', maxSteps: undefined } as const;
  const outDir = fresh();
  await another();
  const { steps } = await collect(trainer({ ...constant, maxSteps: 3, outDir, saveEvery: 3 }));
  const maxTokens = steps[0]!.tokens + steps[1]!.tokens;
  const resume = join(outDir, 'checkpoint-3');
  await another();
  await expectReject(
    Promise.resolve(trainer({ ...constant, maxTokens, resume }).run()),
    'ERR_ARGUMENT',
    `[Trainer] ${resume} is of step 3, and this run ends after step 2`,
  );
  // With a token more its third step is its last.
  const { events } = await collect(trainer({ ...constant, maxTokens: maxTokens + 1, resume }));
  expect(events.at(-1)).toMatchObject({ type: 'end', step: 3 });
});

test('the digest takes rows of any length', () => {
  const row = Array.from({ length: 300_000 }, () => 1);
  const digest = new DataDigest();
  digest.add([{ inputIds: [row], labels: [row] }]);
  expect(digest.value).toMatch(/^[0-9a-f]{64}$/);
});
