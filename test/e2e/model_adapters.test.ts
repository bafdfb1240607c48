import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  AdamW,
  CausalLM,
  convertAdapter,
  estimateMemory,
  memoryUsage,
  noGrad,
  setThreads,
  type Adapter,
  type AdapterConfigInput,
} from '../../lib/index';
import { openSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { Linear } from '../../lib/linear/linear';
import { binding } from '../../lib/native/calls';
import { readAdapter, writeAdapter } from '../../lib/peft/adapter_files';
import { branchOf } from '../support/branch';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { roundToBf16 } from '../support/numbers';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const scratch = mkdtempSync(join(tmpdir(), 'adapters-'));
const rows = [
  [256, 72, 101, 108, 108, 111],
  [97, 98, 99],
];
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
async function load(options: TinyModelOptions = {}): Promise<CausalLM> {
  const dir = await tinyModel(options);
  const model = await CausalLM.fromPretrained(dir);
  models.push(model);
  return model;
}
afterAll(async () => {
  for (const model of models) {
    await model.dispose();
    rmSync(model.directory, { recursive: true, force: true });
  }
  rmSync(scratch, { recursive: true });
});

const logitsOf = async (model: CausalLM, adapter?: string | null): Promise<Buffer> => {
  const { logits } = noGrad(() =>
    model.forward(rows, { logits: true, ...(adapter === undefined ? {} : { adapter }) }),
  );
  const bytes = Buffer.from(await logits.bytes());
  logits.dispose();
  return bytes;
};
const far = (a: Buffer, b: Buffer): number => {
  const [x, y] = [a, b].map((bytes) => new Float32Array(new Uint8Array(bytes).buffer));
  return Math.max(...x!.map((v, i) => Math.abs(v - y![i]!)));
};
function train(model: CausalLM, adapter: Adapter): void {
  const { loss } = model.forward(rows, { labels: rows, adapter });
  loss.backward();
  new AdamW(adapter.parameters(), { lr: 0.05 }).step();
  loss.dispose();
}

test('a new adapter changes nothing yet, is seeded, and each layer draws its own numbers', async () => {
  const model = await load();
  const base = await logitsOf(model);
  const a = model.addAdapter({ r: 4, loraAlpha: 8, targetModules: ['q_proj', 'o_proj'] }, { seed: 7 });
  expect((await logitsOf(model)).equals(base)).toBe(true);
  expect(a).toMatchObject({ name: 'default', trainable: true, scale: 1, config: { r: 4, loraAlpha: 8 } });
  expect(model.activeAdapter).toBe(a);
  expect([...model.adapters.keys()]).toEqual(['default']);

  const names = a.parameters().map((p) => p.name);
  expect(names).toHaveLength(12);
  expect(names).toEqual([...names].sort());
  expect(names[1]).toBe('base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight');
  const values = async (x: Adapter) => {
    const all = await Promise.all(
      x.parameters().map(async (p) => [p.name, [...(await p.data())].join()] as const),
    );
    return new Map(all);
  };
  const first = await values(a);
  for (const [name, text] of first) {
    if (name.includes('lora_B')) expect(text).toMatch(/^0(,0)*$/);
    else for (const x of text.split(',')) expect(Math.abs(Number(x))).toBeLessThanOrEqual(1 / Math.sqrt(24));
  }
  const downs = [...first].filter(([name]) => name.includes('lora_A')).map(([, text]) => text);
  expect(new Set(downs).size).toBe(6);
  const b = model.addAdapter(
    { r: 4, loraAlpha: 8, targetModules: ['q_proj', 'o_proj'] },
    { name: 'b', seed: 7 },
  );
  expect(await values(b)).toEqual(first);
  const c = model.addAdapter({ r: 4, targetModules: ['q_proj', 'o_proj'] }, { name: 'c', seed: 8 });
  expect([...(await values(c)).values()].filter((text) => downs.includes(text))).toEqual([]);
  expect(model.activeAdapter).toBe(a);
  model.addAdapter({}, { name: 'd', activate: true });
  expect(model.activeAdapter?.name).toBe('d');

  const g = model.addAdapter(
    { r: 8, initLoraWeights: 'gaussian', targetModules: ['down_proj'] },
    { name: 'g' },
  );
  const drawn = await Promise.all(
    g.parameters().flatMap((p) => (p.name.includes('lora_A') ? [p.data()] : [])),
  );
  expect(new Set(drawn.map(String)).size).toBe(3);
  const normal = drawn.flatMap((x) => [...x]);
  const deviation = Math.sqrt(normal.reduce((sum, x) => sum + x * x, 0) / normal.length);
  expect(Math.abs(deviation * 8 - 1)).toBeLessThan(0.15);
  // up and down of random numbers draw from streams of their own.
  const random = model.addAdapter(
    { r: 24, initLoraWeights: false, targetModules: ['q_proj'] },
    { name: 'random' },
  );
  const [down, up] = await Promise.all(
    random
      .parameters()
      .slice(0, 2)
      .map((p) => p.data()),
  );
  const products = up!.map((v, i) => v * down![i]!);
  const squares = (values: Float32Array): number => values.reduce((sum, v) => sum + v * v, 0);
  const correlation =
    products.reduce((sum, v) => sum + v, 0) /
    Math.sqrt(squares(up as Float32Array) * squares(down as Float32Array));
  expect(Math.abs(correlation)).toBeLessThan(0.2);
});

test.each<[AdapterConfigInput, Record<string, unknown>, string]>([
  [{ r: 2, targetModules: ['q_proj', 'v_proj'] }, { target_modules: ['q_proj', 'v_proj'] }, 'lora'],
  [
    { method: 'ia3' },
    { target_modules: ['k_proj', 'v_proj', 'down_proj'], feedforward_modules: ['down_proj'] },
    'ia3',
  ],
])('layers that a file leaves to the architecture are those of %j', async (input, fields, name) => {
  const model = await load();
  const [dir, again] = [join(scratch, `${name}-named`), join(scratch, `${name}-again`)];
  const adapter = model.addAdapter(input, { name: 'named' });
  fillAdapter(adapter);
  await adapter.save(dir);
  const { config, tensors } = await readAdapter(dir);
  expect(config).toMatchObject(fields);
  const open = { ...config, target_modules: null, feedforward_modules: null };
  const loaded = await model.loadAdapter({ config: open, tensors }, { name: 'open' });
  expect(loaded.config).toEqual(adapter.config);
  expect((await logitsOf(model, 'open')).equals(await logitsOf(model, 'named'))).toBe(true);
  await loaded.save(again);
  expect((await readAdapter(again)).config).toMatchObject(fields);
  const estimate = (file: object) => estimateMemory(model.config, { adapter: file });
  expect(estimate(open)).toEqual(estimate(config));
  if (name !== 'lora') return;
  const [peft, gguf] = [join(scratch, 'open'), join(scratch, 'open.gguf')];
  await writeAdapter(peft, { config: open, tensors });
  await convertAdapter(peft, gguf, { format: 'gguf', base: model.directory });
  await convertAdapter(gguf, join(scratch, 'back'), { format: 'peft', base: model.directory });
  expect((await readAdapter(join(scratch, 'back'))).tensors.size).toBe(tensors.size);
});

test('save and load give the same adapter, as PEFT names it', async () => {
  const model = await load();
  const a = model.addAdapter({
    r: 3,
    loraAlpha: 5,
    targetModules: 'all-linear',
    rankPattern: { q_proj: 2 },
    useRslora: true,
  });
  fillAdapter(a);
  const dir = join(scratch, 'saved');
  await a.save(dir);
  const json = JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
  expect(json).toMatchObject({
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    inference_mode: true,
    base_model_name_or_path: model.directory,
    r: 3,
    lora_alpha: 5,
    use_rslora: true,
    rank_pattern: { q_proj: 2 },
    target_modules: ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj'],
  });
  const file = await openSafetensors(join(dir, 'adapter_model.safetensors'));
  expect([...file.tensors.keys()]).toEqual(a.parameters().map((p) => p.name));
  expect(file.tensors.get('base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight')!.shape).toEqual([
    2, 24,
  ]);
  expect(file.tensors.get('base_model.model.model.layers.1.mlp.down_proj.lora_B.weight')!.shape).toEqual([
    24, 3,
  ]);
  file.close();

  const { numTrainable } = model;
  const b = await model.loadAdapter(dir, { name: 'b' });
  expect(b.trainable).toBe(false);
  expect(model.numTrainable).toBe(numTrainable);
  expect(b.parameters().some((p) => p.requiresGrad)).toBe(false);
  expect((await logitsOf(model, 'b')).equals(await logitsOf(model, 'default'))).toBe(true);
  await model.loadAdapter(await readAdapter(dir), { name: 'c' });
  expect((await logitsOf(model, 'c')).equals(await logitsOf(model, 'default'))).toBe(true);
  expect((await logitsOf(model, null)).equals(await logitsOf(model, 'default'))).toBe(false);

  // scale is a factor on every α/r.
  b.scale = 0;
  expect((await logitsOf(model, 'b')).equals(await logitsOf(model, null))).toBe(true);
});

test('an adapter keeps the name of the base that it came with', async () => {
  const model = await load();
  const dir = join(scratch, 'renamed');
  await model.addAdapter({ r: 2 }, { name: 'a' }).save(dir);
  const { config, tensors } = await readAdapter(dir);
  const source = { config: { ...config, base_model_name_or_path: 'org/base' }, tensors };
  await (await model.loadAdapter(source, { name: 'b' })).save(dir);
  expect((await readAdapter(dir)).config['base_model_name_or_path']).toBe('org/base');
});

test("DoRA's magnitude is read under its name in PEFT's memory, too", async () => {
  const model = await load();
  const dir = join(scratch, 'magnitude');
  const a = model.addAdapter({ r: 2, useDora: true, targetModules: ['q_proj'] }, { name: 'a' });
  fillAdapter(a);
  await a.save(dir);
  const { config, tensors } = await readAdapter(dir);
  const inMemory = [...tensors].map(
    ([key, value]) => [key.endsWith('lora_magnitude_vector') ? `${key}.weight` : key, value] as const,
  );
  expect(inMemory.filter(([key]) => !tensors.has(key))).toHaveLength(model.config.numHiddenLayers);
  const wanted = await logitsOf(model, 'a');
  const { tensors: before } = memoryUsage();
  await model.loadAdapter({ config, tensors: new Map(inMemory) }, { name: 'b' });
  expect(await logitsOf(model, 'b')).toEqual(wanted);
  await model.removeAdapter('b'); // with the norms and factors that its calls have kept
  expect(memoryUsage().tensors).toBe(before);
});

test('loading and merging that run out of memory leave nothing behind', async () => {
  const model = await load();
  const dir = join(scratch, 'no-memory');
  await model.addAdapter({ r: 2 }, { name: 'a' }).save(dir);
  const files = await readAdapter(dir);
  const deeds = [() => model.loadAdapter(files, { name: 'b' }), () => model.merge('a')];
  for (const deed of deeds) {
    const { tensors, bytes } = memoryUsage();
    for (const nth of [2, 5, 9, 14]) {
      binding().injectOutOfMemory(nth);
      await expectReject(deed(), 'ERR_OUT_OF_MEMORY', /./);
      binding().injectOutOfMemory(0);
      expect(memoryUsage()).toMatchObject({ tensors, bytes });
    }
  }
});

test('what does not fit the model is listed', async () => {
  const model = await load();
  const dir = join(scratch, 'misfit');
  const a = model.addAdapter({ r: 2, targetModules: ['q_proj', 'v_proj'] });
  await a.save(dir);
  const files = await readAdapter(dir);
  const [first, second, third] = [...files.tensors.keys()] as [string, string, string];
  const tensors = new Map(files.tensors);
  tensors.delete(first);
  tensors.set('base_model.model.score.weight', tensors.get(second)!);
  tensors.set(second, { ...tensors.get(second)!, shape: [1, 48] });
  const nan = new Uint8Array(tensors.get(third)!.bytes);
  new DataView(nan.buffer).setUint32(4, 0x7fc00000, true);
  tensors.set(third, { ...tensors.get(third)!, bytes: nan });
  const error = await model.loadAdapter({ config: files.config, tensors }, { name: 'x' }).then(
    () => undefined,
    (e: { code: string; message: string }) => e,
  );
  expect(error?.code).toBe('ERR_ADAPTER');
  expect(error?.message).toContain(`it lacks ${first}`);
  expect(error?.message).toContain('it holds unexpected base_model.model.score.weight');
  expect(error?.message).toContain(`expected ${second} of shape [24, 2] but received [1, 48]`);
  expect(error?.message).toContain(`not finite in ${third}`);
  expect(model.adapters.has('x')).toBe(false);

  const biased = { config: { ...files.config, lora_bias: true }, tensors: files.tensors };
  await expect(model.loadAdapter(biased, { name: 'x' })).rejects.toMatchObject({
    message: expect.stringContaining('lora_bias'),
  });
  expect(() => model.addAdapter({ targetModules: ['q_proj', 'w_proj'] }, { name: 'y' })).toThrow(
    'targetModules w_proj match no linear layer',
  );
  expect(() => model.addAdapter({})).toThrow("the model already has an adapter 'default'");
  expect(() => model.addAdapter({ rank: 4 } as object, { name: 'y' })).toThrow("did you mean 'r'?");
  const nothing = undefined as unknown as string;
  const nameless = {
    code: 'ERR_ARGUMENT',
    message: expect.stringContaining('expected the name of an adapter'),
  };
  await expect(model.removeAdapter(nothing)).rejects.toMatchObject(nameless); // not the active one
  await expect(model.merge(nothing)).rejects.toMatchObject(nameless);
  expect(() => (a.scale = Number.NaN)).toThrow('expected scale to be a finite number but received NaN');
  expect(() => model.addAdapter({}, { name: 'y', activate: 1 as unknown as boolean })).toThrow(
    'expected activate to be true or false but received 1',
  );
});

test.each<[string, TinyModelOptions]>([
  ['f32', {}],
  ['bf16', { dtype: 'BF16' }],
])('merge adds the adapter to the base, unmerge gives it back exactly (%s)', async (dtype, options) => {
  const model = await load(options);
  const a = model.addAdapter({ r: 2, loraAlpha: 1, targetModules: 'all-linear' });
  fillAdapter(a, 3, 0.2);
  const other = model.addAdapter({ r: 2 }, { name: 'other' });
  const [base, adapted] = [await logitsOf(model, null), await logitsOf(model)];
  await model.merge('default');
  expect(model.activeAdapter).toBeNull();
  const merged = await logitsOf(model);
  expect(far(merged, adapted)).toBeLessThan(dtype === 'f32' ? 1e-4 : 0.25);
  expect(far(merged, adapted)).toBeLessThan(far(merged, base) / 4);

  const busy = expect.objectContaining({ code: 'ERR_BUSY' });
  expect(() => model.forward(rows, { adapter: 'default' })).toThrow(busy);
  await refusesOthers(model, other);
  await expect(model.merge('other')).rejects.toEqual(busy);
  await expect(model.removeAdapter('default')).rejects.toEqual(busy);
  await expect(model.save(join(scratch, 'no'), { merge: 'other' })).rejects.toEqual(busy);

  await model.unmerge();
  expect(model.activeAdapter).toBe(a);
  expect((await logitsOf(model, null)).equals(base)).toBe(true);
  expect((await logitsOf(model)).equals(adapted)).toBe(true);
  await expect(model.unmerge()).rejects.toMatchObject({ code: 'ERR_ARGUMENT' });
});

/** All that would run on top of the merged adapter, or promises the base alone. */
async function refusesOthers(model: CausalLM, other: Adapter): Promise<void> {
  const busy = expect.objectContaining({ code: 'ERR_BUSY' });
  const examples = rows.map((inputIds) => ({ inputIds }));
  for (const adapter of ['default', 'other', other, null]) {
    expect(() => model.forward(rows, { adapter })).toThrow(busy);
    expect(() => noGrad(() => model.forward(rows, { adapter: [adapter, adapter] }))).toThrow(busy);
    expect(() => model.setAdapter(adapter)).toThrow(busy);
    await expect(model.generate([1], { adapter })).rejects.toEqual(busy);
    await expect(model.evaluate(examples, { adapter })).rejects.toEqual(busy);
    await expect(model.evaluateTask(examples, { adapters: [adapter] })).rejects.toEqual(busy);
  }
  expect(() => model.forward(rows, { labels: rows, adapter: other })).toThrow(busy); // it would be trained
  expect(() => model.addAdapter({}, { name: 'third', activate: true })).toThrow(busy);
  expect(() => model.core.acquireForTraining('Trainer', other)).toThrow(busy);
}

test('calls without an adapter get the merged weights, those made before merge() or unmerge() nothing else', async () => {
  const model = await load();
  fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }), 3, 0.4);
  const examples = rows.map((inputIds) => ({ inputIds }));
  const measured = async (): Promise<unknown[]> => {
    const [one] = (await model.evaluateTask(examples)).results;
    const { ids } = await model.generate([1, 2], { maxNewTokens: 6, ignoreEos: true });
    return [(await model.evaluate(examples)).loss, one!.loss]
      .map((loss) => loss!.toFixed(4))
      .concat(ids.join());
  };
  const adapted = await measured();
  model.setAdapter(null);
  const base = await measured();
  expect(base[0]).not.toBe(adapted[0]);
  await model.merge('default');
  expect(await measured()).toEqual(adapted);
  await model.unmerge();
  expect(await measured()).toEqual(base);

  // An iterated handle begins with its first event.
  const before = model.generate([1])[Symbol.asyncIterator]();
  await model.merge('default');
  await expect(before.next()).rejects.toThrow("[generate] adapter 'default' was merged since the call");
  const during = model.generate([1])[Symbol.asyncIterator]();
  await model.unmerge();
  await expect(during.next()).rejects.toThrow("[generate] adapter 'default' was unmerged since the call");
});

