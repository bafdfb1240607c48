/** Tokenizers of GGUF files: what is written is read as it was, and what llama.cpp's own writer has is read as tokenizer.json. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ggufTokenizer } from '../../lib/convert/gguf_tokenizer';
import type { GgufValue } from '../../lib/formats/gguf_header';
import { GgufValues } from '../../lib/formats/gguf_values';
import type { GgufField } from '../../lib/formats/gguf_write';
import { atOnce } from '../../lib/tensor/pace';
import { preTokenizers } from '../../lib/text/gguf_kinds';
import { ggufTokenizerJson } from '../../lib/text/gguf_tokenizer';
import { Tokenizer } from '../../lib/text/tokenizer';
import { ggufBytes } from '../support/gguf_bytes';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;

type Json = Record<string, unknown>;
type Fields = Readonly<Record<string, GgufField>>;

/** A tokenizer of the values of a file that has no tensors. */
async function ofValues(fields: Fields): Promise<Tokenizer> {
  const path = join(root, `${count++}.gguf`);
  writeFileSync(path, await ggufBytes(new Map(Object.entries(fields)), new Map()));
  return (await Tokenizer.fromDirectory(path))!;
}

async function ofJson(json: unknown): Promise<Tokenizer> {
  const folder = join(root, `${count++}`);
  mkdirSync(folder);
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
  return (await Tokenizer.fromDirectory(folder))!;
}

const fieldsOf = (json: Json, size: number): Fields => Object.fromEntries(ggufTokenizer(json, size));
const readJson = (path: string): Json => JSON.parse(readFileSync(join(sharedData, path), 'utf8')) as Json;

/** A thousand texts and more: of the plays, and what tokenizers differ in. */
const sampleTexts = (): string[] => [
  '',
  ' ',
  '  two  spaces,\nlines\t and 12345 digits 3.14\r\n\r\n  x',
  'Ünï¢ödé — 🙂 日本語 é Å',
  "don't SHOUT! WE'LL (a+b)*c = d^2; x_1 != y-2",
  ...readFileSync(join(sharedData, 'text/tinyshakespeare.txt'), 'utf8')
    .split('\n')
    .slice(0, 1600)
    .filter(Boolean),
];

function expectSame(ours: Tokenizer, theirs: Tokenizer, texts: readonly string[]): void {
  const other = texts.filter((text) => {
    const ids = theirs.encode(text);
    return ours.encode(text).join() !== ids.join() || ours.decode(ids) !== theirs.decode(ids);
  });
  expect(other).toEqual([]);
}

const split = (Regex: string): object => ({
  type: 'Split',
  pattern: { Regex },
  behavior: 'Isolated',
  invert: false,
});
const regex = (digits: string): string =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
/** Qwen3.5's, whose words have combining marks in them. */
const marked = regex('\\p{N}')
  .replace('?\\p{L}+', '?[\\p{L}\\p{M}]+')
  .replace('[^\\s\\p{L}\\p{N}]+', '[^\\s\\p{L}\\p{M}\\p{N}]+');
const level = (use_regex: boolean): object => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex,
});
const sequence = (...pretokenizers: object[]): object => ({ type: 'Sequence', pretokenizers });

const kinds: readonly [name: string, changes: Json][] = [
  ['llama-bpe', { pre_tokenizer: sequence(split(regex('\\p{N}{1,3}')), level(false)) }],
  ['qwen2', { normalizer: { type: 'NFC' }, pre_tokenizer: sequence(split(regex('\\p{N}')), level(false)) }],
  ['smollm', {}],
  ['gpt-2', { pre_tokenizer: level(true) }],
  ['smaug-bpe', { pre_tokenizer: sequence(split(regex('\\p{N}{1,3}')), level(false)) }],
  ...preTokenizers
    .filter(({ name }) => name === 'gpt-4o' || name === 'tekken')
    .map(({ name, parts }): [string, Json] => [name, { pre_tokenizer: sequence(...parts) }]),
  ['qwen35', { normalizer: { type: 'NFC' }, pre_tokenizer: sequence(split(marked), level(false)) }],
];

