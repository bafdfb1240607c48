import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, setThreads, type GenerateOptions } from '../../lib/index';
import { sample, view } from '../../lib/ops';
import { fillAdapter } from '../support/fill_adapter';
import { rowsOf } from '../support/sampling';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, tinyTemplate, type TinyModelOptions } from '../support/tiny_model';

const scratch = temporaryFolder();
const made: string[] = [];
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
async function load(options: TinyModelOptions = {}): Promise<CausalLM> {
  const dir = await tinyModel(options);
  made.push(dir);
  const model = await CausalLM.fromPretrained(dir);
  models.push(model);
  return model;
}
let model: CausalLM;
beforeAll(async () => {
  model = await load();
});
afterEach(async () => {
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
});
afterAll(async () => {
  await Promise.all(models.map((m) => m.dispose()));
  made.forEach((dir) => rmSync(dir, { recursive: true }));
});

const prompt = [256, 72, 101, 108];

/** The greedy continuation by whole forward passes, without a cache. */
async function slowly(m: CausalLM, ids: number[], count: number): Promise<number[]> {
  const all = [...ids];
  for (let i = 0; i < count; i++) {
    const logits = m.forward([all], { logits: true }).logits;
    const last = (await logits.data()).subarray(-m.config.vocabSize);
    logits.dispose();
    all.push(last.indexOf(Math.max(...last)));
  }
  return all.slice(ids.length);
}

test.each<[string, TinyModelOptions]>([
  ['llama', {}],
  ['mistral, sliding', { config: { model_type: 'mistral', sliding_window: 5 } }],
  ['qwen3', { config: { model_type: 'qwen3', head_dim: 10 } }],
])('%s: the cached path gives what whole forward passes give', async (_, options) => {
  const m = await load(options);
  fillAdapter(m.addAdapter({ r: 2, targetModules: 'all-linear' }));
  const { ids, usage, finishReason } = await m.generate(prompt, {
    maxNewTokens: 70,
    temperature: 0,
    ignoreEos: true,
  });
  expect(ids).toEqual(await slowly(m, prompt, 70)); // past the first growth of the cache
  expect(usage).toEqual({ promptTokens: 4, completionTokens: 70, cachedTokens: 0 });
  expect(finishReason).toBe('length');
});

test('the table of rotations and the cache grow while a generation goes on', async () => {
  const long = Array.from({ length: 250 }, (_, i) => (i * 7) % 256);
  const m = await load({ config: { num_hidden_layers: 1, max_position_embeddings: 1024 } });
  const { ids } = await m.generate(long, { maxNewTokens: 12, temperature: 0, ignoreEos: true });
  const fresh = await load({ config: { num_hidden_layers: 1, max_position_embeddings: 1024 } });
  expect(ids).toEqual(await slowly(fresh, long, 12)); // from 250 to 262 positions
});

test('token i is drawn with the random number of (seed, i)', async () => {
  const drawing = { temperature: 1.5, topK: 40, topP: 0.98, seed: 11 };
  const { ids } = await model.generate(prompt, { ...drawing, maxNewTokens: 16, ignoreEos: true });
  for (const [step, id] of ids.entries()) {
    const logits = model.forward([[...prompt, ...ids.slice(0, step)]]).logits;
    const { vocabSize } = model.config;
    const last = view(logits, logits.numel - vocabSize, [1, vocabSize]);
    const drawn = sample(last, ...rowsOf([{ ...drawing, minP: 0, step }], model.device));
    expect(await drawn.item()).toBe(id);
    for (const t of [logits, last, drawn]) t.dispose();
  }
});

