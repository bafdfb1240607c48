/** Streams of tokens, whose pieces are the text of all of them. */
import { writeFileSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { cleanUp, CleanUpStream } from '../../lib/text/clean_up';
import { Tokenizer } from '../../lib/text/tokenizer';
import { pieceCount, pieceTokenizer } from '../support/piece_tokenizer';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer } from '../support/tiny_model';

const dir = temporaryFolder();
const config = { clean_up_tokenization_spaces: true };

async function load(json: object, cleansUp: boolean): Promise<Tokenizer> {
  const folder = mkdtempSync(join(dir, 'x-'));
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(cleansUp ? config : {}));
  return (await Tokenizer.fromDirectory(folder))!;
}

/** What clean-up looks at, and a character that it does not. */
const spaced = fc.string({ unit: fc.constantFrom(' ', ' ', ' ', ...".?!,'ntmsvrex"), maxLength: 12 });

describe('clean-up', () => {
  test.each([
    ["do n't , I 'm so glad !", "don't, I'm so glad!"],
    ["a ' b", "a'b"],
    ["a ' .", "a '."],
    ["  ' m", "'m"],
    ["a n ' t", "an't"],
    ['a  .', 'a .'],
  ])('%j', (text, want) => {
    expect(cleanUp(text)).toBe(want);
  });

  test("is that of Hugging Face's library", () => {
    const library = new HuggingFaceTokenizer(byteTokenizer(), config);
    fc.assert(
      fc.property(
        spaced.filter((text) => text !== ''),
        (text) => {
          expect(cleanUp(text)).toBe(library.decode([...Buffer.from(text)]));
        },
      ),
    );
  });

  test('however a text is cut into pieces, and of spaces no more than two are held', () => {
    fc.assert(
      fc.property(fc.array(spaced, { maxLength: 6 }), (pieces) => {
        const stream = new CleanUpStream();
        const shown = pieces.map((piece) => stream.push(piece)).join('');
        expect(shown + stream.flush()).toBe(cleanUp(pieces.join('')));
      }),
      { numRuns: 2000 },
    );
    const stream = new CleanUpStream();
    expect(stream.push('a' + ' '.repeat(9))).toBe('a' + ' '.repeat(7));
    expect(stream.push('b')).toBe('  b');
  });
});

const kinds: [string, object, number][] = [
  ['byte-level', byteTokenizer(), 260],
  ['pieces and bytes', pieceTokenizer(), pieceCount],
];
describe.each(kinds)('%s', (_, json, size) => {
  // Ids that clean-up looks at, pieces and special tokens, and any.
  const ascii = [...Buffer.from(" .,'nt")];
  const id = fc.oneof(fc.constantFrom(...ascii), fc.integer({ min: 256, max: size - 1 }), fc.nat(size));
  const ids = fc.array(id, { maxLength: 40 });

  test.each([false, true])('clean-up %j: the pieces are the text of all tokens', async (cleansUp) => {
    const tokenizer = await load(json, cleansUp);
    fc.assert(
      fc.property(ids, (list) => {
        const stream = tokenizer.stream();
        const text = list.map((one) => stream.push(one)).join('') + stream.flush();
        // A character that is unfinished at the end gives no text.
        expect(text).toBe(tokenizer.decode(list, { skipSpecialTokens: true }).replace(/\uFFFD+$/, ''));
      }),
      { numRuns: 2000 },
    );
  });

  test('special tokens, however many, take no space from what follows them', async () => {
    const tokenizer = await load(json, false);
    const word = tokenizer.encode(' a', { addSpecialTokens: false });
    const list = [...word, ...Array<number>(20).fill(257), ...word];
    const text = tokenizer.decode(list, { skipSpecialTokens: true });
    const stream = tokenizer.stream();
    expect(list.map((one) => stream.push(one)).join('')).toBe(text);
    const rest = tokenizer.stream(list.slice(0, -word.length));
    expect(text.endsWith(word.map((one) => rest.push(one)).join(''))).toBe(true);
  });

  test('a stream that is exact leaves the spaces', async () => {
    const [raw, cleaning] = [await load(json, false), await load(json, true)];
    fc.assert(
      fc.property(ids, (list) => {
        const [exact, plain] = [cleaning.stream([], true), raw.stream()];
        expect(list.map((one) => exact.push(one))).toEqual(list.map((one) => plain.push(one)));
        expect(exact.flush()).toBe('');
      }),
    );
  });
});
