/** Generations that share an engine: each gives what it gives alone, bit for bit, whatever runs beside it. */
import { rmSync } from 'node:fs';
import { CausalLM, setThreads, type GenerateOptions, type GenerationResult } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { TokenStream } from '../../lib/text/token_stream';
import { fillAdapter } from '../support/fill_adapter';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

beforeAll(() => setThreads(1)); // tiny matrices

const made: string[] = [];
const models: CausalLM[] = [];
async function load(options: TinyModelOptions = {}, device = 'cpu'): Promise<CausalLM> {
  const dir = await tinyModel(options);
  made.push(dir);
  const model = await CausalLM.fromPretrained(dir, { device });
  models.push(model);
  return model;
}
afterEach(async () => {
  await Promise.all(models.splice(0).map((model) => model.dispose()));
  for (const dir of made.splice(0)) rmSync(dir, { recursive: true });
});

const text = (length: number, seed: number): number[] =>
  Array.from({ length }, (_, i) => (i * 7 + seed * 13) % 256);

interface Wish extends GenerateOptions {
  prompt: number[];
}
const wishes = (count: number, more: (i: number) => Partial<Wish> = () => ({})): Wish[] =>
  Array.from({ length: count }, (_, i) => ({
    prompt: text(3 + 5 * i, i),
    maxNewTokens: 10 + 3 * i,
    temperature: i % 2 ? 0.9 : 0,
    seed: i,
    ignoreEos: true,
    ...more(i),
  }));
const run = async (model: CausalLM, { prompt, ...options }: Wish): Promise<GenerationResult> =>
  model.generate(prompt, options);
async function oneByOne(model: CausalLM, all: readonly Wish[]): Promise<number[][]> {
  const ids: number[][] = [];
  for (const wish of all) ids.push((await run(model, wish)).ids);
  return ids;
}
const together = async (model: CausalLM, all: readonly Wish[]): Promise<number[][]> =>
  (await Promise.all(all.map((wish) => run(model, wish)))).map(({ ids }) => ids);

/** Adapters of different ranks and layers. */
function addAdapters(model: CausalLM): void {
  const configs = [
    { r: 2, targetModules: 'all-linear' },
    { r: 5, targetModules: ['q_proj', 'down_proj'] },
    { r: 3, targetModules: 'all-linear', useDora: true },
    { r: 2, targetModules: ['v_proj'], modulesToSave: ['lm_head'] },
  ] as const;
  for (const [i, config] of configs.entries())
    fillAdapter(model.addAdapter({ ...config }, { name: `a${i}`, seed: i }), i + 1, 0.3);
  model.setAdapter(null);
}
const adapterOf = (i: number): Partial<Wish> => ({ adapter: [null, 'a0', 'a1', 'a0', 'a2', 'a3'][i % 6]! });

describe.each<[string, TinyModelOptions]>([
  ['f32', { config: { tie_word_embeddings: false } }],
  ['bf16', { dtype: 'BF16', config: { tie_word_embeddings: false, torch_dtype: 'bfloat16' } }],
  [
    'qwen3 with biases',
    { config: { model_type: 'qwen3', attention_bias: true, tie_word_embeddings: false } },
  ],
  ['a sliding window', { config: { model_type: 'mistral', sliding_window: 5, tie_word_embeddings: false } }],
])('%s', (_, options) => {
  test('requests with their own adapters, alone and in company', async () => {
    const model = await load(options);
    addAdapters(model);
    const all = wishes(12, adapterOf);
    const alone = await oneByOne(model, all);
    expect(new Set(alone.map(String)).size).toBe(12);
    expect(await together(model, all)).toEqual(alone);
    expect(await together(model, [...all].reverse())).toEqual([...alone].reverse());
  });
});

test('more requests than places', async () => {
  const model = await load();
  model.configureEngine({ maxBatchSize: 3 });
  const all = wishes(8);
  const alone = await oneByOne(model, all);
  expect(await together(model, all)).toEqual(alone);
});

test('prompts in parts of any size', async () => {
  const model = await load();
  const all = wishes(4, (i) => ({ prompt: text(40 + 11 * i, i) }));
  const whole = await together(model, all);
  for (const prefillChunk of [1, 7, 64]) {
    model.configureEngine({ prefillChunk });
    expect(await together(model, all)).toEqual(whole);
  }
});

