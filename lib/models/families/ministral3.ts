/** Ministral 3: Mistral whose rope is yarn, with queries that grow with their positions beyond the length that it was trained on. */
import { decoderConfig } from '../config/common';
import { parseRope, positive, type RopeConfig } from '../config/rope';
import { refuse, type ConfigJson } from '../config/config_json';
import { slidingWindows } from '../config/windows';
import { isRecord } from '../../validate';
import type { Family } from './family';
import { decoderLayout, unsupported, type GgufLayout } from './gguf_layout';
import { llama, llamaConfig, type LlamaConfig } from './llama';
import { mistral } from './mistral';

const beta = 'llama_4_scaling_beta';

function ropeOf({ raw }: ConfigJson, maxPositions: number): RopeConfig {
  const settings = raw['rope_parameters'];
  if (!isRecord(settings))
    refuse('ERR_FILE', 'expected config.json of a ministral3 model to have rope_parameters');
  const { [beta]: given, ...yarn } = settings;
  const rope = parseRope({ ...raw, rope_parameters: yarn }, maxPositions);
  return {
    ...rope,
    queryScale: {
      beta: positive({ [beta]: given }, beta),
      length: positive(yarn, 'original_max_position_embeddings'),
    },
  };
}

const layout = decoderLayout('mistral3', true);

/** What llama.cpp multiplies the logarithm of the factor by in its second magnitude, to arrive at a factor on cos and sin. */
function logMultiplier({ factor, attentionFactor }: { factor: number; attentionFactor: number }): number {
  const log = factor <= 1 ? 0 : 0.1 * Math.log(factor);
  return log === 0 ? 0 : ((1 + log) / attentionFactor - 1) / log;
}

const gguf: GgufLayout<LlamaConfig> = {
  ...layout,
  neutral: { 'attention.temperature_scale': 'read', 'rope.scaling.yarn_log_multiplier': 'read' },

  fields(c) {
    const { rope } = c.layers[0]!;
    const { scaling, queryScale } = rope;
    if (scaling.type !== 'yarn' || !scaling.truncate)
      unsupported(`rope of type ${scaling.type} is not written for mistral3 other than as truncated yarn`);
    const plain: RopeConfig = { ...rope, scaling: { type: 'default' } };
    const fields = layout.fields({ ...c, layers: c.layers.map((one) => ({ ...one, rope: plain })) });
    const set = (name: string, f32: number): unknown => fields.set(`mistral3.${name}`, { f32 });
    fields.set('mistral3.rope.scaling.type', { text: 'yarn' });
    fields.set('mistral3.rope.scaling.original_context_length', { u32: scaling.originalLength });
    set('rope.scaling.factor', scaling.factor);
    set('rope.scaling.yarn_beta_fast', scaling.betaFast);
    set('rope.scaling.yarn_beta_slow', scaling.betaSlow);
    set('rope.scaling.yarn_log_multiplier', logMultiplier(scaling));
    set('attention.temperature_scale', queryScale!.beta);
    return fields;
  },

  configJson({ values, key }) {
    const number = (name: string): number | undefined => values.number(key(name));
    const grows = number('attention.temperature_scale');
    if (grows === undefined) values.fail('has no mistral3.attention.temperature_scale', 'ERR_UNSUPPORTED');
    return {
      rope_parameters: {
        rope_type: 'yarn',
        rope_theta: number('rope.freq_base'),
        factor: number('rope.scaling.factor'),
        original_max_position_embeddings: number('rope.scaling.original_context_length'),
        beta_fast: number('rope.scaling.yarn_beta_fast') ?? 32,
        beta_slow: number('rope.scaling.yarn_beta_slow') ?? 1,
        ...{ mscale: 1, mscale_all_dim: number('rope.scaling.yarn_log_multiplier') ?? 0 },
        [beta]: grows,
      },
    };
  },
};

export const ministral3: Family<LlamaConfig> = {
  ...mistral,
  className: 'Ministral3ForCausalLM',
  defaults: {
    num_key_value_heads: 8,
    head_dim: 128,
    max_position_embeddings: 262144,
    rms_norm_eps: 1e-5,
    sliding_window: null,
  },

  config(json) {
    const decoder = decoderConfig(json);
    return llamaConfig(json, decoder, {
      ...{ qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false },
      windows: slidingWindows(json, decoder.numHiddenLayers, () => true),
      rope: ropeOf(json, decoder.maxPositionEmbeddings),
    });
  },

  numbers(c, index) {
    const alone = llama.numbers(c, index);
    return { ...alone, working: alone.working + c.numAttentionHeads * c.headDim };
  },

  gguf,
};
