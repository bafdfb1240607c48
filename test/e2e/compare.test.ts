/** compareMethods(): what a comparison measures, and that a stopped one goes on. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, compareMethods, memoryUsage, tensor, Trainer } from '../../lib/index';
import type { CompareEvent, CompareOptions, Comparison } from '../../lib/compare';
import { settingOfTrials } from '../../lib/compare/methods';
import { expectReject } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

jest.setTimeout(240_000); // each comparison loads the model, and a machine may be busy
const scratch = temporaryFolder();
let modelDir: string;
beforeAll(async () => {
  modelDir = await tinyModel();
});
afterAll(() => rmSync(modelDir, { recursive: true }));

/** Rows of a prompt that does not count and an answer that does. */
const rowsOf = (...texts: readonly (readonly [prompt: string, answer: string])[]) =>
  texts.map(([prompt, answer]) => {
    const before = [...Buffer.from(prompt)];
    const after = [...Buffer.from(answer)];
    return { inputIds: [...before, ...after], labels: [...before.map(() => -100), ...after] };
  });
const data = rowsOf(['On Monday ', 'Mia.'], ['Where? ', 'Park.'], ['Who? ', 'Leo.'], ['When? ', 'Now.']);
const evalData = rowsOf(['What? ', 'Eggs.'], ['Which? ', 'Red.']);

const asked = (name: string, more: Partial<CompareOptions> = {}): CompareOptions => ({
  ...{ modelDir, data, evalData, outDir: join(scratch, name), budget: { steps: 3 } },
  ...{ methods: ['lora'], ranks: [2], seeds: 1, learningRates: [0.01], batchSize: 2, maxNewTokens: 3 },
  ...more,
});

/** A sentence that stands somewhere in a message. */
const has = (sentence: string): RegExp => new RegExp(sentence.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));

async function collect(options: CompareOptions): Promise<{ events: CompareEvent[]; comparison: Comparison }> {
  const events: CompareEvent[] = [];
  const run = compareMethods(options);
  for await (const event of run) events.push(event);
  return { events, comparison: await run.result };
}
const ofType = <T extends CompareEvent['type']>(events: readonly CompareEvent[], type: T) =>
  events.filter((event): event is Extract<CompareEvent, { type: T }> => event.type === type);

test('every variant is measured, as a Trainer and an evaluation of one’s own measure it', async () => {
  const options = asked('whole', { methods: ['lora', 'dora'], ranks: [2, 4], alphas: ['r', 4], seeds: 2 });
  const { events, comparison } = await collect({ ...options, learningRates: [0.01, 0.001] });
  const { rows, results, rates, base, report, file } = comparison;
  // With rank 4, α = r and α = 4 are one setting.
  const settings = ['r2-a2', 'r2-a4', 'r4-a4'].map((values) => `${values}-all-linear`);
  const ids = ['lora', 'dora'].flatMap((method) => settings.map((setting) => `${method}-${setting}`));
  expect(rows.map(({ id }) => id)).toEqual(ids);
  expect(results.map(({ id }) => id)).toEqual([0, 1].flatMap((seed) => ids.map((id) => `${id}-s${seed}`)));
  expect(ofType(events, 'start')).toEqual([{ type: 'start', variants: 12, done: 0, trials: 4 }]);
  expect(ofType(events, 'variant').map(({ done }) => done)).toEqual(results.map((_, i) => i + 1));
  expect(ofType(events, 'variant').map(({ result }) => result)).toEqual(results);
  // A quarter of 3 steps is 1.
  expect(ofType(events, 'step').filter(({ id }) => id.startsWith('rate-'))).toHaveLength(4);
  expect(ofType(events, 'step').find(({ id }) => id === `${ids[0]}-s0`)).toMatchObject({ maxSteps: 3 });
  expect(events.at(-1)).toEqual({ type: 'end', comparison });
  expect(rates).toEqual(ofType(events, 'rate').map(({ type: _, ...rate }) => rate));
  for (const { method, lr, trials, atEdge } of rates) {
    const best = trials.reduce((a, b) => (b.loss! < a.loss! ? b : a));
    expect([trials.map((trial) => trial.lr), lr, atEdge]).toEqual([[0.01, 0.001], best.lr, true]);
    for (const result of results) if (result.method === method) expect(result.lr).toBe(lr);
  }

  const model = await CausalLM.fromPretrained(modelDir);
  const own = results.find(({ id }) => id === 'dora-r4-a4-all-linear-s1')!;
  const config = { r: 4, loraAlpha: 4, targetModules: 'all-linear', useDora: true };
  const adapter = model.addAdapter(config, { seed: 1 });
  const trainer = new Trainer({ model, data, maxSteps: 3, batchSize: 2, lr: own.lr, seed: 1 });
  const losses: [number, number][] = [];
  for await (const event of trainer.run()) if (event.type === 'step') losses.push([event.step, event.loss]);
  expect(own.curve).toEqual(losses);
  expect(own.loss).toBe((await model.evaluate(evalData)).loss);
  expect(base.loss).toBe((await model.evaluate(evalData, { adapter: null })).loss);
  expect(own.trainableParameters).toBe(adapter.parameters().reduce((sum, p) => sum + p.numel, 0));
  const saved = await model.loadAdapter(join(options.outDir, 'adapters', own.id), { name: 'saved' });
  expect((await model.evaluate(evalData, { adapter: saved })).loss).toBe(own.loss);
  const bytes = readFileSync(join(options.outDir, 'adapters', own.id, 'adapter_model.safetensors')).length;
  expect(own.fileBytes).toBe(bytes);
  expect(own.exactMatch).toBe(0);
  expect(own.samples!.map(({ prompt, expected }) => [prompt, expected])).toEqual([
    ['What? ', 'Eggs.'],
    ['Which? ', 'Red.'],
  ]);
  await model.dispose();

  const row = rows.find(({ id }) => id === 'dora-r4-a4-all-linear')!;
  const pair = results.filter(({ id }) => id.startsWith(`${row.id}-`)).map(({ loss }) => loss!);
  expect(row.loss).toEqual({
    mean: (pair[0]! + pair[1]!) / 2,
    median: (pair[0]! + pair[1]!) / 2,
    least: Math.min(...pair),
    most: Math.max(...pair),
  });
  expect(row.seeds).toBe(2);
  expect(row.share).toBeCloseTo(
    own.trainableParameters / (own.trainableParameters + comparison.baseParameters),
  );
  expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(JSON.parse(JSON.stringify(comparison)));
  expect(readFileSync(report, 'utf8')).toContain('<h1>Methods compared on ');
});

