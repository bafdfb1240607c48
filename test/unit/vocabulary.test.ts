/** How grammars spell the tokens of a tokenizer: as the bytes that they add to a text. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { spell } from '../../lib/grammar/alphabet';
import { vocabularyOf } from '../../lib/grammar/vocabulary';
import { atOnce } from '../../lib/tensor/pace';
import { Tokenizer } from '../../lib/text/tokenizer';
import { expectThrow } from '../support/errors';
import { pieceCount, pieceTokenizer } from '../support/piece_tokenizer';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer } from '../support/tiny_model';

const dir = temporaryFolder();
async function load(json: object): Promise<Tokenizer> {
  const folder = mkdtempSync(join(dir, 'x-'));
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
  return (await Tokenizer.fromDirectory(folder))!;
}
const spellings = ({ library }: Tokenizer, size: number, stop: number[] = []): string[] =>
  atOnce(vocabularyOf(library, size, stop)).texts.split('\0');

/** The same tokens in a Unigram model, with Metaspace instead of Replace and Strip. */
function unigram(): object {
  const { model, ...rest } = pieceTokenizer() as { model: { vocab: Record<string, number> } };
  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' };
  const tokens = Object.entries(model.vocab).sort(([, a], [, b]) => a - b);
  return {
    ...rest,
    normalizer: null,
    pre_tokenizer: metaspace,
    decoder: { type: 'Sequence', decoders: [metaspace, { type: 'ByteFallback' }, { type: 'Fuse' }] },
    model: { type: 'Unigram', unk_id: 258, byte_fallback: true, vocab: tokens.map(([token]) => [token, -1]) },
  };
}

const kinds: [string, object, number][] = [
  ['byte-level', byteTokenizer(), 260],
  ['pieces and bytes', pieceTokenizer(), pieceCount],
  ['a Unigram model', unigram(), pieceCount],
];
describe.each(kinds)('%s', (_, json, size) => {
  test('tokens one after the other spell the bytes of their text', async () => {
    const tokenizer = await load(json);
    const texts = spellings(tokenizer, size);
    expect(texts).toHaveLength(size);
    const character = fc.oneof(
      fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
      fc.constantFrom('\ufeff', '\ufffd', ' ', '▁', '<0x41>'),
    );
    const part = fc.oneof(
      character.map((text) => [...Buffer.from(text)]),
      fc.integer({ min: 259, max: size - 1 }).map((id) => [id]),
    );
    fc.assert(
      fc.property(fc.array(part), (parts) => {
        const ids = [97, ...parts.flat()]; // the space that begins a text is none
        const text = tokenizer.decode(ids);
        // '' stands for no text, and for control characters, which no JSON has.
        fc.pre(ids.every((id) => texts[id] !== ''));
        expect(ids.map((id) => texts[id]).join('')).toBe(spell(text));
      }),
      { numRuns: 2000 },
    );
  });

  test('special tokens, tokens that end a text, and control characters have no spelling', async () => {
    const texts = spellings(await load(json), size, [98]);
    expect([0x00, 0x0b, 0x1f, 98, 256, 257].map((id) => texts[id])).toEqual(['', '', '', '', '', '']);
    expect([0x09, 0x0a, 0x0d, 0x20, 0x7f].map((id) => texts[id])).toEqual(['\t', '\n', '\r', ' ', '\x7f']);
  });

  test('tokens behind the logits are left out', async () => {
    expect(spellings(await load(json), 100)).toHaveLength(100);
  });
});

test('what begins as a single byte is a text', async () => {
  const json = pieceTokenizer() as { model: { vocab: Record<string, number> } };
  const model = { ...json.model, vocab: { ...json.model.vocab, '<0x41>b': pieceCount } };
  expect(spellings(await load({ ...json, model }), pieceCount + 1).at(-1)).toBe('<0x41>b');
});

const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 };
const space = { type: 'Replace', pattern: { String: '▁' }, content: ' ' };
test.each<[string, object | null, RegExp]>([
  ['no decoder', null, / received none$/],
  ['words', { type: 'WordPiece', prefix: '##', cleanup: false }, / received WordPiece$/],
  [
    'no spaces',
    { type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }] },
    / received ByteFallback, Fuse$/,
  ],
  [
    'another replacement',
    { type: 'Sequence', decoders: [space, { type: 'Replace', pattern: { String: 'a' }, content: 'b' }] },
    / received Replace, Replace$/,
  ],
  [
    'a replacement that makes no spaces',
    { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: 'a' }, content: 'b' }] },
    / received Replace$/,
  ],
  [
    'a space of each token stripped',
    { type: 'Sequence', decoders: [space, strip, { type: 'Fuse' }] },
    / received Replace, Strip, Fuse$/,
  ],
])('refused: %s', async (_, decoder, received) => {
  const tokenizer = await load({ ...pieceTokenizer(), decoder });
  expectThrow(() => spellings(tokenizer, pieceCount), 'ERR_UNSUPPORTED', received);
});
