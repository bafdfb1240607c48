import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '../../lib/text/tokenizer';
import { expectReject, expectThrow } from '../support/errors';
import { byteTokenizer } from '../support/tiny_model';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();

/** The path of a tokenizer.json that holds `json`. */
function written(json: unknown): { path: string; folder: string } {
  const folder = mkdtempSync(join(dir, 'x-'));
  const path = join(folder, 'tokenizer.json');
  writeFileSync(path, typeof json === 'string' ? json : JSON.stringify(json));
  return { path, folder };
}
const load = async (json: unknown): Promise<Tokenizer> =>
  (await Tokenizer.fromDirectory(written(json).folder)) as Tokenizer;

const pieces: [string, number][] = [
  ['<unk>', 0],
  ['</s>', 0],
  ['▁', -2],
  ['a', -3],
  ['b', -3],
  ['ab', -4],
  ['▁a', -3.5],
];
const byteTokens: [string, number][] = Array.from({ length: 256 }, (_, byte) => [
  `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  -20,
]);
const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true };
/** As SentencePiece's Unigram models are written: spaces become ▁, the likeliest split wins. */
const unigram = (model: object = {}, rest: object = {}): Record<string, unknown> => ({
  added_tokens: [
    { id: 0, content: '<unk>', special: true },
    { id: 1, content: '</s>', special: true },
  ],
  pre_tokenizer: metaspace,
  decoder: metaspace,
  model: { type: 'Unigram', unk_id: 0, vocab: pieces, ...model },
  ...rest,
});

describe('Unigram', () => {
  test('takes the split of the highest score, and gives the text back', async () => {
    const tokenizer = await load(unigram());
    expect(tokenizer.encode('ab aba')).toEqual([2, 5, 2, 5, 3]); // ▁ + ab: −6 beats ▁a + b: −6.5
    expect(tokenizer.decode([2, 5, 2, 5, 3])).toBe('ab aba');
    expect(tokenizer.vocabSize).toBe(7);
  });

  test('unknown characters become one unknown token', async () => {
    expect((await load(unigram())).encode('a🙂zb')).toEqual([6, 0, 4]);
  });

  test('with byte_fallback they become the tokens of their bytes, and the text comes back', async () => {
    const decoder = { type: 'Sequence', decoders: [metaspace, { type: 'ByteFallback' }, { type: 'Fuse' }] };
    const tokenizer = await load(
      unigram({ byte_fallback: true, vocab: [...pieces, ...byteTokens] }, { decoder }),
    );
    expect(tokenizer.encode('a🙂zb')).toEqual([
      6,
      ...[0xf0, 0x9f, 0x99, 0x82, 0x7a].map((byte) => pieces.length + byte),
      4,
    ]);
    expect(tokenizer.encode('<unk>b')).toEqual([0, 2, 4]); // the token itself stays
    expect(tokenizer.decode(tokenizer.encode('a🙂zb'))).toBe('a🙂zb');
    const stream = tokenizer.stream();
    expect(tokenizer.encode('a🙂b').map((id) => stream.push(id))).toEqual(['a', '', '', '', '🙂', 'b']);
    expect(tokenizer.concatenates).toBe(false); // the first space of a list is no text
    const long = tokenizer.encode('a🙂b a ba é '.repeat(6));
    const all = tokenizer.stream();
    expect(long.map((id) => all.push(id)).join('')).toBe(tokenizer.decode(long));
  });

  test('with byte_fallback but not all bytes they stay unknown', async () => {
    const tokenizer = await load(
      unigram({ byte_fallback: true, vocab: [...pieces, ...byteTokens.slice(0, 128)] }),
    );
    expect(tokenizer.encode('azb')).toEqual([6, pieces.length + 0x7a, 4]);
    expect(tokenizer.encode('aéb')).toEqual([6, 0, 4]);
  });

  test('without an unknown token they are ERR_DATA', async () => {
    const tokenizer = await load(unigram({ unk_id: null }));
    expect(tokenizer.encode('ab')).toEqual([2, 5]);
    expectThrow(
      () => tokenizer.encode('a🙂b'),
      'ERR_DATA',
      `[tokenizer] expected text that the tokenizer of ${tokenizer.directory} knows but received '🙂', and it has no token for the unknown`,
    );
  });

  test('a text that is too long for it is an error of ours', async () => {
    const tokenizer = await load(unigram());
    expectThrow(
      () => tokenizer.encode('ba'.repeat(200_000)),
      'ERR_UNSUPPORTED',
      '[tokenizer] a text of 400000 characters is too long for this kind of tokenizer: split it',
    );
  });
});

test('components that the file leaves out are none', async () => {
  const { model } = byteTokenizer() as { model: object };
  const tokenizer = await load({ model });
  expect(tokenizer.encode('ab')).toEqual([97, 98]);
});

test.each([
  ['BPE', { vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'] }, [2]],
  ['Unigram', { vocab: pieces, unk_id: 0 }, [5]],
  [
    'WordPiece',
    {
      vocab: { '[UNK]': 0, a: 1, '##b': 2 },
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
    },
    [1, 2],
  ],
])('%s is recognized where an early file does not name its type', async (_, model, ids) => {
  expect((await load({ model })).encode('ab')).toEqual(ids);
});

describe('what is not supported names itself and what is', () => {
  test.each([
    [{ type: 'WordLevel', vocab: { a: 0 }, unk_token: 'a' }, "'WordLevel'"],
    [{ type: 'Nonsense' }, "'Nonsense'"],
    [{ vocab: { a: 0 } }, 'undefined'],
    [{ type: 7 }, '7'],
  ])('%j', async (model, words) => {
    const { path, folder } = written({ model });
    await expectReject(
      Tokenizer.fromDirectory(folder),
      'ERR_UNSUPPORTED',
      `[tokenizer] cannot use ${path}: its model is of type ${words}; supported are BPE, Unigram, WordPiece`,
    );
  });

  test('a component of an unknown type', async () => {
    for (const name of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder']) {
      const { path, folder } = written(unigram({}, { [name]: { type: 'Odd' } }));
      await expect(Tokenizer.fromDirectory(folder)).rejects.toMatchObject({
        code: 'ERR_UNSUPPORTED',
        message: expect.stringContaining(`[tokenizer] cannot use ${path}: Unknown `) as string,
      });
    }
  });
});

describe('a malformed file is ERR_FILE', () => {
  const bpe = (model: object): object => ({ model: { type: 'BPE', vocab: { a: 0 }, merges: [], ...model } });
  const split = (pattern?: unknown): object => ({ type: 'Split', pattern, behavior: 'Isolated' });
  test.each<[unknown, string]>([
    [[], 'a JSON object but received []'],
    [{}, '"model" to be an object but received undefined'],
    [{ model: 'BPE' }, '"model" to be an object but received \'BPE\''],
    [
      unigram({ vocab: { a: 1 } }),
      'the vocabulary of Unigram to be a list of [text, score] but received an object',
    ],
    [
      unigram({ vocab: undefined }),
      'the vocabulary of Unigram to be a list of [text, score] but received undefined',
    ],
    [unigram({ vocab: [] }), 'the vocabulary of Unigram to be a list of [text, score] but received []'],
    [unigram({ vocab: ['a'] }), "the vocabulary of Unigram to be a list of [text, score] but received 'a'"],
    [
      unigram({ vocab: [[1, 2]] }),
      'the vocabulary of Unigram to be a list of [text, score] but received [1, 2]',
    ],
    [
      unigram({ vocab: [['a', 'b']] }),
      "the vocabulary of Unigram to be a list of [text, score] but received ['a', 'b']",
    ],
    [unigram({ unk_id: 7 }), '"unk_id" to be null or below 7 but received 7'],
    [unigram({ unk_id: -1 }), '"unk_id" to be null or below 7 but received -1'],
    [bpe({ vocab: ['a'] }), "the vocabulary of BPE to be an object of ids but received ['a']"],
    [bpe({ vocab: { a: 'x' } }), "the vocabulary of BPE to be an object of ids but received 'x'"],
    [bpe({ vocab: { a: -1 } }), 'the vocabulary of BPE to be an object of ids but received -1'],
    [bpe({ merges: undefined }), 'the merges of BPE to be a list of pairs but received undefined'],
    [bpe({ merges: [5] }), 'the merges of BPE to be a list of pairs but received 5'],
    [bpe({ merges: ['ab'] }), "the merges of BPE to be a list of pairs but received 'ab'"],
    [bpe({ merges: [['a']] }), "the merges of BPE to be a list of pairs but received ['a']"],
    [bpe({ merges: [['a', 1]] }), "the merges of BPE to be a list of pairs but received ['a', 1]"],
    [
      { model: { type: 'WordPiece' } },
      'the vocabulary of WordPiece to be an object of ids but received undefined',
    ],
    [{ ...bpe({}), added_tokens: {} }, '"added_tokens" to be an array but received an object'],
    [{ ...bpe({}), added_tokens: [null] }, 'added tokens to be { id, content } but received null'],
    [
      { ...bpe({}), added_tokens: [{ id: 'x', content: 'y' }] },
      'added tokens to be { id, content } but received \'{"id":"x","content":"y"}\'',
    ],
    [
      { ...bpe({}), added_tokens: [{ id: 1 }] },
      'added tokens to be { id, content } but received \'{"id":1}\'',
    ],
    [
      { ...bpe({}), added_tokens: [{ id: 1, content: '' }] },
      'added tokens to be { id, content } but received \'{"id":1,"content":""}\'',
    ],
    [
      { ...bpe({}), pre_tokenizer: split() },
      'the pattern of Split to be { String } or { Regex } but received undefined',
    ],
    [
      { ...bpe({}), pre_tokenizer: { type: 'Sequence', pretokenizers: [split({ Regexp: 'x' })] } },
      'the pattern of Split to be { String } or { Regex } but received \'{"Regexp":"x"}\'',
    ],
    [
      { ...bpe({}), normalizer: { type: 'Sequence', normalizers: [{ type: 'Replace' }] } },
      'the pattern of Replace to be { String } or { Regex } but received undefined',
    ],
    [
      { ...bpe({}), decoder: { type: 'Sequence', decoders: [{ type: 'Replace', pattern: 5 }] } },
      'the pattern of Replace to be { String } or { Regex } but received 5',
    ],
  ])('%j', async (json, sentence) => {
    const { path, folder } = written(json);
    await expectReject(
      Tokenizer.fromDirectory(folder),
      'ERR_FILE',
      `[tokenizer] ${path}: expected ${sentence}`,
    );
  });

  const component = (role: string, json: object): object => ({ ...bpe({}), [role]: json });
  const times = (count: number, part: object): object[] => Array.from({ length: count }, () => part);
  test.each<[string, unknown, string]>([
    [
      'merges of two kinds',
      bpe({ merges: [['a', 'a'], 'a a'] }),
      "the merges of BPE to be a list of pairs but received 'a a'",
    ],
    [
      'a token of a megabyte',
      bpe({ vocab: { ['a'.repeat(2000)]: 0 } }),
      'tokens of at most 1024 characters but received',
    ],
    [
      'a suffix that is no text',
      bpe({ end_of_word_suffix: 5 }),
      '"end_of_word_suffix" to be text of at most 64 characters but received 5',
    ],
    [
      'words without end',
      { model: { type: 'WordPiece', vocab: { a: 0 }, max_input_chars_per_word: 1e9 } },
      '"max_input_chars_per_word" to be at most 256 but received 1000000000',
    ],
    [
      'an added token without end',
      { ...bpe({}), added_tokens: [{ id: 1, content: 'a'.repeat(257) }] },
      'added tokens of at most 256 characters but received',
    ],
    [
      'pieces that begin one another',
      unigram({ vocab: Array.from({ length: 70 }, (_, i) => ['a'.repeat(i + 1), 0]) }),
      'at most 64 pieces that begin one but received',
    ],
    [
      'a piece without end',
      unigram({ vocab: [['a'.repeat(300), 0]] }),
      'pieces of at most 256 characters but received',
    ],
    [
      'a length of 0',
      component('pre_tokenizer', { type: 'FixedLength', length: 0 }),
      '"length" of FixedLength to be a positive integer but received 0',
    ],
    [
      'many components',
      component('normalizer', { type: 'Sequence', normalizers: times(64, { type: 'NFC' }) }),
      "at most 64 components but received 'more'",
    ],
    [
      'bytes of bytes of bytes',
      component('pre_tokenizer', {
        type: 'Sequence',
        pretokenizers: times(3, { type: 'ByteLevel', use_regex: false }),
      }),
      "at most 2 ByteLevel but received 'more'",
    ],
    [
      'texts that double',
      component('normalizer', {
        type: 'Sequence',
        normalizers: times(30, { type: 'Replace', pattern: { String: 'a' }, content: 'aa' }),
      }),
      "replacements that make a text at most 256 times as long but received '512 times'",
    ],
    [
      'a space that becomes many',
      component('pre_tokenizer', {
        type: 'Sequence',
        pretokenizers: times(2, { type: 'Metaspace', replacement: '▁'.repeat(60) }),
      }),
      "replacements that make a text at most 256 times as long but received '3600 times'",
    ],
    [
      'a behavior that is no text',
      component('pre_tokenizer', { type: 'Split', pattern: { String: ' ' }, behavior: ['Isolated'] }),
      '"behavior" of Split to be text but received [\'Isolated\']',
    ],
    [
      'a list that is none',
      component('decoder', { type: 'Sequence', decoders: {} }),
      '"decoders" to be a list but received an object',
    ],
    [
      'a list of nothing',
      component('decoder', { type: 'Sequence', decoders: [null] }),
      '"decoders" to be a list of objects but received null',
    ],
    [
      'content that is no text',
      component('normalizer', { type: 'Replace', pattern: { String: 'a' }, content: 5 }),
      '"content" of Replace to be text but received 5',
    ],
    [
      'a prefix that is missing',
      component('normalizer', { type: 'Prepend' }),
      '"prepend" of Prepend to be text but received undefined',
    ],
    [
      'nothing as a space',
      component('decoder', { type: 'Metaspace', replacement: '' }),
      '"replacement" of Metaspace to be text of at most 64 characters but received \'\'',
    ],
    [
      'a count that is none',
      component('decoder', { type: 'Strip', start: 'x' }),
      '"start" of Strip to be a count but received \'x\'',
    ],
    [
      'a template without a list',
      component('post_processor', { type: 'TemplateProcessing' }),
      'the "single" of TemplateProcessing to be a list of { SpecialToken } and { Sequence } but received undefined',
    ],
    [
      'a template of nothing',
      component('post_processor', { type: 'TemplateProcessing', single: [{}] }),
      'the "single" of TemplateProcessing to be a list of { SpecialToken } and { Sequence } but received \'{}\'',
    ],
    [
      'a template of a pair',
      component('post_processor', { type: 'TemplateProcessing', single: [{ Sequence: { id: 'B' } }] }),
      'the "single" of TemplateProcessing to have the Sequence A alone but received \'B\'',
    ],
    [
      'a processor without tokens',
      component('post_processor', { type: 'BertProcessing', sep: 5 }),
      '"sep" of BertProcessing to be [text, id] but received 5',
    ],
  ])('%s', async (_, json, sentence) => {
    const { path, folder } = written(json);
    const error = await Tokenizer.fromDirectory(folder).then(
      () => undefined,
      (e: Error) => e,
    );
    expect(error).toMatchObject({ code: 'ERR_FILE' });
    expect(error?.message).toContain(`[tokenizer] ${path}: expected ${sentence}`);
  });

  test('ids beyond every vocabulary', async () => {
    for (const json of [
      bpe({ vocab: { a: 4e9 } }),
      { ...bpe({}), added_tokens: [{ id: 4e9, content: 'x' }] },
    ]) {
      const { path, folder } = written(json);
      await expectReject(
        Tokenizer.fromDirectory(folder),
        'ERR_FILE',
        `[tokenizer] ${path} has a token with the id 4000000000: the limit is 4194304, which limits.width raises`,
      );
    }
  });

  test('special tokens that are no list, or without end', async () => {
    const { folder } = written(unigram());
    const path = join(folder, 'tokenizer_config.json');
    for (const [tokens, words] of [
      [5, '5'],
      [Array.from({ length: 1001 }, () => 'x'), 'an array of 1001'],
    ]) {
      writeFileSync(path, JSON.stringify({ additional_special_tokens: tokens }));
      await expectReject(
        Tokenizer.fromDirectory(folder),
        'ERR_FILE',
        `[tokenizer] ${path}: expected "additional_special_tokens" to be a list of at most 1000 tokens but received ${words as string}`,
      );
    }
  });

  test('what fails only when it is used is an error of ours too', async () => {
    const decoder = { type: 'CTC', pad_token: 'b', word_delimiter_token: 'c', cleanup: true };
    const tokenizer = await load({ ...bpe({}), decoder, added_tokens: [{ id: 1, content: 'x' }] });
    jest.spyOn(String.prototype, 'replaceAll').mockImplementationOnce(() => {
      throw new TypeError('boom');
    });
    try {
      expectThrow(
        () => tokenizer.decode([0, 1]),
        'ERR_FILE',
        `[tokenizer] the tokenizer of ${tokenizer.directory} cannot decode this: boom`,
      );
    } finally {
      jest.restoreAllMocks();
    }
  });

  test('and so is a tokenizer_config.json that is no object', async () => {
    const { folder } = written(unigram());
    writeFileSync(join(folder, 'tokenizer_config.json'), '[]');
    await expectReject(
      Tokenizer.fromDirectory(folder),
      'ERR_FILE',
      `[tokenizer] ${join(folder, 'tokenizer_config.json')}: expected a JSON object but received []`,
    );
  });
});