test('a method has the axes that mean something for it, and files of its own', async () => {
  const options = asked('axes', { methods: ['lora', 'ia3', 'bottleneck', 'prompt'], ranks: [2, 3] });
  const { results, rows, report } = await compareMethods(options);
  const ids = [
    ...['lora-r2-a4-all-linear', 'lora-r3-a6-all-linear', 'ia3'],
    ...['bottleneck-r2', 'bottleneck-r3', 'prompt-r2', 'prompt-r3'],
  ];
  expect(rows.map(({ id }) => id)).toEqual(ids);
  const model = await CausalLM.fromPretrained(modelDir);
  for (const { id, loss } of results) {
    const adapter = await model.loadAdapter(join(options.outDir, 'adapters', id), { name: id });
    expect((await model.evaluate(evalData, { adapter })).loss).toBe(loss);
  }
  await model.dispose();
  expect(new Set(results.map(({ loss }) => loss)).size).toBe(7);
  expect(readFileSync(report, 'utf8')).toContain('"label":"bottleneck"'); // a line over the rank
});

test('rows of files are cut to what the context holds behind virtual tokens, for all methods alike', async () => {
  const file = join(scratch, 'long.jsonl');
  writeFileSync(file, `${JSON.stringify({ text: 'a long text '.repeat(20) })}\n`);
  const options = { data: file, evalData: file, methods: ['lora', 'prompt'], ranks: [100] } as const;
  const { results } = await compareMethods(asked('long', options));
  expect(results.map(({ tokens, failed }) => [tokens, failed])).toEqual([
    [3 * 28, undefined],
    [3 * 28, undefined],
  ]);
  await expectReject(
    compareMethods(asked('longer', { ...options, ranks: [8, 127] })),
    'ERR_ARGUMENT',
    has(
      "expected ranks of less than 127, since 'prompt' puts as many virtual tokens before each text and the model has max_position_embeddings 128, but received 127",
    ),
  );
});

test('full fine-tuning trains the model itself, which is loaded anew for what follows', async () => {
  const options = asked('full', { methods: ['full', 'lora'], seeds: 2, learningRates: [0.001] });
  const { results, rows, baseParameters } = await compareMethods(options);
  expect(rows.map(({ id, share }) => [id, share === 1])).toEqual([
    ['full', true],
    ['lora-r2-a4-all-linear', false],
  ]);
  for (const { id, method, loss, trainableParameters } of results) {
    const dir = join(options.outDir, 'adapters', id);
    const model = await CausalLM.fromPretrained(method === 'full' ? dir : modelDir);
    if (method === 'lora') await model.loadAdapter(dir);
    else expect(trainableParameters).toBe(baseParameters);
    expect((await model.evaluate(evalData)).loss).toBe(loss);
    await model.dispose();
  }
});

