/** What GGUF files of a family have beyond those of Llama, and what they do not have. */
import { attentionLayers } from '../../lib/models/config/model_config';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertModel, openSafetensors } from '../../lib/index';
import { bytesOfFloats, floatsOf } from '../../lib/formats/floats';
import type { SafetensorsTensor } from '../../lib/formats/safetensors';
import { GgufFile } from '../../lib/formats/gguf';
import type { GgufField, LateGgufTensor } from '../../lib/formats/gguf_write';
import type { ModelConfig } from '../../lib/models/config/model_config';
import { openModelFiles } from '../../lib/models/files/model_source';
import { expectReject } from '../support/errors';
import { ggufParts, writeGguf } from '../support/gguf_bytes';
import { askLlamaCpp, llamaCpp } from '../support/llama_cpp';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
const unused = (): string => join(root, `${count++}.gguf`);

async function valuesOf(tensor: LateGgufTensor): Promise<Float32Array> {
  const parts: Uint8Array[] = [];
  for await (const part of tensor.parts()) parts.push(part);
  return floatsOf({ dtype: 'F32', bytes: new Uint8Array(Buffer.concat(parts)) });
}

/** The file of a tiny model of five layers without a tokenizer. */
async function written(config: Record<string, unknown>): Promise<string> {
  const source = await tinyModel({ config: { num_hidden_layers: 5, ...config }, tokenizer: false });
  const out = unused();
  try {
    await convertModel(source, out, { format: 'f32' });
  } finally {
    rmSync(source, { recursive: true });
  }
  return out;
}

/** The configuration that a file with other values has. */
async function configOf(file: string, changes: Record<string, GgufField>): Promise<unknown> {
  const model = await CausalLM.fromPretrained(await writeGguf(unused(), await ggufParts(file), changes));
  await model.dispose();
  return model.config;
}

test('without a tokenizer.json it is a model that takes ids', async () => {
  const path = await written({});
  const file = await GgufFile.open(path);
  await file.close();
  const keys = [...file.metadata.keys()].filter((key) => key.startsWith('tokenizer.'));
  expect(keys).toEqual(['tokenizer.ggml.model']);
  expect(file.metadata.get('tokenizer.ggml.model')).toBe('no_vocab');
  const model = await CausalLM.fromPretrained(path);
  expect(model.hasTokenizer).toBe(false);
  expect(model.config).toMatchObject({ vocabSize: 262, bosTokenId: null, eosTokenIds: [] });
  await model.dispose();
  const again = unused();
  await convertModel(path, again, { format: 'f32' });
  const copy = await GgufFile.open(again);
  await copy.close();
  const { 'general.name': _name, ...values } = Object.fromEntries(copy.metadata);
  expect(Object.fromEntries(file.metadata)).toMatchObject(values);
});

test('llama.cpp computes SmolLM3 with every fourth layer without rope, and no other is written', async () => {
  const smollm3 = { model_type: 'smollm3', no_rope_layer_interval: 4 };
  await written(smollm3);
  const sentence =
    '[convertModel] layers without rope are not every fourth, which is what llama.cpp computes a smollm3 by';
  for (const list of [
    [1, 0, 1, 0, 1],
    [1, 1, 1, 1, 1],
  ])
    await expectReject(written({ ...smollm3, no_rope_layers: list }), 'ERR_UNSUPPORTED', sentence);
  const windows = { ...smollm3, use_sliding_window: true, sliding_window: 5 };
  await expectReject(
    written(windows),
    'ERR_UNSUPPORTED',
    /sliding windows of 5, which GGUF files of smollm3/,
  );
});