test.each([
  ['F32', Math.fround],
  ['BF16', roundToBf16],
] as const)(
  'a merged weight is W + s·up·down, computed in f32 and rounded once to the dtype of W (%s)',
  async (dtype, round) => {
    const model = await load({ dtype });
    // With r = 1 the product has one term, so that its order of summation does not matter.
    const a = model.addAdapter({ r: 1, loraAlpha: 3, targetModules: ['k_proj', 'down_proj'] });
    fillAdapter(a, 3, 0.2);
    a.scale = 1.5;
    const dir = join(scratch, `merged-${dtype}`);
    await model.save(dir, { merge: 'default' });
    const [was, now] = await Promise.all(
      [model.directory, dir].map((d) => openSafetensors(join(d, 'model.safetensors'))),
    );
    const numbers = ({ bytes }: SafetensorsTensor): number[] => {
      const own = new Uint8Array(bytes).buffer;
      if (dtype === 'F32') return [...new Float32Array(own)];
      return [...new Float32Array(Uint32Array.from(new Uint16Array(own), (half) => half << 16).buffer)];
    };
    for (const path of a.targets) {
      const { up, down, scale } = branchOf(a, path);
      expect(scale).toBe(4.5);
      const [rows, columns] = [await up.data(), await down.data()];
      const base = numbers(was!.tensors.get(`${path}.weight`)!);
      const want = base.map((w, k) => {
        const delta = Math.fround(rows[Math.floor(k / columns.length)]! * columns[k % columns.length]!);
        return round(w + Math.fround(scale * delta));
      });
      expect(want).not.toEqual(base);
      expect(numbers(now!.tensors.get(`${path}.weight`)!)).toEqual(want);
    }
    was!.close();
    now!.close();
  },
);