test('the peak of a variant is its own: neither a larger one before it nor the program counts', async () => {
  const alone = await compareMethods(asked('alone', { targets: ['attention'] }));
  const held = tensor(new Float32Array(1 << 20));
  const both = await compareMethods(asked('both', { ranks: [16, 2], targets: ['all-linear', 'attention'] }));
  held.dispose();
  const peaks = new Map(both.results.map(({ id, peakBytes }) => [id, peakBytes]));
  const [{ id, peakBytes }] = alone.results as [(typeof alone.results)[number]];
  expect(peaks.get(id)).toBe(peakBytes);
  expect(peaks.get('lora-r16-a32-all-linear-s0')).toBeGreaterThan(peakBytes);
  expect(peakBytes).toBeLessThan(1 << 20);
});

test('one that was stopped goes on with the variant that was under way, and asks nothing twice', async () => {
  const options = asked('stopped', { ranks: [2, 3], learningRates: [0.01, 0.02] });
  const whole = await compareMethods({ ...options, outDir: join(scratch, 'not-stopped') });
  const stop = new AbortController();
  const reason = new Error('enough');
  const run = async (): Promise<void> => {
    let variants = 0;
    for await (const event of compareMethods({ ...options, signal: stop.signal })) {
      if (event.type === 'variant') variants++;
      if (event.type === 'step' && variants === 1) stop.abort(reason); // in the second
    }
  };
  await expect(run()).rejects.toBe(reason);
  expect(existsSync(join(options.outDir, 'comparison.json'))).toBe(false);
  for await (const event of compareMethods(options)) if (event.type === 'step') break; // which is a stop, too
  const { events, comparison } = await collect(options);
  expect(ofType(events, 'start')).toEqual([{ type: 'start', variants: 2, done: 1, trials: 2 }]);
  expect(ofType(events, 'variant')).toHaveLength(1);
  expect(ofType(events, 'step').map(({ id }) => id)).toEqual(Array(3).fill('lora-r3-a6-all-linear-s0'));
  const losses = ({ results }: Comparison) => results.map(({ id, loss, curve }) => [id, loss, curve]);
  expect(losses(comparison)).toEqual(losses(whole));
  expect(comparison.rates).toEqual(whole.rates);
  // And one that had ended gives its table at once.
  expect((await collect(options)).comparison).toEqual(comparison);
});

test('the folder of another question is refused with what differs', async () => {
  const options = asked('question');
  await compareMethods(options);
  const other = await tinyModel({ seed: 9 });
  for (const [change, sentence] of [
    [{ ranks: [2, 4] }, 'ranks was [2] and is [2,4]'],
    [{ budget: { minutes: 1 } }, 'budget: minutes was nothing and is 1'],
    [{ learningRates: [0.02] }, 'rates: lora was [0.01] and is [0.02]'],
    [{ data: data.slice(1) }, 'data: examples was 4 and is 3'],
    [{ evalData: [data[0]!, data[1]!] }, 'evalData: digest was'],
    [{ modelDir: undefined, model: other }, 'base was'],
  ] as const)
    await expectReject(
      compareMethods({ ...options, ...change }),
      'ERR_ARGUMENT',
      has(`${options.outDir} holds the results of another question: ${sentence}`),
    );
  rmSync(other, { recursive: true });
  for (const [change, sentence] of [
    [{ model: modelDir }, 'expected model or modelDir but received both'],
    [{ modelDir: undefined }, 'expected model to be a path but received undefined'],
  ] as const)
    await expectReject(compareMethods({ ...options, ...change }), 'ERR_ARGUMENT', has(sentence));
  // What no figure depends on may change.
  await compareMethods({ ...options, signal: new AbortController().signal });
});