test('the factors of Granite that are absent or 0 multiply nothing, and scores as everywhere', async () => {
  const factors = { embedding_multiplier: 3.5, attention_multiplier: 0.3, residual_multiplier: 0.7 };
  const file = await written({ model_type: 'granite', ...factors, logits_scaling: 2.5 });
  const names = ['attention.scale', 'embedding_scale', 'residual_scale', 'logit_scale'];
  const { metadata } = await ggufParts(file);
  expect(names.map((name) => metadata.get(`granite.${name}`))).toEqual(
    [0.3, 3.5, 0.7, 2.5].map((value) => ({ f32: Math.fround(value) })),
  );
  const zeros = Object.fromEntries(names.map((name) => [`granite.${name}`, { f32: 0 }]));
  expect(await configOf(file, zeros)).toMatchObject({
    ...{ embeddingMultiplier: 1, residualMultiplier: 1, logitsScaling: 1 },
    attentionMultiplier: 1 / Math.sqrt(6),
  });
  await expectReject(
    configOf(file, { 'granite.rope.scaling.finetuned': { flag: false } }),
    'ERR_UNSUPPORTED',
    /has granite\.rope\.scaling\.finetuned = "false", which is not supported; supported is true/,
  );
});

test('a block of OLMo 2 has llama.cpp’s names', async () => {
  const { tensors } = await ggufParts(await written({ model_type: 'olmo2' }));
  const prefix = 'blk.4.';
  const names = [...tensors.keys()].filter((name) => name.startsWith(prefix));
  expect(names.map((name) => name.slice(prefix.length).replace('.weight', '')).sort()).toEqual([
    ...['attn_k', 'attn_k_norm', 'attn_output', 'attn_q', 'attn_q_norm', 'attn_v'],
    ...['ffn_down', 'ffn_gate', 'ffn_up', 'post_attention_norm', 'post_ffw_norm'],
  ]);
});

test('convolutions of LFM2 are matrices there, and layers with them have no heads of keys', async () => {
  const lfm2 = { model_type: 'lfm2', full_attn_idxs: [2, 4], block_multiple_of: 8 };
  const file = await written(lfm2);
  const { tensors, metadata } = await ggufParts(file);
  expect(tensors.get('blk.0.shortconv.conv.weight')).toMatchObject({ type: 'F32', shape: [24, 3] });
  expect(tensors.has('token_embd_norm.weight')).toBe(true);
  const heads = 'lfm2.attention.head_count_kv';
  expect(metadata.get(heads)).toEqual({ i32s: [0, 0, 2, 0, 2] });
  const kinds = ['state', 'state', 'attention', 'state', 'attention'];
  expect(await configOf(file, {})).toMatchObject({ layers: kinds.map((kind) => ({ kind })) });
  await expectReject(
    configOf(file, { [heads]: { i32s: [0, 0, 2, 0, 1] } }),
    'ERR_UNSUPPORTED',
    /has other values of lfm2\.attention\.head_count_kv in other layers with attention/,
  );
  for (const [changes, sentence] of [
    [{ conv_bias: true }, 'convolutions have biases, which llama.cpp does not read'],
    [{ full_attn_idxs: [] }, 'a lfm2 model is written with attention in some layer and its rope unscaled'],
  ] as const)
    await expectReject(written({ ...lfm2, ...changes }), 'ERR_UNSUPPORTED', `[convertModel] ${sentence}`);
});

