import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bestDevice } from '../../lib/native/device';
import { CausalLM, noGrad, setThreads, tensor, type Adapter, type Tensor } from '../../lib/index';
import { branchOf } from '../support/branch';
import { ReferenceLlama, matrix, slope, type Deltas } from '../support/llama_reference';
import { fillAdapter } from '../support/fill_adapter';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const rows = [[256, 72, 101, 108, 108, 111, 44, 32, 119, 111, 114], [5], [97, 98, 99, 100, 101]];
const made: string[] = [];
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
async function load(options: TinyModelOptions = {}, dtype: 'auto' | 'f32' | 'bf16' = 'auto') {
  const dir = await tinyModel(options);
  made.push(dir);
  const model = await CausalLM.fromPretrained(dir, { dtype });
  models.push(model);
  return { dir, model };
}
afterAll(async () => {
  await Promise.all(models.map((model) => model.dispose()));
  made.forEach((dir) => rmSync(dir, { recursive: true }));
});

async function deltasOf(adapter: Adapter): Promise<Deltas> {
  const deltas = new Map<
    string,
    { up: ReturnType<typeof matrix>; down: ReturnType<typeof matrix>; scale: number }
  >();
  for (const path of adapter.targets) {
    const { up, down, scale } = branchOf(adapter, path);
    const read = async (p: Tensor) => matrix(p.shape[0]!, p.shape[1]!, await p.data());
    deltas.set(path, { up: await read(up), down: await read(down), scale });
  }
  return deltas;
}

/** Largest |got − want| over the largest |want|. */
function distance(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let [worst, scale] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    worst = Math.max(worst, Math.abs(got[i]! - want[i]!));
    scale = Math.max(scale, Math.abs(want[i]!));
  }
  return got.length === want.length && worst >= 0 ? worst / scale : Infinity;
}

const families: [string, Record<string, unknown>][] = [
  ['llama', {}],
  ['llama with biases and an own head', { attention_bias: true, mlp_bias: true, tie_word_embeddings: false }],
  ['llama without grouping', { num_key_value_heads: 4, head_dim: undefined }],
  ['mistral, sliding', { model_type: 'mistral', sliding_window: 4 }],
  ['qwen2', { model_type: 'qwen2', use_sliding_window: true, sliding_window: 3, max_window_layers: 1 }],
  ['qwen3', { model_type: 'qwen3', head_dim: 10, tie_word_embeddings: false }],
];

test.each(families)('%s: logits and losses are those of plain double loops', async (_, config) => {
  const { dir, model } = await load({ config });
  const reference = await ReferenceLlama.load(dir);
  const adapter = model.addAdapter({ r: 3, loraAlpha: 2, targetModules: 'all-linear' });
  fillAdapter(adapter);
  const labels = rows.map((row, i) => row.map((id, t) => ((t + i) % 4 === 3 ? -100 : id)));

  for (const use of [null, adapter]) {
    const deltas = use ? await deltasOf(use) : undefined;
    const { loss, logits } = model.forward(rows, { labels, logits: true, adapter: use });
    expect(logits.shape).toEqual([3, 11, 262]);
    expect(logits.dtype).toBe('f32');
    const got = await logits.data();
    rows.forEach((row, i) => {
      const want = reference.logits(row, deltas);
      want.forEach((expected, t) => {
        const at = (i * 11 + t) * 262;
        expect(distance(got.subarray(at, at + 262), expected)).toBeLessThan(2e-5);
      });
    });
    // The losses: through logits, fused, summed.
    const parts = rows.map((row, i) => reference.loss(row, labels[i]!, deltas));
    const sum = parts.reduce((a, p) => a + p.sum, 0);
    const count = parts.reduce((a, p) => a + p.count, 0);
    expect(await loss.item()).toBeCloseTo(sum / count, 4);
    expect(await model.forward(rows, { labels, adapter: use }).loss.item()).toBeCloseTo(sum / count, 4);
    const total = await model.forward(rows, { labels, adapter: use, reduction: 'sum' }).loss.item();
    expect(Math.abs(total / sum - 1)).toBeLessThan(1e-5);
  }
});

test('padding never counts: rows of a batch are what they are alone', async () => {
  const { model } = await load();
  const together = await model.forward(rows).logits.data();
  for (const [i, row] of rows.entries()) {
    const alone = await model.forward([row]).logits.data();
    expect(distance(together.subarray(i * 11 * 262, i * 11 * 262 + alone.length), alone)).toBeLessThan(1e-5);
  }
});

