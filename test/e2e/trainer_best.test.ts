/** When a run ends, and which of its checkpoints is the best. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Trainer, type TrainerEvent, type TrainerOptions } from '../../lib/index';
import { expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { collect, makeRows, trainingFixture } from '../support/training';

const fixture = trainingFixture();
const dir = temporaryFolder();
let made = 0;
const fresh = (): string => join(dir, `run-${made++}`);

/** A run whose evaluations give these losses, one for each step. */
async function evaluated(losses: readonly number[], options: Partial<TrainerOptions> = {}) {
  fixture.addAdapter('mine');
  let at = 0;
  jest.spyOn(fixture.model, 'evaluate').mockImplementation(() => {
    const loss = losses[at++]!;
    return Promise.resolve({ loss, perplexity: Math.exp(loss), tokens: 1 });
  });
  const { events } = await collect(
    new Trainer({
      model: fixture.model,
      data: makeRows(8),
      evalData: makeRows(2),
      evalEvery: 1,
      batchSize: 1,
      maxSteps: losses.length,
      ...options,
    }),
  );
  const end = events.at(-1) as Extract<TrainerEvent, { type: 'end' }>;
  return { end, best: events.flatMap((e) => (e.type === 'eval' ? [e.best] : [])) };
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

  test('keeps one best, also where nothing else is saved', async () => {
    const outDir = fresh();
    await evaluated([3, 2, 1, 2], { outDir, keepBest: true, saveLimit: 1 });
    expect(checkpoints(outDir)).toEqual(['checkpoint-3']);
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