test('a folder with other files is refused, and a damaged finding is named', async () => {
  const options = asked('foreign');
  mkdirSync(options.outDir);
  writeFileSync(join(options.outDir, 'notes.txt'), 'mine');
  await expectReject(compareMethods(options), 'ERR_FILE', has('holds files but no comparison (notes.txt)'));
  expect(readdirSync(options.outDir)).toEqual(['notes.txt']);
  rmSync(options.outDir, { recursive: true });
  await compareMethods(options);
  const damaged = async (name: string, change: Record<string, unknown>, sentence: string): Promise<void> => {
    const finding = join(options.outDir, 'findings', `${name}.json`);
    const whole = readFileSync(finding, 'utf8');
    writeFileSync(finding, JSON.stringify({ ...JSON.parse(whole), ...change }));
    await expectReject(
      compareMethods(options),
      'ERR_FILE',
      has(`${finding} is no finding of this comparison: expected ${sentence}`),
    );
    writeFileSync(finding, whole);
  };
  const [result, sample] = ['lora-r2-a4-all-linear-s0', { prompt: '', expected: '' }];
  const samples = 'samples to be a list of objects of prompt, expected and text';
  const curve = 'curve to be a list of [step, loss] but received ';
  await damaged(result, { peakBytes: 'much' }, "peakBytes to be a number but received 'much'");
  for (const wrong of [5, [null], [[1]], [[1, '2']], [[1, 2, 3]]])
    await damaged(result, { curve: wrong }, curve);
  for (const wrong of ['a', [5], [null], [sample]]) {
    await damaged(result, { samples: wrong }, samples);
    await damaged('base', { samples: wrong }, samples);
  }
  await damaged('base', { samples: undefined }, `${samples} but received undefined`);
  await damaged(result, { loss: 'low' }, 'loss to be a number');
  for (const score of ['exactMatch', 'f1']) {
    await damaged('base', { [score]: [1] }, `${score} to be a number`);
    await damaged(result, { [score]: 'all' }, `${score} to be a number`);
  }
  for (const figure of [
    'lr',
    'trainableParameters',
    'steps',
    'tokens',
    'seconds',
    'tokensPerSecond',
    'fileBytes',
  ])
    await damaged(result, { [figure]: null }, `${figure} to be a number but received null`);
  await damaged(result, { failed: 1 }, 'failed to be a string');
  await damaged(result, { rank: 4 }, 'rank to be 2 but received 4');
  await damaged(result, { seed: 1 }, 'seed to be 0 but received 1');
  await compareMethods(options);
});

test('a rate with which the loss is no number is a result, and where there is no other an error', async () => {
  const { rates, rows } = await compareMethods(asked('rates', { learningRates: [1e30, 0.01] }));
  expect(rates[0]).toMatchObject({
    lr: 0.01,
    atEdge: true,
    trials: [{ lr: 1e30, loss: null }, { lr: 0.01 }],
  });
  expect(rows[0]).toMatchObject({ seeds: 1 });
  // What was found of a rate is asked for no more, and read as strictly as results.
  const options = asked('rates', { learningRates: [1e30, 0.01] });
  const trial = join(options.outDir, 'findings/rate-lora-0.01.json');
  const whole = readFileSync(trial, 'utf8');
  for (const [change, sentence] of [
    [{ loss: 'low' }, "loss to be a number or null but received 'low'"],
    [{ lr: 0.1 }, 'lr to be 0.01 but received 0.1'],
    [{ method: 'ia3' }, "method to be 'lora' but received 'ia3'"],
  ] as const) {
    writeFileSync(trial, JSON.stringify({ ...JSON.parse(whole), ...change }));
    await expectReject(
      compareMethods(options),
      'ERR_FILE',
      has(`${trial} is no finding of this comparison: expected ${sentence}`),
    );
  }
  const failed = await compareMethods(asked('failed', { learningRates: [1e30] }));
  expect(failed.results[0]!.failed).toMatch(/^\[Trainer\] step \d/);
  expect(failed.rows[0]).toMatchObject({ seeds: 0, failed: failed.results[0]!.failed });
  expect(readFileSync(failed.report, 'utf8')).toContain('without scores');
  await expectReject(
    compareMethods(asked('none', { learningRates: [1e30, 1e29] })),
    'ERR_NON_FINITE',
    has('no learning rate of lora gave a loss that is a number: tried were 1e+30, 1e+29'),
  );
});

test('the rate is chosen on the middle of the ranks, in the order of numbers', () => {
  const axes = { methods: ['lora'], alphas: ['2r', 1], targets: ['mlp', 'attention'] } as const;
  for (const [ranks, rank] of [
    [[16, 4, 8], 8],
    [[4, 16], 4],
    [[2], 2],
  ] as const)
    expect(settingOfTrials('lora', { ...axes, ranks })).toEqual({
      ...{ method: 'lora', rank, alpha: 2 * rank, targets: 'mlp' },
    });
});

test('a budget of minutes ends with the step that reaches it', async () => {
  const minutes = 1e-9;
  const { results } = await compareMethods(asked('minutes', { budget: { minutes } }));
  expect(results[0]).toMatchObject({ steps: 1 });
});