describeWithData('a tokenizer that was written', 'models/smollm2-135m/tokenizer.json', () => {
  test.each(kinds)('reads texts as before: %s', async (name, changes) => {
    const smol = readJson('models/smollm2-135m/tokenizer.json');
    const model = { ...(smol['model'] as Json), ignore_merges: ['llama-bpe', 'tekken'].includes(name) };
    const json = { ...smol, model, ...changes };
    const fields = fieldsOf(json, 49152);
    expect(fields['tokenizer.ggml.pre']).toEqual({ text: name });
    const ours = await ofValues({ ...fields, 'tokenizer.ggml.add_bos_token': { flag: false } });
    expectSame(ours, await ofJson(json), [...sampleTexts().slice(0, 300), 'a<|im_end|>b <|im_start|>user']);
  });
});

describeWithData('a tokenizer of SentencePiece', 'models/stories260K/tokenizer.json', () => {
  test('reads a thousand texts as before, of scores alone', async () => {
    const json = readJson('models/stories260K/tokenizer.json');
    const ours = await ofValues(fieldsOf(json, 512));
    const texts = sampleTexts();
    expect(texts.length).toBeGreaterThan(1000);
    expectSame(ours, await ofJson(json), [...texts, 'a <s> b</s>c']);
    // Where a file does not say so, texts begin with BOS and a space.
    expect(ours.encode('')).toEqual([1]);
    expect(ours.encode('a')).toEqual(ours.encode('a', { addSpecialTokens: true }));
  });

  test('without the space before texts', async () => {
    const json = readJson('models/stories260K/tokenizer.json');
    const replace = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
    const decoders = [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
    ];
    const plain = { ...json, normalizer: replace, decoder: { type: 'Sequence', decoders } };
    const ours = await ofValues(fieldsOf(plain, 512));
    expectSame(ours, await ofJson(plain), sampleTexts().slice(0, 100));
  });

  test('with listed merges in the place of scores, as files of Gemma 4 have them', async () => {
    const json = readJson('models/stories260K/tokenizer.json');
    const normalizer = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
    const plain = { ...json, normalizer, decoder: null };
    const { merges } = json['model'] as { merges: (string | string[])[] };
    const {
      'tokenizer.ggml.scores': _scores,
      'tokenizer.ggml.add_space_prefix': _,
      ...fields
    } = fieldsOf(plain, 512);
    const texts = merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' ')));
    const gemma4 = { ...fields, 'tokenizer.ggml.model': { text: 'gemma4' } };
    const ours = await ofValues({ ...gemma4, 'tokenizer.ggml.merges': { texts } });
    const theirs = await ofJson(plain);
    for (const text of sampleTexts().slice(0, 100)) {
      const ids = theirs.encode(text, { addSpecialTokens: false });
      expect(ours.encode(text, { addSpecialTokens: false })).toEqual(ids);
      expect(ours.decode(ids)).toBe(text);
    }
    await expect(ofValues(gemma4)).rejects.toThrow('has no tokenizer.ggml.merges');
  });
});

describeWithData('SmolLM2’s own GGUF file', 'models/smollm2-135m', (dir) => {
  test('reads a thousand texts as its tokenizer.json does', async () => {
    const ours = (await Tokenizer.fromDirectory(join(dir, 'SmolLM2-135M-Instruct.Q4_1.gguf')))!;
    const json = await ofJson(readJson('models/smollm2-135m/tokenizer.json'));
    expectSame(ours, json, [...sampleTexts(), 'a<|im_end|>b <|im_start|>user']);
    expect(ours.specialTokens).toMatchObject({ bos_token: '<|im_start|>', eos_token: '<|im_end|>' });
    const messages = [{ role: 'user', content: 'Hi' }] as const;
    const own = JSON.parse(readFileSync(join(dir, 'tokenizer_config.json'), 'utf8')) as {
      chat_template: string;
    };
    expect(ours.applyChatTemplate(messages, { tokenize: false, addGenerationPrompt: true })).toBe(
      (await withTemplate(own.chat_template)).applyChatTemplate(messages, {
        tokenize: false,
        addGenerationPrompt: true,
      }),
    );
  });

  /** A tokenizer of a directory with that template. */
  async function withTemplate(chat_template: string): Promise<Tokenizer> {
    const folder = join(root, `${count++}`);
    mkdirSync(folder);
    writeFileSync(
      join(folder, 'tokenizer.json'),
      JSON.stringify(readJson('models/smollm2-135m/tokenizer.json')),
    );
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ chat_template }));
    return (await Tokenizer.fromDirectory(folder))!;
  }
});

