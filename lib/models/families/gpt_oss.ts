/** OpenAI's gpt-oss: experts with biases in every layer, a clamped gate, a sink for each head, and a window in every other layer. */
import { cast } from '../../ops';
import { moved } from '../../tensor/scope';
import { decoderConfig } from '../config/common';
import { linear, vector, type Weights, type WeightsOf } from '../config/rows';
import { parseRope, yarnMagnitude } from '../config/rope';
import { slidingWindows } from '../config/windows';
import { expertRows, expertsConfig, routedMlp, routedWeights, type ExpertsConfig } from './experts';
import type { Family } from './family';
import {
  decoderFields,
  decoderLayout,
  llamaNames,
  unsupported,
  windowOfPattern,
  type GgufLayout,
} from './gguf_layout';
import { attentionOf, attentionRows, llama, llamaConfig, type LlamaConfig } from './llama';
import { normOf } from './parts';

/** What its blocks depend on. */
export interface GptOssConfig extends LlamaConfig, ExpertsConfig {}

const rows = (c: GptOssConfig) => ({
  inputNorm: vector('input_layernorm', c.hiddenSize),
  postNorm: vector('post_attention_layernorm', c.hiddenSize),
  ...attentionRows(c),
  sinks: vector('self_attn', c.numAttentionHeads, 'sinks'),
  router: linear('router', 'mlp.router', c.numExperts, c.hiddenSize, true),
});

type Layer = WeightsOf<ReturnType<typeof rows>> & Weights;

/** The rope of a config.json that has none: stretched 32 times, as in the published models. */
const publishedRope = {
  rope_type: 'yarn',
  rope_theta: 150000,
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  original_max_position_embeddings: 4096,
  truncate: false,
};

/** The layers that slide where config.json does not say it. */
const slides = (index: number): boolean => index % 2 === 0;

/** llama.cpp truncates yarn, which its files do not say. Here a file of the model has the rope of the model. */
const gguf: GgufLayout<GptOssConfig> = {
  ...decoderLayout('gpt-oss', false),
  slides: true,
  names: {
    ...llamaNames,
    post_attention_layernorm: 'post_attention_norm',
    'self_attn.sinks': 'attn_sinks.weight',
    'mlp.router': 'ffn_gate_inp',
    'mlp.experts.gate_proj': 'ffn_gate_exps',
    'mlp.experts.up_proj': 'ffn_up_exps',
    'mlp.experts.down_proj': 'ffn_down_exps',
  },
  neutral: { expert_count: 'read' },
  fields(c) {
    const window = windowOfPattern(c, slides, 'every other layer from the first one on');
    const { rope } = c.layers[0]!;
    const { scaling } = rope;
    if (scaling.type !== 'yarn' || scaling.truncate)
      unsupported(
        `rope of type ${scaling.type} is not written for gpt-oss other than as yarn that is not truncated`,
      );
    if (scaling.attentionFactor !== yarnMagnitude(scaling.factor, 1))
      unsupported('an attention_factor of yarn is not written for gpt-oss');
    const fields = decoderFields(c, 'gpt-oss', { ...rope, scaling: { type: 'default' } });
    const count = (name: string, u32: number): unknown => fields.set(`gpt-oss.${name}`, { u32 });
    const number = (name: string, f32: number): unknown => fields.set(`gpt-oss.${name}`, { f32 });
    count('attention.sliding_window', window);
    count('expert_count', c.numExperts);
    count('expert_used_count', c.expertsPerToken);
    count('expert_feed_forward_length', c.expertSize);
    fields.set('gpt-oss.rope.scaling.type', { text: 'yarn' });
    number('rope.scaling.factor', scaling.factor);
    count('rope.scaling.original_context_length', scaling.originalLength);
    number('rope.scaling.yarn_beta_fast', scaling.betaFast);
    number('rope.scaling.yarn_beta_slow', scaling.betaSlow);
    return fields;
  },
  configJson({ values, key, hasTensor }) {
    const number = (name: string): number | undefined => values.number(key(name));
    return {
      num_local_experts: values.count(key('expert_count')),
      num_experts_per_tok: values.count(key('expert_used_count')),
      intermediate_size: values.count(key('expert_feed_forward_length')),
      attention_bias: hasTensor('blk.0.attn_output.bias'),
      rope_parameters: {
        ...publishedRope,
        rope_theta: number('rope.freq_base') ?? publishedRope.rope_theta,
        factor: number('rope.scaling.factor') ?? publishedRope.factor,
        original_max_position_embeddings:
          number('rope.scaling.original_context_length') ?? publishedRope.original_max_position_embeddings,
        beta_fast: number('rope.scaling.yarn_beta_fast') ?? publishedRope.beta_fast,
        beta_slow: number('rope.scaling.yarn_beta_slow') ?? publishedRope.beta_slow,
      },
    };
  },
};

