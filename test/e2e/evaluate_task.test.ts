/** model.evaluateTask against loops written by hand, on the bundled task and on a tiny model. */
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  setThreads,
  Trainer,
  loadDataset,
  type AnswerSample,
  type ChoiceRow,
  type ChoiceSample,
  type EvaluateTaskOptions,
  type TaskProgress,
} from '../../lib/index';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const dir = temporaryFolder();
const examples = join(__dirname, '../../examples');
const write = (name: string, rows: readonly object[]): string => {
  const file = join(dir, name);
  writeFileSync(file, rows.map((row) => JSON.stringify(row)).join('\n'));
  return file;
};

/** How many of a file's descriptors this process has open. */
function descriptors(file: string): number {
  const folder = '/proc/self/fd';
  if (!existsSync(folder)) return 0; // Linux tells
  return readdirSync(folder).filter((name) => {
    try {
      return readlinkSync(join(folder, name)) === file;
    } catch {
      return false; // that of the folder itself
    }
  }).length;
}

describe('the bundled task', () => {
  /** Held-out sentences and their JSON, as rows with a prompt. */
  const rows = readFileSync(join(examples, 'data/heldout.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .slice(0, 12)
    .map((line) => {
      const [question, answer] = (JSON.parse(line) as { text: string }).text.split('-> ');
      return { prompt: `${question}->`, completion: ` ${answer}` };
    });
  const jsonSchema = {
    type: 'object',
    required: ['who', 'count'],
    properties: { who: { type: 'string' }, count: { type: 'integer', minimum: 1 } },
  };
  let model: CausalLM;
  let file: string;
  beforeAll(async () => {
    model = await CausalLM.fromPretrained(join(examples, 'base-model'), { dtype: 'f32' });
    model.addAdapter({ r: 8, loraAlpha: 16 }, { name: 'json' });
    const data = await loadDataset(join(examples, 'data/train.jsonl'), { tokenizer: model.tokenizer });
    await new Trainer({ model, data, maxSteps: 60, batchSize: 8, lr: 5e-3, warmupSteps: 5 }).run();
    // So few steps get the structure right and hardly a row, so that some rows are taken from what the adapter writes.
    for (const row of rows.slice(0, 4)) {
      const options = { maxNewTokens: 64, temperature: 0, adapter: 'json' };
      row.completion = (await model.generate(model.tokenizer.encode(row.prompt), options)).text;
    }
    file = write('heldout.jsonl', rows);
  });
  afterAll(() => model.dispose());

  test('has the numbers of a loop written by hand, for the base and for the adapter, in one run', async () => {
    const { results, ...counts } = await model.evaluateTask(file, {
      ...{ adapters: [null, 'json'], jsonSchema, samples: true },
    });
    expect(counts).toEqual({ kind: 'examples', rows: 12, answers: 12, truncated: 0 });
    expect(descriptors(file)).toBe(0);
    expect(results.map(({ adapter }) => adapter)).toEqual([null, 'json']);
    for (const result of results) {
      let [nats, tokens] = [0, 0];
      const written: { text: string; completion: string; cut: boolean }[] = [];
      for (const { prompt, completion } of rows) {
        const ids = model.tokenizer.encode(prompt + completion);
        const before = model.tokenizer.encode(prompt).length;
        ids.push(model.tokenizer.eosTokenId!);
        const labels = ids.map((id, i) => (i < before ? -100 : id));
        const { adapter } = result;
        const { loss } = model.forward([ids], { labels: [labels], reduction: 'sum', adapter, train: false });
        nats += await loss.item();
        tokens += ids.length - before;
        const maxNewTokens = Math.max(32, 2 * (ids.length - before));
        const options = { maxNewTokens, temperature: 0, adapter };
        const { text, finishReason } = await model.generate(ids.slice(0, before), options);
        written.push({ text, completion, cut: finishReason === 'length' });
      }
      expect(result.tokens).toBe(tokens);
      expect(result.loss! / (nats / tokens)).toBeCloseTo(1, 5);
      expect(result.perplexity).toBe(Math.exp(result.loss!));
      const same = written.map(({ text, completion }) => Number(text.trim() === completion.trim()));
      const share = same.reduce((a, b) => a + b) / 12;
      expect(result.exactMatch).toBeCloseTo(share, 12);
      expect(result.stderr.exactMatch).toBeCloseTo(Math.sqrt((share * (1 - share)) / 11), 12);
      const valid = written.filter(({ text }) => {
        try {
          const value = JSON.parse(text) as { who?: unknown; count?: unknown };
          return typeof value.who === 'string' && Number.isInteger(value.count) && Number(value.count) >= 1;
        } catch {
          return false;
        }
      });
      expect(result.cut).toBe(written.filter(({ cut }) => cut).length);
      expect(result.validJson).toBeCloseTo(valid.length / 12, 12);
      const samples = result.samples as AnswerSample[];
      expect(samples.map(({ text }) => text)).toEqual(written.map(({ text }) => text));
      expect(samples.map(({ expected }) => expected)).toEqual(rows.map(({ completion }) => completion));
      expect(samples.map(({ prompt }) => prompt.replace('<|end|>', ''))).toEqual(
        rows.map(({ prompt }) => prompt),
      );
      const f1 = samples.reduce((sum, sample) => sum + sample.f1, 0) / 12;
      expect(result.f1).toBeCloseTo(f1, 12);
    }
    const [base, json] = results as [(typeof results)[0], (typeof results)[0]];
    expect(base).toMatchObject({ exactMatch: 0, validJson: 0 });
    expect(json.validJson).toBeGreaterThan(0.7);
    expect(json.exactMatch).toBeGreaterThanOrEqual(1 / 3);
    expect(json.f1).toBeGreaterThan(json.exactMatch!); // a wrong colour is a word of many
    expect(json.f1).toBeLessThan(1);
    expect(json.loss).toBeLessThan(base.loss! / 2);
  }, 120_000);

  test('the log-likelihoods of choices are those of a softmax, and the accuracies follow', async () => {
    const questions: ChoiceRow[] = rows.slice(0, 5).map(({ prompt, completion }, i) => {
      const answer = completion.trim();
      const wrong = answer.replace(/"count": \d+/, '"count": 99');
      return { query: prompt, choices: [wrong, answer, 'né'].slice(0, i === 0 ? 2 : 3), gold: 1 };
    });
    const options: EvaluateTaskOptions = { adapters: ['json', null], samples: true, batchSize: 4 };
    const { results, ...counts } = await model.evaluateTask(questions, options);
    expect(counts).toEqual({ kind: 'choices', rows: 5, truncated: 0 });
    for (const result of results) {
      const sums: number[][] = [];
      for (const { query, choices } of questions) {
        const own: number[] = [];
        for (const choice of choices) {
          const ids = model.tokenizer.encode(`${query} ${choice}`, { addSpecialTokens: false });
          const before = model.tokenizer.encode(query, { addSpecialTokens: false }).length;
          const { logits } = model.forward([ids], { adapter: result.adapter, logits: true });
          const values = await logits.data();
          const vocab = model.config.vocabSize;
          let sum = 0;
          for (let t = before; t < ids.length; t++) {
            const row = values.subarray((t - 1) * vocab, t * vocab);
            const most = row.reduce((a, b) => Math.max(a, b));
            const total = row.reduce((a, b) => a + Math.exp(b - most), 0);
            sum += row[ids[t]!]! - most - Math.log(total);
          }
          own.push(sum);
        }
        sums.push(own);
      }
      const samples = result.samples as ChoiceSample[];
      for (const [i, { logLikelihoods }] of samples.entries())
        for (const [j, value] of logLikelihoods.entries()) expect(value / sums[i]![j]!).toBeCloseTo(1, 4);
      const share = (by: (text: string) => number): number =>
        questions.filter(({ choices, gold }, i) => {
          const scaled = sums[i]!.map((sum, j) => sum / by(choices[j]!));
          return scaled.indexOf(Math.max(...scaled)) === gold;
        }).length / 5;
      expect(result.acc).toBeCloseTo(
        share(() => 1),
        12,
      );
      expect(result.accNorm).toBeCloseTo(
        share((text) => text.length),
        12,
      );
      expect(result.accBytes).toBeCloseTo(
        share((text) => Buffer.byteLength(text)),
        12,
      );
    }
  });
});

describe('on a tiny model', () => {
  let model: CausalLM;
  beforeAll(async () => {
    setThreads(1);
    model = await CausalLM.fromPretrained(await tinyModel());
    fillAdapter(model.addAdapter({ r: 2 }, { name: 'a' }), 3, 0.3);
  });
  afterAll(async () => {
    await model.dispose();
    rmSync(model.directory, { recursive: true });
  });
  afterEach(() => jest.restoreAllMocks());
  const qa = (n: number): object[] =>
    Array.from({ length: n }, (_, i) => ({ prompt: `q${i}`, completion: `a${i}` }));

  /** Ids of a choice behind its query, without special tokens. */
  const ids = (text: string): number[] => [...Buffer.from(text)];
  const shapes: [string, object, string, string[], number][] = [
    ['query', { query: 'Q:', choices: ['a', 'bc'], gold: 1 }, 'Q:', ['a', 'bc'], 1],
    [
      'ARC',
      { question: 'Why?', choices: { text: ['x', 'y', 'z'], label: ['A', 'B', 'C'] }, answerKey: 'C' },
      'Question: Why?\nAnswer:',
      ['x', 'y', 'z'],
      2,
    ],
    [
      'HellaSwag',
      {
        ...{ ind: 4, activity_label: 'Roof', ctx_a: 'A man sits.', ctx_b: 'he STARTS', ctx: 'unused' },
        ...{ endings: ['pulls [header] up [title] on', ' rests '], label: '0' },
      },
      'Roof: A man sits. He starts',
      ['pulls up. on', 'rests'],
      0,
    ],
    [
      'PIQA',
      { goal: 'Cut', sol1: 'saw', sol2: 'eat', label: 0 },
      'Question: Cut\nAnswer:',
      ['saw', 'eat'],
      0,
    ],
    ['white space', { query: 'Q: ', choices: ['a', 'b'], gold: 0 }, 'Q: ', ['a', 'b'], 0],
    ['no query', { query: '', choices: ['a', 'b'], gold: 0 }, '', ['a', 'b'], 0],
  ];
  test.each(shapes)('rows of the shape %s', async (_name, row, query, choices, gold) => {
    const forward = jest.spyOn(model, 'forwardInSlices');
    const { results, kind } = await model.evaluateTask(write('choices.jsonl', [row, row]), { samples: true });
    expect([kind, descriptors(join(dir, 'choices.jsonl'))]).toEqual(['choices', 0]);
    expect(results[0]!.samples![0]).toMatchObject({ query, choices, gold });
    const [rows, options] = forward.mock.calls[0] as unknown as [number[][], { labels: number[][] }];
    const begin = query === '' ? [256] : ids(query.trimEnd());
    const space = query === '' ? ' ' : `${query.slice(query.trimEnd().length)} `;
    expect(rows[0]).toEqual([...begin, ...ids(space + choices[0]!)]);
    expect(options.labels[0]).toEqual([...begin.map(() => -100), ...ids(space + choices[0]!)]);
  });

  test('brackets of HellaSwag are taken out of one line, in linear time', async () => {
    const row = { ...{ activity_label: 'Roof', ctx_a: 'a', ctx_b: 'b', label: 1 } };
    const long = '['.repeat(2e5);
    const endings = ['x [a\nb] [c [d] e] f]', `y${long}\n]`];
    const forward = jest.spyOn(model, 'forwardInSlices');
    const refused = model.evaluateTask(write('choices.jsonl', [{ ...row, endings }]));
    await expectReject(refused, 'ERR_DATA', /expected choice 1 of 'Roof: a B' to have from 1 to 127 tokens/);
    endings[1] = 'y[\n]';
    await model.evaluateTask(write('choices.jsonl', [{ ...row, endings }]));
    const [rows] = forward.mock.calls[0] as unknown as [number[][]];
    const text = (i: number): string => Buffer.from(rows[i]!).toString();
    expect([text(0), text(1)]).toEqual(['Roof: a B x [a\nb] e] f]', 'Roof: a B y[\n]']);
  });

  test('queries with special tokens, and a query that is longer than the context', async () => {
    const forward = jest.spyOn(model, 'forwardInSlices');
    const rows: ChoiceRow[] = [
      { query: 'Q', choices: ['a', 'b'], gold: 0 },
      { query: 'x'.repeat(127) + 'yz', choices: ['a', 'b'], gold: 0 },
    ];
    const { truncated } = await model.evaluateTask(rows, { addSpecialTokens: true });
    expect(truncated).toBe(1);
    const [sent] = forward.mock.calls[0] as unknown as [number[][]];
    expect(sent[0]).toEqual([256, ...ids('Q a')]);
    expect([sent[2]!.length, sent[2]!.slice(-4)]).toEqual([128, ids('yz a')]);
  });

  test('a choice of one token less than the context is compared behind one token of its query', async () => {
    const forward = jest.spyOn(model, 'forwardInSlices');
    await model.evaluateTask([{ query: 'pq', choices: ['b'.repeat(126), 'a'], gold: 0 }]);
    const [rows, options] = forward.mock.calls[0] as unknown as [number[][], { labels: number[][] }];
    expect(rows[0]).toEqual(ids(`q ${'b'.repeat(126)}`));
    expect(options.labels[0]).toEqual([-100, ...ids(` ${'b'.repeat(126)}`)]);
  });

  test('batches change the speed alone', async () => {
    const rows = shapes.map(([, row]) => row as ChoiceRow).slice(0, 1);
    const questions = [...rows, { query: 'Other:', choices: ['abc', 'd', 'efgh'], gold: 2 }, ...rows];
    const of = async (batchSize: number): Promise<number[]> => {
      const { results } = await model.evaluateTask(questions, { adapters: ['a'], batchSize, samples: true });
      return results[0]!.samples!.flatMap((sample) => (sample as ChoiceSample).logLikelihoods);
    };
    const single = await of(1);
    for (const batchSize of [2, 3, 100])
      for (const [i, value] of (await of(batchSize)).entries()) expect(value / single[i]!).toBeCloseTo(1, 5);
  });

  test('plain text, and examples without a tokenizer, have a loss alone; so has generate: false', async () => {
    const generate = jest.spyOn(model, 'generate');
    const text = write('text.jsonl', [{ text: 'some words' }, { text: 'others' }]);
    const { results, answers } = await model.evaluateTask(text);
    const whole = await model.evaluate(await loadDataset(text, { tokenizer: model.tokenizer }));
    expect([answers, results]).toEqual([0, [{ adapter: 'a', ...whole, stderr: {} }]]);
    const rows = write('qa.jsonl', qa(3));
    const some = await model.evaluateTask(rows, { generate: false, limit: 2, adapters: [null] });
    expect(some).toMatchObject({ rows: 2, answers: 0, results: [{ adapter: null }] });
    expect(Object.keys(some.results[0]!)).not.toContain('exactMatch');
    const data = [{ inputIds: [1, 2, 3], labels: [-100, 2, 3] }];
    expect((await model.evaluateTask(data, { generate: false })).results[0]).toMatchObject({ tokens: 2 });
    expect(generate).not.toHaveBeenCalled();
  });

  test('tells how far it is, and lets the event loop go on', async () => {
    const seen: TaskProgress[] = [];
    const rows = write('qa.jsonl', qa(6));
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await model.evaluateTask(rows, { adapters: [null, 'a'], onProgress: (progress) => seen.push(progress) });
    clearInterval(timer);
    const steps = Array.from({ length: 12 }, (_, i) => ({ done: i + 1, total: 12 }));
    expect(seen).toEqual([
      ...steps.map((step) => ({ phase: 'loss', ...step })),
      ...steps.map((step) => ({ phase: 'answers', ...step })),
    ]);
    expect(turns).toBeGreaterThan(3); // each loss and each token is waited for
  });

  test('adapters answer together, and are held until the end', async () => {
    const before = model.engineStats();
    const busy: unknown[] = [];
    const onProgress = (): void => {
      void model.removeAdapter('a').catch((error: { code: string }) => busy.push(error.code));
    };
    await model.evaluateTask(write('qa.jsonl', qa(8)), {
      adapters: ['a', null],
      maxNewTokens: 10,
      onProgress,
    });
    const { tokens, steps } = model.engineStats();
    expect(tokens - before.tokens).toBeGreaterThan(4 * (steps - before.steps)); // of 16 sequences in a batch
    expect(new Set(busy)).toEqual(new Set(['ERR_BUSY']));
  });

  test.each(['loss', 'answers'] as const)('an abort during %s rejects with its reason', async (phase) => {
    const stop = new AbortController();
    const reason = new Error('enough');
    const running = model.evaluateTask(write('qa.jsonl', qa(40)), {
      signal: stop.signal,
      batchSize: 1,
      onProgress: (progress) => {
        if (progress.phase === phase && progress.done === 3) stop.abort(reason);
      },
    });
    await expect(running).rejects.toBe(reason);
    expect(model.engineStats().running).toBe(0);
    await model.merge('a'); // nothing holds the weights
    await model.unmerge();
  });

  test('an abort during choices rejects with its reason', async () => {
    const stop = new AbortController();
    const rows = Array.from({ length: 9 }, () => ({ query: 'q', choices: ['a', 'b'], gold: 0 }));
    const running = model.evaluateTask(rows, { signal: stop.signal, onProgress: () => stop.abort('enough') });
    await expect(running).rejects.toBe('enough');
  });

  test.each<[string, readonly object[] | string, RegExp]>([
    [
      'no JSON',
      '{"prompt": "a", "completion": "b"}\n{"prompt',
      /bad\.jsonl:2: expected one JSON object per line/,
    ],
    [
      'another shape',
      '{"prompt": "a", "completion": "b"}\n\n{"text": "c"}',
      /bad\.jsonl:3: expected \{ prompt, completion \}/,
    ],
    [
      'a missing gold',
      [{ query: 'q', choices: ['a', 'b'] }],
      /bad\.jsonl:1: expected \{ query, choices, gold \}, or ARC: .* but received the keys query, choices$/,
    ],
    [
      'a gold beyond',
      [...qa(0), { query: 'q', choices: ['a', 'b'], gold: 2 }],
      /:1: expected the right choice to be an index from 0 to 1 but received 2/,
    ],
    [
      'one choice',
      [
        { query: 'q', choices: ['a', 'b'], gold: 0 },
        { query: 'q', choices: ['a'], gold: 0 },
      ],
      /:2: expected at least two choices but received 1/,
    ],
    [
      'an empty choice',
      [{ query: 'q', choices: ['a', ''], gold: 0 }],
      /:1: expected choices that are not empty but choice 1 is/,
    ],
    [
      'a wrong key',
      [{ question: 'q', choices: { text: ['a', 'b'], label: ['A', 'B'] }, answerKey: 'C' }],
      /:1: expected "answerKey" to be one of A, B but received 'C'/,
    ],
    [
      'no texts',
      [{ goal: 'q', sol1: 1, sol2: 'b', label: 0 }],
      /:1: expected "sol1" to be a string but received 1/,
    ],
    [
      'no index',
      [{ goal: 'q', sol1: 'a', sol2: 'b', label: 'first' }],
      /:1: expected "label" to be an index but received 'first'/,
    ],
    [
      'a long choice',
      [{ query: 'q', choices: ['a', 'b'.repeat(200)], gold: 0 }],
      /choice 1 of 'q' to have from 1 to 127 tokens behind it but it has 201/,
    ],
    [
      'a choice of as many tokens as the context',
      [{ query: 'q', choices: ['a', 'b'.repeat(127)], gold: 0 }],
      /choice 1 of 'q' to have from 1 to 127 tokens behind it but it has 128/,
    ],
    ['nothing', '\n', /expected at least one example/],
  ])('a file with %s is refused by its line', async (_what, rows, sentence) => {
    const file = typeof rows === 'string' ? join(dir, 'bad.jsonl') : write('bad.jsonl', rows);
    if (typeof rows === 'string') writeFileSync(file, rows);
    await expectReject(model.evaluateTask(file), 'ERR_DATA', sentence);
  });

  test.each<[object, string, RegExp]>([
    [{ adapter: 'a' }, 'ERR_ARGUMENT', /unknown option 'adapter'; did you mean 'adapters'\?/],
    [{ adapters: [] }, 'ERR_ARGUMENT', /expected adapters to be a list/],
    [{ adapters: ['b'] }, 'ERR_ARGUMENT', /the model has no adapter 'b'/],
    [{ limit: 0 }, 'ERR_ARGUMENT', /expected limit to be an integer of at least 1/],
    [{ samples: 1 }, 'ERR_ARGUMENT', /expected samples to be true or false/],
    [{ onProgress: 1 }, 'ERR_ARGUMENT', /expected onProgress to be a function/],
    [{ jsonSchema: { contains: 1 } }, 'ERR_UNSUPPORTED', /no support for contains/],
    [{ jsonSchema: true, generate: false }, 'ERR_ARGUMENT', /expected generate to be true/],
  ])('%j is refused', async (options, code, sentence) => {
    const file = write('qa.jsonl', qa(1));
    await expectReject(model.evaluateTask(file, options), code as 'ERR_ARGUMENT', sentence);
  });

  test('a schema needs answers', async () => {
    const jsonSchema = true;
    const text = write('text.jsonl', [{ text: 'words' }]);
    await expectReject(model.evaluateTask(text, { jsonSchema }), 'ERR_DATA', /since jsonSchema is given/);
    const rows = [{ query: 'q', choices: ['a', 'b'], gold: 0 }];
    await expectReject(model.evaluateTask(rows, { jsonSchema }), 'ERR_ARGUMENT', /expected no jsonSchema/);
    await expectReject(
      model.evaluateTask([{ query: 'q', choices: ['a'], gold: 0 }]),
      'ERR_DATA',
      '[evaluateTask] row 0: expected at least two choices but received 1',
    );
  });
});

test('every answer of a conversation is asked for, behind all that was said before', async () => {
  const base = await answeringModel('Hi!');
  const model = await CausalLM.fromPretrained(base);
  await model.loadAdapter(await answeringAdapter(base, 'Yo.', join(dir, 'yo')), { name: 'yo' });
  const say = (role: string, content: string): object => ({ role, content });
  const turns = [say('user', 'A'), say('assistant', 'Yo.'), say('user', 'B'), say('assistant', 'Hi!')];
  const data = write('chat.jsonl', [{ messages: turns }, { messages: turns.slice(0, 2) }]);
  const { results, answers } = await model.evaluateTask(data, { adapters: [null, 'yo'], samples: true });
  expect(answers).toBe(3);
  expect(results.map(({ exactMatch }) => exactMatch)).toEqual([1 / 3, 2 / 3]);
  const samples = results[1]!.samples as AnswerSample[];
  expect(samples.map(({ prompt, expected }) => [prompt, expected])).toEqual([
    ['<|user|>A<|assistant|>', 'Yo.'],
    ['<|user|>A<|assistant|>Yo.<|user|>B<|assistant|>', 'Hi!'],
    ['<|user|>A<|assistant|>', 'Yo.'],
  ]);

  await model.loadAdapter(await answeringAdapter(base, 'Yo, man!', join(dir, 'long')), { name: 'long' });
  const short = await model.evaluateTask(data, { adapters: ['yo', 'long'], maxNewTokens: 5 });
  expect(short.results.map(({ adapter, cut }) => [adapter, cut])).toEqual([
    ['yo', 0],
    ['long', 3],
  ]);
  await model.dispose();
  rmSync(base, { recursive: true });
});