test('the windows of OLMo 3 are those of three of four layers, written and read', async () => {
  const olmo3 = { model_type: 'olmo3', sliding_window: 5 };
  const file = await written(olmo3);
  const pattern = (i32s: number[]): Record<string, GgufField> => ({
    'olmo2.attention.sliding_window_pattern': { i32s },
  });
  expect(await configOf(file, pattern([1, 1, 1, 0, 1]))).toMatchObject({
    modelType: 'olmo3',
    layers: [5, 5, 5, 0, 5].map((window) => ({ window })),
  });
  await expectReject(
    configOf(file, pattern([1, 0, 1, 0, 1])),
    'ERR_UNSUPPORTED',
    /has sliding windows in other layers than three of four, which is not supported/,
  );
  const kinds = ['full', 'sliding', 'full', 'sliding', 'full'].map((kind) => `${kind}_attention`);
  for (const other of [{ layer_types: kinds }, { sliding_window: null }])
    await expectReject(
      written({ ...olmo3, ...other }),
      'ERR_UNSUPPORTED',
      '[convertModel] sliding windows are not those of three of four layers, which is what llama.cpp computes an olmo3 by',
    );
  const yarn: Record<string, GgufField> = {
    'olmo2.rope.scaling.type': { text: 'yarn' },
    'olmo2.rope.scaling.factor': { f32: 8 },
    'olmo2.rope.scaling.original_context_length': { u32: 32 },
  };
  const attention = (f32: number): Record<string, GgufField> => ({
    ...yarn,
    'olmo2.rope.scaling.attn_factor': { f32 },
  });
  for (const values of [yarn, attention(1.2079441541679836)]) {
    const layers = attentionLayers((await configOf(file, values)) as ModelConfig);
    expect(layers.map(({ rope }) => rope.scaling.type)).toEqual([
      ...['default', 'default', 'default', 'yarn', 'default'],
    ]);
    expect(layers[3]!.rope.scaling).toMatchObject({ factor: 8, attentionFactor: 0.1 * Math.log(8) + 1 });
  }
  await expectReject(
    configOf(file, attention(1.3)),
    'ERR_UNSUPPORTED',
    /has olmo2\.rope\.scaling\.attn_factor = 1\.3, which is not supported/,
  );
  const rope_scaling = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
  await expectReject(
    written({ ...olmo3, rope_scaling }),
    'ERR_UNSUPPORTED',
    /rope of type yarn is not written/,
  );
});

test.each([
  ['smaug-bpe', 'llama-bpe'],
  ['dbrx', 'llama-bpe'],
  ['refact', 'smollm'],
])('texts of %s are divided as those of %s', async (name, known) => {
  const source = await tinyModel();
  const file = unused();
  await convertModel(source, file, { format: 'f32' });
  rmSync(source, { recursive: true });
  const parts = await ggufParts(file);
  const tokenizerOf = async (pre: string): Promise<{ pre_tokenizer: object; model: object }> => {
    const path = await writeGguf(unused(), parts, { 'tokenizer.ggml.pre': { text: pre } });
    const json = await (await openModelFiles('test', path)).json('tokenizer.json');
    return json as { pre_tokenizer: object; model: object };
  };
  const [own, other] = [await tokenizerOf(name), await tokenizerOf(known)];
  expect(own.pre_tokenizer).toEqual(other.pre_tokenizer);
  expect(own.model).toMatchObject({ ignore_merges: false });
});

const gemma3 = {
  ...{ model_type: 'gemma3_text', hidden_act: null, sliding_window: 5, num_hidden_layers: 7 },
  query_pre_attn_scalar: 6,
};

test('norms of Gemma 3 are stored plus 1, under names of their own', async () => {
  const { tensors, metadata } = await ggufParts(await written(gemma3));
  const source = await tinyModel({ config: gemma3, tokenizer: false });
  const file = await openSafetensors(join(source, 'model.safetensors'));
  const names = {
    'model.norm': 'output_norm',
    ...{
      'model.layers.6.input_layernorm': 'blk.6.attn_norm',
      'model.layers.5.self_attn.q_norm': 'blk.5.attn_q_norm',
    },
    'model.layers.0.self_attn.k_norm': 'blk.0.attn_k_norm',
    'model.layers.1.post_attention_layernorm': 'blk.1.post_attention_norm',
    'model.layers.2.pre_feedforward_layernorm': 'blk.2.ffn_norm',
    'model.layers.3.post_feedforward_layernorm': 'blk.3.post_ffw_norm',
  };
  for (const [own, theirs] of Object.entries(names))
    expect(await valuesOf(tensors.get(`${theirs}.weight`)!)).toEqual(
      floatsOf(file.tensors.get(`${own}.weight`)!).map((value) => 1 + value),
    );
  file.close();
  rmSync(source, { recursive: true });
  expect(metadata.get('gemma3.attention.sliding_window')).toEqual({ u32: 5 });
});