test('ids and labels as i32 tensors', async () => {
  const { model } = await load();
  const flat = [rows[0]!, [...rows[2]!, ...rows[2]!, 7]];
  const ids = tensor(flat, { dtype: 'i32' });
  const labels = flat.map((row) => row.map((id, t) => (t % 3 === 1 ? -100 : id)));
  const want = await model.forward(flat, { labels }).loss.item();
  const given = tensor(labels, { dtype: 'i32' });
  expect(await model.forward(ids, { labels: given }).loss.item()).toBeCloseTo(want, 5);
  expect(await model.forward(ids, { labels }).loss.item()).toBeCloseTo(want, 5);
  expect([...(await given.data())]).toEqual(labels.flat()); // the caller's own is left alone
});

test('gradients of every factor agree with differences of the loss', async () => {
  const { dir, model } = await load({ config: { num_hidden_layers: 2 } });
  const reference = await ReferenceLlama.load(dir);
  const adapter = model.addAdapter({
    r: 2,
    loraAlpha: 3,
    targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj', 'lm_head'],
  });
  fillAdapter(adapter);
  const deltas = await deltasOf(adapter);
  const [ids] = rows as [number[]];
  const { loss } = model.forward([ids], { labels: [ids], reduction: 'sum' });
  loss.backward();
  for (const path of adapter.targets) {
    const pair = branchOf(adapter, path);
    for (const [p, own] of [
      [pair.up, deltas.get(path)!.up],
      [pair.down, deltas.get(path)!.down],
    ] as const) {
      const grad = await p.grad!.data();
      const largest = Math.max(...grad.map(Math.abs));
      // The element with the largest gradient and one at a fixed place.
      for (const i of [grad.findIndex((g) => Math.abs(g) === largest), 1]) {
        const want = slope(own, i, () => reference.loss(ids, ids, deltas).sum);
        expect(Math.abs(grad[i]! - want)).toBeLessThan(2e-4 * largest + 1e-6);
      }
    }
  }
});

test('bf16 stays near f32, and auto keeps what the files hold', async () => {
  const { model } = await load({ dtype: 'BF16' });
  expect(model.dtype).toBe('bf16');
  expect((await load({ dtype: 'F16' })).model.dtype).toBe('bf16');
  expect((await load()).model.dtype).toBe('f32');
  const wide = await CausalLM.fromPretrained(model.directory, { dtype: 'f32' });
  models.push(wide);
  const got = await model.forward(rows).logits.data();
  const want = await wide.forward(rows).logits.data();
  expect(distance(got.subarray(0, 11 * 262), want.subarray(0, 11 * 262))).toBeLessThan(0.05);
});

test('dropout draws a new mask in training, none otherwise, and continues from a state', async () => {
  const { model } = await load();
  const adapter = model.addAdapter(
    { r: 4, loraAlpha: 8, loraDropout: 0.4, targetModules: 'all-linear' },
    { seed: 5 },
  );
  fillAdapter(adapter);
  const loss = (options = {}) => model.forward(rows, { labels: rows, ...options }).loss.item();
  const state = adapter.stateDict();
  const [first, second] = [await loss(), await loss()];
  expect(first).not.toBe(second);
  const calm = await loss({ train: false });
  expect(await noGrad(() => loss())).toBe(calm);
  expect([first, second]).not.toContain(calm);
  adapter.loadStateDict(state);
  expect([await loss(), await loss()]).toEqual([first, second]);
  // The seed of the masks is part of the state.
  const other = model.addAdapter(
    { r: 4, loraAlpha: 8, loraDropout: 0.4, targetModules: 'all-linear' },
    { name: 'other', seed: 6 },
  );
  other.loadStateDict(state);
  expect(await loss({ adapter: other })).toBe(first);
});