test('a prompt whose beginning is known gives the same text', async () => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  const all = [70, 128, 150].map((length, i): Wish => ({
    prompt: [...text(length, 1), i],
    maxNewTokens: 8,
    temperature: 0,
    ignoreEos: true,
  }));
  const cold: number[][] = [];
  for (const wish of all) {
    model.configureEngine();
    const { ids, usage } = await run(model, wish);
    expect(usage.cachedTokens).toBe(0);
    cold.push(ids);
  }
  model.configureEngine();
  for (const [i, cached] of [0, 64, 128].entries()) {
    const { ids, usage } = await run(model, all[i]!);
    expect([ids, usage.cachedTokens]).toEqual([cold[i], cached]);
  }
  expect(model.engineStats()).toMatchObject({ prefixHits: 2, cachedTokens: 192 });
});

test('the next turn of a conversation computes only what is new', async () => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  const options = { maxNewTokens: 70, temperature: 0, ignoreEos: true };
  const first = await model.generate(text(30, 1), options);
  const { usage } = await model.generate([...text(30, 1), ...first.ids, ...text(10, 2)], options);
  expect(usage).toMatchObject({ promptTokens: 110, cachedTokens: 64 });
});

test('what another adapter, other weights or a merged base computed is not read', async () => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  addAdapters(model);
  const wish: Wish = { prompt: text(130, 1), maxNewTokens: 4, temperature: 0, ignoreEos: true };
  const cached = async (adapter: string | null): Promise<number> =>
    (await run(model, { ...wish, adapter })).usage.cachedTokens;
  expect([await cached('a0'), await cached('a0'), await cached('a1'), await cached(null)]).toEqual([
    0, 128, 0, 0,
  ]);
  fillAdapter(model.adapters.get('a0')!, 9);
  expect(await cached('a0')).toBe(0);
  model.adapters.get('a0')!.scale = 0.5;
  expect(await cached('a0')).toBe(0);
  await model.merge('a1');
  expect(await cached(null)).toBe(0);
  await model.unmerge();
  expect([await cached(null), await cached(null)]).toEqual([0, 128]);
});

test('a merged base gives what the adapter gave; so does the base after it', async () => {
  const model = await load();
  addAdapters(model);
  const [wish] = wishes(1, () => ({ prompt: text(9, 4), temperature: 0 })) as [Wish];
  const [base, adapted] = [
    await run(model, { ...wish, adapter: null }),
    await run(model, { ...wish, adapter: 'a0' }),
  ];
  await model.merge('a0');
  expect((await run(model, { ...wish, adapter: null })).ids).toEqual(adapted.ids);
  await model.unmerge();
  expect((await run(model, { ...wish, adapter: null })).ids).toEqual(base.ids);
});

test('an adapter that is trained, scaled, removed and replaced between requests', async () => {
  const model = await load();
  addAdapters(model);
  const wish: Wish = { prompt: text(9, 4), maxNewTokens: 12, temperature: 0, ignoreEos: true, adapter: 'a0' };
  const seen = new Set<string>();
  const ids = async (): Promise<number[]> => (await run(model, wish)).ids;
  seen.add(String(await ids()));
  model.adapters.get('a0')!.scale = -1;
  seen.add(String(await ids()));
  model.adapters.get('a0')!.scale = 1;
  fillAdapter(model.adapters.get('a0')!, 77);
  seen.add(String(await ids()));
  await model.removeAdapter('a0');
  fillAdapter(model.addAdapter({ r: 9, targetModules: 'all-linear' }, { name: 'a0' }), 5);
  seen.add(String(await ids()));
  expect(seen.size).toBe(4);
});

test('when memory is short the youngest gives way, and the texts stay the same', async () => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  const all = wishes(5, (i) => ({ prompt: text(50, i), maxNewTokens: 100 }));
  const alone = await oneByOne(model, all);
  const { kvCacheCapacity } = model.engineStats();
  const page = kvCacheCapacity / 8;
  model.configureEngine({ kvCacheBytes: 6 * page });
  expect(await together(model, all)).toEqual(alone);
  expect(model.engineStats().preemptions).toBeGreaterThan(0);
  expect(model.engineStats().kvCacheCapacity).toBeLessThanOrEqual(6 * page);
});