test('a layer is merged when what was queued for the one before it is done', async () => {
  const model = await load();
  fillAdapter(model.addAdapter({ r: 2, targetModules: ['q_proj'] }));
  const packed = jest.spyOn(Linear.prototype, 'packMerged');
  let go: (() => void) | undefined;
  const held = (): Promise<void> => new Promise((resolve) => (go = resolve));
  jest.spyOn(binding(), 'synchronize').mockImplementationOnce(held);
  const merging = model.merge('default');
  while (packed.mock.calls.length === 0) await new Promise(setImmediate);
  for (let i = 0; i < 5; i++) await new Promise(setImmediate);
  const queued = packed.mock.calls.length;
  go?.();
  await merging;
  const merged = packed.mock.calls.length;
  jest.restoreAllMocks();
  expect([queued, merged]).toEqual([1, 3]);
});

test('unmerge leaves the adapter that was active, and the base alone, where that was', async () => {
  const model = await load();
  const a = model.addAdapter({ r: 2 }, { name: 'a' });
  const b = model.addAdapter({ r: 2 }, { name: 'b', activate: true });
  await model.merge('a'); // not the active one
  expect(model.activeAdapter).toBe(b);
  expect(() => model.forward(rows)).toThrow(
    "[forward] adapter 'b', the active one, cannot be used while 'a' is merged into the base weights: call unmerge() first",
  );
  await expect(model.generate([1])).rejects.toMatchObject({ code: 'ERR_BUSY' });
  await model.unmerge();
  expect(model.activeAdapter).toBe(b);
  model.setAdapter(null);
  await model.merge('a');
  await model.unmerge();
  expect(model.activeAdapter).toBeNull();
  model.setAdapter(a);
  await model.merge('a');
  await model.unmerge();
  expect(model.activeAdapter).toBe(a);
});