test.each<[string, unknown, Record<string, unknown>, string, string]>([
  ['no rows', [], {}, 'ERR_ARGUMENT', 'expected ids of at least one row'],
  ['an empty row', [[1], []], {}, 'ERR_ARGUMENT', 'row 1 is empty'],
  ['no array', 'hello', {}, 'ERR_ARGUMENT', "number[][] or an i32 tensor [batch, seq] but received 'hello'"],
  [
    'a tensor of floats',
    tensor([1, 2], { shape: [1, 2] }),
    {},
    'ERR_ARGUMENT',
    'expected ids to be an i32 tensor [batch, seq] but received',
  ],
  [
    'a tensor of one row without its batch',
    tensor(Int32Array.of(1, 2)),
    {},
    'ERR_ARGUMENT',
    'expected ids to be an i32 tensor [batch, seq] but received',
  ],
  [
    'an id too large',
    [[1, 262]],
    {},
    'ERR_DATA',
    'expected ids from 0 to 261 but received 262 at row 0, position 1',
  ],
  ['a fraction', [[1.5]], {}, 'ERR_DATA', 'received 1.5'],
  [
    'labels of another length',
    [[1, 2]],
    { labels: [[1]] },
    'ERR_ARGUMENT',
    'expected row 0 of labels to hold 2 tokens',
  ],
  ['labels of other rows', [[1, 2]], { labels: [] }, 'ERR_ARGUMENT', 'expected labels of 1 rows'],
  ['a label outside', [[1, 2]], { labels: [[1, -1]] }, 'ERR_DATA', 'received -1 at row 0, position 1'],
  [
    'a label of the vocabulary’s size',
    [[1, 2]],
    { labels: [[1, 262]] },
    'ERR_DATA',
    'expected labels from 0 to 261',
  ],
  [
    'a label that is a fraction',
    [[1, 2]],
    { labels: [[1, 1.5]] },
    'ERR_DATA',
    'received 1.5 at row 0, position 1',
  ],
  ['a label beyond 32 bits', [[1, 2]], { labels: [[1, 2 ** 32 + 1]] }, 'ERR_DATA', 'received 4294967297'],
  ['no label', [[1, 2]], { labels: [[1, -100]] }, 'ERR_DATA', 'no label counts'],
  ['one token', [[1]], { labels: [[1]] }, 'ERR_DATA', 'no label counts'],
  ['an unknown option', [[1]], { reducton: 'sum' }, 'ERR_ARGUMENT', "did you mean 'reduction'?"],
  [
    'an option that nothing is near to',
    [[1]],
    { zzz: 1 },
    'ERR_ARGUMENT',
    "unknown option 'zzz'; the options are labels, segmentIds, reduction, logits, adapter, train, gradientCheckpointing",
  ],
  [
    'a bad reduction',
    [[1, 2]],
    { labels: [[1, 2]], reduction: 'max' },
    'ERR_ARGUMENT',
    "expected reduction to be 'mean', 'sum'",
  ],
  [
    'an unknown adapter',
    [[1]],
    { adapter: 'defualt' },
    'ERR_ARGUMENT',
    "the model has no adapter 'defualt'; it has none",
  ],
  [
    'too few adapters',
    [[1], [2]],
    { adapter: [null] },
    'ERR_ARGUMENT',
    'expected one adapter for each of 2 rows but received 1',
  ],
])('forward refuses %s', async (_, ids, options, code, sentence) => {
  const model = models[0] ?? (await load()).model;
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
  expect(() => model.forward(ids as never, options)).toThrow(
    expect.objectContaining({ code, message: expect.stringContaining(sentence) }),
  );
});