test('iterated and awaited give the same', async () => {
  const options: GenerateOptions = {
    maxNewTokens: 12,
    temperature: 0.9,
    topK: 20,
    topP: 0.95,
    seed: 4,
    ignoreEos: true,
  };
  const handle = model.generate(prompt, options);
  const pieces = [];
  for await (const piece of handle) pieces.push(piece);
  const result = await model.generate(prompt, options);
  expect(pieces.map((p) => p.id)).toEqual(result.ids);
  expect(pieces.map((p) => p.text).join('')).toBe(result.text);
  expect(result.ids).toHaveLength(12);
  expect((await handle).ids).toEqual(result.ids);
  const ids = await Promise.all(
    [5, 6].map((seed) => model.generate(prompt, { ...options, seed }).then((r) => r.ids)),
  );
  expect(ids[0]).not.toEqual(ids[1]);

  const lazy = async () => model.generate(prompt, options); // an async function that returns a handle
  expect((await lazy()).ids).toEqual(result.ids);
  await expect(model.generate([99_999])).rejects.toMatchObject({ code: 'ERR_ARGUMENT' });
});

test('prompts: text, ids and messages', async () => {
  const greedy = { maxNewTokens: 4, temperature: 0, ignoreEos: true };
  const text = await model.generate('Hel', greedy);
  expect(text.ids).toEqual((await model.generate(prompt, greedy)).ids);
  expect(text.usage.promptTokens).toBe(4);
  const chat = await model.generate([{ role: 'user', content: 'Hi' }], greedy);
  const ids = model.tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }], {
    addGenerationPrompt: true,
  });
  expect(chat.ids).toEqual((await model.generate(Int32Array.from(ids), greedy)).ids);
});

describe('a conversation', () => {
  const messages = [{ role: 'user', content: 'Hi' }];
  const answer = { role: 'assistant', content: 'Hel' };
  const tools = [{ type: 'function', function: { name: 'f', parameters: {} } }];
  const template = `{% if tools %}{{ tools | tojson }}{% endif %}{{ mood }}${tinyTemplate}`;

  test('with tools, variables and the beginning of the answer is what the template writes of them', async () => {
    const chat = await load({ chatTemplate: template });
    const greedy = { maxNewTokens: 4, temperature: 0, ignoreEos: true };
    for (const [given, options, text] of [
      [messages, { tools }, `${JSON.stringify(tools).replaceAll(/([,:])/g, '$1 ')}<|user|>Hi<|assistant|>`],
      [messages, { variables: { mood: 'kind' } }, 'kind<|user|>Hi<|assistant|>'],
      [[...messages, answer], { continueAssistant: true }, '<|user|>Hi<|assistant|>Hel'],
      [
        [{ role: 'user', content: 'Hi<|assistant|>' }],
        { allowSpecialTokens: true },
        '<|user|>Hi<|assistant|><|assistant|>',
      ],
    ] as const) {
      const ids = chat.tokenizer.encode(text, { addSpecialTokens: false });
      const { ids: made, usage } = await chat.generate(given, { ...greedy, ...options });
      expect([text, usage.promptTokens]).toEqual([text, ids.length]);
      expect(made).toEqual((await chat.generate(ids, greedy)).ids);
    }
  });

  test.each<[string, GenerateOptions, string]>([
    ['tools', { tools }, 'expected a prompt of messages beside tools but received'],
    ['variables', { variables: {} }, 'expected a prompt of messages beside variables but received'],
    ['continueAssistant', { continueAssistant: true }, 'expected a prompt of messages beside continueAss'],
    ['allowSpecialTokens', { allowSpecialTokens: true }, 'expected a prompt of messages beside allowSpec'],
  ])('a text takes no %s', async (_, options, sentence) => {
    for (const given of ['Hi', [1, 2]])
      await expect(model.generate(given, options)).rejects.toMatchObject({
        code: 'ERR_ARGUMENT',
        message: expect.stringContaining(sentence),
      });
  });
});

test('an end-of-text token ends it, from generation_config.json first', async () => {
  const free = await model.generate(prompt, { maxNewTokens: 8, temperature: 0, ignoreEos: true });
  const stop = free.ids[3]!;
  const ended = await load({ generation: { eos_token_id: [999, stop], max_new_tokens: 8 } });
  const result = await ended.generate(prompt, {});
  const first = free.ids.indexOf(stop);
  expect(result.ids).toEqual(free.ids.slice(0, first + 1));
  expect(result.finishReason).toBe('stop');
  expect((await ended.generate(prompt, { ignoreEos: true })).ids).toEqual(free.ids);
});

