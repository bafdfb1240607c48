/** What each family reads of config.json beyond what all do. */
import { attentionLayers } from '../../lib/models/config/model_config';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LoRAError } from '../../lib/errors';
import { modelTypes, parseModelConfig } from '../../lib/models/families';
import type { Lfm2Config } from '../../lib/models/families/lfm2';
import { inverseFrequencies, tableStart } from '../../lib/models/config/rope';
import { tinyConfig } from '../support/tiny_model';

/** Of four layers. */
const parse = (changes: Record<string, unknown>) =>
  parseModelConfig({ ...tinyConfig, num_hidden_layers: 4, ...changes });

/** The sentence with which a configuration is refused. */
function refusal(changes: Record<string, unknown>): string {
  try {
    parse(changes);
    return 'accepted';
  } catch (error) {
    return error instanceof LoRAError ? `${error.code} ${error.message}` : String(error);
  }
}

test('the page of models lists every family, and none that is not one', () => {
  const page = readFileSync(join(__dirname, '../../docs/start/models.md'), 'utf8');
  const [, table] = /\n## Which models work\n[^|]*\n\|.*\|\n\|---\|---\|\n((?:\|.*\n)+)/.exec(page)!;
  const listed = table!.split('\n').flatMap((row) => row.split('|')[1]?.match(/\w+(?=`)/g) ?? []);
  // These have text models of families.
  expect(listed.filter((type) => !/^(gemma[34]|qwen3_5)$/.test(type)).sort()).toEqual([...modelTypes].sort());
});

describe('smollm3', () => {
  const smollm3 = { model_type: 'smollm3' };
  const rotating = (changes: Record<string, unknown>): number[] =>
    attentionLayers(parse({ ...smollm3, ...changes })).map(({ rope }) =>
      Number(rope.scaling.type !== 'none'),
    );
  const windows = (changes: Record<string, unknown>): number[] =>
    attentionLayers(parse({ ...smollm3, ...changes })).map(({ window }) => window);

  test('no_rope_layers says which layers rotate, else the interval does, which is 4', () => {
    expect(rotating({ no_rope_layers: [0, 1, 1, 0, 1] })).toEqual([0, 1, 1, 0]);
    expect(rotating({})).toEqual([1, 1, 1, 0]);
    expect(rotating({ no_rope_layer_interval: 2 })).toEqual([1, 0, 1, 0]);
    for (const list of [[1, 0, 1], [1, 0, 1, 2], 'all'])
      expect(refusal({ ...smollm3, no_rope_layers: list })).toContain(
        'expected no_rope_layers of config.json to be 0 or 1 for each of 4 layers',
      );
  });

  test('a window is that of layers that rotate nothing, or of those that layer_types names', () => {
    const sliding = { use_sliding_window: true, sliding_window: 7 };
    expect(windows(sliding)).toEqual([0, 0, 0, 7]);
    expect(windows({ sliding_window: 7 })).toEqual([0, 0, 0, 0]);
    const types = ['full_attention', 'sliding_attention', 'full_attention', 'full_attention'];
    expect(windows({ ...sliding, layer_types: types })).toEqual([0, 7, 0, 0]);
    expect(refusal({ ...smollm3, layer_types: types })).toContain(
      'sliding_attention in layer_types, which needs use_sliding_window',
    );
  });

  test('what is absent is what its class takes, and config.json stays as it was read', () => {
    const absent = { rope_theta: undefined, tie_word_embeddings: undefined, num_key_value_heads: undefined };
    const json = { ...tinyConfig, ...smollm3, ...absent };
    const given = Object.fromEntries(Object.entries(json).filter(([, value]) => value !== undefined));
    const config = parseModelConfig(given);
    expect(config.layers[0]).toMatchObject({ kvHeads: 4, rope: { theta: 2e6 } });
    expect(config.tieWordEmbeddings).toBe(true);
    expect(config.raw).toBe(given);
  });

  test('pretraining_tp of SmolLM3-3B changes nothing', () => {
    expect(refusal({ ...smollm3, pretraining_tp: 2 })).toBe('accepted');
  });
});

describe('lfm2', () => {
  const lfm2 = { model_type: 'lfm2', head_dim: undefined };
  const kinds = (changes: Record<string, unknown>): string =>
    parse({ ...lfm2, ...changes })
      .layers.map(({ kind }) => kind[0])
      .join('');
  const width = (changes: Record<string, unknown>): number =>
    (parse({ ...lfm2, intermediate_size: 90, block_multiple_of: 16, ...changes }) as Lfm2Config)
      .intermediateSize;

  test('layer_types says which layers have attention, else the indices do, else all have', () => {
    const types = ['conv', 'full_attention', 'conv', 'conv'];
    expect(kinds({ layer_types: types, full_attn_idxs: [0] })).toBe('sass');
    expect(kinds({ full_attn_idxs: [0, 3] })).toBe('assa');
    expect(kinds({})).toBe('aaaa');
    expect(refusal({ ...lfm2, layer_types: ['conv'] })).toContain(
      'expected layer_types of config.json to list 4 layers but received ["conv"]',
    );
    expect(refusal({ ...lfm2, layer_types: [...types.slice(1), 'mamba'] })).toContain(
      'config.json has "mamba" in layer_types; supported are conv and full_attention',
    );
    expect(refusal({ ...lfm2, full_attn_idxs: 2 })).toContain(
      'expected full_attn_idxs of config.json to list layers but received 2',
    );
  });

  test('a convolution keeps its last inputs but one', () => {
    const states = { conv: [3, tinyConfig.hidden_size] };
    const config = parse({ ...lfm2, full_attn_idxs: [1], conv_L_cache: 4 });
    expect(config.layers[0]).toEqual({ kind: 'state', states });
    expect(refusal({ ...lfm2, conv_L_cache: 9 })).toContain('conv_L_cache = 9; supported are 1 to 8');
  });

  test('the width of the MLP is two thirds of what is said, a multiple of some number; or what is said', () => {
    expect(width({})).toBe(64);
    expect(width({ block_ffn_dim_multiplier: 1.5 })).toBe(96);
    expect(width({ block_ffn_dim_multiplier: 1.1 })).toBe(80); // of 66
    expect(width({ block_ffn_dim_multiplier: null })).toBe(60);
    expect(width({ block_auto_adjust_ff_dim: false })).toBe(90);
    expect(width({ block_ff_dim: 120 })).toBe(80);
  });

  test('older files say rope_theta and tie_word_embeddings in other words', () => {
    const config = parse({ ...lfm2, theta: 500, rope_theta: 7, tie_embedding: false });
    expect(config.tieWordEmbeddings).toBe(false);
    expect(config.layers[0]).toMatchObject({ rope: { theta: 500 } });
  });
});

describe('phi3', () => {
  const phi3 = { model_type: 'phi3' };

  test('sliding_window is that of all layers, and none where it is absent', () => {
    const windows = (changes: Record<string, unknown>): number[] =>
      attentionLayers(parse({ ...phi3, ...changes })).map(({ window }) => window);
    expect(windows({ sliding_window: 7 })).toEqual([7, 7, 7, 7]);
    expect(windows({})).toEqual([0, 0, 0, 0]);
    expect(windows({ sliding_window: null })).toEqual([0, 0, 0, 0]);
  });

  test('a part of each head may be rotated', () => {
    const heads = { ...phi3, head_dim: 16 };
    const width = (changes: Record<string, unknown>) =>
      attentionLayers(parse({ ...heads, ...changes }))[0]!.rope.width;
    expect(width({ partial_rotary_factor: 0.75 })).toBe(12);
    expect(width({ rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.5 } })).toBe(8);
    expect(width({ partial_rotary_factor: 1 })).toBeUndefined();
    for (const part of [0.7, 0, 1.5, '1'])
      expect(refusal({ ...heads, partial_rotary_factor: part })).toContain(
        `ERR_UNSUPPORTED [from_pretrained] config.json has partial_rotary_factor = ${JSON.stringify(part)}`,
      );
  });

  const long = {
    ...{ ...phi3, head_dim: 8, max_position_embeddings: 64, original_max_position_embeddings: 16 },
    rope_scaling: { type: 'longrope', short_factor: [1, 1, 1, 2], long_factor: [1, 2, 3, 4] },
  };
  const rope = (changes: Record<string, unknown>, settings: Record<string, unknown> = {}) =>
    attentionLayers(parse({ ...long, rope_scaling: { ...long.rope_scaling, ...settings }, ...changes }))[0]!
      .rope;

  test('longrope has short and long factors, and a factor on cos and sin', () => {
    const attentionFactor = Math.sqrt(1 + Math.log(4) / Math.log(16));
    const scaling = { type: 'longrope', shortFactors: [1, 1, 1, 2], longFactors: [1, 2, 3, 4] };
    expect(rope({}).scaling).toEqual({ ...scaling, attentionFactor, originalLength: 16 });
    const settings = { original_max_position_embeddings: 32 };
    expect(rope({}, { ...settings, type: 'su' }).scaling).toMatchObject({ originalLength: 16 });
    expect(rope({}, { factor: 2 }).scaling).toMatchObject({ attentionFactor: Math.sqrt(1.25) });
    expect(rope({ max_position_embeddings: 16 }).scaling).toMatchObject({ attentionFactor: 1 });
    expect(rope({}, { attention_factor: 1.5 }).scaling).toMatchObject({ attentionFactor: 1.5 });
  });

  test.each([1e12, 16.5])(
    'an original length of %d, for which a table would be made, is refused',
    (length) => {
      expect(refusal({ ...long, original_max_position_embeddings: length })).toContain(
        `ERR_FILE [from_pretrained] expected original_max_position_embeddings of config.json to be a whole number of at most 1048576 but received ${length}`,
      );
    },
  );

  test('the long factors are those of texts of more than the original length', () => {
    const divided = (isLong: boolean): number[] =>
      [...inverseFrequencies(rope({ rope_theta: 1 }), 8, isLong)].map((f) => 1 / f);
    expect([divided(false), divided(true)]).toEqual([
      [1, 1, 1, 2],
      [1, 2, 3, 4],
    ]);
    expect([16, 17].map((positions) => tableStart(rope({}), positions))).toEqual([0, 16]);
  });

  test.each([[[1, 2, 3]], [[1, 2, 3, 0]], [[1, 2, 3, '4']], [undefined]])(
    'long_factor %j is refused',
    (factors) => {
      expect(refusal({ ...long, rope_scaling: { ...long.rope_scaling, long_factor: factors } })).toContain(
        'ERR_FILE [from_pretrained] expected long_factor of the rope settings in config.json to list 4 positive numbers',
      );
    },
  );

  test('dropouts of the base change nothing; biases that its class does not have are refused', () => {
    const dropouts = { attention_dropout: 0.1, embd_pdrop: 0.1, resid_pdrop: 0.1 };
    expect(refusal({ ...phi3, ...dropouts })).toBe('accepted');
    for (const key of ['attention_bias', 'mlp_bias', 'lm_head_bias'])
      expect(refusal({ ...phi3, [key]: true })).toContain(
        `ERR_UNSUPPORTED [from_pretrained] config.json has ${key} = true`,
      );
  });
});

describe('granite', () => {
  const granite = { model_type: 'granite' };

  test('its factors are those of config.json, else 1', () => {
    const given = {
      ...{ embedding_multiplier: 12, attention_multiplier: 0.015625 },
      ...{ residual_multiplier: 0.22, logits_scaling: 8 },
    };
    expect(parse({ ...granite, ...given })).toMatchObject({
      ...{ embeddingMultiplier: 12, attentionMultiplier: 0.015625 },
      ...{ residualMultiplier: 0.22, logitsScaling: 8 },
    });
    expect(parse(granite)).toMatchObject({
      ...{ embeddingMultiplier: 1, attentionMultiplier: 1 },
      ...{ residualMultiplier: 1, logitsScaling: 1 },
    });
    for (const key of Object.keys(given))
      for (const value of [0, -1, '2'])
        expect(refusal({ ...granite, [key]: value })).toContain(
          `expected ${key} of config.json to be a positive number but received`,
        );
  });

  test('attention_dropout of Granite 3 is no obstacle', () => {
    expect(refusal({ ...granite, attention_dropout: 0.1 })).toBe('accepted');
  });
});

describe('granitemoehybrid', () => {
  const dense = {
    ...{ model_type: 'granitemoehybrid', layer_types: Array(4).fill('attention') },
    ...{ num_local_experts: 0, shared_intermediate_size: 28, position_embedding_type: 'rope' },
  };

  test('layers of dense attention are those of Granite', () => {
    const config = parse({ ...dense, attention_multiplier: 0.5 });
    expect(config).toMatchObject({ intermediateSize: 28, attentionMultiplier: 0.5 });
    expect(config.layers).toEqual(parse({ model_type: 'granite' }).layers);
    const rotation = attentionLayers(parse({ ...dense, position_embedding_type: null }))[0]!.rope.scaling
      .type;
    expect(rotation).toBe('none');
  });

  test.each([
    [{ layer_types: ['attention', 'mamba', 'attention', 'attention'] }, 'layer_types = ["attention","mamba"'],
    [{ layer_types: null }, 'layer_types = undefined; supported in a granitemoehybrid model is attention'],
    [{ num_local_experts: 1 }, 'num_local_experts = 1, which is not supported; supported is 0'],
    [{ mlp_bias: true }, 'mlp_bias = true'],
  ])('%j is refused', (changes, sentence) => {
    expect(refusal({ ...dense, ...changes })).toContain('ERR_UNSUPPORTED [from_pretrained] config.json has ');
    expect(refusal({ ...dense, ...changes })).toContain(sentence);
  });

  test('experts are those of its class where none are named', () => {
    const { num_local_experts: _, ...unnamed } = dense;
    expect(refusal(unnamed)).toContain('num_local_experts = 8, which is not supported');
  });
});

describe('olmo3', () => {
  const olmo3 = { model_type: 'olmo3', sliding_window: 6 };
  const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
  const ofLayers = (changes: Record<string, unknown>): [number, string, number][] =>
    attentionLayers(parse({ ...olmo3, ...changes })).map(({ window, rope }) => [
      window,
      rope.scaling.type,
      rope.theta,
    ]);

  test('three of four layers slide, or those that layer_types names', () => {
    const windows = (changes: Record<string, unknown>): number[] =>
      ofLayers(changes).map(([window]) => window);
    expect(windows({})).toEqual([6, 6, 6, 0]);
    const types = ['full_attention', 'sliding_attention', 'full_attention', 'full_attention'];
    expect(windows({ layer_types: types })).toEqual([0, 6, 0, 0]);
    expect(windows({ sliding_window: null })).toEqual([0, 0, 0, 0]);
  });

  test('only layers that do not slide stretch their rope', () => {
    const sliding = [6, 'default', 7];
    expect(ofLayers({ rope_theta: 7, rope_scaling: yarn })).toEqual([
      sliding,
      sliding,
      sliding,
      [0, 'yarn', 7],
    ]);
    const rope_parameters = {
      full_attention: { ...yarn, rope_theta: 9 },
      sliding_attention: { rope_type: 'linear', factor: 2, rope_theta: 7 },
    };
    expect(ofLayers({ rope_parameters })[0]).toEqual([6, 'linear', 7]);
    expect(ofLayers({ rope_parameters })[3]).toEqual([0, 'yarn', 9]);
  });

  test('epsilon and theta that are absent are what its class takes', () => {
    const { rms_norm_eps: _, rope_theta: __, ...bare } = tinyConfig;
    const config = parseModelConfig({ ...bare, model_type: 'olmo3' });
    expect(config).toMatchObject({ rmsNormEps: 1e-5 });
    expect(attentionLayers(config)[0]!.rope.theta).toBe(5e5);
  });
});

describe('gemma3_text', () => {
  const { rope_theta: _, rope_scaling: __, ...bare } = tinyConfig;
  const gemma = { model_type: 'gemma3_text', hidden_act: null };
  const ofLayers = (changes: Record<string, unknown>): [number, string, number][] =>
    attentionLayers(
      parseModelConfig({ ...bare, ...gemma, num_hidden_layers: 4, sliding_window: 6, ...changes }),
    ).map(({ window, rope }) => [window, rope.scaling.type, rope.theta]);
  const sliding = [6, 'default', 1e4];

  test('five of six layers slide, or all but every so many, or those that layer_types names', () => {
    const windows = (changes: Record<string, unknown>): number[] =>
      ofLayers({ num_hidden_layers: 7, ...changes }).map(([window]) => window);
    expect(windows({})).toEqual([6, 6, 6, 6, 6, 0, 6]);
    expect(windows({ sliding_window_pattern: 3 })).toEqual([6, 6, 0, 6, 6, 0, 6]);
    const types = [1, 0, 1, 1, 1, 1, 0].map((one) => (one ? 'sliding_attention' : 'full_attention'));
    expect(windows({ layer_types: types, sliding_window_pattern: 3 })).toEqual([6, 0, 6, 6, 6, 6, 0]);
    expect(refusal({ ...gemma, sliding_window: null })).toContain(
      'expected sliding_window of config.json to be a non-negative integer but received null',
    );
  });

  test('layers that slide have a base of their own, and only the others stretch their rope', () => {
    const pattern = { sliding_window_pattern: 4 };
    expect(ofLayers(pattern)).toEqual([sliding, sliding, sliding, [0, 'default', 1e6]]);
    const rope_scaling = { rope_type: 'linear', factor: 8 };
    const old = { ...pattern, rope_theta: 9, rope_local_base_freq: 7, rope_scaling };
    expect(ofLayers(old).slice(2)).toEqual([
      [6, 'default', 7],
      [0, 'linear', 9],
    ]);
  });

  test('rope_parameters are by the types of layers; a base that is absent there is that of its class', () => {
    const pattern = { sliding_window_pattern: 4 };
    const rope = (full_attention: object, sliding_attention: object) =>
      ofLayers({ ...pattern, rope_parameters: { full_attention, sliding_attention } }).slice(2);
    const linear = { rope_type: 'linear', factor: 2 };
    expect(rope({ ...linear, rope_theta: 9 }, { rope_type: 'default', rope_theta: 7 })).toEqual([
      [6, 'default', 7],
      [0, 'linear', 9],
    ]);
    expect(rope(linear, linear)).toEqual([
      [6, 'linear', 1e4],
      [0, 'linear', 1e6],
    ]);
  });

  test('what the text_config of Gemma 3 4B leaves out is what its class takes', () => {
    const text_config = {
      ...{ hidden_size: 2560, intermediate_size: 10240, model_type: 'gemma3_text', num_hidden_layers: 34 },
      ...{ rope_scaling: { factor: 8, rope_type: 'linear' }, sliding_window: 1024 },
    };
    const config = parseModelConfig({ model_type: 'gemma3', eos_token_id: [1, 106], text_config });
    expect(config).toMatchObject({
      ...{ modelType: 'gemma3_text', textOf: 'gemma3', vocabSize: 262208, hiddenSize: 2560 },
      ...{ intermediateSize: 10240, numHiddenLayers: 34, numAttentionHeads: 8, numKeyValueHeads: 4 },
      ...{ headDim: 256, maxPositionEmbeddings: 131072, rmsNormEps: 1e-6, queryPreAttnScalar: 256 },
      ...{ tieWordEmbeddings: true, bosTokenId: 2, eosTokenIds: [1, 106] },
    });
    const [local, full] = [
      { theta: 1e4, scaling: { type: 'default' } },
      { theta: 1e6, scaling: { type: 'linear', factor: 8 } },
    ];
    const shape = { kind: 'attention', kvHeads: 4, headDim: 256 };
    expect(config.layers).toEqual(
      Array.from({ length: 34 }, (_, i) =>
        i % 6 === 5 ? { ...shape, window: 0, rope: full } : { ...shape, window: 1024, rope: local },
      ),
    );
    expect(parseModelConfig({ model_type: 'gemma3_text' })).toMatchObject({
      ...{ hiddenSize: 2304, intermediateSize: 9216, numHiddenLayers: 26, eosTokenIds: [1] },
      layers: { 0: { window: 4096 } },
    });
  });

  test('what its class does not read changes nothing; what is not computed is refused', () => {
    expect(refusal({ ...gemma, attn_logit_softcapping: 50, query_pre_attn_scalar: 168 })).toBe('accepted');
    for (const other of [
      { final_logit_softcapping: 30 },
      { hidden_activation: 'gelu' },
      { hidden_act: 'silu' },
      { mlp_bias: true },
    ])
      expect(refusal({ ...gemma, ...other })).toContain(
        `ERR_UNSUPPORTED [from_pretrained] config.json has ${Object.keys(other)[0]} = `,
      );
    expect(refusal({ ...gemma, query_pre_attn_scalar: 0 })).toContain(
      'expected query_pre_attn_scalar of config.json to be a positive number but received 0',
    );
  });
});

describe('ministral3', () => {
  const parameters = {
    ...{ rope_type: 'yarn', rope_theta: 1e6, factor: 4, original_max_position_embeddings: 16 },
    ...{ mscale: 1, mscale_all_dim: 1, llama_4_scaling_beta: 0.25 },
  };
  const ministral3 = { model_type: 'ministral3', rope_parameters: parameters };

  test('queries grow by llama_4_scaling_beta beyond the original length of its yarn', () => {
    expect(parse(ministral3).layers[0]).toMatchObject({
      window: 0,
      rope: { scaling: { type: 'yarn', attentionFactor: 1 }, queryScale: { beta: 0.25, length: 16 } },
    });
    for (const key of ['llama_4_scaling_beta', 'original_max_position_embeddings'])
      expect(refusal({ ...ministral3, rope_parameters: { ...parameters, [key]: undefined } })).toContain(
        `ERR_FILE [from_pretrained] expected a positive number for ${key} of the rope settings`,
      );
    expect(refusal({ ...ministral3, rope_parameters: undefined })).toContain('to have rope_parameters');
    expect(refusal({ ...ministral3, model_type: 'mistral' })).toContain(
      'rope_parameters.llama_4_scaling_beta = 0.25',
    );
  });
});

describe('ministral', () => {
  test('the layers that layer_types names slide, all of them without that list', () => {
    const ministral = { model_type: 'ministral', sliding_window: 7 };
    const windows = (changes: Record<string, unknown>): number[] =>
      attentionLayers(parse({ ...ministral, ...changes })).map(({ window }) => window);
    const types = ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'];
    expect(windows({ layer_types: types })).toEqual([7, 0, 7, 0]);
    expect(windows({})).toEqual([7, 7, 7, 7]);
  });
});

describe('gpt_oss', () => {
  const gptOss = { model_type: 'gpt_oss', num_local_experts: 4, num_experts_per_tok: 2 };

  test('every other layer slides, from the first one on, unless layer_types says it', () => {
    const windows = (changes: Record<string, unknown>): number[] =>
      attentionLayers(parse({ ...gptOss, ...changes })).map(({ window }) => window);
    expect(windows({})).toEqual([128, 0, 128, 0]);
    const types = ['full_attention', 'full_attention', 'sliding_attention', 'full_attention'];
    expect(windows({ layer_types: types, sliding_window: 9 })).toEqual([0, 0, 9, 0]);
  });

  test('its rope is yarn that is not truncated, as config.json says it or as in the published models', () => {
    const rope = (changes: Record<string, unknown>): unknown =>
      attentionLayers(parse({ ...gptOss, rope_theta: undefined, rope_scaling: undefined, ...changes }))[0]!
        .rope;
    const yarn = { type: 'yarn', betaFast: 32, betaSlow: 1, truncate: false };
    expect(rope({})).toMatchObject({ theta: 150000, scaling: { ...yarn, factor: 32, originalLength: 4096 } });
    const own = { rope_type: 'yarn', factor: 8, beta_fast: 32, beta_slow: 1, truncate: false };
    expect(rope({ rope_scaling: { ...own, original_max_position_embeddings: 16 } })).toMatchObject({
      scaling: { ...yarn, factor: 8, originalLength: 16 },
    });
  });

  test('num_local_experts may be called num_experts; another limit of its gate is refused', () => {
    expect(parse({ ...gptOss, num_local_experts: undefined, num_experts: 5 })).toMatchObject({
      ...{ numExperts: 5, expertsPerToken: 2, qkvBias: true, outputBias: true },
    });
    expect(parse({ model_type: 'gpt_oss' })).toMatchObject({ numExperts: 128, expertsPerToken: 4 });
    expect(refusal({ ...gptOss, num_experts_per_tok: 5 })).toContain(
      'expected num_experts_per_tok of config.json to be at most 4, the experts, but received 5',
    );
    expect(parse({ ...gptOss, swiglu_limit: 7 })).toMatchObject({ numExperts: 4 });
    expect(refusal({ ...gptOss, swiglu_limit: 5 })).toContain('swiglu_limit = 5');
  });
});

describe('qwen3_moe', () => {
  const qwen3Moe = { model_type: 'qwen3_moe', num_experts: 6, num_experts_per_tok: 2 };
  const sparse = (changes: Record<string, unknown>): unknown =>
    (parse({ ...qwen3Moe, ...changes }) as unknown as { sparse: unknown }).sparse;

  test('decoder_sparse_step and mlp_only_layers say which layers have experts: all without them', () => {
    expect(sparse({})).toEqual([true, true, true, true]);
    expect(sparse({ decoder_sparse_step: 2 })).toEqual([false, true, false, true]);
    expect(sparse({ mlp_only_layers: [1, 3], decoder_sparse_step: null })).toEqual([
      true,
      false,
      true,
      false,
    ]);
    expect(refusal({ ...qwen3Moe, mlp_only_layers: 'all' })).toContain(
      'ERR_FILE [from_pretrained] expected mlp_only_layers of config.json to list layers but received "all"',
    );
  });

  test('its window is that of all layers, where it is used', () => {
    const windows = (changes: Record<string, unknown>): number[] =>
      attentionLayers(parse({ ...qwen3Moe, sliding_window: 7, ...changes })).map(({ window }) => window);
    expect(windows({})).toEqual([0, 0, 0, 0]);
    expect(windows({ use_sliding_window: true })).toEqual([7, 7, 7, 7]);
  });

  test('num_experts may be called num_local_experts; what is absent is what its class takes', () => {
    const named = { ...qwen3Moe, num_experts: undefined };
    expect(parse({ ...named, num_local_experts: 5 })).toMatchObject({ numExperts: 5, normTopkProb: false });
    expect(parse({ model_type: 'qwen3_moe' })).toMatchObject({
      ...{ numExperts: 128, expertsPerToken: 8, expertSize: 768 },
    });
    expect(parse({ ...qwen3Moe, norm_topk_prob: true })).toMatchObject({ normTopkProb: true });
    expect(refusal({ ...qwen3Moe, num_experts_per_tok: 7 })).toContain(
      'expected num_experts_per_tok of config.json to be at most 6, the experts, but received 7',
    );
  });
});
