/** Gemma 4 in GGUF files: llama.cpp's architecture gemma4. */
import type { GgufField } from '../../formats/gguf_write';
import type { GgufValues } from '../../formats/gguf_values';
import type { DecoderConfig } from '../config/common';
import type { AttentionShape } from '../config/model_config';
import type { ExpertsConfig } from './experts';
import { decoderFields, llamaNames, unsupported, type DescribedFile, type GgufLayout } from './gguf_layout';

export interface Gemma4Config extends DecoderConfig {
  readonly layers: readonly AttentionShape[];
  /** Whether q, k, v and o have biases. */
  readonly attentionBias: boolean;
  /** Whether the values of layers that see all are what their keys are computed from. */
  readonly keysAreValues: boolean;
  /** Whether the MLP of layers that share keys is twice as wide. */
  readonly doubleWideMlp: boolean;
  /** Numbers of the input of a layer; 0: layers have none. */
  readonly layerInputWidth: number;
  /** The experts beside the MLP of each layer; absent: there are none. */
  readonly experts?: ExpertsConfig;
}

/** What the frequencies of pairs that are not rotated are divided by. */
const never = 1e30;

/** The layers of each kind. @throws ERR_UNSUPPORTED for a model that lacks one */
function kindsOf({ layers }: Gemma4Config): { sliding: AttentionShape; full: AttentionShape } {
  const sliding = layers.find(({ window }) => window > 0);
  const full = layers.find(({ window }) => window === 0);
  if (!sliding || !full)
    return unsupported('a gemma4 is written with layers that slide and layers that see all');
  return { sliding, full };
}

/** How many layers share keys. @throws ERR_UNSUPPORTED for those of other layers than llama.cpp takes */
function sharingLayers({ layers }: Gemma4Config): number {
  const first = layers.findIndex(({ keysOf }) => keysOf !== undefined);
  if (first < 0) return 0;
  if (layers.slice(first).some(({ keysOf, window }) => keysOf !== first - (window > 0 ? 2 : 1)))
    unsupported(
      'layers share other keys than those of the last two layers before them, of which llama.cpp takes the first to slide and the second to see all',
    );
  return layers.length - first;
}

function fields(c: Gemma4Config): Map<string, GgufField> {
  const { sliding, full } = kindsOf(c);
  const { scaling } = full.rope;
  if (c.attentionBias) unsupported('attention has biases, which llama.cpp does not read of a gemma4');
  if (sliding.rope.scaling.type !== 'default')
    unsupported(`sliding layers have a rope of type ${sliding.rope.scaling.type}, which is not written`);
  if (scaling.type !== 'default' && (scaling.type !== 'proportional' || scaling.factor !== 1))
    unsupported(`rope of type ${scaling.type} with these settings is not written for a gemma4`);
  const sharing = sharingLayers(c);
  const written = decoderFields(c, 'gemma4', { ...full.rope, scaling: { type: 'default' } });
  const set = (name: string, field: GgufField): unknown => written.set(`gemma4.${name}`, field);
  for (const name of ['attention.key_length', 'attention.value_length', 'rope.dimension_count']) {
    set(name, { u32: full.headDim });
    set(`${name}_swa`, { u32: sliding.headDim });
  }
  set('rope.freq_base_swa', { f32: sliding.rope.theta });
  set('attention.sliding_window', { u32: sliding.window });
  set('attention.sliding_window_pattern', { flags: c.layers.map(({ window }) => window > 0) });
  set('attention.shared_kv_layers', { u32: sharing });
  set('embedding_length_per_layer_input', { u32: c.layerInputWidth });
  if (full.kvHeads !== sliding.kvHeads)
    set('attention.head_count_kv', { i32s: c.layers.map(({ kvHeads }) => kvHeads) });
  if (c.doubleWideMlp && sharing > 0)
    set('feed_forward_length', {
      i32s: c.layers.map(({ keysOf }) => c.intermediateSize * (keysOf === undefined ? 1 : 2)),
    });
  if (c.experts) {
    set('expert_count', { u32: c.experts.numExperts });
    set('expert_used_count', { u32: c.experts.expertsPerToken });
    set('expert_feed_forward_length', { u32: c.experts.expertSize });
  }
  if (c.logitCap !== undefined) set('final_logit_softcapping', { f32: c.logitCap });
  return written;
}

/** A count of each layer, of a file that may have one for all. */
function ofLayers(values: GgufValues, key: string, layers: number): number[] {
  if (typeof values.get(key) !== 'object') {
    const one = values.count(key) ?? values.fail(`has no ${key}`);
    return Array<number>(layers).fill(one);
  }
  const list = [...values.numbers(key)!];
  return list.length === layers
    ? list
    : values.fail(`has ${list.length} values of ${key}: expected one for each of ${layers} layers`);
}

/** The part of the pairs that is rotated. @throws ERR_UNSUPPORTED for factors that say anything else */
function rotatedPart({ values, factors }: DescribedFile): number {
  const found = factors['rope_freqs.weight'];
  if (!found) return 1;
  const rotated = found.findLastIndex((factor) => factor === 1) + 1;
  if (rotated === 0 || found.some((factor, i) => (i < rotated ? factor !== 1 : factor < never / 10)))
    values.fail('has factors in rope_freqs.weight that are not those of a gemma4', 'ERR_UNSUPPORTED');
  return rotated / found.length;
}