test('a graph that was recorded before loadStateDict cannot run backward after it', async () => {
  const model = await load();
  const a = model.addAdapter({ r: 2 });
  const { loss } = model.forward(rows, { labels: rows });
  a.loadStateDict(a.stateDict());
  expect(() => loss.backward()).toThrow(expect.objectContaining({ code: 'ERR_ARGUMENT' }));
});

test('an adapter of a tied head merges without changing the embedding', async () => {
  const model = await load();
  fillAdapter(model.addAdapter({ r: 2, targetModules: ['lm_head', 'v_proj'] }), 3, 0.2);
  const adapted = await logitsOf(model);
  await model.merge('default');
  expect(far(await logitsOf(model), adapted)).toBeLessThan(1e-4);
  const dir = join(scratch, 'untied');
  await model.save(dir);
  const again = await CausalLM.fromPretrained(dir);
  models.push(again);
  expect(again.config.tieWordEmbeddings).toBe(false);
  expect((await logitsOf(again)).equals(await logitsOf(model))).toBe(true);
});

test('save writes a directory that loads again', async () => {
  const model = await load({
    dtype: 'BF16',
    config: { torch_dtype: 'bfloat16', extra_key: 'kept' },
    generation: { eos_token_id: 9 },
  });
  const a = model.addAdapter({ r: 2, targetModules: 'all-linear' });
  const dir = join(scratch, 'copy');
  await model.save(dir);
  const copy = await CausalLM.fromPretrained(dir);
  models.push(copy);
  expect((await logitsOf(copy)).equals(await logitsOf(model, null))).toBe(true);
  expect(copy.config.raw).toEqual(model.config.raw);
  expect(copy.tokenizer.encode('aé')).toEqual(model.tokenizer.encode('aé'));
  expect(existsSync(join(dir, 'generation_config.json'))).toBe(true);
  const [was, now] = await Promise.all(
    [model.directory, dir].map((d) => openSafetensors(join(d, 'model.safetensors'))),
  );
  for (const [name, { dtype, bytes }] of was!.tensors) {
    expect(now!.tensors.get(name)!.dtype).toBe(dtype);
    expect(Buffer.from(now!.tensors.get(name)!.bytes).equals(Buffer.from(bytes))).toBe(true);
  }
  expect(now!.tensors.size).toBe(was!.tensors.size);
  was!.close();
  now!.close();

  train(model, a);
  const error = await model.save(dir).catch((e: { code: string; message: string }) => e);
  expect(error).toMatchObject({
    code: 'ERR_ARGUMENT',
    message: expect.stringContaining("pass { merge: 'default' }"),
  });
  const merged = join(scratch, 'merged');
  await model.save(merged, { merge: 'default' });
  expect(model.activeAdapter).toBe(a);
  const fused = await CausalLM.fromPretrained(merged);
  models.push(fused);
  await model.merge('default');
  expect((await logitsOf(fused)).equals(await logitsOf(model))).toBe(true);
  await model.save(dir); // replaces the earlier save
  expect(
    readFileSync(join(dir, 'model.safetensors')).equals(readFileSync(join(merged, 'model.safetensors'))),
  ).toBe(true);

  await expect(model.save(model.directory)).rejects.toMatchObject({ code: 'ERR_FILE' });
  const foreign = mkdtempSync(join(scratch, 'foreign-'));
  writeFileSync(join(foreign, 'letter.txt'), 'mine');
  await expect(model.save(foreign)).rejects.toMatchObject({ code: 'ERR_FILE' });
  expect(existsSync(join(foreign, 'letter.txt'))).toBe(true);
  // An application's own config.json does not make its directory a model's.
  writeFileSync(join(foreign, 'config.json'), '{}');
  await expect(model.save(foreign)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: expect.stringContaining('holds other files (letter.txt): save to a new or empty directory'),
  });
  expect(existsSync(join(foreign, 'letter.txt'))).toBe(true);
  rmSync(join(foreign, 'letter.txt'));
  await expect(model.save(foreign)).rejects.toThrow('holds files but no model');
  const link = join(scratch, 'link-to-base');
  symlinkSync(model.directory, link);
  await expect(model.save(link)).rejects.toThrow('holds the base model itself');
});

