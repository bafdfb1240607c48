/** Requests that are aborted or fail: they end alone. */
import { type GenerateOptions } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { TokenStream } from '../../lib/text/token_stream';
import {
  adapterOf,
  addAdapters,
  loadedModels,
  oneByOne,
  run,
  text,
  together,
  wishes,
} from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';

const load = loadedModels();

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

test('an allocation that fails ends no request, and changes no text', async () => {
  const model = await load();
  addAdapters(model);
  const all = wishes(4, (i) => ({ prompt: text(20, i), maxNewTokens: 20, ...adapterOf(i) }));
  const alone = await oneByOne(model, all);
  for (const nth of [1, 2, 3, 5, 8, 13, 21, 34, 55]) {
    model.configureEngine();
    const ids = await Promise.all(
      all.map(async ({ prompt, ...options }, i) => {
        const seen: number[] = [];
        for await (const { id } of model.generate(prompt, options)) {
          seen.push(id);
          if (i === 0 && seen.length === 3) binding().injectOutOfMemory(nth);
        }
        return seen;
      }),
    );
    binding().injectOutOfMemory(0);
    expect(ids).toEqual(alone);
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
