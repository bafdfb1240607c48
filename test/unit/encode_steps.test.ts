/** Encoding in steps gives the ids of the library's one call, and keeps the event loop turning. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { loadDataset } from '../../lib/data/dataset';
import { defaultLimits } from '../../lib/formats/limits';
import { atOnce } from '../../lib/tensor/pace';
import { bpeSteps } from '../../lib/text/bpe_steps';
import { encodeSteps } from '../../lib/text/encode_steps';
import { insideOf, installParts } from '../../lib/text/library';
import { publishedPatterns } from '../../lib/text/split_patterns';
import { Tokenizer } from '../../lib/text/tokenizer';
import { checkTokenizerJson } from '../../lib/text/tokenizer_json';
import { cpuMilliseconds, endlessMilliseconds, longestGap } from '../support/gaps';
import { expectReject } from '../support/errors';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer } from '../support/tiny_model';

const dir = temporaryFolder();
type Json = Record<string, unknown>;

/** The library's tokens, and those of the steps. */
function both(library: HuggingFaceTokenizer, text: string): [string[], string[]] {
  return [library.encode(text).tokens, atOnce(encodeSteps(insideOf(library), text, true))];
}

/** Compares as strings, since toEqual() takes longer for a list of thousands than the encoding does. */
function expectSame(made: readonly unknown[], expected: readonly unknown[]): void {
  expect(JSON.stringify(made)).toBe(JSON.stringify(expected));
}

const letters = [...'abcd'];
const vocab = (tokens: readonly string[]): Record<string, number> =>
  Object.fromEntries(tokens.map((token, i) => [token, i]));
/** A BPE of a few letters with all pairs of pairs. */
const pairs = ['a b', 'b c', 'ab c', 'a bc', 'c d', 'cd a', 'b b', 'bb bb', 'a a', 'aa aa', 'd d', 'd a'];
const bpe = (model: Json = {}, rest: Json = {}): Json => ({
  added_tokens: [],
  model: {
    type: 'BPE',
    vocab: vocab([...letters, ' ', '▁', ...new Set(pairs.map((pair) => pair.replace(' ', '')))]),
    merges: pairs,
    ...model,
  },
  ...rest,
});
const added = (content: string, id: number, more: Json = {}): Json => ({
  id,
  content,
  special: true,
  ...more,
});

test('a long word is merged as in one call', () => {
  const library = insideOf(new HuggingFaceTokenizer(checkTokenizerJson(bpe(), 'x').json, {}));
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...letters), minLength: 1, maxLength: 60 }), (word) => {
      expect(atOnce(bpeSteps(library.model, word))).toEqual(
        (library.model as unknown as { bpe(word: string): string[] }).bpe(word),
      );
    }),
    { numRuns: 500 },
  );
});

