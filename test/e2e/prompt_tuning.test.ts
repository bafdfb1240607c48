/**
 * Prompt tuning. Vectors that are the embeddings of tokens do what these tokens do: logits, losses and texts are held against those of the
 * base, which reads the tokens themselves.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Conversation } from '../../lib/cli/conversation';
import {
  CausalLM,
  loadDataset,
  noGrad,
  openSafetensors,
  readAdapter,
  setThreads,
  tensor,
  Trainer,
  writeAdapter,
  type Adapter,
  type ChoiceSample,
  type PromptConfigInput,
} from '../../lib/index';
import { expectReject, expectThrow } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { bits, list, relativeError } from '../support/numbers';
import { servers } from '../support/serving';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const out = temporaryFolder();
const context = 128;
let dir: string;
let model: CausalLM;
beforeAll(async () => {
  setThreads(1); // tiny matrices
  dir = await tinyModel();
  model = await CausalLM.fromPretrained(dir);
});
afterEach(async () => {
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
});
afterAll(async () => {
  await model.dispose();
  rmSync(dir, { recursive: true });
});

const rows = [
  [256, 72, 101, 108, 3, 4],
  [97, 98, 99],
];

/** An adapter whose vectors are the embeddings of a text, and the ids of that text. */
function textAdapter(text: string, name = 'text', on = model): { adapter: Adapter; ids: number[] } {
  const ids = on.tokenizer.encode(text);
  const config = { method: 'prompt', numVirtualTokens: ids.length, promptTuningInitText: text } as const;
  return { adapter: on.addAdapter(config, { name }), ids };
}

const logitsOf = (ids: number[][], options: object = {}): Promise<number[]> =>
  list(noGrad(() => model.forward(ids, { logits: true, ...options }).logits));

/** The logits of some positions of a row alone. */
async function baseLogits(ids: number[], from: number): Promise<number[]> {
  return (await logitsOf([ids], { adapter: null })).slice(from * model.config.vocabSize);
}

async function gradientOf(adapter: Adapter, run: () => { loss: { backward(): void } }): Promise<number[]> {
  run().loss.backward();
  const [p] = adapter.parameters();
  const values = await list(p!.grad);
  p!.grad!.dispose();
  p!.grad = null;
  return values;
}

test('vectors of a text give the logits of the text itself before the tokens, in rows of all lengths', async () => {
  const { ids } = textAdapter('one');
  const { ids: longer } = textAdapter('another', 'longer');
  const { vocabSize } = model.config;
  const [a, b] = rows as [number[], number[]];
  const all = await logitsOf([b, a, b, a], { adapter: ['longer', 'text', null, 'longer'] });
  const width = a.length * vocabSize;
  const wanted = [
    await baseLogits([...longer, ...b], longer.length),
    await baseLogits([...ids, ...a], ids.length),
    await baseLogits(b, 0),
    await baseLogits([...longer, ...a], longer.length),
  ];
  for (const [i, want] of wanted.entries())
    expect(relativeError(all.slice(i * width, i * width + want.length), want)).toBeLessThan(1e-6);
  const ofTensor = await logitsOf(tensor([a, a], { dtype: 'i32' }) as unknown as number[][], {
    adapter: 'text',
  });
  expect(ofTensor.slice(width)).toEqual(all.slice(width, 2 * width));
});

test('the first token of each text counts, as rows, as tensors and packed', async () => {
  const { adapter, ids } = textAdapter('one');
  const sum = async (tokens: unknown, labels: unknown, options: object = {}): Promise<number> => {
    const wanted = { labels, reduction: 'sum', adapter: 'text', ...options } as never;
    return noGrad(
      () => model.forward(tokens as number[][], wanted) as { loss: { item(): Promise<number> } },
    ).loss.item();
  };
  const ignored = (row: number[]): number[] => row.map(() => -100);
  const texts = [...rows, [7]];
  const losses: number[] = [];
  for (const row of texts)
    losses.push(await sum([[...ids, ...row]], [[...ignored(ids), ...row]], { adapter: null }));
  const [first, second, third] = losses as [number, number, number];
  const near = (a: number, b: number): void => expect(Math.abs(a - b) / b).toBeLessThan(1e-6);
  near(await sum(rows, rows), first + second);
  near(await sum([[7]], [[7]]), third);
  const square = [rows[0]!.slice(0, 3), rows[1]!];
  const asTensor = tensor(square, { dtype: 'i32' });
  near(await sum(asTensor, asTensor), await sum(square, square));
  const packed = [[...texts.flat(), 0], [...rows[1]!]];
  const segmentIds = [[...texts.flatMap((row, i) => row.map(() => i + 1)), 0], rows[1]!.map(() => 4)];
  near(await sum(packed, packed, { segmentIds }), first + second + third + second);
  // A row without vectors among rows with them has no label of a first token.
  near(
    await sum([...rows, rows[0]!], [...rows, rows[0]!], { adapter: ['text', 'text', null] }),
    first + second + (await sum([rows[0]!], [rows[0]!], { adapter: null })),
  );
  const { loss, tokens } = await model.evaluate(
    texts.map((inputIds) => ({ inputIds })),
    { adapter, batchSize: 2 },
  );
  expect(tokens).toBe(texts.flat().length);
  near(loss, (first + second + third) / tokens);
  expectThrow(
    () => model.forward([[1, 2]], { labels: [[262, 2]], adapter }),
    'ERR_DATA',
    '[forward] expected labels from 0 to 261, or -100 for none, but received 262 at row 0, position 0',
  );
});

