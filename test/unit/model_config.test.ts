import { attentionLayers } from '../../lib/models/config/model_config';
import { LoRAError } from '../../lib/errors';
import { parseModelConfig } from '../../lib/models/families';
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

test('a model_type that is no text is refused as it stands', () => {
  // JSON may shadow what makes an object a text.
  const odd = { toString: null, valueOf: null };
  expect(refusal({ model_type: odd, text_config: {} })).toContain(
    'config.json has model_type = {"toString":null,"valueOf":null}; supported are',
  );
});

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
  expect(five.layers).toEqual(four.layers);
  expect(attentionLayers(four)[0]!.rope).toMatchObject({
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
  expect(attentionLayers(config)[0]!.rope).toEqual({ theta: 10000, scaling: { type: 'default' } });
  expect(attentionLayers(parse({ model_type: 'qwen3', head_dim: undefined }))[0]!.headDim).toBe(128);
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
  [
    'a null window is none for qwen3 too',
    { model_type: 'qwen3', use_sliding_window: true, sliding_window: null },
    [0, 0, 0],
  ],
  ['a window of 0 is none', { model_type: 'mistral', sliding_window: 0 }, [0, 0, 0]],
  ['mistral without the key has 4096', { model_type: 'mistral' }, [4096, 4096, 4096]],
  [
    'qwen2 without max_window_layers slides from layer 28 on',
    { model_type: 'qwen2', use_sliding_window: true, sliding_window: 9, num_hidden_layers: 30 },
    [...new Array<number>(28).fill(0), 9, 9],
  ],
  [
    'qwen2 without the key has 4096',
    { model_type: 'qwen2', use_sliding_window: true, max_window_layers: 1 },
    [0, 4096, 4096],
  ],
  [
    'layer_types do not make a window apply',
    { model_type: 'qwen3', sliding_window: 9, layer_types: Array(3).fill('sliding_attention') },
    [0, 0, 0],
  ],
  ['llama with full layers alone', { layer_types: Array(3).fill('full_attention') }, [0, 0, 0]],
  ['llama has none', { sliding_window: 4096 }, [0, 0, 0]],
])('%s', (_, changes, windows) => {
  expect(attentionLayers(parse(changes)).map(({ window }) => window)).toEqual(windows);
});