test('text without prompts has a loss and texts, and no answers that could be right', async () => {
  const file = join(scratch, 'text.jsonl');
  writeFileSync(file, '{"text":"Mia finds three red apples."}\n{"text":"Leo hides two hats."}\n');
  const { results, rows } = await compareMethods(
    asked('text', { data: file, evalData: file, maxLength: 16 }),
  );
  expect(results[0]!.samples).toHaveLength(2);
  expect(rows[0]!.exactMatch).toBeUndefined();
});

test('all five methods but full fine-tuning are compared where none are named', async () => {
  const { methods: _, ...options } = asked('unnamed', { budget: { steps: 1 } });
  for await (const event of compareMethods(options)) {
    expect(event).toMatchObject({ type: 'start', variants: 5 });
    break;
  }
});

test('conversations of files are written by the template that is given', async () => {
  const file = join(scratch, 'chat.jsonl');
  writeFileSync(file, '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n');
  const chatTemplate = '{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}';
  const more = { data: file, evalData: file, chatTemplate, trainOn: 'all', budget: { steps: 1 } } as const;
  const { results } = await compareMethods(asked('template', more));
  expect(results[0]!.tokens).toBe('user: a;assistant: b;'.length);
});

test('what is asked twice is measured once', async () => {
  const twice = { methods: ['lora', 'lora'], ranks: [2, 2], learningRates: [0.01, 0.02, 0.01] } as const;
  for await (const event of compareMethods(asked('twice', twice))) {
    expect(event).toMatchObject({ type: 'start', variants: 1, trials: 2 });
    break;
  }
});

test('one at a time', async () => {
  const first = compareMethods(asked('first'));
  const second = compareMethods(asked('second'));
  await expectReject(second, 'ERR_BUSY', /another comparison runs in this thread/);
  await first;
});

test.each<[Partial<CompareOptions>, string]>([
  [{ methods: ['prefix' as 'lora'] }, "'full' but received 'prefix'"],
  [{ methods: [] }, 'expected methods to be a list with something in it but received '],
  [{ ranks: [8, 0] }, 'expected ranks[1] to be an integer of at least 1 but received 0'],
  [
    { alphas: ['2x'] },
    "expected alphas[0] to be a number or a multiple of the rank such as 'r' or '2r' but received '2x'",
  ],
  [{ alphas: ['0r'] }, "but received '0r'"],
  [
    { alphas: ['r', '0.00r'] },
    "expected alphas[1] to be a number or a multiple of the rank such as 'r' or '2r' but received '0.00r'",
  ],
  [{ targets: ['a/b'] }, "or names of modules with + between them, but received 'a/b'"],
  [{ seeds: 0 }, 'expected seeds to be a whole number of at least 1 but received 0'],
  [{ budget: {} as never }, 'expected budget to be { steps } or { minutes } but received neither'],
  [{ budget: { steps: 1, minutes: 1 } }, 'expected budget to be { steps } or { minutes } but received both'],
  [{ budget: { steps: 0.5 } }, 'expected budget.steps to be an integer of at least 1'],
  [{ budget: { minutes: 0 } }, 'expected budget.minutes to be a finite number of at least 5e-324'],
  [{ learningRates: [-1] }, 'expected learningRates[0] to be a finite number'],
  [{ outDir: '' }, "expected outDir to be a folder but received ''"],
  [{ data: rowsOf(['a', 'b'])[Symbol.iterator]() as never }, 'expected data that can be read more than once'],
  [{ rank: [8] } as never, "unknown option 'rank'; did you mean 'ranks'?"],
])('%j is refused before anything is read', async (change, sentence) => {
  await expectReject(compareMethods(asked('bad', change)), 'ERR_ARGUMENT', has(sentence));
  expect(existsSync(join(scratch, 'bad'))).toBe(false);
});

test('targets that the model does not have are refused before anything is trained', async () => {
  const options = asked('targets', { targets: ['all-linear', 'query_proj'] });
  await expectReject(
    compareMethods(options),
    'ERR_ADAPTER',
    /targetModules query_proj match no linear layer/,
  );
});

// The last one, since what an earlier file left in this process may be freed while the first ones run.
test('a comparison leaves no tensors', async () => {
  await collectGarbage();
  const before = memoryUsage().tensors;
  const options = {
    methods: ['full', 'lora', 'dora', 'prompt'],
    seeds: 2,
    budget: { steps: 2 },
  } as const;
  await collect(asked('leaves', options));
  expect(memoryUsage().tensors).toBe(before);
});