test('generation_config.json says whether and how to sample', async () => {
  const sampled = await load({
    generation: { do_sample: true, temperature: 1.3, top_k: 7, max_new_tokens: 6 },
  });
  const implicit = await sampled.generate(prompt, { seed: 9, ignoreEos: true });
  const explicit = await model.generate(prompt, {
    seed: 9,
    temperature: 1.3,
    topK: 7,
    maxNewTokens: 6,
    ignoreEos: true,
  });
  expect(implicit.ids).toEqual(explicit.ids);
});

test('a stop string ends the text before it', async () => {
  const options = { maxNewTokens: 40, temperature: 0, ignoreEos: true };
  const whole = await model.generate(prompt, options);
  const stop = whole.text.slice(5, 8);
  expect(stop).toHaveLength(3);
  const cut = await model.generate(prompt, { ...options, stop: ['never', stop] });
  expect(cut.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
  expect(cut.finishReason).toBe('stop');
  let streamed = '';
  for await (const { text } of model.generate(prompt, { ...options, stop })) streamed += text;
  expect(streamed).toBe(cut.text);
});

test('overlapping calls, each with its own adapter', async () => {
  fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }, { name: 'a' }), 1);
  fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }, { name: 'b' }), 2);
  const options = { maxNewTokens: 16, temperature: 0, ignoreEos: true };
  const run = (adapter: string | null) =>
    model.generate(prompt, { ...options, adapter }).then(({ ids }) => ids);
  const alone = [await run('a'), await run('b'), await run(null)];
  expect(new Set(alone.map(String)).size).toBe(3);
  const together = await Promise.all([run('a'), run('b'), run(null)]);
  expect(together).toEqual(alone);
  model.setAdapter('b');
  expect((await model.generate(prompt, options)).ids).toEqual(alone[1]);
});

test('leaving the loop frees its memory, and so does an abort', async () => {
  const held = (): number => model.engineStats().kvCacheBytes;
  const before = held();
  for await (const { id } of model.generate(prompt, { maxNewTokens: 50, ignoreEos: true })) {
    expect(id).toBeGreaterThanOrEqual(0);
    expect(held()).toBeGreaterThan(before);
    break;
  }
  expect(held()).toBe(before);

  const stop = new AbortController();
  const reason = new Error('enough');
  let count = 0;
  const run = async () => {
    for await (const _ of model.generate(prompt, { maxNewTokens: 50, ignoreEos: true, signal: stop.signal }))
      if (++count === 3) stop.abort(reason);
  };
  await expect(run()).rejects.toBe(reason);
  expect(count).toBe(3);
  expect(held()).toBe(before);
});

test('an iterator that was left before it began does nothing', async () => {
  const iterator = model.generate(prompt, { maxNewTokens: 3 })[Symbol.asyncIterator]();
  await iterator.return!();
  expect(await iterator.next()).toEqual({ value: undefined, done: true });
});

test('a running generation holds its adapter and the base', async () => {
  fillAdapter(model.addAdapter({ r: 2 }, { name: 'a' }));
  const iterator = model.generate(prompt, { maxNewTokens: 5, ignoreEos: true })[Symbol.asyncIterator]();
  await iterator.next();
  await expect(model.removeAdapter('a')).rejects.toMatchObject({ code: 'ERR_BUSY' });
  await expect(model.merge('a')).rejects.toMatchObject({ code: 'ERR_BUSY' });
  await iterator.return!();
  await model.removeAdapter('a');
});

