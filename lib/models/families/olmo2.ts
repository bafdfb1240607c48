/** OLMo 2: no norm before attention and MLP but one on what they add, and norms over all heads of q and of k at once. */
import { rmsNorm } from '../../ops';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { decoderConfig } from '../config/common';
import { linear, vector, type WeightsOf } from '../config/rows';
import { fullAttention } from '../config/windows';
import type { Family } from './family';
import { decoderLayout, llamaNames } from './gguf_layout';
import { llama, llamaConfig, type LlamaConfig } from './llama';
import { attend, gatedMlp, linearOf, linears, splitHeads, summed, type Run } from './parts';

const layer = (c: LlamaConfig) => {
  const { hiddenSize: d, intermediateSize: ff } = c;
  const q = c.numAttentionHeads * c.headDim;
  const kv = c.numKeyValueHeads * c.headDim;
  return {
    q: linear('query', 'self_attn.q_proj', q, d, c.qkvBias),
    k: linear('key', 'self_attn.k_proj', kv, d, c.qkvBias),
    v: linear('value', 'self_attn.v_proj', kv, d, c.qkvBias),
    qNorm: vector('self_attn.q_norm', q),
    kNorm: vector('self_attn.k_norm', kv),
    o: linear('attentionOutput', 'self_attn.o_proj', d, q, c.outputBias),
    attentionNorm: vector('post_attention_layernorm', d),
    gate: linear('gate', 'mlp.gate_proj', ff, d),
    up: linear('up', 'mlp.up_proj', ff, d),
    down: linear('mlpOutput', 'mlp.down_proj', d, ff),
    mlpNorm: vector('post_feedforward_layernorm', d),
  };
};
type Layer = WeightsOf<ReturnType<typeof layer>>;

/** o(attention(x)). Consumes x. */
function attentionOf(run: Run<LlamaConfig>, w: Layer, index: number, x: Tensor): Tensor {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, rmsNormEps: eps } = run.config;
  const [q, k, v] = linears(run, x, [w.q, w.k, w.v]);
  x.dispose();
  const normedQ = splitHeads(
    moved(q, (t) => rmsNorm(t, w.qNorm, eps)),
    heads,
  );
  const normedK = splitHeads(
    moved(k, (t) => rmsNorm(t, w.kNorm, eps)),
    kvHeads,
  );
  return linearOf(run, attend(run, index, normedQ, normedK, splitHeads(v, kvHeads)), w.o);
}

export const olmo2: Family<LlamaConfig> = {
  ...llama,
  className: 'Olmo2ForCausalLM',
  defaults: { rms_norm_eps: 1e-5 },

  config(json) {
    const decoder = decoderConfig(json);
    const attentionBias = json.flag('attention_bias');
    return llamaConfig(json, decoder, {
      ...{ qkvBias: attentionBias, outputBias: attentionBias, mlpBias: false, qkNorm: true },
      windows: fullAttention(decoder.numHiddenLayers),
    });
  },

  layer,

  /** x + norm(o(attention(x))), then x + norm(down(silu(gate(x)) · up(x))). */
  block(run, w: Layer, index, input) {
    const { rmsNormEps: eps } = run.config;
    const x = summed(input);
    const attended = attentionOf(run, w, index, x.to({ dtype: run.dtype }));
    const middle = summed({ x, addend: moved(attended, (t) => rmsNorm(t, w.attentionNorm, eps)) });
    const made = gatedMlp(run, middle.to({ dtype: run.dtype }), w);
    return { x: middle, addend: moved(made, (t) => rmsNorm(t, w.mlpNorm, eps)) };
  },

  numbers(c) {
    const { hiddenSize: d, intermediateSize: ff, numAttentionHeads: heads, headDim } = c;
    const [q, kv] = [heads * headDim, c.numKeyValueHeads * headDim];
    return {
      kept: 4 * d + 3 * q + 3 * kv + 2 * ff,
      keptFloats: heads + 4,
      working: 2 * d + q + 2 * kv + 3 * ff,
      inputs: [[d], [q], [ff]],
      gradients: [[q, kv, kv], [d], [ff, ff]],
    };
  },

  gguf: {
    ...decoderLayout('olmo2', false),
    ownHead: true,
    names: {
      ...llamaNames,
      post_attention_layernorm: 'post_attention_norm',
      post_feedforward_layernorm: 'post_ffw_norm',
    },
  },
};