test('packed rows give the logits and the gradient of the texts alone', async () => {
  const { adapter } = textAdapter('one');
  const packed = [[...rows[1]!, ...rows[0]!, 0], rows[0]!];
  const segmentIds = [[...rows[1]!.map(() => 5), ...rows[0]!.map(() => 2), 0], rows[0]!.map(() => 1)];
  const texts = [rows[1]!, rows[0]!, rows[0]!];
  const wanted = await gradientOf(adapter, () => model.forward(texts, { labels: texts, reduction: 'sum' }));
  const got = await gradientOf(adapter, () =>
    model.forward(packed, { labels: packed, segmentIds, reduction: 'sum' }),
  );
  expect(relativeError(got, wanted)).toBeLessThan(1e-5);
  const logits = await logitsOf(packed, { segmentIds });
  const { vocabSize } = model.config;
  const alone = await logitsOf([rows[1]!]);
  expect(relativeError(logits.slice(0, 3 * vocabSize), alone)).toBeLessThan(1e-6);
  expect(relativeError(logits.slice(3 * vocabSize, 9 * vocabSize), await logitsOf([rows[0]!]))).toBeLessThan(
    1e-6,
  );
});

test('padding has no vectors before it', async () => {
  const { adapter } = textAdapter('one');
  const packed = [...rows[1]!, ...Array.from({ length: context - 3 }, () => 0)];
  const segmentIds = [packed.map((_, i) => (i < 3 ? 1 : 0))];
  const loss = (ids: number[], options = {}): Promise<number> =>
    noGrad(() => model.forward([ids], { labels: [ids], adapter, ...options }).loss).item();
  expect(await loss(packed, { segmentIds })).toBeCloseTo(await loss(rows[1]!), 5);
});

test('logits and a trained head beside vectors have the gradient of the loss alone', async () => {
  const { adapter } = textAdapter('one');
  fillAdapter(model.addAdapter({ r: 2, targetModules: ['lm_head'] }, { name: 'head' }), 4, 0.2);
  const loss = await gradientOf(adapter, () => model.forward(rows, { labels: rows }));
  const both = await gradientOf(adapter, () => model.forward(rows, { labels: rows, logits: true }));
  expect(relativeError(both, loss)).toBeLessThan(1e-5);
  const sum = { reduction: 'sum' } as const;
  const alone = await gradientOf(adapter, () => model.forward([rows[0]!], { labels: [rows[0]!], ...sum }));
  const mixed = await gradientOf(adapter, () =>
    model.forward(rows, { labels: rows, adapter: ['text', 'head'], ...sum }),
  );
  expect(relativeError(mixed, alone)).toBeLessThan(1e-5);
});