test('dispose waits for running generations', async () => {
  const m = await load();
  let count = 0;
  const run = async () => {
    for await (const _ of m.generate(prompt, { maxNewTokens: 20, temperature: 0, ignoreEos: true })) count++;
  };
  const running = run();
  await new Promise((resolve) => setImmediate(resolve));
  await m.dispose();
  expect(count).toBe(20);
  await running;
  await expect(m.generate(prompt)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  await expect(m.evaluateTask([])).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
});

test('dispose inside the loop of a generation ends the loop', async () => {
  const m = await load();
  const handle = m.generate(prompt, { maxNewTokens: 20, ignoreEos: true });
  let count = 0;
  for await (const _ of handle) if (++count === 2) await m.dispose();
  expect(count).toBe(2);
  await expect(handle.result).rejects.toMatchObject({
    code: 'ERR_DISPOSED',
    message: '[generate] there is no result: the model was disposed of',
  });
});

test('dispose ends an iteration that nobody goes on with, and waits for one that runs by itself', async () => {
  const m = await load();
  const events = m.generate(prompt, { maxNewTokens: 20, ignoreEos: true })[Symbol.asyncIterator]();
  await events.next();
  const pending = m.generate(prompt, { maxNewTokens: 20, ignoreEos: true })[Symbol.asyncIterator]();
  const first = pending.next(); // asked for when dispose() begins
  const alone = m.generate(prompt, { maxNewTokens: 7, temperature: 0, ignoreEos: true });
  await new Promise(setImmediate);
  const disposing = m.dispose();
  await Promise.all([disposing, m.dispose()]);
  expect((await alone).ids).toHaveLength(7);
  expect(await events.next()).toEqual({ value: undefined, done: true });
  expect(await first).toMatchObject({ done: false });
  expect(await pending.next()).toEqual({ value: undefined, done: true });
});

test('dispose waits for a save, and ends an evaluation at its next batch', async () => {
  const m = await load();
  const data = Array.from({ length: 6 }, () => ({ inputIds: [1, 2, 3, 4] }));
  const evaluating = m.evaluate(data, { batchSize: 1 }).catch((error: unknown) => error);
  const saving = m.save(join(scratch, 'meanwhile'));
  await m.dispose();
  expect(await evaluating).toMatchObject({ code: 'ERR_DISPOSED' });
  await saving;
  await (await CausalLM.fromPretrained(join(scratch, 'meanwhile'))).dispose();
});

test('a handle that was made before dispose() fails when it begins', async () => {
  const m = await load();
  const handle = m.generate(prompt);
  await m.dispose();
  await expect(handle).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
});

test('a model without a tokenizer takes and gives ids', async () => {
  const m = await load({ tokenizer: false });
  expect(m.hasTokenizer).toBe(false);
  expect(() => m.tokenizer).toThrow('has no tokenizer.json: pass token ids instead of text');
  expect((await m.generate(prompt, { maxNewTokens: 3 })).text).toBe('');
  await expect(m.generate('text')).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
  await expect(m.generate(prompt, { stop: 'x' })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
});

test.each<[string, object, string]>([
  ['signal', { signal: 5 }, 'expected signal to be an AbortSignal but received 5'],
  ['maxTokens', { maxTokens: 5 }, "did you mean 'maxNewTokens'?"],
  ['a negative temperature', { temperature: -1 }, 'expected temperature to be a finite number of at least 0'],
  ['topP 0', { topP: 0 }, 'expected topP to be above 0 and at most 1 but received 0'],
  ['an empty stop', { stop: [''] }, 'expected stop to be a non-empty string or an array of them'],
  ['an unknown adapter', { adapter: 'x' }, "the model has no adapter 'x'"],
])('generate refuses %s, through its promise and in its loop', async (_, options, sentence) => {
  const refusal = { code: 'ERR_ARGUMENT', message: expect.stringContaining(sentence) };
  expect(await model.generate(prompt, options).catch((error: unknown) => error)).toMatchObject(refusal);
  const loop = async (): Promise<void> => {
    for await (const _ of model.generate(prompt, options));
  };
  await expect(loop()).rejects.toMatchObject(refusal);
});

test.each<[string, unknown, string]>([
  ['nothing', [], 'expected a prompt of at least one token'],
  ['an id too large', [262], 'expected ids from 0 to 261 but received 262'],
  ['an object', {}, 'expected the prompt to be a text, ids or messages but received an object'],
])('generate refuses a prompt of %s when it runs', async (_, ids, sentence) => {
  await expect(model.generate(ids as never)).rejects.toMatchObject({
    message: expect.stringContaining(sentence),
  });
});
