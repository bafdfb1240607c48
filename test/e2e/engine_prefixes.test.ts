/** Prompts whose beginning the engine has computed for another request. */
import { setThreads, type Adapter, type Tensor } from '../../lib/index';
import { addAdapters, loadedModels, run, text, type Wish } from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';

const load = loadedModels();

const copies = (tensors: Record<string, Tensor>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(tensors).map(([name, one]) => [name, one.mul(1)]));

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
  const cached = async (adapter?: string | null): Promise<number> =>
    (await run(model, { ...wish, adapter })).usage.cachedTokens;
  expect([await cached('a0'), await cached('a0'), await cached('a1'), await cached(null)]).toEqual([
    0, 128, 0, 0,
  ]);
  fillAdapter(model.adapters.get('a0')!, 9);
  expect(await cached('a0')).toBe(0);
  model.adapters.get('a0')!.scale = 0.5;
  expect(await cached('a0')).toBe(0);
  model.setAdapter(null);
  await model.merge('a1');
  expect(await cached()).toBe(0);
  await model.unmerge();
  expect([await cached(null), await cached(null)]).toEqual([0, 128]);
});

test.each<[string, (adapter: Adapter) => (() => void) | Promise<() => void>]>([
  [
    'the scale',
    (adapter) => {
      adapter.scale = 3;
      return () => (adapter.scale = 1);
    },
  ],
  [
    'the parameters',
    (adapter) => {
      const state = adapter.stateDict();
      const saved = { ...state, tensors: copies(state['tensors'] as Record<string, Tensor>) };
      fillAdapter(adapter, 9);
      return () => adapter.loadStateDict(saved);
    },
  ],
  [
    'the number of threads',
    () => {
      setThreads(2);
      return () => setThreads(1);
    },
  ],
])('what was computed while %s was another one is not read, though it is as before', async (_, change) => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  addAdapters(model);
  const options = { adapter: 'a0', temperature: 0, ignoreEos: true };
  const ids: number[] = [];
  let back: (() => void) | undefined;
  for await (const { id } of model.generate(text(70, 1), { ...options, maxNewTokens: 80 })) {
    if (ids.push(id) === 20) back = await change(model.adapters.get('a0')!);
    if (ids.length === 60) back!();
  }
  const again: Wish = { ...options, prompt: [...text(70, 1), ...ids], maxNewTokens: 20 };
  const warm = await run(model, again);
  expect(warm.usage.cachedTokens).toBe(0);
  model.configureEngine();
  expect((await run(model, again)).ids).toEqual(warm.ids);
});

test('an adapter of the name of one that was removed reads nothing of it', async () => {
  const model = await load({ config: { max_position_embeddings: 512 } });
  const wish: Wish = { prompt: text(130, 1), maxNewTokens: 4, ignoreEos: true, adapter: 'a' };
  const texts: number[][] = [];
  for (const seed of [1, 2]) {
    fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }, { name: 'a' }), seed, 0.3);
    const { ids, usage } = await run(model, wish);
    expect(usage.cachedTokens).toBe(0);
    texts.push(ids);
    await model.removeAdapter('a');
  }
  expect(texts[1]).not.toEqual(texts[0]);
});