describe('texts', () => {
  const options = { maxNewTokens: 12, temperature: 0, ignoreEos: true, logprobs: 1 } as const;
  const wordsOf = async (prompt: number[], adapter: string | null) => {
    const tokens: [number, number][] = [];
    for await (const { id, logprob } of model.generate(prompt, { ...options, adapter }))
      tokens.push([id, logprob!]);
    return tokens;
  };

  test.each([
    ['fewer than a part of a prompt', 'abc', 256],
    ['more than a part, and than a page', 'x'.repeat(69), 16],
    ['as many as a page', 'y'.repeat(63), 64],
  ])('vectors: %s', async (_, text, prefillChunk) => {
    model.configureEngine({ prefillChunk });
    const { ids } = textAdapter(text);
    const want = await wordsOf([...ids, ...rows[0]!], null);
    const got = await wordsOf(rows[0]!, 'text');
    expect(got.map(([id]) => id)).toEqual(want.map(([id]) => id));
    expect(
      relativeError(
        got.map((token) => token[1]),
        want.map((token) => token[1]),
      ),
    ).toBeLessThan(1e-5);
    const together = await Promise.all([null, 'text', null, 'text'].map((who) => wordsOf(rows[0]!, who)));
    expect(together[1]).toEqual(got);
    expect(together[3]).toEqual(got);
    expect(together[0]).toEqual(await wordsOf(rows[0]!, null));
  });

  test('known beginnings are those of one adapter; only tokens of the text count as computed before', async () => {
    model.configureEngine({});
    textAdapter('abc'); // 4 vectors
    textAdapter('xyz', 'other');
    const prompt = Array.from({ length: 70 }, (_, i) => i + 1);
    const ask = (adapter: string | null) => model.generate(prompt, { ...options, maxNewTokens: 2, adapter });
    const first = await ask('text');
    const { usage } = await ask('text');
    expect(usage).toEqual({ promptTokens: 70, completionTokens: 2, cachedTokens: 60 });
    expect(first.usage.cachedTokens).toBe(0);
    expect(model.engineStats()).toMatchObject({ prefixHits: 1, cachedTokens: 60 });
    for (const adapter of ['other', null]) expect((await ask(adapter)).usage.cachedTokens).toBe(0);
    fillAdapter(model.adapters.get('text')!, 3, 0.5);
    expect((await ask('text')).usage.cachedTokens).toBe(0);
  });

  test('requests that lose their pages make the same tokens', async () => {
    const { pageBytes } = { pageBytes: 2 * 3 * 64 * 2 * 6 * 4 };
    model.configureEngine({ kvCacheBytes: 3 * pageBytes });
    textAdapter('x'.repeat(50));
    const prompts = [0, 1, 2].map((i) => rows[0]!.map((id) => (id + i) % 256));
    const long = { ...options, maxNewTokens: 60, adapter: 'text' };
    const alone: number[][] = [];
    for (const prompt of prompts) alone.push((await model.generate(prompt, long)).ids);
    const together = await Promise.all(
      prompts.map(async (prompt) => (await model.generate(prompt, long)).ids),
    );
    expect(together).toEqual(alone);
    model.configureEngine({});
  });
});

test('beyond the context is refused', async () => {
  const { adapter } = textAdapter('x'.repeat(19)); // 20 vectors
  const fit = Array.from({ length: context - 20 }, (_, i) => i);
  expect((await logitsOf([fit])).length).toBe(fit.length * model.config.vocabSize);
  const sentence = `expected texts of at most 108 tokens, since adapter 'text' puts 20 vectors before them and the model has max_position_embeddings 128, but row 1 holds one of 109`;
  expectThrow(() => model.forward([[1], [...fit, 1]]), 'ERR_ARGUMENT', `[forward] ${sentence}`);
  // Two texts of a row each have their own positions.
  const segmentIds = [[...fit.map(() => 1), ...fit.map(() => 2)]];
  expect(
    await model.forward([[...fit, ...fit]], { labels: [[...fit, ...fit]], segmentIds }).loss.item(),
  ).toBeGreaterThan(0);
  await expectReject(
    model.evaluate([{ inputIds: [...fit, 1] }], { adapter }),
    'ERR_ARGUMENT',
    `[forward] ${sentence.replace('row 1', 'row 0')}`,
  );
  const taken = `max_position_embeddings 128, of which adapter 'text' takes 20`;
  await expectReject(
    model.generate(fit, {}),
    'ERR_ARGUMENT',
    `[generate] expected a prompt of at most 107 tokens, since the model has ${taken}, but received 108`,
  );
  await expectReject(
    model.generate(fit.slice(8), { maxNewTokens: 9 }),
    'ERR_ARGUMENT',
    `[generate] expected a prompt and maxNewTokens of at most 108 tokens together (${taken}) but received 100 and 9`,
  );
  const { usage } = await model.generate(fit.slice(8), { maxNewTokens: 8, ignoreEos: true });
  expect(usage.completionTokens).toBe(8);
});

