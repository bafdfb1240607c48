/**
 * Phi-3 and Phi-4-mini: Llama whose q, k and v are one layer, and gate and up another one. Phi-4-mini rotates a part of each head, and long
 * texts by frequencies of their own (longrope).
 */
import { decoderConfig } from '../config/common';
import { parseRope } from '../config/rope';
import { linear, vector, type WeightsOf } from '../config/rows';
import { slidingWindows } from '../config/windows';
import type { Family } from './family';
import { decoderLayout } from './gguf_layout';
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

  numbers(c) {
    const { hiddenSize: d, intermediateSize: ff } = c;
    const [q, k, v] = widthsOf(c);
    const alone = llama.numbers(c);
    return {
      ...alone,
      // The output of a fused layer, and its parts.
      working: alone.working + Math.max(q + k + v, 2 * ff),
      gradients: [[q + k + v], [d], [2 * ff]],
    };
  },

  gguf: {
    ...layout,
    names: { ...layout.names, 'self_attn.qkv_proj': 'attn_qkv', 'mlp.gate_up_proj': 'ffn_up' },
  },
};
