import { classScores } from '../../lib/tasks/class_scores';
import { answersOf } from '../../lib/tasks/answers';
import { inLanes } from '../../lib/tasks/lanes';
import { TaskRun, type TaskSubject } from '../../lib/tasks/evaluate_task';
import { exactMatch, largest, meanOf, squadF1 } from '../../lib/tasks/scores';
import type { Tokenizer } from '../../lib/text/tokenizer';

// Computed with normalize_answer and compute_f1 of SQuAD 2.0's official script by hand: words, shared words, 2·p·r / (p + r).
test.each<[string, string, number]>([
  ['The cat', 'a cat!', 1],
  ['the big cat', 'cat', 2 / 3],
  ['cat cat dog', 'cat dog dog', 2 / 3],
  ['1,000 dollars', '1000', 2 / 3],
  ["it's", 'its', 1],
  ['state-of-the-art', 'stateoftheart', 1],
  ['theatre', 'atre', 0],
  ['Ärger', 'ärger', 1],
  ['«ja»', 'ja', 0],
  ['the', 'a', 1],
  ['the', 'x', 0],
  ['', '', 1],
  ['x', 'y', 0],
])('F1 of %j against %j is %d', (text, expected, f1) => {
  expect(squadF1(text, expected)).toBeCloseTo(f1, 12);
  expect(squadF1(expected, text)).toBeCloseTo(f1, 12);
});

test('an exact match is one of case and punctuation, but not of white space around it', () => {
  expect([
    exactMatch(' {"a": 1}\n', '{"a": 1}'),
    exactMatch('Yes', 'yes'),
    exactMatch('a  b', 'a b'),
  ]).toEqual([true, false, false]);
});

test('a mean has the standard error of its sample', () => {
  expect(meanOf([1, 0, 0, 1, 1])).toEqual({
    mean: 0.6,
    stderr: expect.closeTo(Math.sqrt(0.3 / 5), 12) as number,
  });
  expect(meanOf([0.25])).toEqual({ mean: 0.25, stderr: 0 });
});

test('of equal numbers the first is the largest, as in NumPy', () => {
  expect([largest([-3, -1, -1]), largest([2, 1, 2]), largest([-Infinity, -5])]).toEqual([1, 0, 1]);
});

test('each run of tokens that count is an answer to all before it', () => {
  const tokenizer = {
    decode: (ids: number[]) => ids.map((id) => (id === 0 ? '' : String.fromCharCode(id))).join(''),
  } as unknown as Tokenizer;
  const ids = [...Buffer.from('xQaQbc'), 0];
  const labels = ids.map((id, i) => ([2, 4, 5, 6].includes(i) ? id : -100));
  const prompt = (end: number): number[] => ids.slice(0, end);
  expect(answersOf({ inputIds: ids, labels }, tokenizer)).toEqual([
    { prompt: prompt(2), expected: 'a', tokens: 1 },
    { prompt: prompt(4), expected: 'bc', tokens: 3 },
  ]);
  expect(answersOf({ inputIds: ids, labels: ids }, tokenizer)).toEqual([]); // plain text
  const end = ids.map((id, i) => (i === 6 ? id : -100));
  expect(answersOf({ inputIds: ids, labels: end }, tokenizer)).toEqual([]);
});

describe('lanes', () => {
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

  test('so many pieces are under way at a time, in their order', async () => {
    const begun: number[] = [];
    let now = 0;
    let most = 0;
    await inLanes([1, 2, 3, 4, 5], 2, undefined, async (item) => {
      begun.push(item);
      most = Math.max(most, ++now);
      await turn();
      now--;
    });
    expect([begun, most, now]).toEqual([[1, 2, 3, 4, 5], 2, 0]);
  });

  test('the first failure ends the others, and no more begin', async () => {
    const reasons: unknown[] = [];
    const begun: number[] = [];
    const failure = new Error('no');
    const work = async (item: number, signal: AbortSignal): Promise<void> => {
      begun.push(item);
      if (item === 2) throw failure;
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      reasons.push(signal.reason);
    };
    await expect(inLanes([1, 2, 3, 4], 2, undefined, work)).rejects.toBe(failure);
    expect([begun, reasons]).toEqual([[1, 2], [failure]]);
  });

  test('nothing is under way any more when it rejects', async () => {
    let running = 0;
    const work = async (item: number, signal: AbortSignal): Promise<void> => {
      if (item === 2) throw new Error('no');
      running++;
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      for (let i = 0; i < 3; i++) await turn(); // what it holds is given back
      running--;
    };
    await expect(inLanes([1, 2], 2, undefined, work)).rejects.toThrow('no');
    expect(running).toBe(0);
  });

  test('the signal ends them with its reason', async () => {
    const stop = new AbortController();
    const reason = new Error('enough');
    const work = async (_: number, signal: AbortSignal): Promise<void> => {
      stop.abort(reason);
      await turn();
      signal.throwIfAborted();
    };
    await expect(inLanes([1, 2], 1, stop.signal, work)).rejects.toBe(reason);
    await expect(inLanes([1], 1, stop.signal, work)).rejects.toBe(reason);
  });
});

test('choices are compared as they are, by their characters, and by their bytes', async () => {
  const questions = [
    { query: 'q', choices: ['éé', 'abc'], gold: 0 }, // the bytes are 4 and 3
    { query: 'q', choices: ['\u{1F642}', 'ab'], gold: 1 }, // one character, though JavaScript counts two
  ];
  const losses = [4, 4.5, 3, 3.2];
  const subject = {
    tokenizer: () => ({ encodeAsync: (text: string) => Promise.resolve([...Buffer.from(text)]) }),
    context: 100,
    rowLosses: (rows: unknown[]) => Promise.resolve(rows.map(() => losses.shift()!)),
  } as unknown as TaskSubject;
  const { results } = await new TaskRun(subject, [null], { batchSize: 3 }).of(questions);
  // Of the first question 0, 1, 0 are chosen, of the second 0, 1, 0.
  expect(results).toEqual([
    {
      adapter: null,
      acc: 0.5,
      accNorm: 0.5,
      accBytes: 0.5,
      stderr: { acc: 0.5, accNorm: 0.5, accBytes: 0.5 },
    },
  ]);
  const only = async (i: number, given: number[]): Promise<unknown> => {
    losses.push(...given);
    const [result] = (await new TaskRun(subject, [null], {}).of([questions[i]!])).results;
    return [result!.acc, result!.accNorm, result!.accBytes];
  };
  expect([await only(0, [4, 4.5]), await only(1, [3, 3.2])]).toEqual([
    [1, 0, 1],
    [0, 1, 0],
  ]);
});

test('macro F1 is of the labels that texts have or were given, as scikit-learn has it', () => {
  const set = { labels: ['a', 'b', 'c'], problemType: 'single_label_classification' } as const;
  const outcomes = [
    [1, 0, 0],
    [0, 1, 0],
  ].map((logits) => ({ logits, target: [0] }));
  // a: 2/3; b, which was given and is not: 0; nothing is of c.
  expect(classScores(set, outcomes).metrics).toEqual({ accuracy: 0.5, macroF1: expect.closeTo(1 / 3, 12) });
});