test('a Trainer refuses a data set with a longer example before its first step', async () => {
  textAdapter('x'.repeat(19)); // 20 vectors
  const file = join(out, 'rows.jsonl');
  writeFileSync(file, `{"text":"a"}\n{"text":"${'b'.repeat(context - 21)}"}\n`);
  const { tokenizer } = model;
  const data = await loadDataset(file, { tokenizer, maxLength: context });
  expectThrow(
    () => new Trainer({ model, data, maxSteps: 1 }),
    'ERR_ARGUMENT',
    `[Trainer] expected examples of data of at most 108 tokens, since adapter 'text' puts 20 vectors before them and the model has max_position_embeddings 128, but example 1 has 109: give loadDataset a maxLength of 108`,
  );
  const fitting = await loadDataset(file, { tokenizer, maxLength: context - 20 });
  expect((await new Trainer({ model, data: fitting, maxSteps: 1 }).run()).step).toBe(1);
  const evalData = data;
  expectThrow(
    () => new Trainer({ model, data: fitting, evalData, maxSteps: 1, evalEvery: 1 }),
    'ERR_ARGUMENT',
    /examples of evalData/,
  );
});

test('without vectors, a Trainer takes examples that are longer than the context', async () => {
  model.addAdapter({ r: 2, targetModules: ['q_proj'] }, { name: 'lora', activate: true });
  const file = join(out, 'long.jsonl');
  writeFileSync(file, `{"text":"${'b'.repeat(context + 10)}"}\n`);
  const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 2 * context });
  expect(data.maxLength).toBeGreaterThan(context);
  expect((await new Trainer({ model, data, maxSteps: 1 }).run()).step).toBe(1);
});

describe('what else knows the context', () => {
  const serve = servers();
  const question = Array.from({ length: context - 21 }, (_, i) => i);

  test('the server answers within it, and refuses more', async () => {
    textAdapter('x'.repeat(19)); // 20 vectors
    const { post } = await serve(model);
    const ask = (wanted: object) =>
      post('/v1/completions', { model: 'text', prompt: question, ignore_eos: true, ...wanted });
    const { status, body } = await ask({ max_tokens: 1 });
    expect([status, body.usage.prompt_tokens, body.usage.completion_tokens]).toEqual([200, 107, 1]);
    expect((await ask({ max_tokens: 2 })).body.error.message).toBe(
      "this model's maximum context length is 108 tokens, but you asked for 109: 107 in the prompt and 2 to generate",
    );
    expect((await ask({ max_tokens: 2, model: basename(dir) })).status).toBe(200);
  });

  test('questions of an evaluation lose their beginnings, for all adapters alike', async () => {
    textAdapter('x'.repeat(19));
    const row = { query: 'a'.repeat(200), choices: ['b', 'c'], gold: 0 };
    const scoresOf = async (query: string) => {
      const wanted = { adapters: [null, 'text'], samples: true };
      const { truncated, results } = await model.evaluateTask([{ ...row, query }], wanted);
      return { truncated, results };
    };
    const cut = await scoresOf(row.query);
    expect(cut.truncated).toBe(1);
    // A choice is a space and a letter.
    const whole = await scoresOf('a'.repeat(context - 20 - 2));
    expect(whole.truncated).toBe(0);
    const likelihoods = ({ results }: typeof cut) =>
      results.flatMap(({ samples }) => (samples as ChoiceSample[]).map((sample) => sample.logLikelihoods));
    expect(likelihoods(cut)).toEqual(likelihoods(whole));
    expect(likelihoods(cut)[0]).not.toEqual(likelihoods(cut)[1]);
  });

  test('a conversation forgets what does not fit behind them', async () => {
    textAdapter('x'.repeat(39)); // 40 vectors
    let forgotten = 0;
    const talk = new Conversation(
      model,
      { maxNewTokens: 8, temperature: 0, ignoreEos: true },
      (n) => (forgotten += n),
    );
    talk.adapter = 'text';
    const { signal } = new AbortController();
    const say = async (text: string): Promise<void> => {
      for await (const _ of talk.say(text, signal));
    };
    await say('a'.repeat(40));
    await say('b'.repeat(40));
    expect(forgotten).toBe(2);
    await expectReject(
      say('c'.repeat(90)),
      'ERR_ARGUMENT',
      /^\[chat\] expected a message of at most 87 tokens with what the template adds, since the model has max_position_embeddings 128, but received /,
    );
  });
});

