/** Adapters that change between the requests of an engine, and DoRA among its rows. */
import { memoryUsage, type CausalLM } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import {
  addAdapters,
  loadedModels,
  oneByOne,
  run,
  text,
  together,
  type Wish,
  wishes,
} from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';
import { collectGarbage } from '../support/garbage';
import type { TinyModelOptions } from '../support/tiny_model';

const load = loadedModels();

test('a merged base gives what the adapter gave; so does the base after it', async () => {
  const model = await load();
  addAdapters(model);
  const [wish] = wishes(1, () => ({ prompt: text(9, 4), temperature: 0 })) as [Wish];
  const [base, adapted] = [
    await run(model, { ...wish, adapter: null }),
    await run(model, { ...wish, adapter: 'a0' }),
  ];
  model.setAdapter(null);
  await model.merge('a0');
  expect((await run(model, wish)).ids).toEqual(adapted.ids);
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

const inBf16: TinyModelOptions = { dtype: 'BF16', config: { torch_dtype: 'bfloat16' } };

test.each<[string, TinyModelOptions]>([
  ['f32', {}],
  ['bf16, of which the steps have copies', inBf16],
])(
  'rows with DoRA, LoRA and no adapter share the steps, also after each was trained: %s',
  async (_, options) => {
    const model = await load(options);
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
  },
);

test('the copies that steps in bf16 read are freed with what they were made from', async () => {
  const model = await load(inBf16);
  addAdapters(model);
  const bytesAfter = async (): Promise<number> => {
    await together(
      model,
      wishes(3, (i) => ({ prompt: text(5, i), maxNewTokens: 4, adapter: `a${i}` })),
    );
    return memoryUsage().bytes;
  };
  await bytesAfter();
  await collectGarbage(); // of other tests
  const all = await bytesAfter();
  for (const name of ['a0', 'a2']) fillAdapter(model.adapters.get(name)!, 31, 0.3);
  expect(await bytesAfter()).toBe(all);
  const ofParameters = model.adapters
    .get('a0')!
    .parameters()
    .reduce((sum, p) => sum + 4 * p.numel, 0);
  await model.removeAdapter('a0');
  expect(all - memoryUsage().bytes).toBeGreaterThanOrEqual(1.5 * ofParameters);
  fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }, { name: 'a0' }), 1, 0.3);
  expect(await bytesAfter()).toBe(all);
});

/** The logarithms of the probabilities of six tokens. */
async function logprobs(model: CausalLM, adapter: string): Promise<unknown[]> {
  const seen = [];
  const options = { adapter, maxNewTokens: 6, logprobs: 0, ignoreEos: true };
  for await (const { logprob } of model.generate(text(5, 1), options)) seen.push(logprob);
  return seen;
}

type Change = (model: CausalLM, adapter: string) => unknown;
describe.each([
  ['whose rows share the steps with others', {}],
  ['whose steps are its own', { modulesToSave: ['lm_head'] }],
])('the factors of a DoRA adapter %s follow', (_, more) => {
  test.each<[string, Change, Change]>([
    [
      'its scale',
      (model, name) => (model.adapters.get(name)!.scale = 0.5),
      (model, name) => (model.adapters.get(name)!.scale = 1),
    ],
    [
      'its parameters',
      (model, name) => fillAdapter(model.adapters.get(name)!, 8, 0.3),
      (model, name) => fillAdapter(model.adapters.get(name)!, 7, 0.3),
    ],
  ])('%s', async (_what, change, undo) => {
    const model = await load();
    addAdapters(model);
    const config = { r: 3, targetModules: 'all-linear', useDora: true, ...more } as const;
    fillAdapter(model.addAdapter(config, { name: 'mine' }), 7, 0.3);
    const before = await logprobs(model, 'mine');
    await change(model, 'mine');
    const after = await logprobs(model, 'mine');
    before.forEach((value, i) => expect(after[i]).not.toBe(value));
    model.configureEngine(); // another engine, which has computed nothing
    expect(after).toEqual(await logprobs(model, 'mine'));
    await logprobs(model, 'mine');
    await undo(model, 'mine');
    expect(await logprobs(model, 'mine')).toEqual(before);
  });
});

test('the recorded steps of an adapter that is removed are freed at once', async () => {
  const model = await load();
  const bytesAfter = async (): Promise<number> => {
    const own = model.addAdapter({ r: 2, targetModules: ['v_proj'], modulesToSave: ['lm_head'] });
    await logprobs(model, own.name);
    await model.removeAdapter(own.name);
    return memoryUsage().bytes;
  };
  await bytesAfter();
  await collectGarbage(); // of other tests
  const before = await bytesAfter();
  expect(await bytesAfter()).toBe(before);
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