test.each<[string | null | undefined, flag: boolean]>([
  ['first', true],
  ['always', true],
  ['never', false],
  ['other', false], // as encode() takes it
  [undefined, true], // which stands for always
  [null, true],
])('a Metaspace with prepend_scheme %s', (prepend_scheme, flag) => {
  const pre_tokenizer = { type: 'Metaspace', replacement: '▁', split: false, prepend_scheme };
  const model = { type: 'BPE', byte_fallback: true, vocab: { '▁': 0 }, merges: [] };
  expect(fieldsOf({ model, pre_tokenizer }, 1)['tokenizer.ggml.add_space_prefix']).toEqual({ flag });
});

test('the unknown token is told from control tokens, and the first merge that makes a token gives its score', () => {
  const special = (content: string, id: number): object => ({ id, content, special: true });
  const fields = fieldsOf(
    {
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', split: false, prepend_scheme: 'never' },
      added_tokens: [special('<unk>', 0), special('<s>', 1)],
      model: {
        ...{ type: 'BPE', byte_fallback: true, unk_token: '<unk>' },
        vocab: { '<unk>': 0, '<s>': 1, a: 2, b: 3, ab: 4, ba: 5, aba: 6 },
        merges: ['a b', 'a ba', 'b a', 'ab a'],
      },
    },
    7,
  );
  expect(fields['tokenizer.ggml.token_type']).toEqual({ i32s: [2, 3, 1, 1, 1, 1, 1] });
  const { f32s } = fields['tokenizer.ggml.scores'] as { f32s: number[] };
  expect(f32s.slice(4)).toEqual([-1, -3, -2]);
});