test('the bounds are said before any work', async () => {
  const model = await load();
  const code = async (wish: Partial<Wish>): Promise<unknown> =>
    run(model, { prompt: text(4, 1), maxNewTokens: 2, ignoreEos: true, ...wish }).then(
      () => 'accepted',
      ({ code, message }: { code: string; message: string }) => `${code} ${message}`,
    );
  expect(await code({ prompt: text(128, 1) })).toMatch(/^ERR_ARGUMENT .* at most 127 tokens.* received 128$/);
  expect(await code({ prompt: text(100, 1), maxNewTokens: 29 })).toMatch(
    /^ERR_ARGUMENT .* received 100 and 29$/,
  );
  expect(await code({ prompt: text(100, 1), maxNewTokens: 28 })).toBe('accepted');
  expect((await model.generate(text(120, 1), { ignoreEos: true })).ids).toHaveLength(8); // what the context leaves
  const { kvCacheCapacity } = model.engineStats();
  model.configureEngine({ kvCacheBytes: kvCacheCapacity / 8 });
  expect(await code({ prompt: text(60, 1), maxNewTokens: 6 })).toMatch(/^ERR_ARGUMENT .* at most 64 tokens/);
  expect(await code({ prompt: text(60, 1), maxNewTokens: 5 })).toBe('accepted');
  model.configureEngine({ maxBatchSize: 1, maxQueued: 2 });
  const answers = await Promise.all([1, 2, 3, 4].map(() => code({})));
  expect(answers.filter((answer) => answer === 'accepted')).toHaveLength(3); // one runs
  expect(answers.find((answer) => answer !== 'accepted')).toMatch(
    /^ERR_BUSY \[generate\] 2 requests wait already/,
  );
  expect(() => model.configureEngine({ maxBatchSize: 0 })).toThrow(/maxBatchSize of at least 1/);
  expect(() => model.configureEngine({ batchSize: 1 } as object)).toThrow(/did you mean 'maxBatchSize'/);
});

test('ERR_BUSY for other bounds while a generation runs', async () => {
  const model = await load();
  const iterator = model.generate(text(4, 1), { ignoreEos: true })[Symbol.asyncIterator]();
  await iterator.next();
  expect(() => model.configureEngine({ maxBatchSize: 2 })).toThrow(
    expect.objectContaining({ code: 'ERR_BUSY' }),
  );
  await iterator.return!();
  model.configureEngine({ maxBatchSize: 2 });
});

test('an abort ends one request, at once, and no other', async () => {
  const model = await load();
  const others = wishes(3);
  const alone = await oneByOne(model, others);
  const controller = new AbortController();
  const company = together(model, others);
  let seen = 0;
  const aborted = async (): Promise<void> => {
    const options = { maxNewTokens: 100, ignoreEos: true, signal: controller.signal };
    for await (const _ of model.generate(text(5, 9), options)) if (++seen === 3) controller.abort();
  };
  await expect(aborted()).rejects.toMatchObject({ name: 'AbortError' });
  expect(seen).toBe(3);
  expect(await company).toEqual(alone);
  expect(model.engineStats()).toMatchObject({ running: 0, waiting: 0 });
});

test('an abort while the prompt of another is computed harms no third', async () => {
  const model = await load();
  addAdapters(model);
  const collect = async (prompt: number[], more: GenerateOptions, at = (_: number): void => undefined) => {
    const tokens: [number, number][] = [];
    const options = { maxNewTokens: 30, temperature: 0, logprobs: 0, ignoreEos: true };
    // A loop begins the generation at once.
    for await (const { id, logprob } of model.generate(prompt, { ...options, ...more }))
      at(tokens.push([id, logprob!]));
    return tokens;
  };
  const alone = await collect(text(9, 3), {});
  model.configureEngine();
  const controller = new AbortController();
  const adapter = model.adapters.get('a0')!;
  const applied = adapter.applied.bind(adapter);
  jest.spyOn(adapter, 'applied').mockImplementation((...args) => {
    controller.abort(new Error('left'));
    return applied(...args);
  });
  const third = collect(text(9, 3), {}); // has the first page of the pool
  let other: Promise<unknown[]> | undefined;
  const aborted = collect(text(5, 9), { signal: controller.signal }, (seen) => {
    if (seen === 3) other = collect(text(20, 5), { adapter: 'a0' });
  });
  await expect(aborted).rejects.toThrow('left');
  expect(await third).toEqual(alone);
  expect(await other).toHaveLength(30);
});