test('save writes the values of the moment of the call, though training goes on', async () => {
  const model = await load();
  const a = model.addAdapter({ r: 2 });
  fillAdapter(a);
  const was = new Map(a.parameters().map((p) => [p.name, Buffer.from(p.bytesSync())]));
  const dir = join(scratch, 'meanwhile');
  const saved = a.save(dir);
  train(model, a);
  await saved;
  const { tensors } = await readAdapter(dir);
  for (const [name, bytes] of was) expect(bytes.equals(tensors.get(name)!.bytes)).toBe(true);
});

test('a run that holds an adapter keeps it', async () => {
  const model = await load();
  const a = model.addAdapter({ r: 2 });
  const release = model.core.acquireForTraining('Trainer', a);
  await expect(model.removeAdapter('default')).rejects.toMatchObject({ code: 'ERR_BUSY' });
  await expect(model.dispose()).rejects.toMatchObject({
    code: 'ERR_BUSY',
    message: '[dispose] a Trainer trains the model: await its run, or leave its loop',
  });
  expect(() => model[Symbol.dispose]()).toThrow(expect.objectContaining({ code: 'ERR_BUSY' }));
  release();
  release();
  await model.removeAdapter('default');
  expect(() => a.parameters()).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  expect(() => model.forward(rows, { adapter: a })).toThrow('was removed or belongs to another');
  expect(model.activeAdapter).toBeNull();
});