test('norms of Gemma 3 may be stored in 16 bits', async () => {
  const { metadata, tensors } = await ggufParts(await written(gemma3));
  const logits = [];
  for (const [type, values] of [
    ['F32', new Float32Array(24).fill(1.5)],
    ['BF16', new Uint16Array(24).fill(0x3fc0)],
  ] as const) {
    async function* parts(): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(new Uint8Array(values.buffer));
    }
    const norm: LateGgufTensor = { type, shape: [24], parts };
    const file = await writeGguf(
      unused(),
      { metadata, tensors: new Map([...tensors, ['output_norm.weight', norm]]) },
      {},
    );
    const model = await CausalLM.fromPretrained(file);
    logits.push(await model.forward([[1, 2, 3]]).logits.data());
    await model.dispose();
  }
  expect(logits[1]).toEqual(logits[0]);
});

test('what llama.cpp knows of Gemma 3 by itself is not written otherwise', async () => {
  const pattern =
    'sliding windows are not those of five of six layers, which is what llama.cpp computes a gemma3 by';
  const local =
    'sliding layers have another rope than the unscaled one of base 10000, by which llama.cpp computes a gemma3';
  const scalar = 'query_pre_attn_scalar is 7, and llama.cpp computes a gemma3 of these sizes by 6';
  const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
  const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
  const rope_parameters = {
    full_attention: { rope_type: 'default' },
    sliding_attention: { rope_type: 'linear', factor: 2 },
  };
  for (const [changes, sentence] of [
    [{ sliding_window_pattern: 3 }, pattern],
    [{ layer_types: Array(7).fill('full_attention') }, pattern],
    [{ rope_local_base_freq: 20000 }, local],
    [{ rope_parameters }, local],
    [{ query_pre_attn_scalar: 7 }, scalar],
    [{ rope_scaling: yarn }, 'rope of type yarn is not written for a gemma3'],
    [{ rope_scaling: llama3 }, 'rope of type llama3 is not written for a gemma3'],
  ] as const)
    await expectReject(written({ ...gemma3, ...changes }), 'ERR_UNSUPPORTED', `[convertModel] ${sentence}`);
});

test('a Gemma 3 of 62 layers is that of 27B, whose scores are divided by the width of a head', async () => {
  const many = { ...gemma3, num_hidden_layers: 62, head_dim: 8 };
  expect(await configOf(await written(many), {})).toMatchObject({ queryPreAttnScalar: 6 });
  await expectReject(
    written({ ...many, query_pre_attn_scalar: 8 }),
    'ERR_UNSUPPORTED',
    /of these sizes by 6/,
  );
});

test('a GGUF file of Gemma 3 with other windows, caps or another base is refused', async () => {
  const file = await written(gemma3);
  const given = {
    'gemma3.attention.sliding_window_pattern': { u32: 6 },
    'gemma3.rope.freq_base_swa': { f32: 1e4 },
  };
  expect(await configOf(file, given)).toMatchObject({ modelType: 'gemma3_text' });
  for (const [name, value, sentence] of [
    [
      'attention.sliding_window_pattern',
      { u32: 4 },
      /sliding_window_pattern = "4", which is not supported; supported is 6/,
    ],
    [
      'rope.freq_base_swa',
      { f32: 2e4 },
      /freq_base_swa = "20000", which is not supported; supported is 10000/,
    ],
    ['final_logit_softcapping', { f32: 30 }, /final_logit_softcapping = "30", which is not supported/],
    [
      'attention.sliding_window',
      { u32: 0 },
      /has no gemma3\.attention\.sliding_window, which models of this architecture have here/,
    ],
  ] as const)
    await expectReject(configOf(file, { [`gemma3.${name}`]: value }), 'ERR_UNSUPPORTED', sentence);
});

const whereInstalled = llamaCpp
  ? describeWithData
  : (name: string, _: string, body: (dir: string) => void): void =>
      describe.skip(`${name} (skipped: node-llama-cpp is not installed)`, () => body(''));
