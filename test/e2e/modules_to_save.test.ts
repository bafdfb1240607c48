/** modulesToSave: layers that are trained whole beside the low-rank changes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AdamW, CausalLM, openSafetensors, readAdapter, setThreads, type Adapter } from '../../lib/index';
import { fillAdapter } from '../support/fill_adapter';
import { matrix, ReferenceLlama, slope } from '../support/llama_reference';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const scratch = mkdtempSync(join(tmpdir(), 'lora-whole-'));
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
afterAll(async () => {
  await Promise.all(models.map((model) => model.dispose()));
  rmSync(scratch, { recursive: true });
});

async function load(options: TinyModelOptions = {}): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(await tinyModel(options));
  models.push(model);
  return model;
}

const ids = [256, 72, 101, 108, 108, 111, 44, 32, 119, 111, 114];
const lossOf = (model: CausalLM): Promise<number> =>
  model.forward([ids], { labels: [ids], reduction: 'sum' }).loss.item();
const whole = 'model.layers.1.self_attn.q_proj';
const config = { r: 2, targetModules: ['v_proj'], modulesToSave: ['lm_head', 'layers.1.self_attn.q_proj'] };

function parameterOf(adapter: Adapter, path: string) {
  return adapter.parameters().find(({ name }) => name === `base_model.model.${path}.weight`)!;
}

test('begins as the base, has a parameter per module, and its gradient is that of the loss', async () => {
  const model = await load();
  const base = await lossOf(model);
  const adapter = model.addAdapter(config);
  expect(await lossOf(model)).toBeCloseTo(base, 4);
  expect(adapter.parameters().map(({ name, shape }) => [name, shape])).toEqual(
    expect.arrayContaining([
      ['base_model.model.lm_head.weight', [262, 24]],
      [`base_model.model.${whole}.weight`, [24, 24]],
    ]),
  );
  expect(adapter.parameters()).toHaveLength(2 + 2 * 3);

  fillAdapter(adapter, 3, 0.5);
  for (const p of adapter.parameters()) if (/lora_B/.test(p.name)) expect(p.shape[1]).toBe(2);
  const reference = await ReferenceLlama.load(model.directory);
  const own = new Map<string, ReturnType<typeof matrix>>();
  for (const path of ['lm_head', whole]) {
    const p = parameterOf(adapter, path);
    const values = matrix(p.shape[0]!, p.shape[1]!, await p.data());
    own.set(path, values);
    (reference.tensors as Map<string, typeof values>).set(`${path}.weight`, values);
  }
  const deltas = new Map();
  for (const path of adapter.targets.filter((name) => name.endsWith('v_proj'))) {
    const { parameters } = adapter.delta(path)!;
    const read = async (name: string) => {
      const p = parameters.get(name)!;
      return matrix(p.shape[0]!, p.shape[1]!, await p.data());
    };
    deltas.set(path, { up: await read('up'), down: await read('down'), scale: 2 });
  }
  const { loss } = model.forward([ids], { labels: [ids], reduction: 'sum' });
  const want = reference.loss(ids, ids, deltas).sum;
  expect(Math.abs((await loss.item()) - want)).toBeLessThan(1e-4 * want);
  loss.backward();
  for (const [path, values] of own) {
    const grad = await parameterOf(adapter, path).grad!.data();
    const largest = Math.max(...grad.map(Math.abs));
    for (const i of [grad.findIndex((g) => Math.abs(g) === largest), 1]) {
      const wanted = slope(values, i, () => reference.loss(ids, ids, deltas).sum);
      expect(Math.abs(grad[i]! - wanted)).toBeLessThan(2e-4 * largest + 1e-6);
    }
  }
});

test('a tied head parts from the embedding, in training and in a merged file', async () => {
  const model = await load();
  const adapter = model.addAdapter({ r: 1, targetModules: ['v_proj'], modulesToSave: ['lm_head'] });
  const optimizer = new AdamW(adapter.parameters(), { lr: 0.05 });
  const before = await lossOf(model);
  for (let step = 0; step < 3; step++) {
    model.forward([ids], { labels: [ids] }).loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
  }
  const trained = await lossOf(model);
  expect(trained).toBeLessThan(before);
  expect(await model.forward([ids], { labels: [ids], reduction: 'sum', adapter: null }).loss.item()).toBe(
    before,
  );
  // A factor on the change leaves a module that is trained whole as it is.
  const head = [...(await parameterOf(adapter, 'lm_head').data())];
  await model.merge('default');
  expect(await lossOf(model)).toBeCloseTo(trained, 3);
  const dir = join(scratch, 'merged');
  await model.save(dir);
  await model.unmerge();
  expect(await lossOf(model)).toBe(trained);
  const [was, now] = await Promise.all(
    [model.directory, dir].map((path) => openSafetensors(join(path, 'model.safetensors'))),
  );
  const numbers = (file: typeof was, name: string): number[] => [
    ...new Float32Array(new Uint8Array(file!.tensors.get(name)!.bytes).buffer),
  ];
  expect(numbers(now, 'lm_head.weight')).toEqual(head);
  expect(numbers(now, 'model.embed_tokens.weight')).toEqual(numbers(was, 'model.embed_tokens.weight'));
  const again = await CausalLM.fromPretrained(dir);
  models.push(again);
  expect(again.config.tieWordEmbeddings).toBe(false);
  expect(await lossOf(again)).toBeCloseTo(trained, 3);
});

test('what is saved is what PEFT writes, and loads again', async () => {
  const model = await load({ dtype: 'BF16' });
  const adapter = model.addAdapter(config, { seed: 4 });
  fillAdapter(adapter, 5, 0.3);
  const dir = join(scratch, 'adapter');
  await adapter.save(dir);
  const { config: saved, tensors } = await readAdapter(dir);
  expect(saved['modules_to_save']).toEqual(config.modulesToSave);
  expect([...tensors.keys()].filter((key) => !key.includes('lora_'))).toEqual([
    'base_model.model.lm_head.weight',
    `base_model.model.${whole}.weight`,
  ]);
  const other = await model.loadAdapter(dir, { name: 'again' });
  expect(other.config).toEqual(adapter.config);
  const logits = async (name: string): Promise<Float32Array> =>
    model.forward([ids], { adapter: name }).logits.data();
  expect(await logits('again')).toEqual(await logits('default'));
});

test('modules that cannot be trained are named', async () => {
  const model = await load();
  const add = (modulesToSave: string[]): unknown =>
    model.addAdapter({ targetModules: ['v_proj'], modulesToSave }, { name: modulesToSave.join() });
  expect(() => add(['embed_tokens', 'lm_head'])).toThrow(
    expect.objectContaining({
      code: 'ERR_UNSUPPORTED',
      message:
        'modulesToSave ["embed_tokens"] name no linear module of the model, and other modules are not trained here',
    }) as Error,
  );
  expect(() => add(['v_proj'])).toThrow(expect.objectContaining({ code: 'ERR_ADAPTER' }) as Error);
  const biased = await load({ config: { attention_bias: true } });
  expect(() =>
    biased.addAdapter({ targetModules: ['up_proj'], modulesToSave: ['layers.0.self_attn.q_proj'] }),
  ).toThrow(
    expect.objectContaining({
      code: 'ERR_UNSUPPORTED',
      message:
        '[adapter] model.layers.0.self_attn.q_proj cannot be trained: it has a bias, and a bias is not trained here',
    }) as Error,
  );
  expect([...model.adapters.keys(), ...biased.adapters.keys()]).toEqual([]);
});