describe('first values', () => {
  const valuesOf = async (config: Omit<PromptConfigInput, 'method'>, seed = 1): Promise<number[]> => {
    const adapter = model.addAdapter({ method: 'prompt', ...config }, { name: 'first', seed });
    const values = await list(adapter.parameters()[0]!);
    await model.removeAdapter('first');
    return values;
  };
  const width = 24;

  test('normal numbers of the seed', async () => {
    const values = await valuesOf({ numVirtualTokens: 100 });
    const square = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    expect(values.length).toBe(100 * width);
    expect(Math.abs(Math.sqrt(square) - 1)).toBeLessThan(0.05);
    expect(await valuesOf({ numVirtualTokens: 100 })).toEqual(values);
    expect(await valuesOf({ numVirtualTokens: 100 }, 2)).not.toEqual(values);
    expect((await valuesOf({})).length).toBe(8 * width);
  });

  test('embeddings of tokens that the seed draws', async () => {
    const config = { numVirtualTokens: 5, promptTuningInit: 'sample_vocab' } as const;
    const values = await valuesOf(config);
    const rowsOf = (all: number[]): string[] =>
      Array.from({ length: all.length / width }, (_, i) => all.slice(i * width, (i + 1) * width).join());
    const file = await openSafetensors(join(dir, 'model.safetensors'));
    const { bytes } = file.tensors.get('model.embed_tokens.weight')!;
    const known = new Set(rowsOf([...new Float32Array(bytes.slice().buffer)]));
    file.close();
    for (const row of rowsOf(values)) expect(known).toContain(row);
    expect(new Set(rowsOf(values)).size).toBeGreaterThan(1);
    expect(await valuesOf(config, 2)).not.toEqual(values);
  });

  test('a text is cut, or repeated', async () => {
    const text = 'abc'; // <s> a b c
    const four = await valuesOf({ numVirtualTokens: 4, promptTuningInitText: text });
    expect(await valuesOf({ numVirtualTokens: 2, promptTuningInitText: text })).toEqual(
      four.slice(0, 2 * width),
    );
    expect(await valuesOf({ numVirtualTokens: 6, promptTuningInitText: text })).toEqual([
      ...four,
      ...four.slice(0, 2 * width),
    ]);
  });
});

test('files have the fields and the words of PEFT', async () => {
  const { adapter } = textAdapter('one');
  await adapter.save(join(out, 'text'));
  const { config, tensors } = await readAdapter(join(out, 'text'));
  expect(config).toEqual({
    auto_mapping: null,
    base_model_name_or_path: dir,
    inference_mode: true,
    num_attention_heads: 4,
    num_layers: 3,
    num_transformer_submodules: 1,
    num_virtual_tokens: 4,
    peft_type: 'PROMPT_TUNING',
    prompt_tuning_init: 'TEXT',
    prompt_tuning_init_text: 'one',
    revision: null,
    task_type: 'CAUSAL_LM',
    token_dim: 24,
    tokenizer_name_or_path: dir,
  });
  expect([...tensors].map(([key, { dtype, shape }]) => [key, dtype, shape])).toEqual([
    ['prompt_embeddings', 'F32', [4, 24]],
  ]);
  // Other writers leave out what the model says.
  const short = { peft_type: 'PROMPT_TUNING', num_virtual_tokens: 4, tokenizer_kwargs: { use_fast: true } };
  await writeAdapter(join(out, 'short'), { config: short, tensors });
  const loaded = await model.loadAdapter(join(out, 'short'), { name: 'short', trainable: true });
  expect(bits(...loaded.parameters())).toBe(bits(...adapter.parameters()));
  await loaded.save(join(out, 'short-again'));
  const again = await readAdapter(join(out, 'short-again'));
  expect(again.config).toMatchObject({ ...short, prompt_tuning_init: 'RANDOM' });
  const load = async (changes: object): Promise<unknown> => {
    await writeAdapter(join(out, 'wrong'), { config: { ...config, ...changes }, tensors });
    return model.loadAdapter(join(out, 'wrong'), { name: 'wrong' });
  };
  const wrong: [object, RegExp][] = [
    [{ token_dim: 32 }, /adapter_config.json has token_dim 32, and the model has hidden_size 24$/],
    [
      { num_virtual_tokens: 128 },
      /has num_virtual_tokens 128, and the model has max_position_embeddings 128$/,
    ],
    [{ num_virtual_tokens: 5 }, /expected prompt_embeddings of shape \[5, 24\] but received \[4, 24\]$/],
    [{ num_virtual_tokens: null }, /has num_virtual_tokens null, expected a positive integer$/],
    [
      { num_transformer_submodules: 2 },
      /has num_transformer_submodules 2, expected 1, since the model has a decoder alone$/,
    ],
    [{ prompt_tuning_init_text: null }, /has prompt_tuning_init_text null, expected a text/],
    [
      { prompt_tuning_init: 'XAVIER' },
      /has prompt_tuning_init "XAVIER", expected 'random' or 'sample_vocab' or 'text'$/,
    ],
    [{ modules_to_save: ['lm_head'] }, /has modules_to_save \["lm_head"\], which is not supported$/],
    [{ task_type: 'SEQ_CLS' }, /is for a head of classes \(task_type SEQ_CLS\): load the model with head: /],
  ];
  for (const [changes, message] of wrong) await expectReject(load(changes), 'ERR_ADAPTER', message);
});

