/** sweep(): a comparison in which the learning rate is one of the settings. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, sweep, Trainer } from '../../lib/index';
import type { CompareEvent, ComparisonRow, SweepOptions, VariantResult } from '../../lib/compare';
import { comparisonPage } from '../../lib/compare/page';
import { bestOf, rowOf } from '../../lib/compare/results';
import { columnsOf } from '../../lib/compare/table';
import { commandLine, jsonLines } from '../support/command_line';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

jest.setTimeout(240_000); // each sweep loads the model, and a machine may be busy
const scratch = temporaryFolder();
let modelDir: string;
beforeAll(async () => {
  modelDir = await tinyModel();
});
afterAll(() => rmSync(modelDir, { recursive: true }));

const row = (text: string) => ({ inputIds: [...Buffer.from(text)], labels: [...Buffer.from(text)] });
const data = ['On Monday Mia.', 'Where? Park.', 'Who? Leo.', 'When? Now.'].map(row);
const evalData = ['What? Eggs.', 'Which? Red.'].map(row);

const asked = (name: string, more: Partial<SweepOptions> = {}): SweepOptions => ({
  ...{ modelDir, data, evalData, outDir: join(scratch, name), budget: { steps: 3 } },
  ...{ ranks: [2, 4], learningRates: ['auto', 0.002], seeds: 2, batchSize: 2 },
  ...more,
});

test('every rate, rank and seed is trained whole, as a Trainer of one’s own does, and the best is named', async () => {
  const events: CompareEvent[] = [];
  const options = asked('whole');
  const run = sweep(options);
  for await (const event of run) events.push(event);
  const { rows, results, rates, best, base, question, report } = await run.result;
  const settings = ['r2-a4', 'r4-a8'].flatMap((values) =>
    ['auto', '0.002'].map((rate) => `lora-${values}-all-linear-lr${rate}`),
  );
  expect(rows.map(({ id }) => id)).toEqual(settings);
  expect(results.map(({ id }) => id)).toEqual(
    [0, 1].flatMap((seed) => settings.map((id) => `${id}-s${seed}`)),
  );
  expect(events[0]).toEqual({ type: 'start', variants: 8, done: 0, trials: 0 });
  expect(events.filter(({ type }) => type === 'trial' || type === 'rate')).toEqual([]);
  expect([rates, question['swept']]).toEqual([[], ['auto', 0.002]]);
  expect(events.filter((event) => event.type === 'step')).toHaveLength(8 * 3);
  // 5e-5 · 15 · √(32/α) · (2000/24)^0.781, of two digits.
  expect(rows.map(({ rate, lr }) => [rate, lr])).toEqual([
    ['auto', 0.067],
    [0.002, 0.002],
    ['auto', 0.047],
    [0.002, 0.002],
  ]);

  const model = await CausalLM.fromPretrained(modelDir);
  for (const id of ['lora-r4-a8-all-linear-lrauto-s1', 'lora-r4-a8-all-linear-lr0.002-s1']) {
    const own = results.find((one) => one.id === id)!;
    model.addAdapter({ r: 4 }, { name: 'own', seed: 1 });
    await new Trainer({ model, data, maxSteps: 3, batchSize: 2, lr: own.lr, seed: 1 }).run();
    expect(own.loss).toBe((await model.evaluate(evalData)).loss);
    await model.removeAdapter('own');
  }
  expect(base.loss).toBe((await model.evaluate(evalData, { adapter: null })).loss);
  await model.dispose();

  const medians = rows.map(({ loss }) => loss!.median);
  expect(best).toBe(settings[medians.indexOf(Math.min(...medians))]);
  // Losses alone.
  expect(results.every(({ exactMatch, samples }) => exactMatch === undefined && samples!.length === 0)).toBe(
    true,
  );
  const page = readFileSync(report, 'utf8');
  expect(page).toContain(`<dt>Best: ${best}</dt>`);
  expect(page).toContain('<h1>Learning rates and ranks tried on ');
  expect(page).toContain('Held-out loss over the learning rate, median of the seeds');
  expect(page).not.toContain('<h2>Samples</h2>');
});

test('one that was stopped goes on, and another question is refused', async () => {
  const stop = new AbortController();
  const options = asked('stopped');
  const run = sweep({ ...options, signal: stop.signal });
  await expect(
    (async () => {
      for await (const event of run)
        if (event.type === 'variant' && event.done === 3) stop.abort(new Error('stop'));
    })(),
  ).rejects.toThrow('stop');
  const done: number[] = [];
  for await (const event of sweep(options)) {
    if (event.type === 'start') expect(event.done).toBe(3);
    if (event.type === 'variant') done.push(event.done);
  }
  expect(done).toEqual([4, 5, 6, 7, 8]);
  await expectReject(
    sweep({ ...options, learningRates: ['auto'] }),
    'ERR_ARGUMENT',
    /^\[sweep\] .* holds the results of another question: swept was \["auto",0.002\] and is \["auto"\]/,
  );
});

test.each<[object, string | RegExp]>([
  [{ learningRates: ['fast'] }, /expected learningRates\[0\] to be a finite number/],
  [{ learningRates: [0] }, /expected learningRates\[0\] to be a finite number/],
  [{ learningRates: [] }, /expected learningRates to be a list with something in it/],
  [
    { method: 'ia3', learningRates: [0.1, 'auto'] },
    "[sweep] expected learningRates[1] to be a number with ia3, for which 'auto' has no rule",
  ],
  [{ method: 'lor' }, /^\[sweep\] expected method to be/],
  [{ methods: ['lora'] }, /^\[sweep\] unknown option 'methods'; did you mean 'method'/],
  [{ maxNewTokens: 4 }, /^\[sweep\] unknown option 'maxNewTokens'/],
  [{ ranks: [0] }, /^\[sweep\] expected ranks\[0\] to be/],
])('%j is refused', async (more, sentence) => {
  await expectReject(sweep({ ...asked('refused'), ...more }), 'ERR_ARGUMENT', sentence);
  expect(existsSync(join(scratch, 'refused'))).toBe(false);
});

test('a method without a rule has its five rates, one with a rule auto too', async () => {
  const few = { budget: { steps: 1 }, seeds: 1, ranks: [2], learningRates: undefined } as const;
  const first = async (more: Partial<SweepOptions>): Promise<unknown> => {
    for await (const event of sweep(asked(`default-${more.method}`, { ...few, ...more })))
      if (event.type === 'start') return event.variants;
    return undefined;
  };
  expect([await first({ method: 'ia3' }), await first({ method: 'lora' })]).toEqual([5, 6]);
});

describe('rows', () => {
  const result = (rate: number | 'auto', seed: number, loss: number | undefined): VariantResult => ({
    ...{
      id: `lora-lr${rate}-s${seed}`,
      method: 'lora',
      rank: 2,
      alpha: 4,
      targets: 'all-linear',
      rate,
      seed,
    },
    ...{
      lr: rate === 'auto' ? 0.5 : rate,
      trainableParameters: 10,
      peakBytes: 1,
      steps: 1,
      tokens: 1,
      seconds: 1,
    },
    ...{ tokensPerSecond: 1, curve: [[1, 2]] as [number, number][], samples: [] },
    ...(loss === undefined ? { failed: 'the loss is NaN' } : { loss }),
  });
  const rowFor = (rate: number | 'auto', losses: (number | undefined)[]): ComparisonRow =>
    rowOf(
      `lora-lr${rate}`,
      losses.map((loss, seed) => result(rate, seed, loss)),
      100,
    );

  test('are compared by their medians, which one bad seed does not move', () => {
    const steady = rowFor(0.1, [1, 1.2, 1.1]);
    const spoilt = rowFor('auto', [1, 1.05, 9]);
    expect(spoilt.loss).toEqual({ mean: 11.05 / 3, median: 1.05, least: 1, most: 9 });
    expect(rowFor(0.1, [4, 1, 2, 3]).loss!.median).toBe(2.5);
    const broken = rowFor(0.2, [undefined, undefined, undefined]);
    expect(bestOf([broken, steady, spoilt])).toBe(spoilt);
    expect(bestOf([broken])).toBeUndefined();
    const cells = columnsOf([spoilt]).map(({ head, cell }) => [head, cell(spoilt)]);
    expect(Object.fromEntries(cells)).toMatchObject({
      'learning rate': '0.5 (auto)',
      'held-out loss': '1.0500 (1.0000–9.0000)',
    });
  });

  test('draw a line over the rates for each rank', () => {
    const rows = [rowFor(0.1, [1, 2, 4]), rowFor('auto', [3, 5, 8])];
    const question = {
      ...{ base: 'tiny', device: 'cpu', dtype: 'f32', quantize: null, budget: { steps: 1 }, seeds: 3 },
      ...{
        batchSize: 2,
        gradientAccumulationSteps: 1,
        data: { examples: 4 },
        evalData: { examples: 2 },
        swept: [0.1],
      },
    };
    const results = rows.flatMap(({ rate }) => [0, 1, 2].map((seed) => result(rate!, seed, 1)));
    const base = { loss: 2, samples: [] };
    const html = comparisonPage({ question, baseParameters: 9, base, rates: [], rows, results });
    const charts = /<script type="application\/json"[^>]*>([\s\S]*?)<\/script>/.exec(html)![1]!;
    expect(charts).toContain('"at":[0.1,0.5]');
    expect(charts).toContain('"values":[2,5]');
  });
});

test('lora-native sweep prints the table and the best', async () => {
  const file = join(scratch, 'data.jsonl');
  writeFileSync(file, '{"prompt":"Who?","completion":"Mia."}\n{"prompt":"Where?","completion":"Park."}\n');
  const argv = [
    ...['sweep', '--model', modelDir, '--device', 'cpu', '--data', file, '--eval-data', file, '--seeds', '1'],
    ...[
      '--ranks',
      '2',
      '--learning-rates',
      'auto,0.002',
      '--budget-steps',
      '2',
      '--out-dir',
      join(scratch, 'cli'),
    ],
  ];
  const { status, out, err } = await commandLine(argv);
  expect(status).toBe(0);
  expect(err).toMatch(/^2 variants, 0 of them measured before$/m);
  const lines = out.trimEnd().split('\n');
  expect(lines[0]).not.toContain('exact match');
  expect(
    lines
      .slice(1)
      .map((line) => /(\S+( \(auto\))?) {2,}/.exec(line.replace(/^\S+ +\S+ +\S+ +\S+ +/, ''))![1]),
  ).toEqual(['0.067 (auto)', '0.002']);
  expect(err).toMatch(/^best: lora-r2-a4-all-linear-lr(auto|0\.002), held-out loss \d+\.\d{4}$/m);
  const again = await commandLine([...argv, '--json']);
  expect(jsonLines(again).map(({ type }) => type)).toEqual(['start', 'end']);
  const wrong = await commandLine([...argv, '--learning-rates', '0.1,fast']);
  expect([wrong.status, wrong.err]).toEqual([
    2,
    expect.stringContaining(
      'expected --learning-rates to be numbers, or auto, with commas but received "0.1,fast"',
    ),
  ]);
});