test('loading says what is wrong', async () => {
  const refuse = async (options: TinyModelOptions): Promise<{ code: string; message: string }> => {
    const dir = await tinyModel(options);
    made.push(dir);
    return CausalLM.fromPretrained(dir).then(
      () => ({ code: 'loaded', message: '' }),
      (error: { code: string; message: string }) => error,
    );
  };
  const name = 'model.layers.1.mlp.up_proj.weight';
  const lacking = await refuse({ edit: (t) => t.delete(name) });
  expect(lacking.code).toBe('ERR_FILE');
  expect(lacking.message).toContain(`the weights lack ${name}`);
  const more = await refuse({ edit: (t) => t.set('model.extra', t.get(name)!) });
  expect(more.message).toContain('the weights hold unexpected model.extra');
  const bent = await refuse({ edit: (t) => t.set(name, t.get('model.layers.0.mlp.down_proj.weight')!) });
  expect(bent.message).toContain(`${name} of shape [40, 24] but received [24, 40]`);
  const old = await refuse({
    edit: (t) => t.set('model.layers.0.self_attn.rotary_emb.inv_freq', t.get('model.norm.weight')!),
  });
  expect(old.code).toBe('loaded');

  const at = (source: string | URL, options = {}) => CausalLM.fromPretrained(source, options);
  await expect(at('/nowhere')).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: expect.stringContaining('/nowhere does not exist'),
  });
  await expect(at(new URL('https://example.org/model'))).rejects.toMatchObject({
    code: 'ERR_ARGUMENT',
    message: expect.stringContaining('expected a path or a file: URL but received https://example.org/model'),
  });
  await expect(at('hf:org/name', { offline: true })).rejects.toMatchObject({ code: 'ERR_HUB' });
  const empty = mkdtempSync(join(tmpdir(), 'tiny-model-'));
  made.push(empty);
  await expect(at(empty)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: expect.stringContaining('has no config.json'),
  });
  await expect(at(made[0]!, { dtyp: 'f32' })).rejects.toThrow("did you mean 'dtype'?");
  await expect(at(made[0]!, { onProgress: 5 })).rejects.toThrow('expected onProgress to be a function');
  await expect(at(made[0]!, { dtype: 'f16' })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
  await expect(at(made[0]!, { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough');
});

test('a tied model ignores a head in its file', async () => {
  const { dir, model } = await load();
  const head = { dtype: 'F32' as const, shape: [262, 24], bytes: new Uint8Array(262 * 24 * 4).fill(63) };
  const { model: other } = await load({ edit: (tensors) => tensors.set('lm_head.weight', head) });
  expect(dir).not.toBe(other.directory);
  expect(await other.forward(rows).logits.data()).toEqual(await model.forward(rows).logits.data());
});

test('every layer drops by a mask of its own', async () => {
  const { model } = await load();
  const adapter = model.addAdapter({ r: 2, loraDropout: 0.5, targetModules: 'all-linear' }, { seed: 5 });
  const masks = adapter.targets.map((path) => branchOf(adapter, path, 4).dropout!);
  expect(new Set(masks.map((mask) => mask.layer)).size).toBe(21);
  for (const mask of masks) expect(mask).toMatchObject({ p: 0.5, seed: 5, forward: 4 });
  expect(branchOf(adapter, adapter.targets[0]!).dropout).toBeUndefined();
});

test("device: 'auto' is the best one that there is", async () => {
  const dir = await tinyModel();
  made.push(dir);
  const model = await CausalLM.fromPretrained(dir, { device: 'auto' });
  models.push(model);
  expect(model.device).toBe(bestDevice());
});

test('progress, and a URL', async () => {
  const dir = await tinyModel();
  made.push(dir);
  const seen: { loaded: number; total: number }[] = [];
  models.push(await CausalLM.fromPretrained(new URL(`file://${dir}`), { onProgress: (p) => seen.push(p) }));
  expect(seen.length).toBeGreaterThan(20);
  expect(seen.at(-1)!.loaded).toBe(seen.at(-1)!.total);
  expect(seen.every((p, i) => i === 0 || p.loaded > seen[i - 1]!.loaded)).toBe(true);
});

test('a longer call between the blocks of another leaves its rotations alone, with gradients too', async () => {
  const { model } = await load({ config: { max_position_embeddings: 2048 } });
  const adapter = model.addAdapter({ r: 2, targetModules: 'all-linear' });
  fillAdapter(adapter);
  const gradientOf = async (gradientCheckpointing: boolean, length: number): Promise<number[]> => {
    let begun = length === 0;
    const watch = (): void => {
      if (begun) return;
      begun = true;
      const longer = [Array.from({ length }, (_, i) => i % 256)];
      noGrad(() => model.forward(longer, { logits: true, adapter: null }).logits).dispose();
    };
    const { loss } = model.forward(rows, { labels: rows, gradientCheckpointing, watch });
    loss.backward();
    const gradients = await Promise.all(adapter.parameters().map((p) => p.grad!.data()));
    for (const p of adapter.parameters()) p.grad = null;
    const all = [await loss.item(), ...gradients.flatMap((gradient) => [...gradient])];
    loss.dispose();
    return all;
  };
  const alone = await gradientOf(false, 0);
  expect(await gradientOf(false, 600)).toEqual(alone);
  expect(await gradientOf(true, 1500)).toEqual(alone);
});

test('a model in bf16 does not round the sums of its blocks', async () => {
  const { model } = await load({ dtype: 'BF16' }, 'bf16');
  const seen = new Map<string, { dtype: string; values: Promise<ArrayLike<number>> }>();
  const watch = (module: string, x: Tensor): void =>
    void seen.set(module, { dtype: x.dtype, values: x.data() });
  noGrad(() => model.forward(rows, { watch, logits: true }).logits).dispose();
  expect([...seen.keys()]).toEqual(['model.embed_tokens', ...[0, 1, 2].map((i) => `model.layers.${i}`)]);
  for (const [module, { dtype, values }] of seen) {
    expect(dtype).toBe('f32');
    // A number of bf16 is the upper half of one of f32.
    const bits = new Uint32Array(Float32Array.from(await values).buffer);
    if (module !== 'model.embed_tokens') expect(bits.some((word) => (word & 0xffff) !== 0)).toBe(true);
  }
});
