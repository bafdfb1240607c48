/** Gemma 4: what its configuration says of layers, heads of 512, values that are keys, its table of layer inputs, and models that see images. */
import { join } from 'node:path';
import { CausalLM, estimateMemory, noGrad, openSafetensors, setThreads } from '../../lib/index';
import { parseModelConfig } from '../../lib/models/families';
import { fillAdapter } from '../support/fill_adapter';
import { relativeError } from '../support/numbers';
import { rewrapped, wrappings } from '../support/rewrapped';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const scratch = temporaryFolder();
const rows = [[3, 9, 27, 81, 5, 44, 7, 61, 30, 2]];
const models: CausalLM[] = [];
beforeAll(() => setThreads(1));
afterAll(async () => {
  for (const model of models) await model.dispose();
});

async function load(dir: string, options = {}): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(dir, options);
  models.push(model);
  return model;
}

const types = (pattern: string): string[] =>
  [...pattern].map((letter) => (letter === 'f' ? 'full_attention' : 'sliding_attention'));

/** Layers s s f s f, of which the last two share. */
const config = {
  ...{ model_type: 'gemma4_text', hidden_act: null, sliding_window: 4, num_hidden_layers: 5 },
  ...{ layer_types: types('ssfsf'), num_kv_shared_layers: 2, head_dim: 6, global_head_dim: 12 },
  ...{ hidden_size_per_layer_input: 4, final_logit_softcapping: 2, use_double_wide_mlp: true },
  vocab_size_per_layer_input: 262,
  rope_parameters: {
    full_attention: { rope_type: 'proportional', partial_rotary_factor: 0.5, rope_theta: 1e6 },
    sliding_attention: { rope_type: 'default', rope_theta: 1e4 },
  },
};
const tiny = (more: object = {}, options: TinyModelOptions = {}): Promise<string> =>
  tinyModel({ ...options, config: { ...config, ...more } });

const logitsOf = (model: CausalLM, ids = rows): Promise<Float32Array> =>
  noGrad(() => model.forward(ids)).logits.data<Float32Array>();

const parsed = (more: object) => parseModelConfig({ vocab_size: 262, ...config, ...more });

test('layers that share keys read those of the last layer of their type that has its own', () => {
  const { layers } = parsed({ num_hidden_layers: 7, layer_types: types('sfssfsf'), num_kv_shared_layers: 3 });
  expect(layers.map((one) => one.kind === 'attention' && one.keysOf)).toEqual([
    ...[undefined, undefined, undefined, undefined],
    ...[1, 3, 1],
  ]);
  expect(() => parsed({ num_kv_shared_layers: 4, layer_types: types('sssff') })).toThrow(
    'num_kv_shared_layers = 4, and no layer before these is of the type of layer 3',
  );
});

test.each([
  [{ vocab_size_per_layer_input: 100 }, 'vocab_size_per_layer_input = 100; supported is vocab_size, 262'],
  [{ enable_moe_block: true, num_experts: 3 }, 'top_k_experts of config.json to be at most 3, the experts'],
  [{ global_head_dim: 9 }, 'global_head_dim = 9; supported are even numbers'],
  [{ hidden_activation: 'silu' }, 'hidden_activation = "silu"'],
  [
    { rope_parameters: { full_attention: { rope_type: 'proportional', partial_rotary_factor: 2 } } },
    'partial_rotary_factor = 2; supported are parts up to 1',
  ],
])('of the configuration %j is refused', (more, message) => {
  expect(() => parsed(more)).toThrow(message);
});

test('only the layers before the shared ones have keys in the cache', () => {
  const serving = (more: object): number => estimateMemory(parsed(more), { streams: 1, length: 64 }).kvCache;
  // Of f32, twice: two sliding layers of 2 heads of 6, a full one of 12.
  expect(serving({})).toBe(2 * 64 * 2 * 2 * (6 + 6 + 12) * 4);
  expect(serving({ num_kv_shared_layers: 0 })).toBe(2 * 64 * 2 * 2 * (6 + 6 + 12 + 6 + 12) * 4);
});

test('both embeddings stay rounded beside their masters where all is trained', () => {
  const small = parsed({ hidden_size: 24 });
  expect(estimateMemory(small, { train: 'all', dtype: 'f32' }).weights).toBe(4 * 262 * (24 + 5 * 4));
});