describe('values', () => {
  /** Of the tokenizer of the tiny model: 256 bytes and four special tokens. */
  const fields = (changes: Record<string, GgufField | undefined> = {}): Fields => {
    const all = {
      ...fieldsOf(byteTokenizer() as Json, 262),
      'tokenizer.ggml.bos_token_id': { u32: 256 },
      ...changes,
    };
    return Object.fromEntries(Object.entries(all).filter(([, field]) => field !== undefined));
  };
  const said = (changes: Record<string, GgufField | undefined>): Promise<string> =>
    ofValues(fields(changes)).then(
      () => 'read',
      (error: { code?: string; message: string }) => `${error.code} ${error.message}`,
    );
  const key = (name: string): string => `tokenizer.ggml.${name}`;

  test('say what is put around a text', async () => {
    expect((await ofValues(fields())).encode('a')).toEqual([97]);
    const both = await ofValues(
      fields({
        [key('add_bos_token')]: { flag: true },
        [key('add_eos_token')]: { flag: true },
        [key('eos_token_id')]: { u32: 257 },
      }),
    );
    expect(both.encode('a')).toEqual([256, 97, 257]);
    expect(both.decode([260, 261, 97])).toBe('a'); // ids that no token has
    // Texts of Llama 3 and Ministral begin with BOS where a file does not say.
    const llama = await ofValues(fields({ [key('pre')]: { text: 'llama-v3' } }));
    expect(llama.encode('a')).toEqual([256, 97]);
    const ministral = await ofValues(fields({ [key('pre')]: { text: 'tekken' } }));
    expect(ministral.encode('a')).toEqual([256, 97]);
    const phi4 = await ofValues(fields({ [key('pre')]: { text: 'gpt-4o' } }));
    expect(phi4.encode('a')).toEqual([97]);
  });

  test('an id of 2^32 - 1 is none', async () => {
    const none = { u32: 2 ** 32 - 1 };
    const tokenizer = await ofValues(
      fields({ [key('bos_token_id')]: none, [key('padding_token_id')]: none }),
    );
    expect(tokenizer.specialTokens).toEqual({});
    expect(tokenizer.encode('a')).toEqual([97]);
  });

  test('special tokens of Phi-3 take away the white space behind them, but for three', async () => {
    const texts = ['<unk>', '<s>', '</s>', '<|user|>', '<|endoftext|>', '▁', 'a', '▁a'];
    const file = (architecture: string): Promise<Tokenizer> =>
      ofValues({
        'general.architecture': { text: architecture },
        [key('model')]: { text: 'llama' },
        [key('tokens')]: { texts },
        [key('scores')]: { f32s: texts.map((_, i) => -i) },
        [key('token_type')]: { i32s: [2, 3, 3, 3, 3, 1, 1, 1] },
        [key('add_bos_token')]: { flag: false },
        [key('add_space_prefix')]: { flag: false },
      });
    const text = '<|user|>  a</s> a<s> a<|endoftext|> a<unk> a';
    expect((await file('phi3')).encode(text)).toEqual([3, 6, 2, 6, 1, 7, 4, 7, 0, 7]);
    expect((await file('llama')).encode(text)).toEqual([3, 5, 7, 2, 7, 1, 7, 4, 7, 0, 7]);
  });

  test('pieces of equal scores are joined in the order of their ids', async () => {
    const pieces = (texts: readonly string[]): Promise<Tokenizer> =>
      ofValues({
        [key('model')]: { text: 'llama' },
        [key('tokens')]: { texts: ['<unk>', '<s>', '</s>', 'a', 'b', 'c', ...texts] },
        [key('scores')]: { f32s: [0, 0, 0, -9, -9, -9, -1, -1] },
        [key('add_bos_token')]: { flag: false },
        [key('add_space_prefix')]: { flag: false },
      });
    // The pair of the lower id goes first, wherever it stands and whichever letters it has.
    expect((await pieces(['ab', 'bc'])).encode('abc')).toEqual([6, 5]);
    expect((await pieces(['bc', 'ab'])).encode('abc')).toEqual([3, 6]);
  });

  const piecesOf = (texts: readonly string[]): GgufValues =>
    new GgufValues(
      'FILE',
      new Map<string, GgufValue>([
        [key('model'), 'llama'],
        [key('tokens'), texts],
        [key('scores'), new Float32Array(texts.length)],
        [key('token_type'), new Int32Array(texts.length).fill(1)],
      ]),
    );

  test('a piece is compared with few others, whatever the pieces are', () => {
    const texts = Array.from({ length: 3000 }, (_, i) => String(i).padStart(4, '0').padEnd(40, 'x'));
    const compared = jest.spyOn(String.prototype, 'startsWith');
    atOnce(ggufTokenizerJson(piecesOf(texts)));
    const count = compared.mock.calls.length;
    compared.mockRestore();
    expect(count).toBeLessThan(3 * texts.length);
  });

  test('pieces that begin with many other ones are refused before they are divided', () => {
    const chains = 130;
    const texts = Array.from({ length: chains * 256 }, (_, i) =>
      `${String.fromCharCode(0x4e00 + Math.floor(i / 256))}`.padEnd((i % 256) + 1, 'a'),
    );
    expect(() => atOnce(ggufTokenizerJson(piecesOf(texts)))).toThrow(
      'FILE has tokenizer.ggml.tokens that begin with other ones more than 4194304 times',
    );
  });

  test('pieces without those of bytes: what is none of them is the unknown token', async () => {
    const tokenizer = await ofValues({
      [key('model')]: { text: 'llama' },
      [key('tokens')]: { texts: ['<unk>', '<s>', '</s>', '▁', 'a'] },
      [key('scores')]: { f32s: [0, 0, 0, -1, -2] },
    });
    expect(tokenizer.encode('aéa')).toEqual([1, 3, 4, 0, 4]);
  });

  test('without types, special tokens are those that have a name', async () => {
    const tokenizer = await ofValues(fields({ [key('token_type')]: undefined }));
    expect(tokenizer.decode([256, 97], { skipSpecialTokens: true })).toBe('a');
  });

  test('templates have names', async () => {
    const tokenizer = await ofValues(
      fields({
        'tokenizer.chat_template': { text: 'one' },
        'tokenizer.chat_template.tool_use': { text: 'two of {{ tools | length }}' },
      }),
    );
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }], { tokenize: false })).toBe('one');
    // No tools are as none: neither the other template nor a refusal.
    expect(
      tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }], { tokenize: false, tools: [] }),
    ).toBe('one');
    const tools = [{ type: 'function', function: { name: 'f' } }];
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }], { tokenize: false, tools })).toBe(
      'two of 1',
    );
  });

  test.each<[string, Record<string, GgufField | undefined>, string]>([
    [
      'another model',
      { [key('model')]: { text: 't5' } },
      'ERR_UNSUPPORTED.*tokenizer.ggml.model = "t5"; supported are gpt2, llama and gemma4',
    ],
    [
      'another division',
      { [key('pre')]: { text: 'viking' } },
      'ERR_UNSUPPORTED.*tokenizer.ggml.pre = "viking"; supported are llama-bpe, smaug-bpe, qwen2',
    ],
    ['none', { [key('pre')]: undefined }, 'tokenizer.ggml.pre = nothing'],
    [
      'tokens of numbers',
      { [key('tokens')]: { i32s: [1, 2] } },
      'ERR_FILE.*tokenizer.ggml.tokens = .*expected a list of texts',
    ],
    [
      'two of one text',
      {
        [key('tokens')]: { texts: ['a', 'b', 'a'] },
        [key('token_type')]: undefined,
        [key('bos_token_id')]: undefined,
      },
      'two tokens "a", 0 and 2',
    ],
    ['fewer types', { [key('token_type')]: { i32s: [1] } }, '262 tokens and 1 types'],
    ['no merges', { [key('merges')]: undefined }, 'has no tokenizer.ggml.merges'],
    ['merges of one', { [key('merges')]: { texts: ['a b', 'ab'] } }, '"ab" at 1 of tokenizer.ggml.merges'],
    [
      'an id beyond',
      { [key('bos_token_id')]: { u32: 262 } },
      'tokenizer.ggml.bos_token_id = 262, and 262 tokens',
    ],
    [
      'an id of text',
      { [key('bos_token_id')]: { text: 'x' } },
      "tokenizer.ggml.bos_token_id = 'x': expected a count",
    ],
    [
      'BOS without a token',
      { [key('add_bos_token')]: { flag: true }, [key('bos_token_id')]: undefined },
      'add_bos_token = true and no token tokenizer.ggml.bos_token_id',
    ],
    ['no scores', { [key('model')]: { text: 'llama' } }, 'has no tokenizer.ggml.scores'],
    [
      'few scores',
      { [key('model')]: { text: 'llama' }, [key('scores')]: { f32s: [0] } },
      '262 tokens and 1 scores',
    ],
    [
      'a score that is none',
      { [key('model')]: { text: 'llama' }, [key('scores')]: { f32s: new Array<number>(262).fill(NaN) } },
      'the score NaN for token 0',
    ],
    [
      'a template of numbers',
      { 'tokenizer.chat_template': { u32: 1 } },
      'tokenizer.chat_template = 1: expected text',
    ],
  ])('that do not fit are named: %s', async (_, changes, sentence) => {
    expect(await said(changes)).toMatch(new RegExp(sentence));
  });

  test('a file without a tokenizer has none', async () => {
    const path = join(root, `${count++}.gguf`);
    writeFileSync(path, await ggufBytes(new Map([['general.architecture', { text: 'llama' }]]), new Map()));
    expect(await Tokenizer.fromDirectory(path)).toBeUndefined();
    expect(await ofValues(fields({ [key('model')]: { text: 'no_vocab' } }))).toBeUndefined();
  });
});