describe('the same tokens', () => {
  const text = fc.string({
    unit: fc.constantFrom(...'aabbccd', ' ', ' ', '\n', '1', '.', 'é', '🙂', '▁', '<x>', '<yy>', "'s"),
    maxLength: 60,
  });
  const tokens = [
    added('<x>', 50),
    added('<yy>', 51, { lstrip: true, rstrip: true }),
    added('<x>a', 52),
    added('bb', 53, { special: false }),
  ];
  const split = (Regex: string, more: Json = {}): Json => ({
    type: 'Split',
    pattern: { Regex },
    behavior: 'Isolated',
    ...more,
  });
  const cases: [string, Json, object?][] = [
    ['nothing beside the model', bpe()],
    ['bytes', byteTokenizer() as Json],
    ['added tokens', bpe({ unk_token: 'a' }, { added_tokens: tokens })],
    [
      'a normalizer',
      bpe(
        {},
        {
          added_tokens: tokens,
          normalizer: {
            type: 'Sequence',
            normalizers: [
              { type: 'Prepend', prepend: '▁' },
              { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
            ],
          },
        },
      ),
    ],
    [
      'digits and bytes',
      {
        ...(byteTokenizer() as Json),
        pre_tokenizer: {
          type: 'Sequence',
          pretokenizers: [
            { type: 'Digits', individual_digits: true },
            { type: 'ByteLevel', add_prefix_space: true, use_regex: true },
          ],
        },
      },
    ],
    [
      'bytes without an expression',
      {
        ...(byteTokenizer() as Json),
        pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      },
    ],
    [
      'metaspace',
      bpe(
        { fuse_unk: true, unk_token: 'a' },
        { pre_tokenizer: { type: 'Metaspace', prepend_scheme: 'first' } },
      ),
    ],
    ['punctuation', bpe({}, { pre_tokenizer: { type: 'Punctuation' } })],
    ['white space', bpe({}, { pre_tokenizer: { type: 'Whitespace' } })],
    ['a piece of two characters each', bpe({}, { pre_tokenizer: { type: 'FixedLength', length: 2 } })],
    ['what is removed', bpe({}, { pre_tokenizer: split(' ', { behavior: 'Removed' }) })],
    ['what is matched', bpe({}, { pre_tokenizer: split('[ab]+', { invert: true }) })],
    [
      'what is matched, where the rest is removed',
      bpe({}, { pre_tokenizer: split('[ab]+', { invert: true, behavior: 'Removed' }) }),
    ],
    ['an end of word', bpe({ end_of_word_suffix: '</w>', unk_token: 'd' })],
    ['suffixes', bpe({ continuing_subword_suffix: '@@', unk_token: 'd' })],
    ['whole words first', bpe({ ignore_merges: true }, { pre_tokenizer: { type: 'WhitespaceSplit' } })],
    [
      'byte fallback',
      bpe({
        byte_fallback: true,
        unk_token: 'd',
        vocab: { ...(bpe()['model'] as { vocab: object }).vocab, '<0xC3>': 70, '<0xA9>': 71 },
      }),
    ],
    [
      'one space between words',
      bpe({ unk_token: 'a' }),
      { remove_space: true, do_lowercase_and_remove_accent: true },
    ],
    ...[...publishedPatterns].map((pattern, i): [string, Json] => [
      `published pattern ${i}`,
      {
        ...(byteTokenizer() as Json),
        pre_tokenizer: {
          type: 'Sequence',
          pretokenizers: [split(pattern), { type: 'ByteLevel', use_regex: false }],
        },
      },
    ]),
  ];
  test.each(cases)('%s', (...[, json, config]) => {
    const library = new HuggingFaceTokenizer(checkTokenizerJson(json, 'x').json, config ?? {});
    installParts(library);
    const check = (one: string): void => {
      const [expected, made] = both(library, one);
      expectSame(made, expected);
    };
    fc.assert(fc.property(text, check), { numRuns: 60 });
    // Long words are merged in steps of their own.
    const long = 'abcdcdabbaacd'.repeat(100);
    fc.assert(
      fc.property(text, (sample) => check(sample + long + sample)),
      { numRuns: 20 },
    );
    check("a 1.b's\n".repeat(300)); // more words than are looked for in one step
  });
});

describe('an expression that is none of the published ones', () => {
  const load = async (part: Json): Promise<Tokenizer> => {
    const folder = mkdtempSync(join(dir, 'x-'));
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ ...(byteTokenizer() as Json), ...part }));
    return (await Tokenizer.fromDirectory(folder))!;
  };
  const slow = '(?:[a-z._0-9]+)+!';
  const text = 'a'.repeat(1000);

  test('takes linear time, wherever it stands', async () => {
    const begin = cpuMilliseconds();
    const byteLevel = { type: 'ByteLevel', use_regex: false };
    const split = { type: 'Split', pattern: { Regex: slow }, behavior: 'Isolated', invert: false };
    const replace = { type: 'Replace', pattern: { Regex: slow }, content: '!' };
    for (const part of [
      { pre_tokenizer: { type: 'Sequence', pretokenizers: [split, byteLevel] } },
      { pre_tokenizer: { type: 'Sequence', pretokenizers: [replace, byteLevel] } },
      { normalizer: { type: 'Sequence', normalizers: [replace] } },
    ]) {
      const tokenizer = await load(part);
      expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual([...Buffer.from(text)]);
      expect(tokenizer.encode(text.repeat(3), { addSpecialTokens: false })).toHaveLength(3000);
      expect(tokenizer.encode('ab!c', { addSpecialTokens: false })).toEqual([
        ...Buffer.from(part.pre_tokenizer?.pretokenizers[0] === split ? 'ab!c' : '!c'),
      ]);
    }
    const decoder = { type: 'Sequence', decoders: [{ type: 'ByteLevel' }, replace] };
    expect((await load({ decoder })).decode([...Buffer.from(text)])).toBe(text);
    expect(cpuMilliseconds() - begin).toBeLessThan(endlessMilliseconds);
  });

  test.each([
    ['(a)\\1', '\\1 is not supported'],
    ['a(?=b)', '(?=b… is not supported'],
    ['(?<!a)b', '(?<!… is not supported'],
    ['(?>a)', '(?>a… is not supported'],
    ['a++', 'invalid nested repetition operator: `++`'],
    ['\\bword\\b', '\\b is not supported'],
    ['[a&&[b]]', 'a class within a class is not supported'],
    ['x'.repeat(9000), 'it has 9000 characters, and at most 8192 are read'],
  ])('and is refused by name where it cannot: %s', async (Regex, reason) => {
    await expect(
      load({ pre_tokenizer: { type: 'Split', pattern: { Regex }, behavior: 'Isolated' } }),
    ).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      op: 'tokenizer',
      message: expect.stringContaining(
        `of Split is none of the published patterns, and not an expression that runs in linear time (${reason})`,
      ) as string,
    });
  });

  test('a dollar sign in a replacement is one', async () => {
    const normalizer = { type: 'Replace', pattern: { String: 'x' }, content: "$&$`$'$1" };
    const tokenizer = await load({ normalizer });
    expect(tokenizer.decode(tokenizer.encode('axb', { addSpecialTokens: false }))).toBe("a$&$`$'$1b");
  });

  test('a replacement without content takes away', async () => {
    const tokenizer = await load({ normalizer: { type: 'Replace', pattern: { String: 'x' } } });
    expect(tokenizer.decode(tokenizer.encode('axb', { addSpecialTokens: false }))).toBe('ab');
  });
});

