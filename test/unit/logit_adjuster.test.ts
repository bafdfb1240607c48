// What one generation adds to and divides its logits by, from token to token.
import { plainDefaults } from '../../lib/engine/sampling';
import { gatherEntries, LogitAdjuster } from '../../lib/engine/logit_adjuster';
import { planGeneration, type SamplingOptions } from '../../lib/engine/sampling';
import type { LogitEntries } from '../../lib/ops';

const adjuster = (
  options: SamplingOptions,
  prompt: number[] = [],
  file: Partial<typeof plainDefaults> = {},
): LogitAdjuster => new LogitAdjuster(planGeneration(options, { ...plainDefaults, ...file }), prompt);

/** `row:id` → [factor, addend]; an id that comes twice fails. */
function table(entries: LogitEntries | undefined): Record<string, [number, number]> {
  const found: Record<string, [number, number]> = {};
  for (const [i, id] of (entries?.ids ?? []).entries()) {
    const key = `${entries!.rows[i]}:${id}`;
    expect(found).not.toHaveProperty(key);
    found[key] = [entries!.factors[i]!, entries!.addends[i]!];
  }
  return found;
}
const of = (one: LogitAdjuster): Record<string, [number, number]> =>
  table(gatherEntries([{ adjuster: one, ahead: [] }]));

test('without options there is nothing to do', () => {
  const one = adjuster({}, [1, 2]);
  one.push(3);
  expect(one.size).toBe(0);
  expect(gatherEntries([{ adjuster: one, ahead: [4] }, undefined])).toBeUndefined();
});

test('the repetition penalty: each token of the prompt and of the text, once', () => {
  const one = adjuster({ repetitionPenalty: 2 }, [1, 2, 1]);
  expect(of(one)).toEqual({ '0:1': [2, 0], '0:2': [2, 0] });
  one.push(5);
  one.push(5);
  one.push(2);
  expect(of(one)).toEqual({ '0:1': [2, 0], '0:2': [2, 0], '0:5': [2, 0] });
});

test('presence and frequency: the text alone, and how often', () => {
  const one = adjuster({ presencePenalty: 0.5, frequencyPenalty: 0.25 }, [1, 2]);
  expect(of(one)).toEqual({});
  one.push(2);
  one.push(2);
  one.push(7);
  expect(of(one)).toEqual({ '0:2': [1, -1], '0:7': [1, -0.75] });
});

test('biases stay, and join the penalties', () => {
  const logitBias = new Map([
    [4, 3],
    [5, -Infinity],
  ]);
  const one = adjuster({ logitBias, repetitionPenalty: 2, frequencyPenalty: 1 }, [4]);
  expect(of(one)).toEqual({ '0:4': [2, 3], '0:5': [1, -Infinity] });
  one.push(4);
  expect(of(one)).toEqual({ '0:4': [2, 2], '0:5': [1, -Infinity] });
});

test('end-of-text waits for the least length', () => {
  const file = { eosTokenIds: new Set([8, 9]), minNewTokens: 2 };
  const one = adjuster({}, [1], file);
  const waiting = { '0:8': [1, -Infinity], '0:9': [1, -Infinity] };
  expect(of(one)).toEqual(waiting);
  one.push(3);
  expect(of(one)).toEqual(waiting);
  one.push(3);
  expect(of(one)).toEqual({ '0:8': [1, 0], '0:9': [1, 0] });

  const long = adjuster({}, [1, 2, 3], { eosTokenIds: new Set([8]), minLength: 4 });
  expect(of(long)).toEqual({ '0:8': [1, -Infinity] });
  long.push(5);
  expect(of(long)).toEqual({ '0:8': [1, 0] });
  expect(adjuster({ ignoreEos: true }, [1], file).size).toBe(0);
});

test('what may not begin may come later', () => {
  const one = adjuster({ logitBias: new Map([[6, 1]]) }, [1], { beginSuppressTokens: new Set([6, 7]) });
  expect(of(one)).toEqual({ '0:6': [1, -Infinity], '0:7': [1, -Infinity] });
  one.push(3);
  expect(of(one)).toEqual({ '0:6': [1, 1], '0:7': [1, 0] });
});

test('rows of a batch lie behind each other', () => {
  const first = adjuster({ logitBias: new Map([[1, 2]]) });
  const third = adjuster({ repetitionPenalty: 1.5 }, [1, 3]);
  expect(
    table(gatherEntries([{ adjuster: first, ahead: [] }, undefined, { adjuster: third, ahead: [] }])),
  ).toEqual({
    '0:1': [1, 2],
    '2:1': [1.5, 0],
    '2:3': [1.5, 0],
  });
});

test.each<[string, SamplingOptions]>([
  ['a repetition penalty', { repetitionPenalty: 2 }],
  ['penalties of presence and frequency', { presencePenalty: 0.5, frequencyPenalty: 0.25 }],
  ['a bias', { logitBias: new Map([[3, 1]]) }],
])('behind tokens that may come, the entries are those of a text that has them: %s', (_, options) => {
  const file = { eosTokenIds: new Set([8]), minNewTokens: 3, beginSuppressTokens: new Set([3, 6]) };
  const [prompt, ahead] = [
    [1, 2],
    [2, 3, 70, 3, 8],
  ];
  for (const taken of [[], [3], [5, 70, 5, 2]]) {
    const made = (more: number[]): LogitAdjuster => {
      const one = adjuster(options, prompt, file);
      for (const id of [...taken, ...more]) one.push(id);
      return one;
    };
    const one = made([]);
    const rows = [0, 1, 3, 5].map((count) => ({ adjuster: one, ahead: ahead.slice(0, count) }));
    const expected = rows.map((row) => ({ adjuster: made(row.ahead), ahead: [] }));
    expect(table(gatherEntries(rows))).toEqual(table(gatherEntries(expected)));
    expect([one.size, of(one)]).toEqual([made([]).size, of(made([]))]); // it has gone back
    for (const id of ahead) one.push(id);
    expect(of(one)).toEqual(of(made(ahead)));
  }
});

test.each([
  ['', Array.from({ length: 500 }, (_, i) => (i * 7) % 300)],
  [', most of them new', []],
])('many tokens%s', (_, prompt) => {
  const one = adjuster({ repetitionPenalty: 2, frequencyPenalty: 1 }, prompt);
  const counts = new Map<number, number>();
  for (let i = 0; i < 1000; i++) {
    const id = (i * i) % 1009;
    one.push(id);
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  const all = new Set([...prompt, ...counts.keys()]);
  const found = of(one);
  expect(Object.keys(found)).toHaveLength(all.size);
  for (const id of all) expect(found[`0:${id}`]).toEqual([2, 0 - (counts.get(id) ?? 0)]);
});
