/** LFM2 and LFM2.5: short convolutions between gates in most blocks, and attention in the others. */
import { convStateShape, embedding, rmsNorm, shortConv, shortConvAppend } from '../../ops';
import { statesOf } from '../../ops/attention_paged';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { decoderConfig, type DecoderConfig } from '../config/common';
import { ConfigJson, refuse } from '../config/config_json';
import { attentionLayers, type LayerShape } from '../config/model_config';
import { parseRope } from '../config/rope';
import { linear, table, taps, vector, type WeightsOf } from '../config/rows';
import { layerTypes } from '../config/windows';
import type { Family } from './family';
import { decoderFields, unsupported, type GgufLayout } from './gguf_layout';
import { attentionOf } from './llama';
import { gatedMlp, linearOf, normOf, type Run } from './parts';

/** What the blocks depend on. */
export interface Lfm2Config extends DecoderConfig {
  /** Taps of the convolutions. */
  readonly convTaps: number;
  /** Whether the convolutions, and the layers before and behind them, have biases. */
  readonly convBias: boolean;
}

/** The most taps that the op has. */
const maxTaps = 8;

const shared = ({ hiddenSize: d, intermediateSize: ff }: Lfm2Config) => ({
  inputNorm: vector('operator_norm', d),
  postNorm: vector('ffn_norm', d),
  gate: linear('gate', 'feed_forward.w1', ff, d),
  up: linear('up', 'feed_forward.w3', ff, d),
  down: linear('mlpOutput', 'feed_forward.w2', d, ff),
});

const attentionRows = (c: Lfm2Config) => {
  const { hiddenSize: d } = c;
  const q = c.numAttentionHeads * c.headDim;
  const kv = c.numKeyValueHeads * c.headDim;
  return {
    ...shared(c),
    qNorm: vector('self_attn.q_layernorm', c.headDim),
    kNorm: vector('self_attn.k_layernorm', c.headDim),
    q: linear('query', 'self_attn.q_proj', q, d),
    k: linear('key', 'self_attn.k_proj', kv, d),
    v: linear('value', 'self_attn.v_proj', kv, d),
    o: linear('attentionOutput', 'self_attn.out_proj', d, q),
  };
};

const convolutionRows = (c: Lfm2Config) => {
  const { hiddenSize: d, convBias: bias } = c;
  return {
    ...shared(c),
    inward: linear('mixerInput', 'conv.in_proj', 3 * d, d, bias),
    taps: taps('conv.conv', d, c.convTaps),
    tapsBias: bias ? vector('conv.conv', d, 'bias') : undefined,
    outward: linear('attentionOutput', 'conv.out_proj', d, d, bias),
  };
};

type Convolution = WeightsOf<ReturnType<typeof convolutionRows>>;
type Layer = Convolution | WeightsOf<ReturnType<typeof attentionRows>>;

const head = (c: Lfm2Config) => ({
  norm: vector('model.embedding_norm', c.hiddenSize),
  output: linear('outputEmbedding', 'lm_head', c.vocabSize, c.hiddenSize),
});

/** out(C · conv(B · v)) with [B | C | v] = in(x). Consumes x. */
function convolutionOf(run: Run<Lfm2Config>, w: Convolution, index: number, x: Tensor): Tensor {
  const { hiddenSize, convTaps } = run.config;
  const options = { kind: 'gated', bias: w.tapsBias } as const;
  const { past, segments } = run;
  const parts = linearOf(run, x, w.inward);
  const mixed = moved(w.taps.reshape([hiddenSize, convTaps]), (weight) => {
    if (!past) return moved(parts, (t) => shortConv(t, weight, { ...options, keyBegin: segments?.keyBegin }));
    const { states, slots } = statesOf(past, index);
    return moved(parts, (t) => shortConvAppend(t, weight, states['conv']!, slots, past.lengths, options));
  });
  return linearOf(run, mixed, w.outward);
}