export const gptOss: Family<GptOssConfig> = {
  ...llama,
  className: 'GptOssForCausalLM',
  defaults: {
    ...{ vocab_size: 201088, hidden_size: 2880, intermediate_size: 2880, num_hidden_layers: 36 },
    ...{ num_attention_heads: 64, num_key_value_heads: 8, head_dim: 64, max_position_embeddings: 131072 },
    ...{ rms_norm_eps: 1e-5, sliding_window: 128, attention_bias: true },
    rope_theta: publishedRope.rope_theta,
  },
  neutral: { num_experts: 'read', num_local_experts: 'read', swiglu_limit: [7] },

  config(json) {
    const decoder = decoderConfig(json);
    const bias = json.flag('attention_bias');
    const ropeIsGiven = json.get('rope_parameters') !== undefined || json.get('rope_scaling') !== undefined;
    const raw = ropeIsGiven ? json.raw : { ...json.raw, rope_parameters: publishedRope };
    const shape = llamaConfig(json, decoder, {
      ...{ qkvBias: bias, outputBias: bias, mlpBias: false, qkNorm: false },
      windows: slidingWindows(json, decoder.numHiddenLayers, slides),
      rope: parseRope(raw, decoder.maxPositionEmbeddings),
    });
    const experts = { experts: 128, perToken: 4, size: decoder.intermediateSize };
    return { ...shape, ...expertsConfig(json, 'num_experts_per_tok', experts) };
  },

  layer: (c) => ({ ...rows(c), ...expertRows(c, c.hiddenSize, { order: 'interleaved', bias: true }) }),

  /** x + o(attention(norm(x))), whose softmax has the sink of each head, then x + experts(norm(x)). */
  block(run, w: Layer, index, input) {
    const { config } = run;
    const { rmsNormEps: eps } = config;
    const [x, normed] = normOf(input, w.inputNorm, eps, run);
    const attended = moved(cast(w.sinks, 'f32'), (sinks) => attentionOf(run, w, index, normed, { sinks }));
    const [middle, normed2] = normOf({ x, addend: attended }, w.postNorm, eps, run);
    const addend = routedMlp(run, normed2, routedWeights(w), {
      ...{ expertsPerToken: config.expertsPerToken, amongChosen: true, kind: 'clamped' },
    });
    return { x: middle, addend };
  },

  numbers(c, index) {
    const { hiddenSize: d, expertsPerToken: k, expertSize } = c;
    const { inputs, gradients, ...all } = llama.numbers({ ...c, intermediateSize: k * expertSize }, index);
    return {
      ...all,
      // What the experts made, which the gradient of their weights reads.
      kept: all.kept + k * d,
      keptFloats: all.keptFloats + 4 * k + c.numExperts,
      working: all.working + 2 * k * d,
      inputs: inputs.slice(0, 2),
      gradients: gradients.slice(0, 2),
    };
  },

  gguf,
};