test('what no prompt can do is refused with the reason', async () => {
  const { adapter } = textAdapter('one');
  const stand = 'its vectors stand before the tokens, and no weight holds them';
  await expectReject(
    model.merge('text'),
    'ERR_UNSUPPORTED',
    `[merge] adapter 'text' cannot be merged: ${stand}`,
  );
  await expectReject(
    model.save(join(out, 'no'), { merge: 'text' }),
    'ERR_UNSUPPORTED',
    `[save] adapter 'text' cannot be merged: ${stand}`,
  );
  adapter.scale = 1;
  expectThrow(
    () => (adapter.scale = 0.5),
    'ERR_UNSUPPORTED',
    `[adapter] adapter 'text' cannot be scaled: with the factor 0 its vectors would still stand before the tokens`,
  );
  await expectReject(
    model.combineAdapters(['text']),
    'ERR_UNSUPPORTED',
    `[combineAdapters] adapter 'text' is no plain LoRA, whose changes alone can be added up`,
  );
});

test.each<[object, string]>([
  [{ numVirtualTokens: 0 }, 'expected numVirtualTokens to be a positive integer but received 0'],
  [
    { numVirtualTokens: 128 },
    'expected numVirtualTokens to be below max_position_embeddings 128 (a text needs room behind them) but received 128',
  ],
  [
    { promptTuningInit: 'xavier' },
    `expected promptTuningInit to be 'random' or 'sample_vocab' or 'text' but received 'xavier'`,
  ],
  [
    { promptTuningInit: 'text' },
    `expected promptTuningInitText to be a text beside promptTuningInit 'text' but received undefined`,
  ],
  [
    { promptTuningInit: 'random', promptTuningInitText: 'a' },
    `expected promptTuningInitText to be nothing beside promptTuningInit 'random' but received 'a'`,
  ],
  [{ tokenDim: 24 }, `unknown option 'tokenDim'; the options are numVirtualTokens, `],
])('%j is refused', (config, message) => {
  expectThrow(
    () => model.addAdapter({ method: 'prompt', ...config }),
    'ERR_ARGUMENT',
    new RegExp(`^\\[PromptConfig\\] ${message.replace(/[[\]().]/g, '\\$&')}`),
  );
});

test('training lowers the loss, packed or not by the same steps, and counts first tokens', async () => {
  const data = Array.from({ length: 8 }, (_, i) => ({ inputIds: [i, 65, 66, 67, i] }));
  const curve = async (options: object): Promise<number[]> => {
    const adapter = model.addAdapter({ method: 'prompt', numVirtualTokens: 4 }, { name: 'run', seed: 3 });
    const { loss } = await model.evaluate(data, { adapter });
    const losses: number[] = [];
    const wanted = {
      model,
      data,
      lr: 0.3,
      maxSteps: 12,
      schedule: 'constant',
      seed: 1,
      ...options,
    } as const;
    for await (const event of new Trainer(wanted).run()) if (event.type === 'step') losses.push(event.loss);
    expect(adapter.trained).toBe(true);
    expect(Math.abs(losses[0]! / loss - 1)).toBeLessThan(1e-5); // of all first tokens too
    await model.removeAdapter('run');
    return losses;
  };
  const plain = await curve({ batchSize: 8 });
  expect(plain.at(-1)).toBeLessThan(0.9 * plain[0]!);
  expect(relativeError(await curve({ batchSize: 2, packing: true, packLength: 20 }), plain)).toBeLessThan(
    1e-4,
  );
  expect(await curve({ batchSize: 8, gradientCheckpointing: true })).toEqual(plain);
});