/** Whether each layer has attention: older files list the indices of those that do, and without a list all do. */
function attentionIn(json: ConfigJson, count: number): boolean[] {
  const kinds = layerTypes(json, count, ['conv', 'full_attention']);
  if (kinds) return kinds.map((kind) => kind === 'full_attention');
  const given = json.get('full_attn_idxs');
  if (given === undefined) return Array<boolean>(count).fill(true);
  const indices: readonly unknown[] = Array.isArray(given) ? given : [null];
  if (!indices.every(Number.isSafeInteger))
    refuse(
      'ERR_FILE',
      `expected full_attn_idxs of config.json to list layers but received ${JSON.stringify(given).slice(0, 120)}`,
    );
  return Array.from({ length: count }, (_, i) => indices.includes(i));
}

/** The width of the MLP, of which config.json may say what it is made of. */
function mlpWidth(json: ConfigJson): number {
  const given = json.width(json.get('block_ff_dim') === undefined ? 'intermediate_size' : 'block_ff_dim');
  if (!json.flag('block_auto_adjust_ff_dim')) return given;
  const part = Math.floor((2 * given) / 3);
  if (json.get('block_ffn_dim_multiplier') === undefined) return part;
  const multiple = json.positiveInteger('block_multiple_of');
  return multiple * Math.ceil(Math.floor(json.factor('block_ffn_dim_multiplier') * part) / multiple);
}

/** Layers without attention have no heads of keys there. */
const gguf: GgufLayout<Lfm2Config> = {
  architecture: 'lfm2',
  names: {
    'model.embed_tokens': 'token_embd',
    'model.embedding_norm': 'token_embd_norm',
    lm_head: 'output',
    operator_norm: 'attn_norm',
    ffn_norm: 'ffn_norm',
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.out_proj': 'attn_output',
    'self_attn.q_layernorm': 'attn_q_norm',
    'self_attn.k_layernorm': 'attn_k_norm',
    'conv.in_proj': 'shortconv.in_proj',
    'conv.conv': 'shortconv.conv',
    'conv.out_proj': 'shortconv.out_proj',
    'feed_forward.w1': 'ffn_gate',
    'feed_forward.w3': 'ffn_up',
    'feed_forward.w2': 'ffn_down',
  },
  neutral: { 'rope.scaling.type': ['none'] },
  rows: () => ({}),
  fields(c) {
    if (c.convBias) unsupported('convolutions have biases, which llama.cpp does not read');
    const [first] = attentionLayers(c);
    if (first?.rope.scaling.type !== 'default')
      unsupported('a lfm2 model is written with attention in some layer and its rope unscaled');
    const heads = c.layers.map(({ kind }) => (kind === 'state' ? 0 : c.numKeyValueHeads));
    return decoderFields(c, 'lfm2')
      .set('lfm2.attention.head_count_kv', { i32s: heads })
      .set('lfm2.shortconv.l_cache', { u32: c.convTaps });
  },
  frequencyFactors: () => ({}),
  sizes: (number) => ({
    hidden_size: number('embedding_length'),
    intermediate_size: number('feed_forward_length'),
    block_auto_adjust_ff_dim: false,
    num_hidden_layers: number('block_count'),
    num_attention_heads: number('attention.head_count'),
    max_position_embeddings: number('context_length'),
    norm_eps: number('attention.layer_norm_rms_epsilon'),
    rope_theta: number('rope.freq_base'),
    conv_L_cache: number('shortconv.l_cache'),
  }),
  configJson({ values, key }) {
    const name = key('attention.head_count_kv');
    const heads = [...(values.numbers(name) ?? [])];
    const most = Math.max(0, ...heads);
    if (heads.some((count) => count !== 0 && count !== most))
      values.fail(`has other values of ${name} in other layers with attention`, 'ERR_UNSUPPORTED');
    return {
      num_key_value_heads: most,
      head_dim: values.count(key('attention.key_length')),
      layer_types: heads.map((count) => (count === 0 ? 'conv' : 'full_attention')),
    };
  },
};

