/** Gemma 3: norms before and behind attention and MLP, of which the files have w for 1 + w, and layers that slide with a rope of their own. */
import { floatsOf, roundedTo } from '../../formats/floats';
import { embedding, rmsNorm } from '../../ops';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { decoderConfig } from '../config/common';
import type { ConfigJson } from '../config/config_json';
import { parseRope, ropeOfType } from '../config/rope';
import { linear, vector, type WeightsOf } from '../config/rows';
import { slidingWindows } from '../config/windows';
import type { Family } from './family';
import { decoderFields, decoderLayout, plusOne, unsupported, windowOfPattern } from './gguf_layout';
import { attentionOf, attentionRows, llama, type LlamaConfig, type LlamaHead } from './llama';
import { gatedMlp, normOf, scaled, type Run } from './parts';

export interface Gemma3Config extends LlamaConfig {
  /** Scores are divided by its root. */
  readonly queryPreAttnScalar: number;
}

const layer = (c: Gemma3Config) => {
  const { hiddenSize: d, intermediateSize: ff } = c;
  return {
    attentionNorm: vector('input_layernorm', d),
    ...attentionRows(c),
    attendedNorm: vector('post_attention_layernorm', d),
    mlpNorm: vector('pre_feedforward_layernorm', d),
    gate: linear('gate', 'mlp.gate_proj', ff, d),
    up: linear('up', 'mlp.up_proj', ff, d),
    down: linear('mlpOutput', 'mlp.down_proj', d, ff),
    madeNorm: vector('post_feedforward_layernorm', d),
  };
};

/** What the norms add to their weights. */
const normOffset = 1;

/** The layers that slide where config.json does not say it. */
const slides = (index: number, pattern = 6): boolean => (index + 1) % pattern !== 0;

/** The base of the rope of layers that slide. */
const localTheta = 10000;

/** query_pre_attn_scalar as llama.cpp has it, whose files do not: that of Gemma 3 27B, which alone has 62 layers, or of all others. */
const scalarOf = (layers: number, divided: number, headDim: number): number =>
  layers === 62 ? Math.floor(divided) : headDim;

const layout = decoderLayout('gemma3', false);

/** √hidden in the dtype of the activations, as transformers multiplies by it. */
export function embeddingScale({ config, dtype }: Run): number {
  const root = Float32Array.of(Math.sqrt(config.hiddenSize));
  return dtype === 'bf16' ? floatsOf({ dtype: 'BF16', bytes: roundedTo(root, dtype)! })[0]! : root[0]!;
}

/** The ropes of layers that see all, and of those that slide. */
function ropesOf({ raw }: ConfigJson, context: number) {
  const local = { ...raw, rope_theta: raw['rope_local_base_freq'] };
  return {
    full: ropeOfType(raw, context, 'full_attention') ?? parseRope(raw, context),
    sliding:
      ropeOfType(local, context, 'sliding_attention') ?? parseRope({ rope_theta: local.rope_theta }, context),
  };
}