test.each<[Record<string, unknown>, string]>([
  [{ hidden_act: 'gelu' }, 'hidden_act = "gelu", which is not supported; supported are "silu", "swish"'],
  [{ pretraining_tp: 2 }, 'pretraining_tp = 2'],
  [{ quantization_config: { bits: 4 } }, 'quantization_config = {"bits":4}'],
  [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor = 0.5'],
  [{ attn_logit_softcapping: 50 }, 'attn_logit_softcapping = 50'],
  [{ attention_dropout: 0.1 }, 'attention_dropout = 0.1'],
  [{ no_rope_layers: [1, 1, 0] }, 'no_rope_layers = [1,1,0]'],
  [{ rope_scaling: { rope_type: 'dynamic', factor: 2 } }, 'rope_scaling.rope_type = "dynamic"'],
  [{ rope_scaling: { type: 'longrope' } }, 'which models of this family do not have'],
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
  [{ model_type: 'qwen' }, '(did you mean qwen2?)'],
  [
    { layer_types: Array(3).fill('sliding_attention') },
    'sliding_attention in layer_types, which a llama model',
  ],
  [{ model_type: 'mistral', mlp_bias: true }, 'mlp_bias = true, which a mistral model does not have'],
  [{ head_dim: 5 }, 'head_dim = 5; supported are even numbers'],
  [{ model_type: undefined }, 'model_type = undefined; supported are'],
  [{ model_type: 'gptj' }, 'model_type = "gptj"; supported are '],
  [{ model_type: 'mistral', attention_bias: true }, 'attention_bias = true'],
  [{ torch_dtype: 'float8_e4m3fn' }, 'dtype = "float8_e4m3fn"'],
])('%j is refused', (changes, sentence) => {
  expect(refusal(changes)).toMatch(/^ERR_UNSUPPORTED \[from_pretrained\] config\.json has/);
  expect(refusal(changes)).toContain(sentence);
});

test.each<[Record<string, unknown>, string]>([
  [
    { sliding_window: -1, model_type: 'mistral' },
    'expected sliding_window of config.json to be a positive integer',
  ],
  [{ sliding_window: '9', model_type: 'mistral' }, 'or null but received "9"'],
  [
    { layer_types: 'full_attention' },
    'layer_types of config.json to list 3 layers but received "full_attention"',
  ],
  [{ hidden_size: 0 }, 'expected hidden_size of config.json to be positive but received 0'],
  [{ vocab_size: 1.5 }, 'expected vocab_size of config.json to be a non-negative integer but received 1.5'],
  [{ intermediate_size: -1 }, 'expected intermediate_size of config.json to be a non-negative integer'],
  [{ rms_norm_eps: -1e-6 }, 'expected rms_norm_eps of config.json to be a number but received -0.000001'],
  [{ rms_norm_eps: '1e-6' }, 'expected rms_norm_eps of config.json to be a number'],
  [
    { attention_bias: 'yes' },
    'expected attention_bias of config.json to be true or false but received "yes"',
  ],
  [{ rope_theta: '1e4' }, 'expected a positive number for rope_theta'],
  [
    { rope_scaling: { type: 'llama3', factor: 2, high_freq_factor: 4 } },
    'a positive number for low_freq_factor',
  ],
  [{ rope_scaling: { type: 'linear' } }, 'expected a positive number for factor'],
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

test('config.json must hold an object', () => {
  for (const json of [null, [1], 'text', 5])
    expect(() => parseModelConfig(json)).toThrow(
      `expected config.json to hold an object but received ${JSON.stringify(json)}`,
    );
});

test('sizes, token ids and dtypes are taken as they stand', () => {
  const config = parse({
    tie_word_embeddings: false,
    bos_token_id: [5, 6],
    eos_token_id: [7, 8],
    rms_norm_eps: 0,
    torch_dtype: 'torch.float16',
  });
  expect(config).toMatchObject({
    modelType: 'llama',
    vocabSize: 262,
    hiddenSize: 24,
    intermediateSize: 40,
    numHiddenLayers: 3,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    headDim: 6,
    maxPositionEmbeddings: 128,
    rmsNormEps: 0,
    tieWordEmbeddings: false,
    bosTokenId: 5,
    eosTokenIds: [7, 8],
    fileDType: 'f16',
  });
  expect(parse()).toMatchObject({
    tieWordEmbeddings: true,
    bosTokenId: 256,
    eosTokenIds: [257],
    fileDType: 'f32',
  });
  const bare = parse({
    max_position_embeddings: undefined,
    bos_token_id: null,
    eos_token_id: null,
    torch_dtype: 'auto',
  });
  expect(bare).toMatchObject({
    maxPositionEmbeddings: 2048,
    bosTokenId: null,
    eosTokenIds: [],
    fileDType: null,
  });
  expect(parse({ tie_word_embeddings: undefined }).tieWordEmbeddings).toBe(false);
  expect(parse({ dtype: 'bfloat16' }).fileDType).toBe('bf16'); // before torch_dtype
});

// Each of these changes the mathematics of the families that know it: value that is refused, values that are not.
test.each<[string, unknown, unknown[]]>([
  ['hidden_act', 'relu', ['silu', 'swish']],
  ['hidden_activation', 'gelu', ['silu', 'swish']],
  ['pretraining_tp', 4, [0, 1]],
  ['quantization_config', {}, []],
  ['partial_rotary_factor', 0.25, [1]],
  ['rotary_pct', 0.25, [1]],
  ['attn_logit_softcapping', 50, []],
  ['final_logit_softcapping', 30, []],
  ['logit_softcapping', 30, []],
  ['query_pre_attn_scalar', 256, []],
  ['attention_multiplier', 0.5, [1]],
  ['embedding_multiplier', 12, [1]],
  ['residual_multiplier', 0.22, [1]],
  ['logits_scaling', 8, [1]],
  ['logit_scale', 0.0625, [1]],
  ['scale_embeddings', true, [false]],
  ['no_rope_layer_interval', 4, [0]],
  ['use_qk_norm', true, [false]],
  ['attention_sinks', true, [false]],
  ['attention_chunk_size', 8192, []],
  ['num_experts', 8, [0, 1]],
  ['num_local_experts', 8, [0, 1]],
  ['num_nextn_predict_layers', 1, [0]],
  ['add_cross_attention', true, [false]],
  ['is_encoder_decoder', true, [false]],
  ['use_bidirectional_attention', true, [false]],
  ['alibi', true, [false]],
  ['attention_dropout', 0.1, [0]],
  ['hidden_dropout', 0.1, [0]],
  ['resid_pdrop', 0.1, [0]],
])('%s = %j is refused, %j and null pass', (key, value, allowed) => {
  expect(refusal({ [key]: value })).toContain(`ERR_UNSUPPORTED [from_pretrained] config.json has ${key} = `);
  for (const neutral of [...allowed, null]) expect(refusal({ [key]: neutral })).toBe('accepted');
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

describe('quantization_config', () => {
  const config = (weights: object, more: object = {}): Record<string, unknown> => ({
    quantization_config: {
      quant_method: 'compressed-tensors',
      config_groups: {
        group_0: { targets: ['Linear'], weights: { num_bits: 8, type: 'int', ...weights }, ...more },
      },
    },
  });

  const bitsandbytes = (more: object): Record<string, unknown> => ({
    quantization_config: { quant_method: 'bitsandbytes', ...more },
  });

  test('what bitsandbytes writes is read', () => {
    for (const bnb_4bit_quant_type of ['nf4', 'fp4', undefined])
      expect(refusal(bitsandbytes({ load_in_4bit: true, bnb_4bit_quant_type }))).toBe('accepted');
    expect(refusal(bitsandbytes({ _load_in_8bit: true, _load_in_4bit: false }))).toBe('accepted');
  });

  test('int8 weights with a scale for each output channel are read', () => {
    expect(refusal(config({ strategy: 'channel', symmetric: true }))).toBe('accepted');
    expect(refusal(config({}, { input_activations: null, output_activations: null }))).toBe('accepted');
  });

  test.each<[string, Record<string, unknown>, string]>([
    ['4 bits', config({ num_bits: 4 }), 'weights of group_0 have num_bits = 4'],
    ['floats', config({ type: 'float' }), 'type = "float"'],
    ['scales by group', config({ strategy: 'group' }), 'strategy = "group"'],
    ['zero points', config({ symmetric: false }), 'symmetric = false'],
    [
      'rounded inputs',
      config({}, { input_activations: { num_bits: 8 } }),
      'rounds its activations (input_activations)',
    ],
    [
      'rounded outputs',
      config({}, { output_activations: {} }),
      'rounds its activations (output_activations)',
    ],
    ['a group without weights', config({}, { weights: null }), 'group_0 has no weights'],
    ['no groups', { quantization_config: { quant_method: 'compressed-tensors' } }, 'it has no config_groups'],
    [
      'another method',
      { quantization_config: { quant_method: 'gptq' } },
      'supported are quant_method "compressed-tensors" with int8 weights by output channel, "bitsandbytes" with nf4, fp4 or int8, and "mxfp4"',
    ],
    [
      'bitsandbytes without a format',
      { quantization_config: { quant_method: 'bitsandbytes', load_in_4bit: false } },
      'it has neither load_in_4bit nor load_in_8bit',
    ],
    [
      'codes of another kind',
      bitsandbytes({ load_in_4bit: true, bnb_4bit_quant_type: 'int4' }),
      'bnb_4bit_quant_type is "int4"; supported are "nf4" and "fp4"',
    ],
    [
      'codes in another dtype',
      bitsandbytes({ load_in_4bit: true, bnb_4bit_quant_storage: 'bfloat16' }),
      'bnb_4bit_quant_storage is "bfloat16"; supported is "uint8"',
    ],
  ])('%s are refused', (_, changes, message) => {
    expect(refusal(changes)).toContain(message);
  });
});
