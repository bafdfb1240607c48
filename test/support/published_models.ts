/** The values of config.json of published models that their memory depends on, as their authors publish them. */

const llama = { model_type: 'llama', rms_norm_eps: 1e-5, hidden_act: 'silu', torch_dtype: 'bfloat16' };

const lfm2 = {
  ...{ model_type: 'lfm2', num_hidden_layers: 16, num_key_value_heads: 8, vocab_size: 65536 },
  ...{ block_auto_adjust_ff_dim: false, full_attn_idxs: [2, 5, 8, 10, 12, 14], torch_dtype: 'bfloat16' },
};

const qwen3 = { model_type: 'qwen3', vocab_size: 151936, head_dim: 128, torch_dtype: 'bfloat16' };

/** Three layers with a delta rule to one with attention. */
const qwen35 = {
  ...{ model_type: 'qwen3_5_text', vocab_size: 248320, head_dim: 256, torch_dtype: 'bfloat16' },
  ...{ linear_num_key_heads: 16, linear_key_head_dim: 128, linear_value_head_dim: 128 },
  ...{ linear_conv_kernel_dim: 4, partial_rotary_factor: 0.25, full_attention_interval: 4 },
};

/** `period`: each such layer sees all, the others a window. */
const gemma4 = (layers: number, period: number) => ({
  ...{ model_type: 'gemma4_text', vocab_size: 262144, vocab_size_per_layer_input: 262144 },
  ...{ hidden_size_per_layer_input: 256, head_dim: 256, global_head_dim: 512, num_attention_heads: 8 },
  ...{ num_hidden_layers: layers, sliding_window: 512, final_logit_softcapping: 30 },
  ...{ hidden_activation: 'gelu_pytorch_tanh', torch_dtype: 'bfloat16' },
  layer_types: Array.from({ length: layers }, (_, i) =>
    (i + 1) % period === 0 ? 'full_attention' : 'sliding_attention',
  ),
  rope_parameters: {
    full_attention: { rope_type: 'proportional', rope_theta: 1e6, partial_rotary_factor: 0.25 },
    sliding_attention: { rope_type: 'default', rope_theta: 10000 },
  },
});

export const publishedModels: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'SmolLM2-135M': {
    ...{ ...llama, hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30 },
    ...{ num_attention_heads: 9, num_key_value_heads: 3, vocab_size: 49152, tie_word_embeddings: true },
  },
  'LFM2-350M': { ...lfm2, hidden_size: 1024, intermediate_size: 4608, num_attention_heads: 16 },
  'Qwen3-0.6B': {
    ...{ ...qwen3, hidden_size: 1024, intermediate_size: 3072, num_hidden_layers: 28 },
    ...{ num_attention_heads: 16, num_key_value_heads: 8, tie_word_embeddings: true },
  },
  'Qwen3.5-0.8B': {
    ...{ ...qwen35, hidden_size: 1024, intermediate_size: 3584, num_hidden_layers: 24 },
    ...{ num_attention_heads: 8, num_key_value_heads: 2, linear_num_value_heads: 16 },
    tie_word_embeddings: true,
  },
  'LFM2-1.2B': { ...lfm2, hidden_size: 2048, intermediate_size: 8192, num_attention_heads: 32 },
  'Llama-3.2-1B': {
    ...{ ...llama, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, head_dim: 64 },
    ...{ num_attention_heads: 32, num_key_value_heads: 8, vocab_size: 128256, tie_word_embeddings: true },
  },
  'Qwen3.5-4B': {
    ...{ ...qwen35, hidden_size: 2560, intermediate_size: 9216, num_hidden_layers: 32 },
    ...{ num_attention_heads: 16, num_key_value_heads: 4, linear_num_value_heads: 32 },
    tie_word_embeddings: true,
  },
  'Gemma 4 E2B': {
    ...{ ...gemma4(35, 5), hidden_size: 1536, intermediate_size: 6144, num_key_value_heads: 1 },
    ...{ num_kv_shared_layers: 20, use_double_wide_mlp: true },
  },
  'Gemma 4 E4B': {
    ...{ ...gemma4(42, 6), hidden_size: 2560, intermediate_size: 10240, num_key_value_heads: 2 },
    ...{ num_kv_shared_layers: 18, use_double_wide_mlp: false },
  },
  'Llama-3.1-8B': {
    ...{ ...llama, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32 },
    ...{ num_attention_heads: 32, num_key_value_heads: 8, vocab_size: 128256 },
  },
  'Qwen3.5-9B': {
    ...{ ...qwen35, hidden_size: 4096, intermediate_size: 12288, num_hidden_layers: 32 },
    ...{ num_attention_heads: 16, num_key_value_heads: 4, linear_num_value_heads: 32 },
  },
  'Qwen3-30B-A3B': {
    ...{ model_type: 'qwen3_moe', hidden_size: 2048, intermediate_size: 6144, num_hidden_layers: 48 },
    ...{ num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128, vocab_size: 151936 },
    ...{ num_experts: 128, num_experts_per_tok: 8, moe_intermediate_size: 768, norm_topk_prob: true },
    ...{ rms_norm_eps: 1e-6, torch_dtype: 'bfloat16' },
  },
};