export const lfm2: Family<Lfm2Config> = {
  className: 'Lfm2ForCausalLM',
  defaults: {
    ...{ norm_eps: 1e-5, intermediate_size: 12288, num_key_value_heads: 8, max_position_embeddings: 128000 },
    ...{
      conv_L_cache: 3,
      block_multiple_of: 256,
      block_ffn_dim_multiplier: 1,
      block_auto_adjust_ff_dim: true,
    },
    ...{ rope_theta: 1e6, tie_word_embeddings: true },
  },

  config(json) {
    // Older files say these in other words.
    const { theta, tie_embedding: tied } = json.raw;
    const own = new ConfigJson(
      {
        ...json.raw,
        ...{ rms_norm_eps: json.number('norm_eps'), intermediate_size: mlpWidth(json) },
        ...(typeof theta === 'number' && { rope_theta: theta }),
        ...(typeof tied === 'boolean' && { tie_word_embeddings: tied }),
      },
      json.limits,
    );
    const decoder = decoderConfig(own);
    const { hiddenSize, headDim, numKeyValueHeads: kvHeads, numHiddenLayers } = decoder;
    const convTaps = json.positiveInteger('conv_L_cache');
    if (convTaps > maxTaps)
      refuse('ERR_UNSUPPORTED', `config.json has conv_L_cache = ${convTaps}; supported are 1 to ${maxTaps}`);
    const rope = parseRope(own.raw, decoder.maxPositionEmbeddings);
    const attention = { kind: 'attention', kvHeads, headDim, window: 0, rope } as const;
    const convolution = { kind: 'state', states: { conv: convStateShape(convTaps, hiddenSize) } } as const;
    return {
      ...decoder,
      ...{ convTaps, convBias: json.flag('conv_bias') },
      layers: attentionIn(json, numHiddenLayers).map((attends): LayerShape =>
        attends ? attention : convolution,
      ),
    };
  },

  stem: (c) => ({ embedding: table('model.embed_tokens', c.vocabSize, c.hiddenSize) }),
  blocks: 'model.layers',
  layer: (c, index) => (c.layers[index]!.kind === 'state' ? convolutionRows(c) : attentionRows(c)),
  head,

  embed: (_, stem, ids) => embedding(stem.embedding, ids, 'f32'),

  /** x + mix(norm(x)), a convolution or attention, then x + w2(silu(w1(norm(x))) · w3(norm(x))). */
  block(run, w: Layer, index, input) {
    const { rmsNormEps: eps } = run.config;
    const [x, normed] = normOf(input, w.inputNorm, eps, run);
    const mixed = 'taps' in w ? convolutionOf(run, w, index, normed) : attentionOf(run, w, index, normed);
    const [middle, normed2] = normOf({ x, addend: mixed }, w.postNorm, eps, run);
    return { x: middle, addend: gatedMlp(run, normed2, w) };
  },

  norm: (run, w: WeightsOf<ReturnType<typeof head>>, x) =>
    moved(x, (t) => rmsNorm(t, w.norm, run.config.rmsNormEps, run.dtype)),

  numbers(c, index) {
    const { hiddenSize: d, intermediateSize: ff, numAttentionHeads: heads, numKeyValueHeads: kvHeads } = c;
    if (c.layers[index]!.kind === 'state')
      return {
        kept: 5 * d + 2 * ff,
        keptFloats: 2 * d,
        working: 5 * d + 3 * ff,
        inputs: [[d], [d], [ff]],
        gradients: [[3 * d], [d], [ff, ff]],
      };
    const [q, kv] = [heads * c.headDim, kvHeads * c.headDim];
    return {
      kept: d + 3 * q + 3 * kv + 2 * ff,
      keptFloats: 2 * d + 2 * heads + kvHeads,
      working: d + q + 2 * kv + 3 * ff,
      inputs: [[d], [q], [ff]],
      gradients: [[q, kv, kv], [d], [ff, ff]],
    };
  },

  gguf,
};
