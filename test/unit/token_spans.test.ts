/** Tokens before characters: the same as of the text before each, in less work. */
import { tokensBefore } from '../../lib/data/token_spans';
import { pausesOf } from '../support/gaps';

/** Words with the blank before them, and pairs of other characters: tokens may hold the character that is asked for. */
const pieces = (text: string): string[] => text.match(/ ?[a-z]+|[^a-z]{1,2}/g) ?? [];
/** As pieces() has them, each with what is before it: tokens depend on all of the text. */
const chained = (text: string): string[] =>
  pieces(text).map((piece, i, all) => `${all[i - 1] ?? '^'}|${piece}`);

describe.each([
  ['tokens of their own', pieces],
  ['tokens that depend on the one before', chained],
])('%s', (_, split) => {
  const known = new Map<string, number>();
  const idOf = (token: string): number => known.get(token) ?? known.set(token, known.size).size - 1;
  const encode = (text: string): number[] => split(text).map(idOf);

  test('at each of many characters', async () => {
    let seed = 1;
    const draw = (below: number): number => (seed = (seed * 48271) % 2147483647) % below;
    for (let round = 0; round < 20; round++) {
      const text = Array.from({ length: 400 }, () => 'ab  .;\n'[draw(7)]!).join('');
      const ids = encode(text);
      const characters = [...new Set(Array.from({ length: 40 }, () => draw(401)))].sort((a, b) => a - b);
      const expected = characters.map((character) => {
        if (character >= text.length) return ids.length;
        const start = encode(text.slice(0, character));
        const at = start.findIndex((id, i) => id !== ids[i]);
        return at < 0 ? start.length : at;
      });
      const found = await tokensBefore(characters, text, ids, (from, to) =>
        Promise.resolve(encode(text.slice(from, to))),
      );
      expect({ text, characters, found }).toEqual({ text, characters, found: expected });
    }
  });

  test('in proportion to the text', async () => {
    const text = 'some words. '.repeat(5000);
    const characters = Array.from({ length: 1000 }, (_, i) => 60 * i);
    let work = 0;
    await tokensBefore(characters, text, encode(text), (from, to) => {
      work += to - from;
      return Promise.resolve(encode(text.slice(from, to)));
    });
    expect(work).toBeLessThan(10 * text.length);
  });
});

test('timers and I/O run meanwhile, and an abort is heard', async () => {
  const encode = (from: number, to: number): Promise<number[]> =>
    Promise.resolve(new Array<number>(to - from).fill(1));
  const characters = Array.from({ length: 1000 }, (_, i) => i);
  const ids = new Array<number>(1000).fill(1);
  const { pauses } = await pausesOf(() => tokensBefore(characters, { length: 1000 }, ids, encode));
  expect(pauses).toBeGreaterThan(50);
  const stop = AbortSignal.abort(new Error('enough'));
  await expect(pausesOf(() => tokensBefore(characters, { length: 1000 }, ids, encode, stop))).rejects.toThrow(
    'enough',
  );
});

test('a tokenizer whose tokens depend on all of the text is given up', async () => {
  const encode = (text: string): number[] => new Array<number>(text.length).fill(text.length);
  const characters = Array.from({ length: 1000 }, (_, i) => 100 * i);
  const text = 'x'.repeat(100_000);
  expect(
    await tokensBefore(characters, text, encode(text), (from, to) =>
      Promise.resolve(encode(text.slice(from, to))),
    ),
  ).toBe(undefined);
});