const gemma4 = {
  ...{ num_hidden_layers: 6, head_dim: 8, global_head_dim: 16, sliding_window: 5, hidden_act: null },
  ...{ num_kv_shared_layers: 3, use_double_wide_mlp: true, hidden_activation: 'gelu_pytorch_tanh' },
  ...{ hidden_size_per_layer_input: 8, vocab_size_per_layer_input: 512, final_logit_softcapping: 30 },
  layer_types: [0, 0, 1, 0, 0, 1].map((full) => (full ? 'full_attention' : 'sliding_attention')),
  rope_parameters: {
    full_attention: { rope_type: 'proportional', rope_theta: 1e6, partial_rotary_factor: 0.25 },
    sliding_attention: { rope_type: 'default', rope_theta: 10000 },
  },
};
/** Families as llama.cpp reads them, with what it takes for granted. */
const families: Readonly<Record<string, Record<string, unknown>>> = {
  gemma3_text: {
    ...{ num_hidden_layers: 7, head_dim: 8, sliding_window: 5, query_pre_attn_scalar: 8, rope_theta: 1e6 },
    ...{
      hidden_act: null,
      hidden_activation: 'gelu_pytorch_tanh',
      rope_local_base_freq: 10000,
      sliding_window_pattern: 6,
    },
  },
  gemma4_text: gemma4,
  'gemma4_text with experts': {
    ...{ ...gemma4, num_kv_shared_layers: 0, use_double_wide_mlp: false, hidden_size_per_layer_input: 0 },
    ...{ enable_moe_block: true, num_experts: 6, top_k_experts: 2, moe_intermediate_size: 16 },
  },
  gpt2: { n_embd: 24, n_head: 4, n_layer: 3, n_positions: 128, tie_word_embeddings: true },
  granite: {
    ...{
      embedding_multiplier: 3.5,
      attention_multiplier: 0.3,
      residual_multiplier: 0.7,
      logits_scaling: 2.5,
    },
  },
  lfm2: { full_attn_idxs: [2, 4], block_multiple_of: 8 },
  olmo2: {},
  olmo3: { sliding_window: 5 },
  phi3: { sliding_window: null, partial_rotary_factor: 1, hidden_size: 32, head_dim: 8 },
  qwen3: {},
  qwen3_5_text: {
    ...{ head_dim: 8, partial_rotary_factor: 0.5, linear_num_key_heads: 2, linear_num_value_heads: 4 },
    ...{ linear_key_head_dim: 8, linear_value_head_dim: 8, linear_conv_kernel_dim: 4 },
  },
  qwen3_moe: { num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 16, norm_topk_prob: true },
  smollm3: { no_rope_layer_interval: 4 },
};

/** The scalars of Gemma 4's layers near 1: near 0 little would be left of a text but the roundings of llama.cpp, whose keys are f16. */
function edit(tensors: Map<string, SafetensorsTensor>): void {
  for (const [name, tensor] of tensors)
    if (name.endsWith('layer_scalar'))
      tensors.set(name, { ...tensor, bytes: bytesOfFloats(floatsOf(tensor).map((value) => 1 + value)) });
}

whereInstalled('llama.cpp and families', 'models/stories260K', (dir) => {
  test.each(Object.entries(families))(
    '%s: the text that we write',
    async (name, config) => {
      const [model_type] = name.split(' ');
      const tokenizer = JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as object;
      const sizes = { vocab_size: 512, num_hidden_layers: 5, bos_token_id: 1, eos_token_id: 2 };
      const source = await tinyModel({ config: { model_type, ...sizes, ...config }, tokenizer, edit });
      const out = unused();
      await convertModel(source, out, { format: 'f32' });
      rmSync(source, { recursive: true });
      const model = await CausalLM.fromPretrained(out, { dtype: 'f32' });
      const options = { maxNewTokens: 24, temperature: 0, ignoreEos: true };
      const { ids } = await model.generate('Once upon a time there was', options);
      await model.dispose();
      expect(askLlamaCpp(out, ['Once upon a time there was'], 24).greedy).toEqual(ids);
    },
    300_000,
  );
});

test('llama.cpp wants the head of an OLMo 2, also where it is the embedding', async () => {
  const { tensors } = await ggufParts(await written({ model_type: 'olmo2', tie_word_embeddings: true }));
  expect(tensors.get('output.weight')).toMatchObject({ type: 'F32', shape: [262, 24] });
});