test('keys that later blocks read stay with gradient checkpointing', () => {
  const kept = (shared: number): number =>
    estimateMemory(parsed({ use_double_wide_mlp: false, num_kv_shared_layers: shared }), {
      ...{ length: 1, r: 1, targetModules: ['q_proj'], gradientCheckpointing: true },
    }).activations;
  // Keys and values in f32 of layers 1 and 2, of two heads.
  expect(kept(2) - kept(0)).toBe(4 * 2 * 2 * (6 + 12));
});

test('with attention_k_eq_v the values of full layers are what keys are computed from', async () => {
  const heads = { num_global_key_value_heads: 1, num_kv_shared_layers: 0 };
  const equal = await tiny({ ...heads, attention_k_eq_v: true });
  const file = await openSafetensors(join(equal, 'model.safetensors'));
  const stored = new Map([...file.tensors].map(([name, { bytes }]) => [name, bytes.slice()]));
  file.close();
  expect(stored.has('model.layers.2.self_attn.v_proj.weight')).toBe(false);
  expect(stored.has('model.layers.0.self_attn.v_proj.weight')).toBe(true);
  expect(stored.get('model.layers.2.self_attn.k_proj.weight')).toHaveLength(4 * 12 * 24);
  // The same model with values of its own, and as many heads in each layer.
  const twice = (bytes: Uint8Array): Uint8Array => Uint8Array.from([...bytes, ...bytes]);
  const own = await tiny(
    { ...heads, attention_k_eq_v: false },
    {
      edit(tensors) {
        for (const [name, tensor] of tensors) {
          const bytes = stored.get(name.replace('v_proj', stored.has(name) ? 'v_proj' : 'k_proj'))!;
          const wider = bytes.length < tensor.bytes.length ? twice(bytes) : bytes;
          tensors.set(name, { ...tensor, bytes: wider });
        }
      },
    },
  );
  expect(relativeError(await logitsOf(await load(equal)), await logitsOf(await load(own)))).toBeLessThan(
    1e-5,
  );
});

/** log softmax of a row of logits. */
function logSoftmax(logits: Float32Array): number[] {
  const lse = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
  return [...logits].map((x) => x - lse);
}

test('logits stay within their cap, in generation, losses and log-probabilities, too', async () => {
  const model = await load(await tiny());
  const logits = await logitsOf(model);
  expect(Math.max(...logits)).toBeLessThan(2);
  expect(Math.max(...logits)).toBeGreaterThan(1);
  const last = logSoftmax(logits.slice(-262));
  const { logprobs } = await model.generate(rows[0]!, { maxNewTokens: 1, temperature: 0, logprobs: 0 });
  expect(logprobs![0]!.logprob).toBeCloseTo(Math.max(...last), 5);
  const own = rows[0]!.slice(1).map((id, t) => logSoftmax(logits.slice(262 * t, 262 * (t + 1)))[id]!);
  const { loss } = noGrad(() => model.forward(rows, { labels: rows }));
  expect(await loss.item()).toBeCloseTo(-own.reduce((sum, x) => sum + x, 0) / own.length, 5);
  const { logProbs } = await model.logProbs(rows[0]!.slice(0, 1), rows[0]!.slice(1));
  expect([...logProbs].map((x, i) => Math.abs(x - own[i]!)).every((d) => d < 1e-5)).toBe(true);
});

/** Losses and gradients of an adapter on all layers. */
async function learnt(model: CausalLM, ids: number[][], segmentIds?: number[][]) {
  const adapter = model.activeAdapter!;
  const labels = ids.map((row, i) =>
    row.map((id, t) => (segmentIds && segmentIds[i]![t] !== segmentIds[i]![t - 1] ? -100 : id)),
  );
  const { loss } = model.forward(ids, { labels, segmentIds, reduction: 'sum' });
  loss.backward();
  const gradients = await Promise.all(adapter.parameters().map((p) => p.grad!.data<Float32Array>()));
  for (const p of adapter.parameters()) p.grad = null;
  return { loss: await loss.item(), gradients: gradients.flatMap((g) => [...g]) };
}

const adapted = async (dir: string, options = {}): Promise<CausalLM> => {
  const model = await load(dir, options);
  fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }, { seed: 2 }), 3, 0.3);
  return model;
};

