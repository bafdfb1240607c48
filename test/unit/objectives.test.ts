/** What the loop, checkpoints and reports ask of an objective: scores, figures under their names, groups of rows. */
import { batchesOf } from '../../lib/data/batches';
import { answerKind, pairRows } from '../../lib/data/preference_rows';
import type { RowKind } from '../../lib/data/row_groups';
import { BestEvaluation } from '../../lib/train/best';
import { firstExamples, promptLength } from '../../lib/train/report/samples';
import { OtherAnswersOfData } from '../../lib/train/objectives/other_answers';
import { Reference } from '../../lib/train/objectives/reference';
import { RunRecord } from '../../lib/train/record';
import { checkRunState, DataDigest } from '../../lib/train/resume';
import { expectThrow } from '../support/errors';

test('a prompt has the answer before each of its own', () => {
  const row = (prompt: number[], answer: number[]) => ({
    ...{ promptIds: prompt, completionIds: answer, label: true },
  });
  const rows = [row([1], [2]), row([1], [3]), row([4], [5]), row([1, 3], [6]), row([1], [3, 6])];
  const others = new OtherAnswersOfData();
  others.add(rows.slice(0, 3));
  others.add(rows.slice(3));
  others.add([rows[0]!, rows[3]!]); // again, as held-out rows
  expect(others.of(rows)).toEqual([[5], [2], [3], [3, 6], [6]]);
  expectThrow(() => others.of([row([1], [7])]), 'ERR_DATA', /other rows than when the reference/);
});

test('values of a reference that are fewer than its texts are not taken', () => {
  const state = { keys: new Uint8Array(64), values: new Float32Array(1) };
  const reference = new Reference(null, true);
  expectThrow(() => reference.restore(state), 'ERR_FILE', /no values of its reference/);
  const known = { keys: new Uint8Array(64).fill(200, 32), values: Float32Array.of(0.1, 0.2) };
  reference.restore(known);
  expect(reference.state).toEqual(known);
});

describe('a score that is better when it is higher', () => {
  const scores = (values: readonly number[], minDelta = 0) => {
    const best = new BestEvaluation(minDelta);
    const better = values.map((score, i) => best.add({ step: i + 1, loss: 9 - score, score }, true));
    return { best, better };
  };

  test('is compared in the place of the loss', () => {
    const { best, better } = scores([0.1, 0.3, 0.2, 0.3, 0.4]);
    expect(better).toEqual([true, true, false, false, true]);
    expect(best.best).toEqual({ step: 5, loss: 8.6, score: 0.4 });
  });

  test('by more than minDelta', () => {
    expect(scores([0.1, 0.15, 0.21], 0.1).better).toEqual([true, false, true]);
  });

  test('and no number is no better', () => {
    const { best, better } = scores([NaN, NaN]);
    expect(better).toEqual([false, false]);
    expect(best.sentence).toBe('2 evaluations gave no score that is a number');
  });

  test('is in checkpoints', () => {
    const state = (best: object) =>
      checkRunState(
        'folder',
        { step: 4, data: 'd', settings: '{}', evaluations: { at: 4, waited: 1, best } },
        { settings: {}, maxSteps: 10, ofTotal: [] },
      ).evaluations;
    const saved = { step: 3, loss: NaN, score: 0.5 };
    const best = new BestEvaluation();
    best.restore(state(saved));
    expect(best.state).toEqual({ at: 4, waited: 1, best: saved });
    expect(best.add({ step: 5, loss: 0, score: 0.4 }, true)).toBe(false);
    expectThrow(() => state({ step: 3, loss: 1, score: Infinity }), 'ERR_FILE', /evaluations.best.score/);
    expectThrow(() => state({ step: 3, loss: NaN }), 'ERR_FILE', /evaluations.best.loss/);
  });
});

test('a curve has the figures of its steps, each the mean of those that have it', () => {
  const record = new RunRecord();
  const step = {
    type: 'step',
    epoch: 0,
    loss: 1,
    lr: 1,
    gradNorm: 1,
    tokens: 1,
    tokensPerSecond: 1,
  } as const;
  for (let i = 0; i < 4000; i++) {
    const metrics: Record<string, number> = i % 2 === 0 ? { even: i, both: 1 } : { both: 3 };
    record.add({ ...step, step: i + 1, metrics, etaSeconds: 0 });
  }
  expect(record.stride).toBe(2);
  expect(record.points).toHaveLength(2000);
  expect(record.points[1]!.metrics).toEqual({ even: 2, both: 2 });
});

test('samples ask the prompt of a row, also where the prompt counts', async () => {
  const rows = [1, 2].map((n) => ({ promptIds: [n, 7, 8], chosenIds: [n + 10], rejectedIds: [9] }));
  const found = await firstExamples(rows, 2, answerKind(pairRows, true));
  expect(found.map((example) => example.inputIds.slice(0, promptLength(example)))).toEqual([
    [1, 7, 8],
    [2, 7, 8],
  ]);
  expect(found.map(({ inputIds }) => inputIds.at(-1))).toEqual([11, 12]);
});

describe('rows of several texts', () => {
  const pairs: RowKind = {
    form: '{ a, b }',
    grouped: true,
    read: (_, row) => {
      const { a, b, mark } = row as { a: number[]; b: number[]; mark: number };
      return { row, marks: [mark], examples: [a, b].map((inputIds) => ({ inputIds, labels: inputIds })) };
    },
  };
  const rows = [1, 2, 3].map((n) => ({ a: [n], b: Array<number>(4 - n).fill(n), mark: n }));
  const batched = async (data: object[], options = {}) => {
    const all = [];
    for await (const batch of batchesOf(pairs, data, { batchSize: 2, ...options })) all.push(batch);
    return all;
  };

  test('stay together in a batch, which counts rows', async () => {
    const [first, last] = await batched(rows);
    expect(first!.inputIds).toEqual([[1], [1, 1, 1], [2], [2, 2]]);
    expect(first!.groups!.map(({ row }) => row)).toEqual(rows.slice(0, 2));
    expect(last!.inputIds).toEqual([[3], [3]]);
  });

  test('are grouped by their longest text', async () => {
    const long = Array.from({ length: 16 }, (_, i) => rows[i % 2 === 0 ? 0 : 2]!); // 3 and 1 tokens
    const all = await batched(long, { groupByLength: true });
    const longest = all.map(({ inputIds }) => Math.max(...inputIds.map(({ length }) => length)));
    expect(longest).toEqual([1, 3, 1, 3, 1, 3, 1, 3]);
  });

  test('are known by their texts and their marks', async () => {
    const digest = async (data: object[]) => {
      const digest = new DataDigest();
      digest.add(await batched(data));
      return digest.value;
    };
    expect(await digest(rows)).toBe(await digest(structuredClone(rows)));
    expect(await digest(rows)).not.toBe(await digest(rows.map((row) => ({ ...row, mark: 9 }))));
  });
});
