/**
 * Phi-3 and Phi-4-mini: Llama whose q, k and v are one layer, and gate and up another one. Phi-4-mini rotates a part of each head, and long
 * texts by frequencies of their own (longrope).
 */
import { shortest } from '../../formats/gguf_values';
import { decoderConfig } from '../config/common';
import { longropeMagnitude, parseRope } from '../config/rope';
import { linear, vector, type WeightsOf } from '../config/rows';
import { slidingWindows } from '../config/windows';
import type { Family } from './family';
import { decoderFields, decoderLayout, llamaNames, unsupported, type GgufLayout } from './gguf_layout';
import { llama, llamaConfig, type LlamaConfig } from './llama';
import { attend, columnsOf, fusedMlp, linearOf, normOf, splitHeads } from './parts';

/** Widths of q, of k and of v. */
const widthsOf = ({
  numAttentionHeads,
  numKeyValueHeads,
  headDim,
}: LlamaConfig): [number, number, number] => [
  numAttentionHeads * headDim,
  numKeyValueHeads * headDim,
  numKeyValueHeads * headDim,
];

const layer = (c: LlamaConfig) => {
  const { hiddenSize: d, intermediateSize: ff } = c;
  const [q, k, v] = widthsOf(c);
  return {
    inputNorm: vector('input_layernorm', d),
    postNorm: vector('post_attention_layernorm', d),
    qkv: linear('queryKeyValue', 'self_attn.qkv_proj', q + k + v, d),
    o: linear('attentionOutput', 'self_attn.o_proj', d, q),
    gateUp: linear('gateUp', 'mlp.gate_up_proj', 2 * ff, d),
    down: linear('mlpOutput', 'mlp.down_proj', d, ff),
  };
};

const layout = decoderLayout('phi3', false);

/** llama.cpp reads no window of these files, and chooses the factors by the context that it is opened with. */
const gguf: GgufLayout<LlamaConfig> = {
  ...layout,
  names: { ...llamaNames, 'self_attn.qkv_proj': 'attn_qkv', 'mlp.gate_up_proj': 'ffn_up' },
  slides: 'any',
  neutral: { 'rope.dimension_count': 'read', 'rope.scaling.attn_factor': 'read' },

  fields(c) {
    const { rope, window } = c.layers[0]!;
    const { scaling } = rope;
    if (scaling.type === 'llama3') unsupported('rope of type llama3 is not written for phi3');
    const long = scaling.type === 'longrope';
    const fields = decoderFields(c, 'phi3', long ? { ...rope, scaling: { type: 'default' } } : rope);
    fields.set('phi3.attention.sliding_window', { u32: window });
    if (!long) return fields;
    fields.set('phi3.rope.scaling.original_context_length', { u32: scaling.originalLength });
    fields.set('phi3.rope.scaling.attn_factor', { f32: scaling.attentionFactor });
    return fields;
  },

  frequencyFactors({ layers }) {
    const { scaling } = layers[0]!.rope;
    if (scaling.type !== 'longrope') return {};
    return {
      'rope_factors_long.weight': Float32Array.from(scaling.longFactors),
      'rope_factors_short.weight': Float32Array.from(scaling.shortFactors),
    };
  },

  configJson({ values, key, headDim, factors }) {
    const long = factors['rope_factors_long.weight'];
    const short = factors['rope_factors_short.weight'];
    if (!long !== !short) values.fail('has one of rope_factors_long.weight and rope_factors_short.weight');
    const turned = values.count(key('rope.dimension_count')) ?? headDim;
    const part = turned / headDim;
    const context = values.count(key('context_length'))!;
    const original = values.count(key('rope.scaling.original_context_length')) ?? context;
    const magnitude = values.number(key('rope.scaling.attn_factor')) ?? 1;
    const usual = long ? longropeMagnitude(context / original, original) : 1;
    const own = Math.fround(magnitude) !== Math.fround(usual);
    if (!long && own)
      values.fail('has phi3.rope.scaling.attn_factor and no rope_factors_long.weight', 'ERR_UNSUPPORTED');
    return {
      // The next number above where the product of this one would be rounded below `turned`.
      partial_rotary_factor: Math.floor(headDim * part) < turned ? part * (1 + Number.EPSILON) : part,
      original_max_position_embeddings: original,
      ...(long &&
        short && {
          rope_scaling: {
            rope_type: 'longrope',
            long_factor: Array.from(long, shortest),
            short_factor: Array.from(short, shortest),
            ...(own && { attention_factor: magnitude }),
          },
        }),
    };
  },
};

export const phi3: Family<LlamaConfig> = {
  ...llama,
  className: 'Phi3ForCausalLM',
  defaults: {
    max_position_embeddings: 4096,
    original_max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    sliding_window: null,
  },
  neutral: {
    ...{ attention_bias: [false], mlp_bias: [false], lm_head_bias: [false] },
    // The dropouts of a base are not applied, as in its training with an adapter elsewhere.
    ...{ attention_dropout: 'read', resid_pdrop: 'read' },
    partial_rotary_factor: 'read',
  },

  config(json) {
    const decoder = decoderConfig(json);
    return llamaConfig(json, decoder, {
      ...{ qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false },
      windows: slidingWindows(json, decoder.numHiddenLayers, () => true),
      rope: parseRope(json.raw, decoder.maxPositionEmbeddings, decoder.headDim),
    });
  },

  layer,

  /** x + o(attention(norm(x))), then x + down(silu(gate(norm(x))) · up(norm(x))). */
  block(run, w: WeightsOf<ReturnType<typeof layer>>, index, input) {
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, intermediateSize: ff } = run.config;
    const eps = run.config.rmsNormEps;
    const [x, normed] = normOf(input, w.inputNorm, eps, run);
    const [q, k, v] = columnsOf(linearOf(run, normed, w.qkv), widthsOf(run.config));
    const split = [splitHeads(q, heads), splitHeads(k, kvHeads), splitHeads(v, kvHeads)] as const;
    const attended = linearOf(run, attend(run, index, ...split), w.o);

    const [middle, normed2] = normOf({ x, addend: attended }, w.postNorm, eps, run);
    return { x: middle, addend: fusedMlp(run, normed2, w, ff) };
  },

  numbers(c, index) {
    const { hiddenSize: d, intermediateSize: ff } = c;
    const [q, k, v] = widthsOf(c);
    const alone = llama.numbers(c, index);
    return {
      ...alone,
      // The output of a fused layer, and its parts.
      working: alone.working + Math.max(q + k + v, 2 * ff),
      gradients: [[q + k + v], [d], [2 * ff]],
    };
  },

  gguf,
};