test('texts in one row have the losses and gradients that they have alone', async () => {
  const model = await adapted(await tiny());
  const texts = [rows[0]!, rows[0]!.slice(2, 5).reverse(), [9, 1, 8, 8, 3, 200, 17]];
  const packed = await learnt(model, [texts.flat()], [texts.flatMap((one, i) => one.map(() => i + 1))]);
  const alone: Awaited<ReturnType<typeof learnt>>[] = [];
  for (const one of texts) alone.push(await learnt(model, [one]));
  const sum = alone.reduce((all, { loss }) => all + loss, 0);
  expect(Math.abs(packed.loss / sum - 1)).toBeLessThan(1e-6);
  const gradients = packed.gradients.map((_, i) => alone.reduce((all, one) => all + one.gradients[i]!, 0));
  expect(relativeError(packed.gradients, gradients)).toBeLessThan(5e-5);
});

const wide = { head_dim: 256, global_head_dim: 512, num_attention_heads: 2, num_key_value_heads: 1 };

test('heads of 512: the CPU computes what the reference does, in pages, too', async () => {
  const dir = await tiny(wide);
  const results = [];
  for (const device of ['cpu', 'reference'] as const) {
    const model = await adapted(dir, { device });
    const { ids } = await model.generate(rows[0]!, { maxNewTokens: 4, temperature: 0 });
    results.push({ ...(await learnt(model, rows)), ids });
  }
  const [own, want] = results as [(typeof results)[0], (typeof results)[0]];
  expect(own.ids).toEqual(want.ids);
  expect(Math.abs(own.loss / want.loss - 1)).toBeLessThan(1e-6);
  // A score is a sum of 512 products of about 1 and is not scaled, so it is off by √512·√512·2⁻²⁴ = 3e-5, and so is a weight, exp(score). A gradient has the
  // weight and the difference of another one. AVX3_ZEN4 has 5.9e-5, SSE2 5.1e-5.
  expect(relativeError(own.gradients, want.gradients)).toBeLessThan(1e-4);
});

test('the table of layer inputs is quantized with the embedding, and not without', async () => {
  const dir = await tiny();
  const weights = async (embedding: boolean): Promise<number> => {
    const quantize = { format: 'nf4', embedding } as const;
    const model = await load(dir, { quantize });
    await logitsOf(model);
    return estimateMemory(model.config, { quantize }).weights;
  };
  const [whole, small] = [await weights(false), await weights(true)];
  // 262 rows of 20 and of 24 numbers in f32.
  expect(whole - small).toBeGreaterThan(262 * 44 * 4 * 0.8);
  await expect(
    load(dir, { quantize: { format: 'nf4', embedding: true, skip: ['embed_tokens_per_layer'] } }),
  ).resolves.toBeDefined();
});

test('full fine-tuning leaves the scalars of layers, and what is saved computes the same', async () => {
  const model = await load(await tiny());
  const names = model.trainAll().map(({ name }) => name);
  expect(names).toContain('model.embed_tokens_per_layer.weight');
  expect(names.filter((name) => name.includes('layer_scalar'))).toEqual([]);
  expect(names.filter((name) => /layers\.[34].self_attn.[kv]/.test(name))).toEqual([]);
  model.freeze();
  const out = join(scratch, 'saved');
  await model.save(out);
  expect(await logitsOf(await load(out))).toEqual(await logitsOf(model));
});

test.each(Object.keys(wrappings) as (keyof typeof wrappings)[])(
  'the text model of a gemma4 with names of %s, whose files have keys that nothing reads',
  async (wrapping) => {
    const dir = await tiny();
    const wrapped = await rewrapped(dir, 'gemma4', wrapping);
    const model = await load(wrapped);
    expect(model.config).toMatchObject({ modelType: 'gemma4_text', textOf: 'gemma4' });
    expect(await logitsOf(model)).toEqual(await logitsOf(await load(dir)));
  },
);

test('prompt tuning is refused, in estimates, too', async () => {
  const model = await load(await tiny());
  const refusal = 'prompt tuning is not for it';
  expect(() => model.addAdapter({ method: 'prompt' })).toThrow(refusal);
  expect(() => estimateMemory(model.config, { adapter: { method: 'prompt' } })).toThrow(refusal);
});