describe('the event loop turns', () => {
  test('while a word of half a million characters is encoded, and stops when it is told to', async () => {
    const folder = mkdtempSync(join(dir, 'x-'));
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(bpe()));
    const tokenizer = (await Tokenizer.fromDirectory(folder))!;
    const text = 'abcda'.repeat(100_000);
    const { gap, result } = await longestGap(() => tokenizer.encodeAsync(text));
    expect(tokenizer.decode(result).replaceAll(' ', '')).toBe(text);
    console.info(`longest gap in a word of half a million characters: ${gap.toFixed(0)} ms`);
    expect(gap).toBeLessThan(1000);
    const controller = new AbortController();
    const running = tokenizer.encodeAsync(text, { signal: controller.signal });
    controller.abort(new Error('enough'));
    await expect(running).rejects.toThrow('enough');
  });

  test('a word that is longer than a limit is refused, and told by its row', async () => {
    const folder = mkdtempSync(join(dir, 'x-'));
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
    const limits = { ...defaultLimits, wordCharacters: 3000 };
    const tokenizer = (await Tokenizer.fromDirectory(folder, { limits }))!;
    const path = join(folder, 'data.jsonl');
    const most = 'a'.repeat(3000);
    for (const [text, count] of [
      [`${most}é b`, 3001],
      [` .${'字'.repeat(1500)}${'b'.repeat(1501)} .`, 3001],
      [`b${' '.repeat(3001)}b`, 3001],
      [`b${'-'.repeat(4000)}`, 4000],
      [`b ${'7'.repeat(70_000)} b`, 70_000],
    ] as const) {
      writeFileSync(path, `{"text":"a"}\n${JSON.stringify({ text })}`);
      await expectReject(
        loadDataset(path, { tokenizer }),
        'ERR_DATA',
        `[loadDataset] ${path}:2: a text has ${count} characters without a place to split it: the limit is 3000, which limits.wordCharacters raises`,
      );
    }
    writeFileSync(path, JSON.stringify({ text: `${most} ${most}.${most}7\n字-${most}` }));
    expect((await loadDataset(path, { tokenizer, maxLength: 20_000 })).tokens).toBe(12_008);
    // An expression that no published tokenizer has is searched in linear time, and in one piece too.
    const split = { type: 'Split', pattern: { Regex: '[A-Za-z]+|.' }, behavior: 'Isolated', invert: false };
    const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
    const own = { ...byteTokenizer(), pre_tokenizer: { type: 'Sequence', pretokenizers: [split, bytes] } };
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(own));
    const searched = (await Tokenizer.fromDirectory(folder, { limits }))!;
    await expectReject(searched.encodeAsync('a'.repeat(3001)), 'ERR_DATA', /limits\.wordCharacters raises/);
    // Without an expression a text is one word.
    const whole = { ...byteTokenizer(), pre_tokenizer: { type: 'ByteLevel', use_regex: false } };
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(whole));
    const other = (await Tokenizer.fromDirectory(folder, { limits }))!;
    expect(other.encode('a'.repeat(4000), { addSpecialTokens: false })).toHaveLength(4000);
  });

  test('while many short lines are encoded', async () => {
    const folder = mkdtempSync(join(dir, 'x-'));
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
    const tokenizer = (await Tokenizer.fromDirectory(folder))!;
    const path = join(folder, 'data.jsonl');
    writeFileSync(path, `${JSON.stringify({ text: 'some words in a line' })}\n`.repeat(30_000));
    const { gap, result } = await longestGap(() => loadDataset(path, { tokenizer }));
    expect(result.length).toBe(30_000);
    console.info(`longest gap in 30,000 lines: ${gap.toFixed(0)} ms`);
    expect(gap).toBeLessThan(1000);
  });

  describeWithData('and the ids of a megabyte are those of the library', 'models', (models) => {
    test.each(['stories260K', 'smollm2-135m'])(
      '%s',
      async (name) => {
        const folder = join(models, name);
        const path = join(sharedData, 'text/tinyshakespeare.txt');
        const text = readFileSync(path, 'utf8').slice(0, 200_000);
        const read = (file: string): object => JSON.parse(readFileSync(join(folder, file), 'utf8')) as object;
        const { json } = checkTokenizerJson(read('tokenizer.json'), 'x');
        const expected = new HuggingFaceTokenizer(json, read('tokenizer_config.json')).encode(text).ids;
        const tokenizer = (await Tokenizer.fromDirectory(folder))!;
        expectSame(tokenizer.encode(text), expected);
        const { gap, result } = await longestGap(() => tokenizer.encodeAsync(text));
        expectSame(result, expected);
        const begin = cpuMilliseconds();
        const whole = await longestGap(() => loadDataset(path, { tokenizer }));
        console.info(
          `${name}: longest gap ${gap.toFixed(0)} ms; tinyshakespeare as a data set ${whole.gap.toFixed(0)} ms of ${(cpuMilliseconds() - begin).toFixed(0)} ms`,
        );
        expect(gap).toBeLessThan(1000); // about 20 on a machine that does nothing else
        expect(whole.gap).toBeLessThan(1000);
      },
      300_000,
    ); // some seconds, but of a machine that may do other work
  });
});
