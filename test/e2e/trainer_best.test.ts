/** When a run ends, and which of its checkpoints is the best. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Trainer, type TrainerOptions } from '../../lib/index';
import type { TrainerEvent } from '../../lib/train';
import { expectReject, expectThrow } from '../support/errors';
import { freshRuns } from '../support/temporary';
import { collect, makeRows, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const fresh = freshRuns();

/** A run whose evaluations give these losses, one for each step. */
async function evaluated(losses: readonly number[], options: Partial<TrainerOptions> = {}, abortAt?: number) {
  const adapter = fixture.addAdapter('mine');
  let at = 0;
  jest.spyOn(fixture.model, 'evaluate').mockImplementation(() => {
    const loss = losses[at++]!;
    return Promise.resolve({ loss, perplexity: Math.exp(loss), tokens: 1 });
  });
  const events: TrainerEvent[] = [];
  const trainer = new Trainer({
    model: fixture.model,
    data: makeRows(8),
    evalData: makeRows(2),
    evalEvery: 1,
    batchSize: 1,
    maxSteps: losses.length,
    ...options,
  });
  const stop = new AbortController();
  try {
    for await (const event of trainer.run({ signal: stop.signal })) {
      events.push(event);
      if (event.type === 'step' && event.step === abortAt) stop.abort();
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  }
  const end = events.at(-1) as Extract<TrainerEvent, { type: 'end' }>;
  return { adapter, end, best: events.flatMap((e) => (e.type === 'eval' ? [e.best] : [])) };
}

test('an evaluation is the best when none before was as good', async () => {
  const { end, best } = await evaluated([3, 2, 2, 2.5, 1.9]);
  expect(best).toEqual([true, true, false, false, true]);
  expect(end).toMatchObject({ step: 5, stopped: 'done', evalLoss: 1.9, best: { step: 5, loss: 1.9 } });
});

describe('earlyStopping', () => {
  test('ends the run after so many evaluations without a better one', async () => {
    const { end } = await evaluated([3, 2, 2.1, 2, 1, 1, 1], { earlyStopping: { patience: 2 } });
    expect(end).toMatchObject({ step: 4, stopped: 'early', best: { step: 2, loss: 2 } });
  });

  test('a better one begins the count again', async () => {
    const { end } = await evaluated([3, 3, 2, 2, 1, 1, 1], { earlyStopping: { patience: 2 } });
    expect(end).toMatchObject({ step: 7, stopped: 'early' });
  });

  test('minDelta says how much better', async () => {
    const losses = [3, 2.95, 2.91, 2.5];
    expect((await evaluated(losses, { earlyStopping: { patience: 2, minDelta: 0.1 } })).end).toMatchObject({
      step: 3,
    });
    await fixture.model.removeAdapter('mine');
    expect((await evaluated(losses, { earlyStopping: { patience: 2 } })).end).toMatchObject({
      step: 4,
      stopped: 'done',
    });
  });

  test('a loss that is no number is not better', async () => {
    const { end } = await evaluated([NaN, 2, NaN, NaN], { earlyStopping: { patience: 2 } });
    expect(end).toMatchObject({ step: 4, stopped: 'early', best: { step: 2, loss: 2 } });
  });
});

describe('keepBest', () => {
  const checkpoints = (outDir: string): string[] =>
    readdirSync(outDir)
      .filter((name) => name.startsWith('checkpoint'))
      .sort();

  test('writes the best evaluation, which saveLimit does not remove', async () => {
    const outDir = fresh();
    const { end } = await evaluated([3, 1, 2, 2, 2, 2], {
      outDir,
      keepBest: true,
      saveEvery: 2,
      saveLimit: 1,
    });
    expect(checkpoints(outDir)).toEqual(['checkpoint-2', 'checkpoint-6']);
    expect(end.best).toEqual({ step: 2, loss: 1, dir: join(outDir, 'checkpoint-2') });
  });

  test('without it the best evaluation keeps its checkpoint beside the newest two', async () => {
    const outDir = fresh();
    await evaluated([3, 1, 2, 2, 2, 2], { outDir, saveEvery: 1 });
    expect(checkpoints(outDir)).toEqual(['checkpoint-2', 'checkpoint-5', 'checkpoint-6']);
  });

  test('keeps one best, also where nothing else is saved', async () => {
    const outDir = fresh();
    await evaluated([3, 2, 1, 2], { outDir, keepBest: true, saveLimit: 1 });
    expect(checkpoints(outDir)).toEqual(['checkpoint-3']);
  });
});

describe('with keepBest the adapter of the best evaluation', () => {
  const fileOf = (folder: string): string =>
    readFileSync(join(folder, 'adapter_model.safetensors')).toString('base64');
  /** The checkpoints whose weights a folder holds. */
  const stepsOf = (outDir: string, folder: string): string[] =>
    readdirSync(outDir).filter(
      (name) => /^checkpoint-/.test(name) && fileOf(join(outDir, name)) === fileOf(folder),
    );
  const factOf = (outDir: string, name: string): string | undefined =>
    new RegExp(`<dt>${name}</dt><dd>(.*?)</dd>`).exec(readFileSync(join(outDir, 'report.html'), 'utf8'))?.[1];
  const options = { keepBest: true, saveEvery: 1, report: true } as const;
  const early = { earlyStopping: { patience: 1 } };
  const again = async (): Promise<void> => {
    jest.restoreAllMocks();
    await fixture.model.removeAdapter('mine');
  };

  test.each<[string, number[], Partial<TrainerOptions>, number, string | undefined]>([
    ['of a run that comes to its end', [3, 1, 2, 1.5], {}, 2, undefined],
    ['of one that stops early', [3, 4, 1], early, 1, '1 evaluation was no better than that of step 1'],
    ['which is the last', [3, 2], {}, 2, undefined],
    ['is the last where no evaluation is a number', [NaN, NaN], {}, 2, undefined],
    ['and none was before the end', [NaN], early, 1, '1 evaluation gave no loss that is a number'],
    ['with saveLimit', [3, 1, 2, 1.5], { saveLimit: 1 }, 2, undefined],
  ])(
    '%s: in outDir, in memory, in the result, the report and the card',
    async (_, losses, more, step, reason) => {
      const outDir = fresh();
      const { adapter, end } = await evaluated(losses, { ...options, ...more, outDir });
      expect(stepsOf(outDir, outDir)).toEqual([`checkpoint-${step}`]);
      const memory = fresh();
      await adapter.save(memory);
      expect(fileOf(memory)).toBe(fileOf(outDir));
      expect(end).toMatchObject({ adapterStep: step, stopped: reason === undefined ? 'done' : 'early' });
      expect(end.reason).toBe(reason);
      const words = end.best && `that of step ${step}, the best evaluation`;
      expect(factOf(outDir, 'Adapter')).toBe(words);
      expect(factOf(outDir, 'Ended')).toBe(reason && `early, since ${reason}`);
      const card = readFileSync(join(outDir, 'README.md'), 'utf8');
      expect(/- Adapter: `(.*)`/.exec(card)?.[1]).toBe(words);
      if (end.best) expect(factOf(outDir, 'Evaluation loss')).toBe(losses[step - 1]!.toFixed(4));
    },
  );

  test('is there again when a run that stopped early is resumed', async () => {
    const outDir = fresh();
    await evaluated([3, 4], { ...options, ...early, maxSteps: 5, outDir });
    const before = fileOf(outDir);
    await again();
    const { end } = await evaluated([], { ...options, ...early, maxSteps: 5, outDir, resume: true });
    expect(end).toMatchObject({ step: 2, adapterStep: 1, stopped: 'early' });
    expect(fileOf(outDir)).toBe(before);
  });

  test('stays in its checkpoint where the run is aborted, as the report says', async () => {
    const outDir = fresh();
    await evaluated([1, 2, 3, 4, 5], { ...options, outDir }, 3);
    expect(readdirSync(outDir).sort()).toEqual([
      'checkpoint-1',
      'checkpoint-2',
      'checkpoint-3',
      'report.html',
    ]);
    expect(factOf(outDir, 'Best evaluation loss')).toBe(
      '1.0000 after step 1, whose adapter is in checkpoint-1',
    );
    await again();
    const { end } = await evaluated([4, 5], { ...options, maxSteps: 5, outDir, resume: true });
    expect(end).toMatchObject({ step: 5, adapterStep: 1 });
    expect(stepsOf(outDir, outDir)).toEqual(['checkpoint-1']);
  });

  test('is found beside a checkpoint that is named, or the run says that it is not there', async () => {
    const outDir = fresh();
    await evaluated([1, 2], { ...options, schedule: 'constant', outDir });
    await again();
    const other = { ...options, schedule: 'constant', maxSteps: 3, outDir: fresh() } as const;
    const resume = join(outDir, 'checkpoint-2');
    const { end } = await evaluated([5], { ...other, resume });
    expect(end.best).toEqual({ step: 1, loss: 1, dir: join(outDir, 'checkpoint-1') });
    expect(fileOf(other.outDir)).toBe(fileOf(join(outDir, 'checkpoint-1')));
    await again();
    rmSync(join(outDir, 'checkpoint-1'), { recursive: true });
    await expectReject(
      evaluated([5], { ...other, outDir: fresh(), resume }),
      'ERR_FILE',
      `[Trainer] expected checkpoint-1, the best evaluation so far, beside ${resume}, since keepBest is given: put it there, or resume without keepBest`,
    );
  });

  test('that cannot be written leaves the last step in a checkpoint and in memory', async () => {
    const outDir = fresh();
    mkdirSync(join(outDir, 'README.md'), { recursive: true });
    mkdirSync(join(outDir, 'adapter_model.safetensors', 'full'), { recursive: true });
    await expectReject(
      evaluated([1, 2], { ...options, saveEvery: undefined, outDir }),
      'ERR_FILE',
      /is a directory/,
    );
    const memory = fresh();
    await fixture.model.activeAdapter!.save(memory);
    expect(stepsOf(outDir, memory)).toEqual(['checkpoint-2']);
  });
});

describe('a run that an abort cut in two tells what the whole run tells', () => {
  const limited = { keepBest: true, saveEvery: 2, saveLimit: 1 } as const;
  /** Tells a run until it ends, or until a pass of a step or an evaluation aborts it; it is then as it was left. */
  async function told(
    changes: Partial<TrainerOptions>,
    { pass, evaluation }: { pass?: number; evaluation?: number } = {},
  ) {
    for (const name of [...fixture.model.adapters.keys()]) await fixture.model.removeAdapter(name);
    const adapter = fixture.addAdapter('mine');
    const stop = new AbortController();
    const { model } = fixture;
    const forward = model.forwardInSlices.bind(model);
    let [passes, evaluations] = [0, 0];
    jest.spyOn(model, 'forwardInSlices').mockImplementation((ids, given) => {
      if (passes++ === pass) stop.abort();
      return forward(ids, given);
    });
    // Losses that rise and fall, and are those of the weights.
    jest.spyOn(model, 'evaluate').mockImplementation((_, { signal } = {}) => {
      if (evaluations++ === evaluation) stop.abort();
      signal?.throwIfAborted();
      const loss = createHash('sha256').update(weights(adapter)).digest().readUInt16LE() / 2 ** 15;
      return Promise.resolve({ loss, perplexity: Math.exp(loss), tokens: 1 });
    });
    const trainer = new Trainer({
      model,
      data: makeRows(7),
      evalData: makeRows(2),
      batchSize: 1,
      gradientAccumulationSteps: 2,
      maxSteps: 10,
      lr: 0.02,
      seed: 4,
      outDir: fresh(),
      ...changes,
    });
    const events: TrainerEvent[] = [];
    try {
      for await (const event of trainer.run({ signal: stop.signal })) events.push(event);
    } catch (error) {
      if (error !== stop.signal.reason) throw error;
    } finally {
      jest.restoreAllMocks();
    }
    const facts = events.flatMap((event): unknown[] => {
      if (event.type === 'step') return [{ step: event.step, loss: event.loss }];
      if (event.type === 'eval') return [event];
      if (event.type !== 'end') return [];
      const { best } = event;
      return [
        { ...event, loss: undefined, dir: undefined, best: best && { step: best.step, loss: best.loss } },
      ];
    });
    return { facts, aborted: stop.signal.aborted, weights: weights(adapter) };
  }

  // Every value meets every value of another column.
  test.each<[number, number | undefined, Partial<TrainerOptions>, Parameters<typeof told>[1]]>([
    [1, undefined, {}, { pass: 5 }],
    [1, 1, { keepBest: true }, { pass: 2 }],
    [1, 4, limited, { evaluation: 2 }],
    [2, undefined, { keepBest: true }, { evaluation: 2 }],
    [2, 1, limited, { pass: 5 }],
    [2, 4, {}, { pass: 12 }],
    [3, undefined, limited, { pass: 12 }],
    [3, 1, {}, { evaluation: 1 }],
    [3, 4, { keepBest: true }, { pass: 5 }],
  ])('evalEvery %p, patience %p, %p, cut at %p', async (evalEvery, patience, keep, cut) => {
    const changes = { evalEvery, ...(patience && { earlyStopping: { patience } }), ...keep };
    const whole = await told(changes);
    const outDir = fresh();
    const first = await told({ ...changes, outDir }, cut);
    expect(first.aborted).toBe(true);
    const rest = await told({ ...changes, outDir, resume: true });
    expect([...first.facts, ...rest.facts]).toEqual(whole.facts);
    expect(rest.weights).toBe(whole.weights);
  });
});

describe('maxTokens', () => {
  test('ends with the step that reaches them', async () => {
    fixture.addAdapter('mine');
    const { steps, events } = await collect(
      new Trainer({
        model: fixture.model,
        data: makeRows(9),
        batchSize: 1,
        schedule: 'constant',
        maxTokens: 30,
      }),
    );
    const tokens = steps.map((step) => step.tokens);
    const sum = (list: number[]): number => list.reduce((a, b) => a + b, 0);
    expect(sum(tokens)).toBeGreaterThanOrEqual(30);
    expect(sum(tokens.slice(0, -1))).toBeLessThan(30);
    expect(events[0]).toMatchObject({ maxSteps: undefined });
  });

  test('goes over the data as often as it takes', async () => {
    fixture.addAdapter('mine');
    const { steps } = await collect(
      new Trainer({
        model: fixture.model,
        data: makeRows(2),
        batchSize: 1,
        schedule: 'constant',
        maxTokens: 60,
      }),
    );
    expect(steps.at(-1)!.epoch).toBeGreaterThan(1);
  });
});

test.each<[Partial<TrainerOptions>, string]>([
  [
    { maxSteps: 3, maxTokens: 9 },
    'expected one of maxSteps, epochs and maxTokens but received maxSteps and maxTokens',
  ],
  [
    { epochs: 3, maxSteps: 9 },
    'expected one of maxSteps, epochs and maxTokens but received maxSteps and epochs',
  ],
  [
    { maxTokens: 9 },
    'expected maxSteps, since the cosine schedule needs the number of steps and maxTokens does not tell its length',
  ],
  [{ earlyStopping: { patience: 1 } }, 'expected evalEvery, since earlyStopping is given'],
  [{ keepBest: true, evalEvery: 1 }, 'expected evalData, since evalEvery is given'],
  [{ keepBest: true }, 'expected evalEvery, since keepBest is given'],
  [{ keepBest: true, evalEvery: 1, evalData: makeRows(2) }, 'expected outDir, since keepBest is given'],
  [{ earlyStopping: { patience: 0 } }, 'expected patience to be a whole number of at least 1 but received 0'],
  [
    { earlyStopping: { patience: 1, minDelta: -1 } },
    'expected minDelta to be a number of at least 0 but received -1',
  ],
  [{ neftuneNoiseAlpha: -1 }, 'expected neftuneNoiseAlpha to be a number of at least 0 but received -1'],
])('%j is refused', (options, message) => {
  fixture.addAdapter('mine');
  expectThrow(
    () => new Trainer({ model: fixture.model, data: makeRows(3), ...options }),
    'ERR_ARGUMENT',
    `[Trainer] ${message}`,
  );
});
