// Models of seeded numbers in the layouts of families whose layers are not all attention, or have experts. Widths are those of the published models; layers,
// experts and vocabulary are fewer, so that a model fits a small machine beside its rivals.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from 'lora-native';

const common = {
  ...{ vocab_size: 49152, max_position_embeddings: 32768, torch_dtype: 'bfloat16' },
  ...{ bos_token_id: 1, eos_token_id: 2, pad_token_id: 0 },
};
const full = 'full_attention';
const qwen3Moe = {
  ...{ ...common, model_type: 'qwen3_moe', hidden_size: 2048, intermediate_size: 6144 },
  ...{ num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128 },
  ...{ moe_intermediate_size: 768, norm_topk_prob: true, rope_theta: 1e6, rms_norm_eps: 1e-6 },
  tie_word_embeddings: false,
};

/** config.json of each shape; `of`: what the published model has in its place. */
export const familyShapes = {
  'LFM2-350M': {
    of: { layers: 16, vocabulary: 65536 },
    config: {
      ...{ ...common, model_type: 'lfm2', hidden_size: 1024, intermediate_size: 4608 },
      ...{ block_auto_adjust_ff_dim: false, num_hidden_layers: 8, num_attention_heads: 16 },
      ...{ num_key_value_heads: 8, norm_eps: 1e-5, conv_L_cache: 3, conv_bias: false, rope_theta: 1e6 },
      tie_word_embeddings: true,
      layer_types: ['conv', 'conv', full, 'conv', 'conv', full, 'conv', 'conv'],
    },
  },
  'Qwen3.5-0.8B': {
    of: { layers: 24, vocabulary: 248320 },
    config: {
      ...{ ...common, model_type: 'qwen3_5_text', hidden_size: 1024, intermediate_size: 3584 },
      ...{ num_hidden_layers: 8, num_attention_heads: 8, num_key_value_heads: 2, head_dim: 256 },
      ...{ linear_num_key_heads: 16, linear_num_value_heads: 16, linear_key_head_dim: 128 },
      ...{ linear_value_head_dim: 128, linear_conv_kernel_dim: 4, full_attention_interval: 4 },
      ...{ partial_rotary_factor: 0.25, rope_theta: 1e7, rms_norm_eps: 1e-6, tie_word_embeddings: true },
    },
  },
  'Qwen3-30B-A3B': {
    of: { layers: 48, experts: 128, expertsPerToken: 8, vocabulary: 151936 },
    config: { ...qwen3Moe, num_hidden_layers: 3, num_experts: 32, num_experts_per_tok: 2 },
  },
  // A file of 2.1 GB, whose tokens have as many experts as the published one's.
  'Qwen3-30B-A3B in 2 GB': {
    of: { layers: 48, experts: 128, vocabulary: 151936 },
    config: { ...qwen3Moe, num_hidden_layers: 5, num_experts: 32, num_experts_per_tok: 8 },
  },
};