function configJson(file: DescribedFile): Record<string, unknown> {
  const { values, key, hasTensor } = file;
  const number = (name: string): number => values.number(key(name)) ?? values.fail(`has no ${key(name)}`);
  const count = number('block_count');
  const differ = (name: string): never =>
    values.fail(`has other values of ${key(name)} than those of a gemma4`, 'ERR_UNSUPPORTED');
  const slides = ofLayers(values, key('attention.sliding_window_pattern'), count).map((one) => one !== 0);
  const shared = values.count(key('attention.shared_kv_layers')) ?? 0;
  const sharing = (layer: number): boolean => layer >= count - shared;

  const heads = ofLayers(values, key('attention.head_count_kv'), count);
  const first = { sliding: slides.indexOf(true), full: slides.indexOf(false) };
  if (first.sliding < 0 || first.full < 0) differ('attention.sliding_window_pattern');
  const [slidingHeads, fullHeads] = [heads[first.sliding]!, heads[first.full]!];
  if (heads.some((one, i) => one !== (slides[i] ? slidingHeads : fullHeads)))
    differ('attention.head_count_kv');
  const keysAreValues = !hasTensor(`blk.${first.full}.attn_v.weight`);
  if (fullHeads !== slidingHeads && !keysAreValues) differ('attention.head_count_kv');

  const widths = ofLayers(values, key('feed_forward_length'), count);
  const double = shared > 0 && widths.at(-1) === 2 * widths[0]!;
  if (widths.some((width, i) => width !== widths[0]! * (double && sharing(i) ? 2 : 1)))
    differ('feed_forward_length');

  const cap = values.number(key('final_logit_softcapping'));
  const experts = values.count(key('expert_count')) ?? 0;
  const lengths = (end: string): number[] =>
    ['attention.key_length', 'attention.value_length'].map((name) => number(`${name}${end}`));
  for (const end of ['', '_swa'])
    if (lengths(end)[0] !== lengths(end)[1]) differ(`attention.value_length${end}`);
  return {
    hidden_activation: 'gelu_pytorch_tanh',
    layer_types: slides.map((one) => (one ? 'sliding_attention' : 'full_attention')),
    num_kv_shared_layers: shared,
    num_key_value_heads: slidingHeads,
    ...(fullHeads !== slidingHeads && { num_global_key_value_heads: fullHeads }),
    attention_k_eq_v: keysAreValues,
    intermediate_size: widths[0],
    use_double_wide_mlp: double,
    ...(cap !== undefined && { final_logit_softcapping: cap }),
    ...(experts > 0 && {
      enable_moe_block: true,
      num_experts: experts,
      top_k_experts: number('expert_used_count'),
      moe_intermediate_size: number('expert_feed_forward_length'),
    }),
    rope_parameters: {
      full_attention: {
        rope_type: 'proportional',
        rope_theta: number('rope.freq_base'),
        partial_rotary_factor: rotatedPart(file),
      },
      sliding_attention: { rope_type: 'default', rope_theta: number('rope.freq_base_swa') },
    },
  };
}

export const gemma4Layout: GgufLayout<Gemma4Config> = {
  architecture: 'gemma4',
  names: {
    ...llamaNames,
    'model.embed_tokens_per_layer': 'per_layer_token_embd',
    'model.per_layer_model_projection': 'per_layer_model_proj',
    'model.per_layer_projection_norm': 'per_layer_proj_norm',
    post_attention_layernorm: 'post_attention_norm',
    pre_feedforward_layernorm: 'ffn_norm',
    post_feedforward_layernorm: 'post_ffw_norm',
    per_layer_input_gate: 'inp_gate',
    per_layer_projection: 'proj',
    post_per_layer_input_norm: 'post_norm',
    layer_scalar: 'layer_output_scale.weight',
    'router.proj': 'ffn_gate_inp',
    'router.per_expert_scale': 'ffn_down_exps.scale',
    router: 'ffn_gate_inp',
    post_feedforward_layernorm_1: 'post_ffw_norm_1',
    pre_feedforward_layernorm_2: 'pre_ffw_norm_2',
    post_feedforward_layernorm_2: 'post_ffw_norm_2',
    'experts.gate_proj': 'ffn_gate_up_exps',
    'experts.up_proj': 'ffn_gate_up_exps',
    'experts.down_proj': 'ffn_down_exps',
  },
  slides: true,
  neutral: {
    'attention.sliding_window_pattern': 'read',
    final_logit_softcapping: 'read',
    expert_count: 'read',
  },
  rows: () => ({}),
  fields,
  sizes: (number) => ({
    hidden_size: number('embedding_length'),
    num_hidden_layers: number('block_count'),
    num_attention_heads: number('attention.head_count'),
    head_dim: number('attention.key_length_swa'),
    global_head_dim: number('attention.key_length'),
    hidden_size_per_layer_input: number('embedding_length_per_layer_input'),
    max_position_embeddings: number('context_length'),
    rms_norm_eps: number('attention.layer_norm_rms_epsilon'),
    sliding_window: number('attention.sliding_window'),
  }),
  configJson,

  /** The pairs of layers that see all which are not rotated turn by nothing. */
  frequencyFactors(c) {
    const { full } = kindsOf(c);
    const pairs = full.headDim / 2;
    const { scaling } = full.rope;
    const rotated = scaling.type === 'proportional' ? Math.floor(scaling.part * pairs) : pairs;
    return { 'rope_freqs.weight': Float32Array.from({ length: pairs }, (_, i) => (i < rotated ? 1 : never)) };
  },
};
