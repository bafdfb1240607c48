import { LoRAError } from '../../lib/errors';
import { parseModelConfig } from '../../lib/models/config';
import { tinyConfig } from '../support/tiny_model';

const parse = (changes: Record<string, unknown> = {}) => parseModelConfig({ ...tinyConfig, ...changes });

/** Code and sentence of what parsing throws. */
function refusal(changes: Record<string, unknown>): string {
  try {
    parse(changes);
  } catch (error) {
    if (error instanceof LoRAError) return `${error.code} ${error.message}`;
    throw error;
  }
  return 'accepted';
}

test('both dialects of config.json give the same', () => {
  const four = parse({
    rope_theta: 500000,
    rope_scaling: {
      type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    },
    torch_dtype: 'bfloat16',
  });
  const five = parse({
    rope_theta: undefined,
    rope_scaling: undefined,
    rope_parameters: {
      rope_type: 'llama3',
      rope_theta: 500000,
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    },
    torch_dtype: undefined,
    dtype: 'bfloat16',
  });
  expect(five.rope).toEqual(four.rope);
  expect(four.rope).toMatchObject({
    theta: 500000,
    scaling: { type: 'llama3', factor: 8, originalLength: 64 },
  });
  expect([four.fileDType, five.fileDType]).toEqual(['bf16', 'bf16']);
});

test('absent keys have the defaults of transformers', () => {
  const config = parse({
    num_key_value_heads: undefined,
    head_dim: null,
    rms_norm_eps: undefined,
    rope_theta: undefined,
  });
  expect(config).toMatchObject({ numKeyValueHeads: 4, headDim: 6, rmsNormEps: 1e-6 });
  expect(config.rope).toEqual({ theta: 10000, scaling: { type: 'default' } });
  expect(parse({ model_type: 'qwen3', head_dim: undefined }).headDim).toBe(128);
});

test.each([
  [
    'llama',
    { attention_bias: true, mlp_bias: true },
    { qkvBias: true, outputBias: true, mlpBias: true, qkNorm: false },
  ],
  ['mistral', {}, { qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false }],
  ['qwen2', {}, { qkvBias: true, outputBias: false, mlpBias: false, qkNorm: false }],
  ['qwen3', {}, { qkvBias: false, outputBias: false, mlpBias: false, qkNorm: true }],
])('%s has the biases and norms of its class', (model_type, changes, want) => {
  expect(parse({ model_type, ...changes })).toMatchObject(want);
});

test.each<[string, Record<string, unknown>, number[]]>([
  ['mistral slides everywhere', { model_type: 'mistral', sliding_window: 12 }, [12, 12, 12]],
  ['a null window is none', { model_type: 'mistral', sliding_window: null }, [0, 0, 0]],
  [
    'qwen2 keeps a window it does not use',
    { model_type: 'qwen2', sliding_window: 9, use_sliding_window: false },
    [0, 0, 0],
  ],
  [
    'qwen2 does not slide unless it says so',
    { model_type: 'qwen2', sliding_window: 9, max_window_layers: 0 },
    [0, 0, 0],
  ],
  [
    'qwen2 slides from max_window_layers on',
    { model_type: 'qwen2', sliding_window: 9, use_sliding_window: true, max_window_layers: 2 },
    [0, 0, 9],
  ],
  [
    'layer_types decide',
    {
      model_type: 'qwen3',
      sliding_window: 9,
      use_sliding_window: true,
      max_window_layers: 0,
      layer_types: ['full_attention', 'sliding_attention', 'full_attention'],
    },
    [0, 9, 0],
  ],
  ['llama has none', { sliding_window: 4096 }, [0, 0, 0]],
])('%s', (_, changes, windows) => {
  expect(parse(changes).windows).toEqual(windows);
});

test.each<[Record<string, unknown>, string]>([
  [{ hidden_act: 'gelu' }, 'hidden_act = "gelu"'],
  [{ pretraining_tp: 2 }, 'pretraining_tp = 2'],
  [{ quantization_config: { bits: 4 } }, 'quantization_config = {"bits":4}'],
  [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor = 0.5'],
  [{ attn_logit_softcapping: 50 }, 'attn_logit_softcapping = 50'],
  [{ attention_dropout: 0.1 }, 'attention_dropout = 0.1'],
  [{ no_rope_layers: [1, 1, 0] }, 'no_rope_layers = [1,1,0]'],
  [{ rope_scaling: { rope_type: 'dynamic', factor: 2 } }, 'rope_scaling.rope_type = "dynamic"'],
  [{ rope_scaling: { type: 'longrope' } }, 'supported are default, linear, llama3 and yarn'],
  [{ rope_scaling: { type: 'default', mrope_section: [1, 2] } }, 'rope_scaling.mrope_section'],
  [
    { rope_parameters: { full_attention: { rope_theta: 1 } } },
    'per layer type (rope_parameters.full_attention)',
  ],
  [
    { rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.25 } },
    'rope_parameters.partial_rotary_factor = 0.25',
  ],
  [
    { layer_types: ['full_attention', 'chunked_attention', 'full_attention'] },
    '"chunked_attention" in layer_types',
  ],
  [
    { model_type: 'qwen' },
    'model_type = "qwen"; supported are llama, mistral, qwen2, qwen3 (did you mean qwen2?)',
  ],
  [{ model_type: 'gpt2' }, 'model_type = "gpt2"; supported are llama, mistral, qwen2, qwen3'],
  [{ model_type: 'mistral', attention_bias: true }, 'attention_bias = true'],
  [{ torch_dtype: 'float8_e4m3fn' }, 'dtype = "float8_e4m3fn"'],
])('%j is refused', (changes, sentence) => {
  expect(refusal(changes)).toMatch(/^ERR_UNSUPPORTED \[from_pretrained\] config\.json has/);
  expect(refusal(changes)).toContain(sentence);
});

test.each<[Record<string, unknown>, string]>([
  [
    { hidden_size: undefined },
    'expected hidden_size of config.json to be a non-negative integer but received undefined',
  ],
  [
    { num_attention_heads: 3 },
    'num_attention_heads 3 of config.json to be a multiple of num_key_value_heads 2',
  ],
  [{ layer_types: ['full_attention'] }, 'layer_types of config.json to list 3 layers'],
  [{ rope_scaling: { type: 'linear', factor: 0 } }, 'expected a positive number for factor'],
  [
    { tie_word_embeddings: 1 },
    'expected tie_word_embeddings of config.json to be true or false but received 1',
  ],
])('%j is wrong', (changes, sentence) => {
  expect(refusal(changes)).toMatch(/^ERR_FILE /);
  expect(refusal(changes)).toContain(sentence);
});

test('neutral values of keys that would change the mathematics pass', () => {
  expect(
    refusal({
      pretraining_tp: 1,
      quantization_config: null,
      partial_rotary_factor: 1,
      attention_dropout: 0.0,
    }),
  ).toBe('accepted');
  expect(
    refusal({
      no_rope_layers: [1, 1, 1],
      rope_scaling: { type: 'linear', factor: 2, partial_rotary_factor: null },
    }),
  ).toBe('accepted');
});