test('an abort of one that waits', async () => {
  const model = await load();
  model.configureEngine({ maxBatchSize: 1 });
  const first = model.generate(text(4, 1), { maxNewTokens: 60, ignoreEos: true }).then(({ ids }) => ids);
  const controller = new AbortController();
  const second = model.generate(text(4, 2), { maxNewTokens: 60, ignoreEos: true, signal: controller.signal });
  setTimeout(() => controller.abort(new Error('no patience')), 2);
  await expect(second).rejects.toThrow('no patience');
  expect(await first).toHaveLength(60);
});

test('a consumer that is slow holds nobody back, and loses nothing', async () => {
  const model = await load();
  model.configureEngine({ maxBatchSize: 2 });
  const [slow, ...others] = wishes(4, () => ({ maxNewTokens: 12 })) as [Wish, ...Wish[]];
  const alone = await oneByOne(model, [slow, ...others]);
  const { prompt, ...options } = slow;
  const seen: number[] = [];
  const iterator = model.generate(prompt, options)[Symbol.asyncIterator]();
  seen.push((await iterator.next()).value!.id);
  expect(await together(model, others)).toEqual(alone.slice(1)); // though one place is taken by the slow one
  for (let next = await iterator.next(); !next.done; next = await iterator.next()) seen.push(next.value.id);
  expect(seen).toEqual(alone[0]);
});

test('a request whose logits are no numbers fails alone', async () => {
  const model = await load();
  addAdapters(model);
  fillAdapter(model.adapters.get('a1')!, 1, Infinity);
  const all = wishes(3);
  const alone = await oneByOne(model, all);
  const bad = run(model, { prompt: text(4, 1), maxNewTokens: 9, adapter: 'a1', ignoreEos: true });
  const refused = expect(bad).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
  expect(await together(model, all)).toEqual(alone);
  await refused;
});

test('a step that fails ends its requests and no other, and the next ones find good memory', async () => {
  const model = await load();
  const all = wishes(4, (i) => ({ prompt: text(3, i), maxNewTokens: 40 }));
  const alone = await oneByOne(model, all);
  for (const op of ['page_append', 'attention_paged', 'sample']) {
    const outcomes = await Promise.allSettled(
      all.map(async ({ prompt, ...options }, i) => {
        const ids: number[] = [];
        for await (const { id } of model.generate(prompt, options)) {
          ids.push(id);
          if (i === 0 && ids.length === 3) binding().injectFailure(op, 'injected');
        }
        return ids;
      }),
    );
    const failed = outcomes.filter(({ status }) => status === 'rejected');
    expect(failed.length).toBeGreaterThan(0);
    for (const [i, outcome] of outcomes.entries())
      if (outcome.status === 'fulfilled') expect(outcome.value).toEqual(alone[i]);
      else expect(String(outcome.reason)).toContain('injected');
    expect(await together(model, all)).toEqual(alone);
  }
});

test('what a tokenizer throws ends its request alone', async () => {
  const model = await load();
  const all = wishes(3);
  const alone = await oneByOne(model, all);
  jest.spyOn(TokenStream.prototype, 'push').mockImplementationOnce(() => {
    throw new Error('no such token');
  });
  const outcomes = await Promise.allSettled(all.map(async (wish) => (await run(model, wish)).ids));
  expect(outcomes.filter(({ status }) => status === 'rejected')).toEqual([
    { status: 'rejected', reason: new Error('no such token') },
  ]);
  for (const [i, outcome] of outcomes.entries())
    if (outcome.status === 'fulfilled') expect(outcome.value).toEqual(alone[i]);
  expect(await together(model, all)).toEqual(alone);
});

test('n texts of one prompt', async () => {
  const model = await load();
  const options = { maxNewTokens: 9, temperature: 1, ignoreEos: true };
  const single = [];
  for (const seed of [5, 6, 7]) single.push((await model.generate(text(70, 1), { ...options, seed })).ids);
  model.configureEngine();
  const handle = model.generate(text(70, 1), { ...options, seed: 5, n: 3 });
  const streamed: number[][] = [[], [], []];
  for await (const { id, index } of handle) streamed[index!]!.push(id);
  const { ids, choices, usage } = await handle.result;
  expect(streamed).toEqual(single);
  expect(choices!.map((choice) => choice.ids)).toEqual(single);
  expect(ids).toEqual(single[0]);
  expect(usage).toEqual({ promptTokens: 70, completionTokens: 27, cachedTokens: 0 });
  expect(model.engineStats().cachedTokens).toBe(128); // the second and the third read the page of the first
});

