/** lora-native embed: the vectors of a file, and which texts of it. */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, evaluateRetrieval, openSafetensors } from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import { commandLine, jsonLines, type Outcome } from '../support/command_line';
import { fillAdapter } from '../support/fill_adapter';
import { relativeError } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const dir = temporaryFolder();
const texts = ['Hello', 'a longer text', 'b'];
let base: string;
let model: CausalLM;
beforeAll(async () => {
  base = await tinyModel();
  model = await CausalLM.fromPretrained(base);
  fillAdapter(model.addAdapter({ r: 2 }, { name: 'made' }), 3, 0.4);
  await model.adapters.get('made')!.save(join(dir, 'made'));
});
afterAll(async () => {
  await model.dispose();
  rmSync(base, { recursive: true });
});

const out = join(dir, 'vectors.safetensors');
const embed = (file: string, ...flags: string[]): Promise<Outcome> =>
  commandLine(['embed', file, '--model', base, '--device', 'cpu', '--out', out, ...flags]);

async function written(): Promise<{ shape: number[]; floats: Float32Array }> {
  const file = await openSafetensors(out);
  const tensor = file.tensors.get('embeddings')!;
  const read = { shape: [...tensor.shape], floats: floatsOf(tensor) };
  file.close();
  return read;
}

function write(name: string, content: string): string {
  writeFileSync(join(dir, name), content);
  return join(dir, name);
}
const lines = (rows: readonly object[]): string => rows.map((row) => JSON.stringify(row)).join('\n');

test.each<[what: string, name: string, content: string, flags: string[]]>([
  ['rows of { text }', 'rows.jsonl', lines(texts.map((text) => ({ id: 1, text }))), []],
  ['another column', 'named.jsonl', lines(texts.map((body) => ({ body }))), ['--column', 'body']],
  ['a list', 'list.json', JSON.stringify(texts.map((text) => ({ text }))), []],
  ['a table', 'table.csv', `text,n\n${texts.map((text) => `"${text}",1`).join('\n')}\n`, []],
  ['lines, of which empty ones are none', 'plain.txt', texts.join('\n\n'), []],
])('%s', async (_, name, content, flags) => {
  const file = write(name, content);
  const { status, err } = await embed(file, ...flags);
  expect([status, err]).toEqual([0, expect.stringContaining(`wrote 3 vectors of 24 numbers to ${out}\n`)]);
  const { shape, floats } = await written();
  const wanted = (await model.embed(texts, { adapter: null })).flatMap((v) => [...v]);
  expect(shape).toEqual([3, 24]);
  expect(relativeError(floats, wanted)).toBeLessThan(1e-6);
});

test('an adapter, cut vectors of the mean behind words, as JSON', async () => {
  const file = write('rows.jsonl', lines(texts.map((text) => ({ text }))));
  const flags = ['--adapter', join(dir, 'made'), '--dimensions', '5', '--pool', 'mean', '--no-normalize'];
  const outcome = await embed(file, ...flags, '--instruction', 'as: ', '--json');
  expect(outcome.status).toBe(0);
  expect(jsonLines(outcome)).toEqual([{ file, out, texts: 3, dimensions: 5 }]);
  const how = {
    adapter: 'made',
    dimensions: 5,
    pool: 'mean',
    normalize: false,
    instruction: 'as: ',
  } as const;
  const wanted = (await model.embed(texts, how)).flatMap((v) => [...v]);
  expect(relativeError((await written()).floats, wanted)).toBeLessThan(1e-5);
});

test('eval --objective contrastive compares the base and an adapter by what they find', async () => {
  const data = [
    { anchor: 'aaa', positive: 'aA' },
    { anchor: 'bbb', positive: 'bB', negative: 'bC' },
  ];
  const file = write('pairs.jsonl', lines(data));
  const evaluate = (...flags: string[]): Promise<Outcome> =>
    commandLine(['eval', '--model', base, '--device', 'cpu', '--data', file, ...flags]);
  const flags = ['--objective', 'contrastive', '--adapter', `made=${join(dir, 'made')}`];
  const shown = await evaluate(...flags);
  expect(shown.status).toBe(0);
  expect(shown.out).toMatch(/^ +loss +ndcg@10 +recall@1 +recall@10 +mrr@10\nbase .*\nmade .*\n$/);
  const printed = await evaluate(...flags, '--json');
  const results: object[] = [];
  for (const adapter of [null, 'made']) {
    const { loss, metrics } = await evaluateRetrieval(model, data, { adapter, batchSize: 4 });
    results.push({ adapter, loss: expect.closeTo(loss!, 4), metrics });
  }
  expect(jsonLines(printed)).toEqual([{ model: base, data: file, kind: 'contrastive', rows: 2, results }]);
  const one = await evaluate('--objective', 'contrastive', '--limit', '1', '--json');
  expect(jsonLines(one)).toMatchObject([{ rows: 1 }]);
});

test.each<[what: string, name: string, content: string, message: string]>([
  [
    'a row without the column',
    'odd.jsonl',
    '{"text":"a"}\n{"body":"b"}',
    'odd.jsonl:2: expected the text "text" but received the keys body',
  ],
  ['a number', 'number.jsonl', '{"text":1}', 'number.jsonl:1: expected the text "text"'],
  ['an empty file', 'empty.txt', '\n', 'empty.txt: expected a text but it holds none'],
])('%s is refused', async (_, name, content, message) => {
  rmSync(out, { force: true });
  const { status, err } = await embed(write(name, content));
  expect([status, err]).toEqual([1, expect.stringContaining(message)]);
  expect(existsSync(out)).toBe(false);
});
