/** Heads of classes on the command line and over HTTP. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, loadDataset, readAdapter, setThreads } from '../../lib/index';
import { commandLine } from '../support/command_line';
import { fillAdapter } from '../support/fill_adapter';
import { servers } from '../support/serving';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const serve = servers();
const folder = temporaryFolder();
let base: string;
beforeAll(async () => {
  setThreads(1); // tiny matrices
  base = await tinyModel();
});
afterAll(() => rmSync(base, { recursive: true }));

function write(name: string, rows: readonly object[]): string {
  const path = join(folder, name);
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return path;
}
const labels = ['question', 'refund'];
const rows = Array.from({ length: 12 }, (_, i) => ({
  text: `${'abcdef'[i % 6]}${i % 2 ? 'r' : 'q'}`,
  label: i % 2 ? 'refund' : 'question',
}));
const lora = (...argv: string[]) => commandLine(argv);
const device = ['--device', 'cpu'];
const train = (out: string, data: string, ...more: string[]) =>
  lora(
    'train',
    '--model',
    base,
    ...device,
    '--data',
    data,
    '--out-dir',
    join(folder, out),
    '--no-report',
    ...more,
  );
const short = ['--max-steps', '2', '--batch-size', '4'];

test('train takes the labels of the data, eval and merge those of the adapter', async () => {
  const data = write('data.jsonl', rows);
  const more = [
    '--objective',
    'classify',
    '--eval-data',
    data,
    '--max-steps',
    '80',
    '--lr',
    '1e-2',
    '--batch-size',
    '6',
  ];
  const trained = await train('run', data, ...more);
  expect(trained).toMatchObject({ status: 0 });
  expect(trained.err).toMatch(/step 80 {2}evaluation loss 0\.\d+, accuracy 1\.0000/);
  const adapter = join(folder, 'run');
  const { config, head } = await readAdapter(adapter);
  expect(config).toMatchObject({ task_type: 'SEQ_CLS', modules_to_save: ['classifier', 'score'] });
  expect(head).toEqual({ type: 'classify', labels, problemType: 'single_label_classification' });
  const card = readFileSync(join(adapter, 'README.md'), 'utf8');
  expect(card).toContain('pipeline_tag: text-classification');
  expect(card).toContain(`head = { type: 'classify', labels: ["question","refund"] }`);

  const evaluated = await lora(
    'eval',
    '--model',
    base,
    ...device,
    '--adapter',
    `it=${adapter}`,
    '--data',
    data,
    '--json',
  );
  const { kind, results } = JSON.parse(evaluated.out) as {
    kind: string;
    results: { adapter: string | null; accuracy: number; confusion: object }[];
  };
  expect([kind, results.map((one) => one.adapter)]).toEqual(['labels', [null, 'it']]);
  expect(results[1]).toMatchObject({
    accuracy: 1,
    macroF1: 1,
    confusion: {
      labels,
      counts: [
        [6, 0],
        [0, 6],
      ],
    },
  });
  const shown = await lora(
    'eval',
    '--model',
    base,
    ...device,
    '--adapter',
    `it=${adapter}`,
    '--data',
    data,
    '--no-base',
  );
  expect(shown.out).toMatch(/^it +question +refund$/m);
  expect(shown.out).toMatch(/^question +6 +0$/m);
  expect(shown.out).toMatch(/^refund +0 +6$/m);

  const merged = join(folder, 'merged');
  expect(
    await lora('merge', '--model', base, ...device, '--adapter', adapter, '--out-dir', merged),
  ).toMatchObject({ status: 0 });
  const model = await CausalLM.fromPretrained(merged);
  const found = await model.classify(rows.map(({ text }) => text));
  expect(found.map(({ label }) => label)).toEqual(rows.map(({ label }) => label));
  await model.dispose();
  const again = await train('more', data, '--objective', 'classify', '--adapter', adapter, ...short);
  expect(again).toMatchObject({ status: 0 });
  expect((await readAdapter(join(folder, 'more'))).head).toEqual(head);
});

test.each([
  ['numbers', [0.5, 1.25, -2, 3], ['LABEL_0'], 'regression'],
  [
    'pairs',
    [
      [0.5, 1],
      [1, 2.5],
    ],
    ['LABEL_0', 'LABEL_1'],
    'regression',
  ],
  ['indices', [2, 0, 1, 0], ['LABEL_0', 'LABEL_1', 'LABEL_2'], 'single_label_classification'],
  ['lists', [['b'], ['a', 'b'], [], ['c']], ['a', 'b', 'c'], 'multi_label_classification'],
])('the head of %s in data', async (name, given, names, problemType) => {
  const data = write(
    `${name}.jsonl`,
    given.map((label, i) => ({ text: `text ${i}`, label })),
  );
  expect(await train(`run-${name}`, data, '--objective', 'classify', ...short)).toMatchObject({ status: 0 });
  expect((await readAdapter(join(folder, `run-${name}`))).head).toEqual({
    type: 'classify',
    labels: names,
    problemType,
  });
});

test('flags name labels and weights; what does not fit is refused before the model is loaded', async () => {
  const data = write('flags.jsonl', rows);
  const named = ['--labels', 'refund,question,praise', '--class-weights', '1,2,1', '--objective', 'classify'];
  expect(await train('named', data, ...named, ...short)).toMatchObject({ status: 0 });
  expect((await readAdapter(join(folder, 'named'))).head!.labels).toEqual(['refund', 'question', 'praise']);
  const one = write(
    'one.jsonl',
    rows.filter(({ label }) => label === 'refund'),
  );
  for (const [path, flags, status, sentence] of [
    [data, ['--labels', 'a,b'], 2, '--labels and --problem-type with --objective classify'],
    [one, ['--objective', 'classify'], 2, 'needs data with two labels at least but found refund'],
    [data, ['--objective', 'classify', '--labels', 'refund,praise'], 1, 'question'],
    [data, ['--objective', 'classify', '--class-weights', '1,x'], 2, 'classWeights'],
  ] as const) {
    const outcome = await train('refused', path, ...flags, ...short);
    expect([outcome.status, outcome.err]).toEqual([status, expect.stringContaining(sentence)]);
  }
});

describe('/v1/classify', () => {
  let model: CausalLM;
  beforeAll(async () => {
    model = await CausalLM.fromPretrained(base, { head: { type: 'classify', labels } });
    fillAdapter(model.addAdapter({ r: 2 }, { name: 'made' }), 3, 0.4);
    await model.adapters.get('made')!.save(join(folder, 'served'));
    await model.removeAdapter('made');
  });
  afterAll(() => model.dispose());
  const texts = ['Hi', 'Hello there'];

  test('gives labels and scores of the base and of adapters, of texts and ids', async () => {
    const { post } = await serve(model, { modelName: 'base', adapters: { it: join(folder, 'served') } });
    const wanted = await model.classify(texts, { adapter: null });
    const { status, body } = await post('/v1/classify', { model: 'base', input: texts });
    expect(status).toBe(200);
    expect(body).toEqual({
      id: expect.stringMatching(/^req_/),
      object: 'list',
      created: expect.any(Number),
      model: 'base',
      data: wanted.map(({ label, scores }, index) => ({ index, label, probs: scores, num_classes: 2 })),
      usage: { prompt_tokens: 15, completion_tokens: 0, total_tokens: 15 },
    });
    const probs = async (fields: object): Promise<number[][]> =>
      ((await post('/v1/classify', fields)).body['data'] as { probs: number[] }[]).map((one) => one.probs);
    expect(await probs({ input: 'Hi' })).toEqual([
      expect.arrayContaining(wanted[0]!.scores.map((x) => expect.closeTo(x, 5))),
    ]);
    expect(await probs({ input: model.tokenizer.encode('Hi') })).toEqual(await probs({ input: ['Hi'] }));
    const adapted = await probs({ model: 'it', input: texts });
    await model.loadAdapter(join(folder, 'served'), { name: 'own' });
    const own = await model.classify(texts, { adapter: 'own' });
    expect(adapted).toEqual(own.map(({ scores }) => scores.map((x) => expect.closeTo(x, 5))));
    expect(Math.abs(adapted[0]![0]! - wanted[0]!.scores[0]!)).toBeGreaterThan(1e-3);
    await model.removeAdapter('own');
  });

  test('refuses by field what it cannot classify, and a model without such a head', async () => {
    const { post } = await serve(model, { modelName: 'base' });
    for (const [fields, status, param] of [
      [{}, 400, 'input'],
      [{ input: [] }, 400, 'input'],
      [{ input: [5.5] }, 400, 'input'],
      [{ input: [[9999]] }, 400, 'input'],
      [{ input: 'a'.repeat(5000) }, 400, 'input'],
      [{ input: Array(200).fill(65) }, 400, 'input'],
      [{ input: 'a', model: 'other' }, 404, 'model'],
    ] as const) {
      const outcome = await post('/v1/classify', fields);
      expect([outcome.status, (outcome.body['error'] as { param: string }).param]).toEqual([status, param]);
    }
    const chat = await post('/v1/completions', { prompt: 'a', model: 'base' });
    expect(chat.status).toBe(400);
    const language = await CausalLM.fromPretrained(base);
    const other = await serve(language, { modelName: 'base' });
    const refused = await other.post('/v1/classify', { input: 'a' });
    expect([refused.status, JSON.stringify(refused.body)]).toEqual([
      400,
      expect.stringContaining('no head of classes'),
    ]);
    await language.dispose();
  });
});

test('evaluateTask limits and cuts rows, tells progress, and measures several labels and numbers', async () => {
  const data = write('task.jsonl', rows);
  const model = await CausalLM.fromPretrained(base, { head: { type: 'classify', labels } });
  const progress: number[] = [];
  const part = await model.evaluateTask(data, {
    adapters: [null],
    limit: 5,
    maxLength: 2,
    onProgress: ({ phase, done }) => progress.push(phase === 'labels' ? done : NaN),
  });
  expect([part.rows, progress]).toEqual([5, [5]]);
  expect(part.truncated).toBe(12);
  const own = await model.evaluateTask(rows, { adapters: [null] });
  // More rows than one part of them.
  const lossOf = async (given: typeof rows): Promise<number> =>
    (await model.evaluateTask(given, { adapters: [null] })).results[0]!.loss!;
  const [one, other] = [rows[0]!, rows[3]!];
  const both = await lossOf([...Array<typeof one>(64).fill(one), other, other]);
  const [ofOne, ofOther] = [await lossOf([one]), await lossOf([other])];
  expect(both).toBeCloseTo((64 * ofOne + 2 * ofOther) / 66, 6);
  expect(Math.abs(ofOne - ofOther)).toBeGreaterThan(1e-3);
  const held = await loadDataset(data, { tokenizer: model.tokenizer, objective: 'classify' });
  expect(await model.evaluateTask(held, { adapters: [null] })).toEqual(own);
  await model.dispose();
  const numbers = await CausalLM.fromPretrained(base, { head: { type: 'classify', labels: ['stars'] } });
  const { results } = await numbers.evaluateTask(rows.map(({ text }, i) => ({ text, label: i })));
  expect(results[0]).toMatchObject({ mae: expect.any(Number), pearson: expect.any(Number), stderr: {} });
  expect(results[0]!.accuracy).toBeUndefined();
  await numbers.dispose();
});
