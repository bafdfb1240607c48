/** Data that has no end, or does not come: training, evaluation and batches of it. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { batches, setThreads, Trainer, type Example } from '../../lib/index';
import { collect, makeRows, trainingFixture } from '../support/training';

const scratch = mkdtempSync(join(tmpdir(), 'trainer-streams-'));
beforeAll(() => setThreads(1)); // tiny matrices
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const fixture = trainingFixture();
const rows = makeRows(7);

let given = 0;
let ended = 0;
/** Rows without an end; the number of those that were asked for is `given`. */
async function* endless(): AsyncGenerator<Example> {
  given = 0;
  ended = 0;
  try {
    for (;;) yield rows[given++ % rows.length]!;
  } finally {
    ended++;
  }
}
/** So many rows, and then none, without an end. */
async function* stuckAfter(count: number): AsyncGenerator<Example> {
  for (let i = 0; i < count; i++) yield rows[i % rows.length]!;
  await new Promise(() => undefined);
}
const reason = new Error('enough');
function abortSoon(ms = 30): AbortSignal {
  const stop = new AbortController();
  setTimeout(() => stop.abort(reason), ms);
  return stop.signal;
}
const start = (options: Partial<ConstructorParameters<typeof Trainer>[0]> = {}): Trainer => {
  fixture.addAdapter('mine');
  return new Trainer({ model: fixture.model, data: endless(), batchSize: 2, maxSteps: 3, ...options });
};

describe('training', () => {
  test.each([
    ['an async generator', () => endless()],
    ['a function that gives one', () => endless],
    [
      'a generator',
      () =>
        (function* () {
          for (let i = 0; ; i++) yield rows[i % rows.length]!;
        })(),
    ],
  ])('on %s without an end takes its steps', async (_, data) => {
    const { steps } = await collect(start({ data: data() }));
    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3]);
  });

  test('holds a window of a stream, and closes it', async () => {
    await start({ shuffleWindow: 10 }).run();
    expect(given).toBe(10 + 3 * 2);
    expect(ended).toBe(1);
  });

  test('a signal ends it while the first rows do not come', async () => {
    const outDir = join(scratch, 'first');
    const trainer = start({ data: stuckAfter(3), outDir });
    await expect(trainer.run({ signal: abortSoon() })).rejects.toBe(reason);
    expect(readdirSync(outDir)).toEqual(['checkpoint-0']);
    await fixture.model.removeAdapter('mine'); // nothing holds it
  });

  test('a signal ends it while later rows do not come, and the work is kept', async () => {
    const outDir = join(scratch, 'later');
    const trainer = start({ data: stuckAfter(6), outDir, shuffleWindow: 2 });
    await expect(trainer.run({ signal: abortSoon(200) })).rejects.toBe(reason);
    expect(readdirSync(outDir)).toEqual(['checkpoint-2']);
  });

  test('a signal ends an evaluation in it', async () => {
    const outDir = join(scratch, 'eval');
    const trainer = start({ data: rows, evalData: () => stuckAfter(1), evalEvery: 1, outDir });
    await expect(trainer.run({ signal: abortSoon(100) })).rejects.toBe(reason);
    expect(existsSync(join(outDir, 'checkpoint-1'))).toBe(true);
  });
});

test('a signal ends an evaluation', async () => {
  const evaluating = fixture.model.evaluate(stuckAfter(1), { signal: abortSoon(), adapter: null });
  await expect(evaluating).rejects.toBe(reason);
});

describe('batches', () => {
  const numbered = async function* (count: number): AsyncGenerator<Example> {
    for (let i = 0; i < count; i++) yield { inputIds: [i, i] };
  };
  const order = async (...args: Parameters<typeof batches>): Promise<number[]> => {
    const ids: number[] = [];
    for await (const { inputIds } of batches(...args)) ids.push(...inputIds.map(([id]) => id!));
    return ids;
  };

  test('of a stream that fits the window are shuffled as a list is', async () => {
    const list = Array.from({ length: 50 }, (_, i) => ({ inputIds: [i, i] }));
    const shuffled = await order(list, { shuffle: true, seed: 4 });
    expect(await order(numbered(50), { shuffle: true, seed: 4 })).toEqual(shuffled);
    expect(shuffled).not.toEqual([...shuffled].sort((a, b) => a - b));
  });

  test('of a longer one come once each, in an order that the seed decides, and from the window', async () => {
    const window = 10;
    const how = { shuffle: true, seed: 4, shuffleWindow: window };
    const ids = await order(numbered(100), how);
    expect([...ids].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(await order(numbered(100), how)).toEqual(ids);
    expect(await order(numbered(100), { ...how, seed: 5 })).not.toEqual(ids);
    ids.forEach((id, at) => expect(id).toBeLessThan(at + window + 1));
  });

  test('are given up when the signal says so, and their source is closed', async () => {
    const stop = new AbortController();
    const seen: number[][][] = [];
    const reading = (async () => {
      for await (const { inputIds } of batches(endless(), { signal: stop.signal })) {
        seen.push(inputIds);
        if (seen.length === 3) stop.abort(reason);
      }
    })();
    await expect(reading).rejects.toBe(reason);
    expect([seen.length, ended]).toEqual([3, 1]);
    await expect(order(numbered(3), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test.each([
    [{ shuffleWindow: 0 }, 'expected shuffleWindow to be a positive whole number but received 0'],
    [{ shuffleWindow: 1.5 }, 'expected shuffleWindow to be a positive whole number but received 1.5'],
    [{ signal: {} as AbortSignal }, 'expected signal to be an AbortSignal'],
  ])('refuse %j', async (options, sentence) => {
    await expect(order([], options)).rejects.toThrow(sentence);
  });
});
