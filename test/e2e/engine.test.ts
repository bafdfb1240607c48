/** Generations that share an engine: each gives what it gives alone, bit for bit, whatever runs beside it. */
import type { GeneratedToken } from '../../lib/index';
import {
  adapterOf,
  addAdapters,
  loadedModels,
  oneByOne,
  text,
  together,
  type Wish,
  wishes,
} from '../support/engine_requests';
import { type TinyModelOptions } from '../support/tiny_model';

const load = loadedModels();

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

test('where kvCacheBytes are not enough for all, some wait, and the texts stay the same', async () => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  const all = wishes(5, (i) => ({ prompt: text(50, i), maxNewTokens: 100 }));
  const alone = await oneByOne(model, all);
  const { kvCacheCapacity } = model.engineStats();
  const page = kvCacheCapacity / 8;
  model.configureEngine({ kvCacheBytes: 6 * page });
  expect(await together(model, all)).toEqual(alone);
  expect(model.engineStats().preemptions).toBe(0);
  expect(model.engineStats().kvCacheCapacity).toBeLessThanOrEqual(6 * page);
});

test('one whose consumer sleeps gives way to those that wait, and goes on with the same text', async () => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  const all = wishes(3, (i) => ({ prompt: text(50, i), maxNewTokens: 100 })) as [Wish, ...Wish[]];
  const alone = await oneByOne(model, all);
  model.configureEngine({ kvCacheBytes: (3 * model.engineStats().kvCacheCapacity) / 8 });
  const [{ prompt, ...options }, ...others] = all;
  const iterator = model.generate(prompt, options)[Symbol.asyncIterator]();
  const seen = [(await iterator.next()).value!.id];
  expect(await together(model, others)).toEqual(alone.slice(1));
  for (let next = await iterator.next(); !next.done; next = await iterator.next()) seen.push(next.value.id);
  expect(seen).toEqual(alone[0]);
  expect(model.engineStats().preemptions).toBeGreaterThan(0);
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

test('an awaited result holds the log-probabilities of each of its texts, as the events gave them', async () => {
  const model = await load();
  const options = { maxNewTokens: 6, temperature: 1, seed: 2, ignoreEos: true, n: 2, logprobs: 2 };
  const events: Omit<GeneratedToken, 'text' | 'index'>[][] = [[], []];
  for await (const { index, text: _, ...token } of model.generate(text(9, 1), options))
    events[index!]!.push(token);
  const { logprobs, choices } = await model.generate(text(9, 1), options);
  expect(choices!.map((choice) => choice.logprobs)).toEqual(events);
  expect(logprobs).toEqual(events[0]);
  expect(logprobs![5]!.topLogprobs).toHaveLength(2);
  expect(await model.generate(text(9, 1), { maxNewTokens: 2 })).not.toHaveProperty('logprobs');
  // Of a text that a stop string ends, those of its ids.
  const stopped = await model.generate(text(9, 1), {
    ...options,
    n: 1,
    stop: ['a', 'e', 'i', 'o', 'u'],
    maxNewTokens: 40,
  });
  expect(stopped.logprobs!.map(({ id }) => id)).toEqual(stopped.ids);
});

test('log-probabilities and penalties of one request are not those of its neighbors', async () => {
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

test('the reference device generates the same way', async () => {
  const model = await load({}, 'reference');
  addAdapters(model);
  const all = wishes(6, adapterOf);
  expect(await together(model, all)).toEqual(await oneByOne(model, all));
});
