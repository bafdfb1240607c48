/** Every command on a GGUF file in the place of a model directory: what it does, or why it does not. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { convertModel } from '../../lib';
import { Interrupted } from '../../lib/cli/command';
import { commands } from '../../lib/cli/commands';
import { commandLine } from '../support/command_line';
import { ggufParts, writeGguf } from '../support/gguf_bytes';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

jest.setTimeout(240_000); // a machine may be busy

const root = temporaryFolder();
const at = (name: string): string => join(root, name);
const model = at('tiny.gguf');
const plain = at('plain.gguf');
const adapter = at('run');
const foreign = at('adapter.gguf');
const data = at('data.jsonl');

beforeAll(async () => {
  const config = { hidden_size: 32, head_dim: 8, intermediate_size: 64, num_hidden_layers: 2 };
  await convertModel(await tinyModel({ config }), model, { format: 'q4_0' });
  const parts = await ggufParts(model);
  await writeGguf(plain, parts, { 'tokenizer.chat_template': undefined });
  writeFileSync(
    data,
    '{"prompt": "Who?", "completion": "Mia."}\n{"prompt": "Where?", "completion": "Park."}\n',
  );
});

interface Case {
  /** The test before it writes what this one reads. */
  readonly argv: readonly string[];
  readonly says: string | RegExp;
  /** Default: 0. */
  readonly status?: number;
  readonly stdin?: string;
  readonly writes?: string;
}

const few = ['--max-new-tokens', '2'];
const training = ['--model', model, '--data', data, '--max-steps', '1', '--batch-size', '2', '--lr', '0.01'];
const comparing = [
  ...['--data', data, '--eval-data', data, '--methods', 'lora', '--ranks', '2', '--seeds', '1', ...few],
  ...['--budget-steps', '1', '--learning-rates', '0.01', '--out-dir', at('compared')],
];
const sweeping = [
  ...['--data', data, '--eval-data', data, '--ranks', '2', '--seeds', '1', '--budget-steps', '1'],
  ...['--learning-rates', 'auto', '--out-dir', at('swept')],
];

const lines = at('lines.txt');
writeFileSync(lines, 'Hi\nYes\n');

const done: readonly Case[] = [
  { argv: ['inspect', model], says: /^gguf .*blk\.1\.attn_q\.weight +Q4_0 +\[32, 32\]/s },
  { argv: ['inspect', data, '--model', model], says: '2 examples' },
  { argv: ['estimate', '--model', model], says: /^weights/m },
  { argv: ['generate', '--model', model, '--prompt', 'Hi', ...few], says: 'llama, bf16 on cpu' },
  { argv: ['chat', '--model', model, ...few], stdin: 'Hi\n', says: 'llama, bf16 on cpu' },
  { argv: ['eval', '--model', model, '--data', data, ...few], says: 'perplexity' },
  {
    argv: ['embed', lines, '--model', model, '--out', at('vectors.safetensors')],
    says: 'vectors.safetensors',
    writes: at('vectors.safetensors'),
  },
  {
    argv: ['train', ...training, '--out-dir', adapter],
    says: 'adapter',
    writes: join(adapter, 'adapter_config.json'),
  },
  { argv: ['eval', '--model', model, '--adapter', adapter, '--data', data, '--no-generate'], says: 'run' },
  { argv: ['generate', '--model', model, '--adapter', adapter, '--prompt', 'Hi', ...few], says: 'llama' },
  {
    argv: ['merge', '--model', model, '--adapter', adapter, '--out-dir', at('merged')],
    says: 'wrote',
    writes: at('merged/tokenizer.json'),
  },
  {
    argv: ['merge', '--model', model, '--adapter', adapter, '--out-dir', at('few'), '--quantize', 'nf4'],
    says: 'in nf4',
  },
  { argv: ['compare', '--model', model, ...comparing], says: 'lora', writes: at('compared/comparison.html') },
  { argv: ['sweep', '--model', model, ...sweeping], says: 'lora', writes: at('swept/comparison.html') },
  {
    argv: ['convert', adapter, foreign, '--format', 'gguf', '--base', model],
    says: 'wrote',
    writes: foreign,
  },
];

const refused: readonly Case[] = [
  {
    argv: ['train', ...training, '--out-dir', at('full'), '--method', 'full'],
    status: 2,
    says: "expected no quantized weights with train: 'all'",
  },
  {
    argv: ['train', ...training, '--out-dir', at('nf4'), '--quantize', 'nf4'],
    status: 2,
    says: 'is quantized already',
  },
  {
    argv: ['generate', '--model', model, '--prompt', 'Hi', '--quantize', 'nf4'],
    status: 2,
    says: 'is quantized already',
  },
  {
    argv: ['quantize', model, at('few-bits'), '--format', 'nf4'],
    status: 2,
    says: `${model} is quantized already`,
  },
  {
    argv: ['convert', model, at('again.gguf'), '--format', 'q8_0'],
    status: 2,
    says: `${model} is quantized`,
  },
  { argv: ['chat', '--model', plain], status: 1, says: 'tokenizer.chat_template of a GGUF file' },
  { argv: ['generate', '--model', foreign, '--prompt', 'Hi'], status: 1, says: 'general.type = "adapter"' },
  {
    argv: ['generate', '--model', model, '--adapter', foreign, '--prompt', 'Hi'],
    status: 1,
    says: `lora-native convert ${foreign} DIR --format peft`,
  },
  {
    argv: ['serve', '--model', model, '--adapter', `x=${foreign}`],
    status: 2,
    says: `${foreign} has no adapter_config.json`,
  },
];

const titled = (cases: readonly Case[]): [string, Case][] =>
  cases.map((one) => [one.argv.join(' ').replaceAll(`${root}/`, ''), one]);

test.each(titled([...done, ...refused]))('%s', async (_, { argv, says, status = 0, stdin, writes }) => {
  const outcome = await commandLine([...argv], { stdin });
  expect([outcome.status, outcome.err]).toEqual([status, expect.anything()]);
  expect(outcome.out + outcome.err).toEqual(
    typeof says === 'string' ? expect.stringContaining(says) : expect.stringMatching(says),
  );
  if (writes !== undefined) expect(existsSync(writes)).toBe(true);
});

test('serve', async () => {
  const interruption = new AbortController();
  let answered: Promise<unknown> | undefined;
  const ask = async (url: string): Promise<unknown> => {
    const messages = [{ role: 'user', content: 'Hi' }];
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'mine', messages, max_tokens: 2 }),
    });
    return response.json();
  };
  const seen = (text: string): void => {
    const [, url] = /(http:\/\/[\d.]+:\d+)/.exec(text) ?? [];
    if (url === undefined || answered) return;
    answered = ask(url).finally(() => interruption.abort(new Interrupted('SIGTERM')));
  };
  const { status, err } = await commandLine(
    ['serve', '--model', model, '--port', '0', '--adapter', `mine=${adapter}`],
    { signal: interruption.signal, onError: seen, onOutput: seen },
  );
  expect([status, err]).toEqual([0, expect.anything()]);
  expect(await answered).toMatchObject({ model: 'mine', usage: { completion_tokens: 2 } });
});

test('no command that takes a model is left out', () => {
  const tried = new Set([...done, ...refused].map(({ argv }) => argv[0]));
  const taking = Object.entries(commands).filter(([, { flags }]) => 'model' in flags || 'base' in flags);
  expect(taking.map(([name]) => name).filter((name) => !tried.has(name))).toEqual([]);
});
