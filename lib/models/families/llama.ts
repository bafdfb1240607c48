/** Llama, and SmolLM2, which is one. The blocks of Mistral, Qwen2 and Qwen3 differ from it by biases, norms and windows alone. */
import { embedding, rmsNorm } from '../../ops';
import { moved } from '../../tensor/scope';
import { decoderConfig, type DecoderConfig } from '../config/common';
import { refuse, type ConfigJson } from '../config/config_json';
import type { AttentionShape } from '../config/model_config';
import { parseRope, type RopeConfig } from '../config/rope';
import { linear, table, vector, type WeightsOf } from '../config/rows';
import { fullAttention, layerTypes } from '../config/windows';
import type { Tensor } from '../../tensor/tensor';
import type { Family } from './family';
import { decoderLayout } from './gguf_layout';
import { attend, gatedMlp, linearOf, linears, normOf, splitHeads, type Run } from './parts';

/** What differs between blocks of this kind. */
export interface LlamaConfig extends DecoderConfig {
  readonly layers: readonly AttentionShape[];
  /** Whether q, k and v have biases. */
  readonly qkvBias: boolean;
  /** Whether the output of the attention has a bias. */
  readonly outputBias: boolean;
  /** Whether the MLP has biases. */
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k before the rotation. */
  readonly qkNorm: boolean;
}

type BlockShape = Pick<LlamaConfig, 'qkvBias' | 'outputBias' | 'mlpBias' | 'qkNorm'>;

/** A configuration whose layers rotate alike. `windows`: by layer. */
export function llamaConfig(
  json: ConfigJson,
  decoder: Omit<DecoderConfig, 'layers'>,
  {
    windows,
    rope = parseRope(json.raw, decoder.maxPositionEmbeddings),
    ...shape
  }: BlockShape & { readonly windows: readonly number[]; readonly rope?: RopeConfig },
): LlamaConfig {
  const { numKeyValueHeads: kvHeads, headDim } = decoder;
  const layers = windows.map((window): AttentionShape => ({
    kind: 'attention',
    kvHeads,
    headDim,
    window,
    rope,
  }));
  return { ...decoder, ...shape, layers };
}

/** The attention of a block. */
export const attentionRows = (c: DecoderConfig & Pick<LlamaConfig, 'qkvBias' | 'outputBias' | 'qkNorm'>) => {
  const { hiddenSize: d } = c;
  const q = c.numAttentionHeads * c.headDim;
  const kv = c.numKeyValueHeads * c.headDim;
  return {
    qNorm: c.qkNorm ? vector('self_attn.q_norm', c.headDim) : undefined,
    kNorm: c.qkNorm ? vector('self_attn.k_norm', c.headDim) : undefined,
    q: linear('query', 'self_attn.q_proj', q, d, c.qkvBias),
    k: linear('key', 'self_attn.k_proj', kv, d, c.qkvBias),
    v: linear('value', 'self_attn.v_proj', kv, d, c.qkvBias),
    o: linear('attentionOutput', 'self_attn.o_proj', d, q, c.outputBias),
  };
};

const layer = (c: LlamaConfig) => {
  const { hiddenSize: d, intermediateSize: ff } = c;
  return {
    inputNorm: vector('input_layernorm', d),
    postNorm: vector('post_attention_layernorm', d),
    ...attentionRows(c),
    gate: linear('gate', 'mlp.gate_proj', ff, d, c.mlpBias),
    up: linear('up', 'mlp.up_proj', ff, d, c.mlpBias),
    down: linear('mlpOutput', 'mlp.down_proj', d, ff, c.mlpBias),
  };
};

export const llamaHead = (c: DecoderConfig) => ({
  norm: vector('model.norm', c.hiddenSize),
  output: linear('outputEmbedding', 'lm_head', c.vocabSize, c.hiddenSize),
});

/** What stands behind the blocks. */
export type LlamaHead = WeightsOf<ReturnType<typeof llamaHead>>;
/** The weights of a block. */
export type LlamaWeights = WeightsOf<ReturnType<typeof layer>>;

/** o(attention(x)). Consumes x. `normOffset`: what the norms of q and k add to their weights. */
export function attentionOf(
  run: Run<DecoderConfig>,
  w: WeightsOf<ReturnType<typeof attentionRows>>,
  index: number,
  x: Tensor,
  {
    normOffset = 0,
    ...options
  }: { readonly scale?: number; readonly sinks?: Tensor; readonly normOffset?: number } = {},
): Tensor {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, rmsNormEps: eps } = run.config;
  const [flatQ, flatK, flatV] = linears(run, x, [w.q, w.k, w.v]);
  x.dispose();
  let q = splitHeads(flatQ, heads);
  let k = splitHeads(flatK, kvHeads);
  const v = splitHeads(flatV, kvHeads);
  if (w.qNorm) q = moved(q, (t) => rmsNorm(t, w.qNorm!, eps, t.dtype, normOffset));
  if (w.kNorm) k = moved(k, (t) => rmsNorm(t, w.kNorm!, eps, t.dtype, normOffset));
  return linearOf(run, attend(run, index, q, k, v, options), w.o);
}

export const llama: Family<LlamaConfig> = {
  className: 'LlamaForCausalLM',

  config(json) {
    const decoder = decoderConfig(json);
    const attentionBias = json.flag('attention_bias');
    if (layerTypes(json, decoder.numHiddenLayers)?.includes('sliding_attention'))
      refuse(
        'ERR_UNSUPPORTED',
        'config.json has sliding_attention in layer_types, which a llama model does not have',
      );
    return llamaConfig(json, decoder, {
      ...{ qkvBias: attentionBias, outputBias: attentionBias, mlpBias: json.flag('mlp_bias'), qkNorm: false },
      windows: fullAttention(decoder.numHiddenLayers),
    });
  },

  stem: (c) => ({ embedding: table('model.embed_tokens', c.vocabSize, c.hiddenSize) }),
  blocks: 'model.layers',
  layer,
  head: llamaHead,

  embed: (_, stem, ids) => embedding(stem.embedding, ids, 'f32'),

  /** x + o(attention(norm(x))), then x + down(silu(gate(norm(x))) · up(norm(x))). */
  block(run, w: LlamaWeights, index, input) {
    const { rmsNormEps: eps } = run.config;
    const [x, normed] = normOf(input, w.inputNorm, eps, run);
    const attended = attentionOf(run, w, index, normed);
    const [middle, normed2] = normOf({ x, addend: attended }, w.postNorm, eps, run);
    return { x: middle, addend: gatedMlp(run, normed2, w) };
  },

  norm: (run, w: LlamaHead, x) => moved(x, (t) => rmsNorm(t, w.norm, run.config.rmsNormEps, run.dtype)),

  numbers(c) {
    const { hiddenSize: d, intermediateSize: ff, numAttentionHeads: heads, headDim } = c;
    const [q, kv] = [heads * headDim, c.numKeyValueHeads * headDim];
    return {
      kept: d + 2 * q + 2 * kv + 2 * ff,
      keptFloats: 2 * d + heads,
      working: d + q + 2 * kv + 3 * ff,
      inputs: [[d], [q], [ff]],
      gradients: [[q, kv, kv], [d], [ff, ff]],
    };
  },

  gguf: decoderLayout('llama', true),
};