/** The tensors [name, shape] of a block; those whose names end in `norm` are ones. */
const blocks = {
  lfm2(
    { hidden_size: d, intermediate_size: ff, num_attention_heads: heads, num_key_value_heads: kvHeads, ...c },
    i,
  ) {
    const kv = (d / heads) * kvHeads;
    const mixer =
      c.layer_types[i] === 'conv'
        ? [
            ['conv.in_proj', [3 * d, d]],
            ['conv.conv', [d, 1, c.conv_L_cache]],
            ['conv.out_proj', [d, d]],
          ]
        : [
            ['self_attn.q_proj', [d, d]],
            ['self_attn.k_proj', [kv, d]],
            ['self_attn.v_proj', [kv, d]],
            ['self_attn.out_proj', [d, d]],
            ['self_attn.q_layernorm', [d / heads]],
            ['self_attn.k_layernorm', [d / heads]],
          ];
    const mlp = [
      ['operator_norm', [d]],
      ['ffn_norm', [d]],
      ['feed_forward.w1', [ff, d]],
      ['feed_forward.w3', [ff, d]],
      ['feed_forward.w2', [d, ff]],
    ];
    return [...mixer, ...mlp];
  },
  qwen3_5_text(c, i) {
    const { hidden_size: d, intermediate_size: ff, head_dim: width } = c;
    const [q, kv] = [c.num_attention_heads * width, c.num_key_value_heads * width];
    const heads = c.linear_num_value_heads;
    const [keys, values] = [c.linear_num_key_heads * c.linear_key_head_dim, heads * c.linear_value_head_dim];
    const mixer =
      (i + 1) % c.full_attention_interval === 0
        ? [
            ['self_attn.q_proj', [2 * q, d]],
            ['self_attn.k_proj', [kv, d]],
            ['self_attn.v_proj', [kv, d]],
            ['self_attn.o_proj', [d, q]],
            ['self_attn.q_norm', [width]],
            ['self_attn.k_norm', [width]],
          ]
        : [
            ['linear_attn.in_proj_qkv', [2 * keys + values, d]],
            ['linear_attn.in_proj_z', [values, d]],
            ['linear_attn.in_proj_b', [heads, d]],
            ['linear_attn.in_proj_a', [heads, d]],
            ['linear_attn.conv1d', [2 * keys + values, 1, c.linear_conv_kernel_dim]],
            ['linear_attn.dt_bias', [heads]],
            ['linear_attn.A_log', [heads]],
            ['linear_attn.norm', [c.linear_value_head_dim]],
            ['linear_attn.out_proj', [d, values]],
          ];
    return [...mixer, ...mlpOf(d, ff), ...normsOf(d)];
  },
  qwen3_moe({ hidden_size: d, head_dim: width, moe_intermediate_size: ff, num_experts: experts, ...c }) {
    const [q, kv] = [c.num_attention_heads * width, c.num_key_value_heads * width];
    const all = Array.from({ length: experts }, (_, e) => mlpOf(d, ff, `mlp.experts.${e}`));
    return [
      ['self_attn.q_proj', [q, d]],
      ['self_attn.k_proj', [kv, d]],
      ['self_attn.v_proj', [kv, d]],
      ['self_attn.o_proj', [d, q]],
      ['self_attn.q_norm', [width]],
      ['self_attn.k_norm', [width]],
      ['mlp.gate', [experts, d]],
      ...all.flat(),
      ...normsOf(d),
    ];
  },
};
const mlpOf = (d, ff, path = 'mlp') => [
  [`${path}.gate_proj`, [ff, d]],
  [`${path}.up_proj`, [ff, d]],
  [`${path}.down_proj`, [d, ff]],
];
const normsOf = (d) => [
  ['input_layernorm', [d]],
  ['post_attention_layernorm', [d]],
];

/** Uniform numbers, as bf16 cut off: a multiplicative generator (Lehmer, 48271 modulo 2³¹ − 1) is enough for weights. */
function noise(count, scale, seed) {
  const values = new Float32Array(count);
  let state = (seed * 2654435 + 12345) % 2147483647 || 1;
  for (let i = 0; i < count; i++) {
    state = (state * 48271) % 2147483647;
    values[i] = (state / 1073741823.5 - 1) * scale;
  }
  const words = new Uint32Array(values.buffer);
  const halves = new Uint16Array(count);
  for (let i = 0; i < count; i++) halves[i] = words[i] >>> 16;
  return new Uint8Array(halves.buffer);
}

const product = (shape) => shape.reduce((a, b) => a * b, 1);

/** The bytes of a tensor in bf16. Qwen3.5's norms multiply by 1 + w, but for the one behind a delta rule. */
function bytesOf(name, shape, type, seed) {
  const count = product(shape);
  if (!/norm$/.test(name))
    return noise(count, shape.length === 1 ? 0.5 : 1.7 / Math.sqrt(product(shape.slice(1))), seed);
  const plain = type !== 'qwen3_5_text' || name.endsWith('linear_attn.norm');
  return new Uint8Array(new Uint16Array(count).fill(plain ? 0x3f80 : 0).buffer);
}

/** Writes a directory with the model in one file, and returns its path. `changes`: other values of config.json. */
export async function writeFamilyModel(dir, name, changes = {}) {
  const config = { ...familyShapes[name].config, ...changes };
  const { model_type: type, hidden_size: d, vocab_size: vocab, num_hidden_layers: layers } = config;
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config, null, 1));
  const listed = [
    ['model.embed_tokens', [vocab, d]],
    [type === 'lfm2' ? 'model.embedding_norm' : 'model.norm', [d]],
    ...(config.tie_word_embeddings ? [] : [['lm_head', [vocab, d]]]),
  ];
  for (let i = 0; i < layers; i++)
    for (const [path, shape] of blocks[type](config, i)) listed.push([`model.layers.${i}.${path}`, shape]);
  const tensors = new Map();
  for (const [i, [path, shape]] of listed.entries()) {
    const named = /dt_bias$|A_log$/.test(path) ? path : `${path}.weight`;
    tensors.set(named, { dtype: 'BF16', shape, bytes: bytesOf(path, shape, type, i + 1) });
  }
  await writeSafetensors(join(dir, 'model.safetensors'), tensors, { format: 'pt' });
  return dir;
}
