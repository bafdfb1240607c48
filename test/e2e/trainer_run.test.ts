// What a run of the Trainer holds, leaves alone and leaves behind, on a tiny model.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  AdamW,
  CausalLM,
  loadCheckpoint,
  memoryUsage,
  Trainer,
  type Parameter,
  type TrainerOptions,
} from '../../lib/index';
import type { TrainerEvent } from '../../lib/train';
import { binding } from '../../lib/native/calls';
import { expectReject, expectThrow } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { bits } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';
import { collect, makeRows, recordBatches, trainByHand, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const { addAdapter } = fixture;
const scratch = temporaryFolder();

describe('the adapter of a run is the one that was active when the Trainer was made', () => {
  const data = makeRows(6);
  const evalData = makeRows(3, { seed: 9 });
  const options = { data, evalData, evalEvery: 2, batchSize: 2, epochs: 2, lr: 0.02 };

  /** Trains 'mine' beside 'other'; `between` is called at every event. */
  async function train(between: () => void) {
    const { model } = fixture;
    const mine = addAdapter('mine');
    const other = addAdapter('other', { r: 2 });
    const before = weights(other);
    const trainer = new Trainer({ model, ...options });
    model.setAdapter('other');
    const evaluations: TrainerEvent[] = [];
    for await (const event of trainer.run()) {
      between();
      if (event.type === 'eval') evaluations.push(event);
    }
    expect(weights(other)).toBe(before);
    const final = await model.evaluate(evalData, { adapter: mine, batchSize: 2 });
    const result = { weights: weights(mine), evaluations, final };
    for (const name of ['mine', 'other']) await model.removeAdapter(name);
    return result;
  }

  test('it is trained and evaluated, whatever is active meanwhile', async () => {
    const { model } = fixture;
    const alone = await train(() => model.setAdapter('mine'));
    expect(alone.evaluations).toHaveLength(3);
    expect(alone.evaluations.at(-1)).toEqual({ type: 'eval', step: 6, ...alone.final, best: false });
    const choices = ['other', null]; // an evaluation of either gives another loss
    let events = 0;
    expect(await train(() => model.setAdapter(choices[events++ % 2]!))).toEqual(alone);
  });

  test('it must be there and trainable', async () => {
    const { model } = fixture;
    expectThrow(
      () => new Trainer({ model, data }),
      'ERR_ARGUMENT',
      /but the model has none: call model\.addAdapter/,
    );
    const dir = join(scratch, 'frozen');
    await addAdapter('mine').save(dir);
    await model.loadAdapter(dir, { name: 'frozen', activate: true });
    expectThrow(
      () => new Trainer({ model, data }),
      'ERR_ARGUMENT',
      '[Trainer] expected a trainable active adapter but frozen was loaded with trainable: false',
    );
  });
});

test('f16 activations are not trained', async () => {
  const dir = await tinyModel({ tokenizer: false });
  await using model = await CausalLM.fromPretrained(dir, { dtype: 'f16', device: 'reference' });
  model.addAdapter({ r: 2 });
  expectThrow(
    () => new Trainer({ model, data: makeRows(2) }),
    'ERR_UNSUPPORTED',
    '[Trainer] training with f16 activations is not supported; use bf16',
  );
});

describe('parameters and an optimizer of the program', () => {
  test('only the given parameters are trained, clipped and counted', async () => {
    const { model } = fixture;
    const data = makeRows(4);
    const mine = addAdapter('mine', { loraDropout: 0 });
    const [first, ...others] = mine.parameters() as [Parameter, ...Parameter[]];
    const before = { first: bits(first), others: bits(...others) };
    const { events, steps } = await collect(
      new Trainer({ model, data, maxSteps: 2, parameters: mine.parameters().slice(0, 1) }),
    );
    expect(events[0]).toMatchObject({ trainableParameters: first.numel });
    expect(bits(first)).not.toBe(before.first);
    expect(bits(...others)).toBe(before.others);
    expect(mine.parameters().filter((p) => p.grad !== null)).toEqual([]);
    await model.removeAdapter('mine');
    addAdapter('mine', { loraDropout: 0 });
    const all = await collect(new Trainer({ model, data, maxSteps: 1 }));
    expect(steps[0]!.gradNorm).toBeLessThan(all.steps[0]!.gradNorm);
  });
  test('a given optimizer makes the steps, with its own settings and the lr of the Trainer', async () => {
    const { model } = fixture;
    const settings = { betas: [0.5, 0.6], eps: 1e-3, weightDecay: 0.4 } as const;
    const mine = addAdapter('mine');
    using optimizer = new AdamW(mine.parameters(), { lr: 7, ...settings });
    const recorded = recordBatches(model);
    const options = { data: makeRows(4), batchSize: 2, schedule: 'constant', weightDecay: 0 } as const;
    await collect(new Trainer({ model, optimizer, lr: 0.03, ...options }));
    recorded.stop();
    const hand = addAdapter('hand');
    const groups = recorded.batches.map((batch) => [batch]);
    await trainByHand(model, hand, groups, { lr: 0.03, factors: [1, 1], maxGradNorm: 1, ...settings });
    expect(weights(mine)).toBe(weights(hand));
    expect((optimizer.stateDict().groups as { steps: number[] }[])[0]!.steps[0]).toBe(2);
  });
});

describe('the outDir', () => {
  const start = (outDir: string, options: Partial<TrainerOptions> = {}): Trainer => {
    addAdapter('mine');
    return new Trainer({ model: fixture.model, data: makeRows(4), batchSize: 1, outDir, ...options });
  };

  test('a checkpoint holds the weights, the optimizer and the number of its step', async () => {
    const { model } = fixture;
    const outDir = join(scratch, 'checkpoints');
    const trainer = start(outDir, { saveEvery: 2, lr: 0.02 });
    const mine = model.adapters.get('mine')!;
    const at: string[] = [];
    for await (const event of trainer.run()) {
      if (event.type === 'step') at.push(weights(mine));
      if (event.type === 'checkpoint')
        expect(event).toEqual({
          type: 'checkpoint',
          step: at.length,
          dir: join(outDir, `checkpoint-${at.length}`),
        });
    }
    expect(readdirSync(outDir).sort()).toEqual([
      'README.md',
      'adapter_config.json',
      'adapter_model.safetensors',
      'checkpoint-2',
      'checkpoint-4',
    ]);
    using optimizer = new AdamW(mine.parameters());
    expect(await loadCheckpoint(join(outDir, 'checkpoint-2'), { optimizer })).toMatchObject({ step: 2 });
    const [{ steps }] = optimizer.stateDict().groups as [{ steps: number[] }];
    expect(new Set(steps)).toEqual(new Set([2]));
    const saved = await model.loadAdapter(join(outDir, 'checkpoint-2'), { name: 'saved' });
    expect(weights(saved)).toBe(at[1]);
    const last = await model.loadAdapter(outDir, { name: 'last' });
    expect(weights(last)).toBe(at[3]);
  });

  test.each(['checkpoint-12', 'adapter_config.json'])(
    'that holds %s of an earlier run is refused',
    async (name) => {
      const outDir = join(scratch, `earlier-${name}`);
      mkdirSync(join(outDir, name), { recursive: true });
      const sentence = `[Trainer] ${outDir} holds a run already (${name}): choose another outDir, or remove it${name.startsWith('checkpoint') ? ', or resume it' : ''}`;
      await expectReject(Promise.resolve(start(outDir).run()), 'ERR_FILE', sentence);
      expect(readdirSync(outDir)).toEqual([name]);
    },
  );

  test('that holds files of another kind is used', async () => {
    const outDir = join(scratch, 'notes');
    for (const name of ['checkpoint-x', 'my-checkpoint-1', 'checkpoint-1.txt'])
      mkdirSync(join(outDir, name), { recursive: true });
    const result = await start(outDir, { maxSteps: 1 }).run();
    expect(result).toMatchObject({ step: 1, dir: outDir, stopped: 'done' });
  });

  test('that cannot be written is an error before the first step', async () => {
    const file = join(scratch, 'a-file');
    writeFileSync(file, 'x');
    const recorded = recordBatches(fixture.model);
    await expectReject(
      Promise.resolve(start(file).run()),
      'ERR_FILE',
      new RegExp(`^\\[Trainer\\] cannot write to outDir ${file}: ${file} is not a directory`),
    );
    expect(recorded.batches).toEqual([]);
    expect(readFileSync(file, 'utf8')).toBe('x');
  });
});

describe('a signal', () => {
  const start = (options: Partial<TrainerOptions> = {}): Trainer => {
    addAdapter('mine');
    return new Trainer({ model: fixture.model, data: makeRows(4), batchSize: 1, maxSteps: 9, ...options });
  };
  /** The events of a run that is aborted at the first event that `when` accepts, and how it ended. */
  async function abortedRun(trainer: Trainer, when: (event: TrainerEvent) => boolean) {
    const stop = new AbortController();
    const reason = new Error('enough');
    const seen: string[] = [];
    let error: unknown;
    try {
      for await (const event of trainer.run({ signal: stop.signal })) {
        seen.push(event.type === 'start' ? event.type : `${event.type} ${event.step}`);
        if (when(event)) stop.abort(reason);
      }
    } catch (e) {
      error = e;
    }
    return { seen, error, reason };
  }

  test('that is aborted already starts nothing', async () => {
    const outDir = join(scratch, 'never');
    const trainer = start({ outDir });
    const recorded = recordBatches(fixture.model);
    await expect(trainer.run({ signal: AbortSignal.abort('no') })).rejects.toBe('no');
    expect(recorded.batches).toEqual([]);
    expect(readdirSync(scratch)).not.toContain('never');
  });

  test('without an outDir ends the run before the next step and writes nothing', async () => {
    const { seen, error, reason } = await abortedRun(start(), (e) => e.type === 'step' && e.step === 2);
    expect(error).toBe(reason);
    expect(seen).toEqual(['start', 'step 1', 'step 2']);
    await fixture.model.removeAdapter('mine'); // nothing holds it
  });

  test('writes a checkpoint of the last step, once', async () => {
    const at = (step: number) => (e: TrainerEvent) => e.type === 'step' && e.step === step;
    const before = await abortedRun(start({ outDir: join(scratch, 'abort-2'), saveEvery: 2 }), at(3));
    expect(before.error).toBe(before.reason);
    expect(before.seen).toEqual(['start', 'step 1', 'step 2', 'checkpoint 2', 'step 3', 'checkpoint 3']);
    await fixture.model.removeAdapter('mine');
    const saved = await abortedRun(start({ outDir: join(scratch, 'abort-3'), saveEvery: 2 }), at(2));
    expect(saved.seen).toEqual(['start', 'step 1', 'step 2', 'checkpoint 2']);
  });
});

test('a run leaves no tensor behind: it frees the optimizer that it made, and not one that was given', async () => {
  const { model } = fixture;
  const parameters = addAdapter('mine').parameters();
  const options = { data: makeRows(6), batchSize: 1, gradientAccumulationSteps: 2, evalEvery: 2 };
  const start = (own: Partial<TrainerOptions> = {}): Trainer =>
    new Trainer({ model, evalData: makeRows(2), ...options, ...own });
  await start().run(); // the layouts of the weights for the gradient are made once
  using optimizer = new AdamW(parameters);
  await collectGarbage();
  const { bytes, tensors } = memoryUsage();
  await start().run();
  await start({ optimizer }).run();
  expect(memoryUsage()).toMatchObject({ bytes, tensors });
  expect(optimizer.disposed).toBe(false);
});

describe('two runs at once', () => {
  const options = { data: makeRows(6), batchSize: 1, maxSteps: 6, schedule: 'constant' as const };
  const busy = (name: string) =>
    `[Trainer] another run trains adapter '${name}', or shares parameters or the optimizer with this one: await it first`;

  /** The gradient norms of the first run, and what the second gives that is started while the first stands at its start. */
  async function both(first: Trainer, second: Trainer): Promise<{ norms: number[]; refused: unknown }> {
    const norms: number[] = [];
    let refused: unknown;
    for await (const event of first.run()) {
      if (event.type === 'start') refused = await second.run().catch((error: unknown) => error);
      if (event.type === 'step') norms.push(event.gradNorm);
    }
    return { norms, refused };
  }

  test('on one adapter: the second is busy, and the first is as if it were alone', async () => {
    const { model } = fixture;
    const start = (): Trainer => new Trainer({ model, ...options });
    addAdapter('mine');
    const alone = await collect(start());
    await model.removeAdapter('mine');
    addAdapter('mine');
    const first = start();
    const second = start();
    const { norms, refused } = await both(first, second);
    expect(refused).toMatchObject({ code: 'ERR_BUSY', message: busy('mine') });
    expect(norms).toEqual(alone.steps.map((step) => step.gradNorm));
    expect((await second.run()).step).toBe(6); // it has not run yet
  });

  test('on two adapters with one optimizer', async () => {
    const { model } = fixture;
    const [a, b] = [addAdapter('a'), addAdapter('b')];
    using optimizer = new AdamW([...a.parameters(), ...b.parameters()]);
    model.setAdapter('a');
    const first = new Trainer({ model, ...options, optimizer });
    model.setAdapter('b');
    const second = new Trainer({ model, ...options, optimizer });
    const { norms, refused } = await both(first, second);
    expect(norms).toHaveLength(6);
    expect(refused).toMatchObject({ code: 'ERR_BUSY', message: busy('b') });
  });

  test('on two adapters of one model: both train', async () => {
    const { model } = fixture;
    addAdapter('a');
    const first = new Trainer({ model, ...options });
    addAdapter('b');
    model.setAdapter('b');
    const second = new Trainer({ model, ...options });
    const results = await Promise.all([first.run(), second.run()]);
    expect(results.map(({ step }) => step)).toEqual([6, 6]);
  });
});

test('the model cannot be disposed of while it is trained, and can be when the loop was left', async () => {
  const model = await CausalLM.fromPretrained(fixture.model.directory);
  model.addAdapter({ r: 2 });
  for await (const _ of new Trainer({ model, data: makeRows(4), batchSize: 1 }).run()) {
    await expect(model.dispose()).rejects.toMatchObject({ code: 'ERR_BUSY' });
    break;
  }
  expect(model.disposed).toBe(false);
  await model.dispose();
});

test('a last update that fails fails the run, and no adapter is written', async () => {
  addAdapter('mine');
  const outDir = join(scratch, 'last-update');
  binding().injectFailure('adamw', 'injected');
  const trainer = new Trainer({ model: fixture.model, data: makeRows(2), maxSteps: 1, outDir });
  await expect(trainer.run()).rejects.toThrow('injected');
  expect(readdirSync(outDir)).toEqual([]);
});

test('a Trainer runs once', async () => {
  addAdapter('mine');
  const trainer = new Trainer({ model: fixture.model, data: makeRows(2), maxSteps: 1 });
  await trainer.run();
  await expectReject(
    Promise.resolve(trainer.run()),
    'ERR_ARGUMENT',
    '[Trainer] expected a fresh Trainer but this one has already run',
  );
});

test('the result has the last evaluation and the last loss', async () => {
  const { model } = fixture;
  addAdapter('mine');
  const evalData = makeRows(3, { seed: 9 });
  const trainer = new Trainer({ model, data: makeRows(4), batchSize: 1, evalData, evalEvery: 3, lr: 0.02 });
  const { events, steps } = await collect(trainer);
  const evaluation = events.find((e) => e.type === 'eval')!;
  expect(events.at(-1)).toEqual({
    type: 'end',
    step: 4,
    loss: steps[3]!.loss,
    evalLoss: evaluation.loss,
    best: { step: 3, loss: evaluation.loss },
    adapterStep: 4,
    stopped: 'done',
  });
});