export const gemma3: Family<Gemma3Config> = {
  ...llama,
  className: 'Gemma3ForCausalLM',
  classifierName: 'Gemma3TextForSequenceClassification', // the other name is of the model that sees images too
  defaults: {
    ...{ vocab_size: 262208, hidden_size: 2304, intermediate_size: 9216, num_hidden_layers: 26 },
    ...{ num_attention_heads: 8, num_key_value_heads: 4, head_dim: 256, query_pre_attn_scalar: 256 },
    ...{ max_position_embeddings: 131072, sliding_window: 4096, rope_theta: 1e6 },
    rope_local_base_freq: localTheta,
    ...{ tie_word_embeddings: true, bos_token_id: 2, eos_token_id: 1 },
  },
  neutral: {
    ...{ hidden_act: ['gelu_pytorch_tanh'], hidden_activation: ['gelu_pytorch_tanh'], mlp_bias: [false] },
    query_pre_attn_scalar: 'read',
    attn_logit_softcapping: 'read', // its class reads it for nothing
    use_bidirectional_attention: 'read',
  },

  config(json) {
    const decoder = decoderConfig(json);
    const { numKeyValueHeads: kvHeads, headDim, maxPositionEmbeddings: context } = decoder;
    const attentionBias = json.flag('attention_bias');
    json.positiveInteger('sliding_window');
    const pattern = json.positiveInteger('sliding_window_pattern', 6);
    const { full, sliding } = ropesOf(json, context);
    const bothDirections = json.flag('use_bidirectional_attention');
    // In both directions the window of the files is that of a token with both its sides.
    const windows = slidingWindows(json, decoder.numHiddenLayers, (i) => slides(i, pattern)).map((window) =>
      bothDirections && window > 0 ? Math.floor(window / 2) + 1 : window,
    );
    return {
      ...decoder,
      ...(bothDirections && { bothDirections }),
      ...{ qkvBias: attentionBias, outputBias: attentionBias, mlpBias: false, qkNorm: true },
      layers: windows.map((window) => ({
        ...{ kind: 'attention', kvHeads, headDim, window },
        rope: window > 0 ? sliding : full,
      })),
      queryPreAttnScalar: json.factor('query_pre_attn_scalar'),
    };
  },

  layer,

  /** Noise and the vectors of adapters are not scaled. */
  embed: (run, stem, ids) => scaled(embedding(stem.embedding, ids, 'f32'), embeddingScale(run)),

  /** x + norm(o(attention(norm(x)))), then x + norm(down(gelu(gate(norm(x))) · up(norm(x)))). */
  block(run, w: WeightsOf<ReturnType<typeof layer>>, index, input) {
    const { rmsNormEps: eps, queryPreAttnScalar } = run.config;
    const behind = (x: Tensor, weight: Tensor): Tensor =>
      moved(x, (t) => rmsNorm(t, weight, eps, run.dtype, normOffset));
    const options = { scale: 1 / Math.sqrt(queryPreAttnScalar), normOffset };

    const [x, normed] = normOf(input, w.attentionNorm, eps, run, normOffset);
    const attended = behind(attentionOf(run, w, index, normed, options), w.attendedNorm);
    const [middle, normed2] = normOf({ x, addend: attended }, w.mlpNorm, eps, run, normOffset);
    const made = gatedMlp(run, normed2, w, 'gelu_tanh');
    return { x: middle, addend: behind(made, w.madeNorm) };
  },

  norm: (run, w: LlamaHead, x) =>
    moved(x, (t) => rmsNorm(t, w.norm, run.config.rmsNormEps, run.dtype, normOffset)),

  numbers(c, index) {
    const { hiddenSize: d, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = c;
    const alone = llama.numbers(c, index);
    return {
      ...alone,
      // What the norms behind attention and MLP read, and those of q and k.
      kept: alone.kept + 2 * d + (heads + kvHeads) * headDim,
      keptFloats: alone.keptFloats + heads + kvHeads + 4,
      working: alone.working + d,
    };
  },

  gguf: {
    ...layout,
    names: {
      ...layout.names,
      post_attention_layernorm: 'post_attention_norm',
      pre_feedforward_layernorm: 'ffn_norm',
      post_feedforward_layernorm: 'post_ffw_norm',
    },
    slides: true,
    values: ({ tensor }) => (tensor === 'weight' ? plusOne : undefined),
    neutral: { 'attention.sliding_window_pattern': [6], 'rope.freq_base_swa': [localTheta] },
    fields(c) {
      const pattern = 'five of six layers, which is what llama.cpp computes a gemma3 by';
      const window = windowOfPattern(c, slides, pattern);
      const { rope: full } = c.layers.find((one) => one.window === 0) ?? c.layers[0]!;
      const { rope: sliding } = c.layers[0]!;
      if (sliding.theta !== localTheta || sliding.scaling.type !== 'default')
        unsupported(
          `sliding layers have another rope than the unscaled one of base ${localTheta}, by which llama.cpp computes a gemma3`,
        );
      if (full.scaling.type !== 'default' && full.scaling.type !== 'linear')
        unsupported(`rope of type ${full.scaling.type} is not written for a gemma3`);
      const scalar = scalarOf(c.numHiddenLayers, c.hiddenSize / c.numAttentionHeads, c.headDim);
      if (c.queryPreAttnScalar !== scalar)
        unsupported(
          `query_pre_attn_scalar is ${c.queryPreAttnScalar}, and llama.cpp computes a gemma3 of these sizes by ${scalar}`,
        );
      const fields = decoderFields(c, 'gemma3', full);
      return fields.set('gemma3.attention.sliding_window', { u32: window });
    },
    configJson({ values, key, headDim }) {
      const heads = values.countOfLayers(key('attention.head_count'))!;
      const divided = values.count(key('embedding_length'))! / heads;
      return {
        ...{ hidden_act: undefined, hidden_activation: 'gelu_pytorch_tanh' },
        query_pre_attn_scalar: scalarOf(values.count(key('block_count'))!, divided, headDim),
      };
    },
  },
};