test('log-probabilities and penalties of one request are not those of its neighbours', async () => {
  const model = await load();
  const all = wishes(
    4,
    (i) =>
      [{}, { logprobs: 3 }, { logprobs: 0, repetitionPenalty: 1.5 }, { logitBias: new Map([[7, 50]]) }][i]!,
  );
  const collect = async ({ prompt, ...options }: Wish): Promise<unknown[]> => {
    const events = [];
    for await (const event of model.generate(prompt, options)) events.push(event);
    return events;
  };
  const alone = [];
  for (const wish of all) alone.push(await collect(wish));
  expect(await Promise.all(all.map(collect))).toEqual(alone);
  expect(alone[1]![0]).toMatchObject({ logprob: expect.any(Number) as number, topLogprobs: [{}, {}, {}] });
});

test('timings', async () => {
  const { timings } = await (await load()).generate(text(4, 1), { maxNewTokens: 5, ignoreEos: true });
  expect(timings.queuedMs).toBeLessThanOrEqual(timings.firstTokenMs);
  expect(timings.firstTokenMs).toBeLessThanOrEqual(timings.totalMs);
});

test('rows with DoRA, LoRA and no adapter share the steps, also after each of them was trained', async () => {
  const model = await load();
  addAdapters(model);
  const all = wishes(4, (i) => ({
    adapter: ['a2', 'a0', null, 'a2'][i]!,
    prompt: text(5, i),
    maxNewTokens: 12,
    temperature: 1,
  }));
  const alone = await oneByOne(model, all);
  const stepsOf = async (): Promise<number> => {
    const { steps } = model.engineStats();
    expect(await together(model, all)).toEqual(alone);
    return model.engineStats().steps - steps;
  };
  expect(await stepsOf()).toBeLessThan(20); // 11 of each, which begin one after the other
  for (const [i, name] of ['a0', 'a2'].entries()) fillAdapter(model.adapters.get(name)!, 20 + i, 0.3);
  const before = alone.splice(0);
  alone.push(...(await oneByOne(model, all)));
  for (const i of [0, 1, 3]) expect(alone[i]).not.toEqual(before[i]);
  expect(alone[2]).toEqual(before[2]);
  expect(await stepsOf()).toBeLessThan(20);
  const config = { r: 3, targetModules: 'all-linear', useDora: true } as const;
  model.addAdapter(config, { name: 'fresh' }).loadStateDict(model.adapters.get('a2')!.stateDict());
  model.setAdapter(null);
  expect((await run(model, { ...all[0]!, adapter: 'fresh' })).ids).toEqual(alone[0]);
});

test('the factors of a DoRA adapter follow its scale', async () => {
  const model = await load();
  addAdapters(model);
  const adapter = model.adapters.get('a2')!;
  const logprobs = async (scale: number): Promise<unknown[]> => {
    adapter.scale = scale;
    const seen = [];
    const options = { adapter: 'a2', maxNewTokens: 6, logprobs: 0, ignoreEos: true };
    for await (const { logprob } of model.generate(text(5, 1), options)) seen.push(logprob);
    return seen;
  };
  const whole = await logprobs(1);
  const half = await logprobs(0.5);
  whole.forEach((value, i) => expect(half[i]).not.toBe(value));
  expect(await logprobs(1)).toEqual(whole);
});

test('the reference device generates the same way', async () => {
  const model = await load({}, 'reference');
  addAdapters(model);
  const all = wishes(6, adapterOf);
  expect(await together(model, all)).toEqual(await oneByOne(model, all));
});

test('a DoRA adapter that changes between two steps has its norms computed once, and no step is recorded again', async () => {
  const model = await load();
  addAdapters(model);
  const adapter = model.adapters.get('a2')!;
  const native = binding();
  const seen: string[] = [];
  for (const name of ['beginRecording', 'endRecording', 'reduceSum'] as const) {
    const original = native[name].bind(native) as (...args: unknown[]) => unknown;
    jest.spyOn(native, name).mockImplementation((...args: unknown[]) => {
      seen.push(name);
      return original(...args) as never;
    });
  }
  let tokens = 0;
  for await (const _ of model.generate(text(5, 1), { adapter: 'a2', maxNewTokens: 8, ignoreEos: true }))
    if (++tokens === 3) {
      seen.length = 0;
      adapter.loadStateDict(adapter.stateDict());
    }
  jest.restoreAllMocks();
  expect(seen.join(' ')).toMatch(/^(reduceSum ?)+$/);
});
