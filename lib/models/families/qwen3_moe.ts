/** Qwen3 with experts in the place of the MLP of some layers, mostly of all. */
import { decoderConfig } from '../config/common';
import { refuse, type ConfigJson } from '../config/config_json';
import { linear, vector, type Weights, type WeightsOf } from '../config/rows';
import { fullAttention, slidingWindows } from '../config/windows';
import { expertRows, expertsConfig, routedMlp, routedWeights, type ExpertsConfig } from './experts';
import type { Family } from './family';
import { decoderLayout, llamaNames, unsupported, type GgufLayout } from './gguf_layout';
import { attentionOf, attentionRows, llama, llamaConfig, type LlamaConfig } from './llama';
import { gatedMlp, normOf } from './parts';

/** What its blocks depend on. */
export interface Qwen3MoeConfig extends LlamaConfig, ExpertsConfig {
  /** Whether a layer has experts. */
  readonly sparse: readonly boolean[];
  /** Whether the weights of the experts of a token add up to 1. */
  readonly normTopkProb: boolean;
}

/** The layers with experts: each `decoder_sparse_step`-th, but for those of `mlp_only_layers`. */
function sparseLayers(json: ConfigJson, count: number): boolean[] {
  const step = json.positiveInteger('decoder_sparse_step', 1);
  const dense = json.get('mlp_only_layers') ?? [];
  if (!Array.isArray(dense) || dense.some((one) => !Number.isSafeInteger(one)))
    refuse(
      'ERR_FILE',
      `expected mlp_only_layers of config.json to list layers but received ${JSON.stringify(dense).slice(0, 120)}`,
    );
  return Array.from({ length: count }, (_, i) => !dense.includes(i) && (i + 1) % step === 0);
}

const denseRows = ({ hiddenSize: d, intermediateSize: ff }: Qwen3MoeConfig) => ({
  gate: linear('gate', 'mlp.gate_proj', ff, d),
  up: linear('up', 'mlp.up_proj', ff, d),
  down: linear('mlpOutput', 'mlp.down_proj', d, ff),
});

const normRows = ({ hiddenSize: d }: Qwen3MoeConfig) => ({
  inputNorm: vector('input_layernorm', d),
  postNorm: vector('post_attention_layernorm', d),
});

const routerRow = (c: Qwen3MoeConfig) => ({
  router: linear('router', 'mlp.gate', c.numExperts, c.hiddenSize),
});

type AttentionWeights = WeightsOf<ReturnType<typeof normRows> & ReturnType<typeof attentionRows>>;
type DenseWeights = WeightsOf<ReturnType<typeof denseRows>>;
type RouterWeights = WeightsOf<ReturnType<typeof routerRow>>;

const layout = decoderLayout('qwen3moe', false);

/** In llama.cpp every layer has experts, and the weights of those of a token add up to 1. */
const gguf: GgufLayout<Qwen3MoeConfig> = {
  ...layout,
  names: {
    ...llamaNames,
    'mlp.gate': 'ffn_gate_inp',
    'mlp.experts.gate_proj': 'ffn_gate_exps',
    'mlp.experts.up_proj': 'ffn_up_exps',
    'mlp.experts.down_proj': 'ffn_down_exps',
  },
  neutral: { expert_count: 'read' },
  fields(c) {
    if (c.sparse.includes(false))
      unsupported('some layers have no experts, which GGUF files of qwen3moe do not say');
    if (!c.normTopkProb) unsupported('norm_topk_prob is false, which GGUF files of qwen3moe do not say');
    const fields = layout.fields(c);
    fields.set('qwen3moe.expert_count', { u32: c.numExperts });
    fields.set('qwen3moe.expert_used_count', { u32: c.expertsPerToken });
    fields.set('qwen3moe.expert_feed_forward_length', { u32: c.expertSize });
    return fields;
  },
  configJson: ({ values, key }) => ({
    num_experts: values.count(key('expert_count')),
    num_experts_per_tok: values.count(key('expert_used_count')),
    moe_intermediate_size: values.count(key('expert_feed_forward_length')),
    norm_topk_prob: true,
  }),
};

export const qwen3Moe: Family<Qwen3MoeConfig> = {
  ...llama,
  className: 'Qwen3MoeForCausalLM',
  neutral: { num_experts: 'read', num_local_experts: 'read' },

  config(json) {
    const decoder = decoderConfig(json);
    const attentionBias = json.flag('attention_bias');
    const shape = llamaConfig(json, decoder, {
      ...{ qkvBias: attentionBias, outputBias: attentionBias, mlpBias: false, qkNorm: true },
      windows: json.flag('use_sliding_window')
        ? slidingWindows(json, decoder.numHiddenLayers, () => true)
        : fullAttention(decoder.numHiddenLayers),
    });
    return {
      ...shape,
      ...expertsConfig(json, 'num_experts_per_tok', { experts: 128, perToken: 8, size: 768 }),
      sparse: sparseLayers(json, decoder.numHiddenLayers),
      normTopkProb: json.flag('norm_topk_prob'),
    };
  },

  layer: (c, index) => ({
    ...normRows(c),
    ...attentionRows(c),
    ...(c.sparse[index] ? { ...routerRow(c), ...expertRows(c, c.hiddenSize) } : denseRows(c)),
  }),

  /** x + o(attention(norm(x))), then x + experts(norm(x)), or the MLP in their place. */
  block(run, w: AttentionWeights, index, input) {
    const { config } = run;
    const eps = config.rmsNormEps;
    const [x, normed] = normOf(input, w.inputNorm, eps, run);
    const attended = attentionOf(run, w, index, normed);
    const [middle, normed2] = normOf({ x, addend: attended }, w.postNorm, eps, run);
    const all: Weights = w;
    const addend = config.sparse[index]
      ? routedMlp(run, normed2, routedWeights(all as RouterWeights & Weights), {
          ...config,
          amongChosen: config.normTopkProb,
        })
      : gatedMlp(run, normed2, all as DenseWeights);
    return { x: middle, addend };
  },

  numbers(c, index) {
    const heads = c.numAttentionHeads + c.numKeyValueHeads;
    const sparse = c.sparse[index]!;
    const { hiddenSize: d, expertsPerToken: k, expertSize } = c;
    const { inputs, gradients, ...all } = llama.numbers(
      { ...c, intermediateSize: sparse ? k * expertSize : c.intermediateSize },
      index,
    );
    // The heads of q and k before their norm.
    const alone = { ...all, kept: all.kept + heads * c.headDim, keptFloats: all.keptFloats + heads };
    if (!sparse) return { ...alone, inputs, gradients };
    return {
      ...alone,
      // What the experts made, which the gradient of their weights reads.
      kept: alone.kept + k * d,
      keptFloats: alone.keptFloats + 4 * k + c.numExperts,
      working: alone.working + 2 * k * d,
      inputs: inputs.slice(0, 2),
      gradients: gradients.slice(0, 2),
    };
  },

  gguf,
};
