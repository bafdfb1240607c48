/**
 * Gemma 4: Gemma 3 whose norms have their weights as they are, with inputs of each layer that follow from the ids, keys and values that the last
 * layers share, and wider heads in the layers that see all. Some models have experts beside the MLP of each layer.
 */
import { cast, embedding, gated, rmsNorm, scaledRouting } from '../../ops';
import { rawFilled } from '../../tensor/raw';
import { moved } from '../../tensor/scope';
import { splitRows } from '../../ops/rows';
import type { Tensor } from '../../tensor/tensor';
import { decoderConfig, type DecoderConfig } from '../config/common';
import { refuse, type ConfigJson } from '../config/config_json';
import type { AttentionShape } from '../config/model_config';
import { parseRope, ropeOfType } from '../config/rope';
import { column, linear, table, vector, type Weights, type WeightsOf } from '../config/rows';
import { layerTypes, slidingWindows } from '../config/windows';
import {
  alone,
  expertRows,
  expertsConfig,
  expertsOf,
  routed,
  routedWeights,
  type ExpertsConfig,
} from './experts';
import type { Family } from './family';
import { embeddingScale } from './gemma3';
import { gemma4Layout, type Gemma4Config } from './gemma4_gguf';
import { llamaHead, type LlamaHead } from './llama';
import {
  attend,
  attendToShared,
  gatedMlp,
  linearOf,
  linears,
  normOf,
  scaled,
  splitHeads,
  summed,
  type Run,
} from './parts';

/** Of a model without experts. */
const none: ExpertsConfig = { numExperts: 0, expertsPerToken: 0, expertSize: 0 };

/** Its sizes, which differ between layers. */
function sizesOf(c: Gemma4Config, index: number) {
  const { kvHeads, headDim, keysOf, window } = c.layers[index]!;
  const ownKeys = keysOf === undefined;
  return {
    q: c.numAttentionHeads * headDim,
    kv: kvHeads * headDim,
    headDim,
    ownKeys,
    ownValues: ownKeys && !(c.keysAreValues && window === 0),
    ff: c.intermediateSize * (c.doubleWideMlp && !ownKeys ? 2 : 1),
  };
}

const stem = (c: Gemma4Config) => {
  const width = c.numHiddenLayers * c.layerInputWidth;
  return {
    embedding: table('model.embed_tokens', c.vocabSize, c.hiddenSize),
    ...(width > 0 && {
      layerEmbedding: table('model.embed_tokens_per_layer', c.vocabSize, width),
      layerProjection: linear('layerInput', 'model.per_layer_model_projection', width, c.hiddenSize),
      layerNorm: vector('model.per_layer_projection_norm', c.layerInputWidth),
    }),
  };
};

const layer = (c: Gemma4Config, index: number) => {
  const { hiddenSize: d, attentionBias, layerInputWidth: p } = c;
  const { q, kv, headDim, ownKeys, ownValues, ff } = sizesOf(c, index);
  return {
    attentionNorm: vector('input_layernorm', d),
    qNorm: vector('self_attn.q_norm', headDim),
    kNorm: ownKeys ? vector('self_attn.k_norm', headDim) : undefined,
    q: linear('query', 'self_attn.q_proj', q, d, attentionBias),
    k: ownKeys ? linear('key', 'self_attn.k_proj', kv, d, attentionBias) : undefined,
    v: ownValues ? linear('value', 'self_attn.v_proj', kv, d, attentionBias) : undefined,
    o: linear('attentionOutput', 'self_attn.o_proj', d, q, attentionBias),
    attendedNorm: vector('post_attention_layernorm', d),
    mlpNorm: vector('pre_feedforward_layernorm', d),
    gate: linear('gate', 'mlp.gate_proj', ff, d),
    up: linear('up', 'mlp.up_proj', ff, d),
    down: linear('mlpOutput', 'mlp.down_proj', d, ff),
    madeNorm: vector('post_feedforward_layernorm', d),
    inputGate: p > 0 ? linear('layerInput', 'per_layer_input_gate', p, d) : undefined,
    inputProjection: p > 0 ? linear('layerInput', 'per_layer_projection', d, p) : undefined,
    inputNorm: p > 0 ? vector('post_per_layer_input_norm', d) : undefined,
    scalar: vector('', 1, 'layer_scalar', 'fixed'),
  };
};

/** What a layer has beside these where it has experts. */
const expertLayer = ({ hiddenSize: d }: Gemma4Config, { numExperts }: ExpertsConfig) => ({
  router: linear('router', 'router.proj', numExperts, d),
  routerScale: vector('router', d, 'scale'),
  expertScales: column('router', numExperts, 'per_expert_scale'),
  denseNorm: vector('post_feedforward_layernorm_1', d),
  routedNorm: vector('pre_feedforward_layernorm_2', d),
  expertsNorm: vector('post_feedforward_layernorm_2', d),
});

type LayerWeights = WeightsOf<ReturnType<typeof layer>>;
type ExpertWeights = WeightsOf<ReturnType<typeof expertLayer>>;

/** The layers, of which the last `num_kv_shared_layers` read the keys of the last one before them that is of their type. */
function layersOf(json: ConfigJson, decoder: Omit<DecoderConfig, 'layers'>): AttentionShape[] {
  const { raw } = json;
  const { numHiddenLayers: count, maxPositionEmbeddings: context } = decoder;
  const full = ropeOfType(raw, context, 'full_attention') ?? parseRope(raw, context);
  const sliding = ropeOfType(raw, context, 'sliding_attention') ?? parseRope({ rope_theta: 10000 }, context);
  const globalDim = json.width('global_head_dim', decoder.headDim);
  if (globalDim % 2 !== 0)
    refuse('ERR_UNSUPPORTED', `config.json has global_head_dim = ${globalDim}; supported are even numbers`);
  const globalKvHeads =
    json.flag('attention_k_eq_v') && json.get('num_global_key_value_heads') !== undefined
      ? json.width('num_global_key_value_heads')
      : decoder.numKeyValueHeads;
  json.positiveInteger('sliding_window');
  const windows = slidingWindows(json, count, (i) => (i + 1) % 6 !== 0);
  const first = count - json.integer('num_kv_shared_layers', 0);
  const owners = windows.slice(0, Math.max(0, first));
  return windows.map((window, i): AttentionShape => {
    const own = {
      kind: 'attention',
      window,
      ...(window > 0
        ? { kvHeads: decoder.numKeyValueHeads, headDim: decoder.headDim, rope: sliding }
        : { kvHeads: globalKvHeads, headDim: globalDim, rope: full }),
    } as const;
    if (i < first) return own;
    const keysOf = owners.lastIndexOf(window);
    if (keysOf < 0)
      refuse(
        'ERR_FILE',
        `config.json has num_kv_shared_layers = ${count - first}, and no layer before these is of the type of layer ${i}`,
      );
    return { ...own, keysOf };
  });
}

/** What layers do not read: the keys of those that share others. */
const unread = /\.layers\.(\d+)\.self_attn\.(?:k_proj|v_proj|k_norm)\.\w+$/;

/** v / √(mean(v²) + eps). Consumes v. */
function normed(v: Tensor, eps: number): Tensor {
  const ones = rawFilled([v.shape[3]!], 1, v.dtype, v.device);
  const y = moved(v, (t) => rmsNorm(t, ones, eps));
  ones.dispose();
  return y;
}

/** o(attention(x)), whose scores have no factor. Consumes x. */
function attended(run: Run<Gemma4Config>, w: LayerWeights, index: number, x: Tensor): Tensor {
  const { numAttentionHeads: heads, rmsNormEps: eps } = run.config;
  const { kvHeads } = run.config.layers[index]!;
  const projections = [w.q, w.k, w.v].filter((one) => one !== undefined);
  const [flatQ, flatK, flatV] = linears(run, x, projections) as [Tensor, Tensor?, Tensor?];
  x.dispose();
  const q = moved(splitHeads(flatQ, heads), (t) => rmsNorm(t, w.qNorm, eps));
  if (!flatK) return linearOf(run, attendToShared(run, index, q, { scale: 1 }), w.o);
  const raw = splitHeads(flatK, kvHeads);
  const k = rmsNorm(raw, w.kNorm!, eps);
  if (flatV) raw.dispose();
  const v = normed(flatV ? splitHeads(flatV, kvHeads) : raw, eps);
  return linearOf(run, attend(run, index, q, k, v, { scale: 1 }), w.o);
}

/** norm(projection(gelu(gate(x)) · input)), of the input of a layer. */
function ofLayerInput(run: Run<Gemma4Config>, w: LayerWeights, index: number, x: Tensor): Tensor {
  const narrow = cast(x, run.dtype);
  const gate = linearOf(run, narrow, w.inputGate!);
  const made = moved(gate, (t) => gated(t, run.layerInput!(index), 'gelu_tanh'));
  const projected = linearOf(run, made, w.inputProjection!);
  return moved(projected, (t) => rmsNorm(t, w.inputNorm!, run.config.rmsNormEps, run.dtype));
}

/** Where the experts of a layer are. */
const expertsPath = 'experts';

/**
 * norm(Σ over the experts of a token of s·w·down(gelu(gate(z)) · up(z))) with z = norm(x), w the softmax of router(x·scale/(√hidden·rms(x))) over those alone, and s a number of
 * the expert. Does not consume x.
 */
function ofExperts(run: Run<Gemma4Config>, all: Weights, x: Tensor): Tensor {
  const { rmsNormEps: eps, hiddenSize, experts } = run.config;
  const w = all as ExpertWeights & Weights;
  const modules = routedWeights(w, expertsPath);
  const sum = alone(run, modules, x, (own, t) => {
    const read = rmsNorm(t, w.routerScale, eps, run.dtype);
    const logits = scaled(linearOf(own, read, w.router), 1 / Math.sqrt(hiddenSize));
    const routing = routed(logits, { ...experts!, amongChosen: true });
    const z = rmsNorm(t, w.routedNorm, eps, run.dtype);
    return moved(z, (rows) =>
      expertsOf(own, rows, scaledRouting(routing, w.expertScales), modules, 'gelu_tanh'),
    );
  });
  return moved(sum, (t) => rmsNorm(t, w.expertsNorm, eps, run.dtype));
}

export const gemma4: Family<Gemma4Config> = {
  className: 'Gemma4ForCausalLM',
  defaults: {
    ...{ vocab_size: 262144, hidden_size: 2304, intermediate_size: 9216, num_hidden_layers: 30 },
    ...{ num_attention_heads: 8, num_key_value_heads: 4, head_dim: 256, global_head_dim: 512 },
    ...{ max_position_embeddings: 131072, sliding_window: 512, hidden_size_per_layer_input: 256 },
    ...{ tie_word_embeddings: true, bos_token_id: 2, eos_token_id: 1 },
  },
  neutral: {
    ...{ hidden_act: ['gelu_pytorch_tanh'], hidden_activation: ['gelu_pytorch_tanh'], mlp_bias: [false] },
    final_logit_softcapping: 'read',
    ...{ num_experts: 'read', num_local_experts: 'read' },
    use_bidirectional_attention: [false, 'vision'], // among the tokens of an image
  },

  config(json) {
    const decoder = decoderConfig(json);
    const layerInputWidth = json.integer('hidden_size_per_layer_input', 0);
    const cap = json.get('final_logit_softcapping');
    const vocabSize = decoder.vocabSize;
    if (layerInputWidth > 0 && json.width('vocab_size_per_layer_input', vocabSize) !== vocabSize)
      refuse(
        'ERR_UNSUPPORTED',
        `config.json has vocab_size_per_layer_input = ${JSON.stringify(json.get('vocab_size_per_layer_input'))}; supported is vocab_size, ${vocabSize}`,
      );
    layerTypes(json, decoder.numHiddenLayers);
    return {
      ...decoder,
      layers: layersOf(json, decoder),
      attentionBias: json.flag('attention_bias'),
      keysAreValues: json.flag('attention_k_eq_v'),
      doubleWideMlp: json.flag('use_double_wide_mlp'),
      layerInputWidth,
      ...(json.flag('enable_moe_block') && {
        experts: expertsConfig(json, 'top_k_experts', { experts: 128, perToken: 8, size: 704 }),
      }),
      ...(cap !== undefined && { logitCap: json.factor('final_logit_softcapping') }),
      ...(layerInputWidth > 0 && { readsIds: true }),
    };
  },

  nameInModel(name, c) {
    const index = unread.exec(name)?.[1];
    return index !== undefined && c.layers[Number(index)]?.keysOf !== undefined ? null : name;
  },
  stem,
  blocks: 'model.layers',
  layer: (c, index) => ({
    ...layer(c, index),
    ...(c.experts && {
      ...expertLayer(c, c.experts),
      ...expertRows(c.experts, c.hiddenSize, { path: expertsPath, order: 'below' }),
    }),
  }),
  head: llamaHead,

  /** Noise is not scaled. */
  embed: (run, w, ids) => scaled(embedding(w.embedding, ids, 'f32'), embeddingScale(run)),

  /** (norm(projection(x)/√hidden) + embeddings(ids)·√width)/√2 of each layer. */
  layerInputs(run, w: WeightsOf<ReturnType<typeof stem>>, ids, x) {
    const { layerInputWidth: width, numHiddenLayers: count, hiddenSize, rmsNormEps: eps } = run.config;
    if (width === 0) return undefined;
    const [batch, length] = ids.shape as [number, number];
    const split = (flat: Tensor): Tensor => moved(flat, (t) => t.reshape([batch, length, count, width]));
    const narrow = cast(x, run.dtype);
    const projected = split(linearOf(run, narrow, w.layerProjection!));
    // The factor 1/√hidden of what is normalized is one of eps.
    const normed = moved(projected, (t) => rmsNorm(t, w.layerNorm!, eps * hiddenSize));
    const embedded = scaled(split(embedding(w.layerEmbedding!, ids, run.dtype)), Math.sqrt(width));
    const sum = scaled(
      moved(normed, (t) => t.add(embedded)),
      Math.SQRT1_2,
    );
    embedded.dispose();
    const byLayer = moved(sum, (t) => t.transpose([2, 0, 1, 3]));
    const rows = moved(byLayer, (t) => t.reshape([count * batch * length, width]));
    const parts = moved(rows, (t) => splitRows(t, Array<number>(count).fill(batch * length)));
    return parts.map((part) => moved(part, (t) => t.reshape([batch, length, width])));
  },

  /**
   * x + norm(o(attention(norm(x)))), then x + norm(mlp) of mlp = down(gelu(gate(norm(x))) · up(norm(x))), or with experts norm(mlp) + theirs in the place of mlp, then
   * x + what the input of the layer gives, all times a scalar.
   */
  block(run, w: LayerWeights, index, input) {
    const { rmsNormEps: eps, layerInputWidth, experts } = run.config;
    const behind = (x: Tensor, weight: Tensor): Tensor => moved(x, (t) => rmsNorm(t, weight, eps, run.dtype));

    const [x, normed] = normOf(input, w.attentionNorm, eps, run);
    const mixed = behind(attended(run, w, index, normed), w.attendedNorm);
    const [middle, normed2] = normOf({ x, addend: mixed }, w.mlpNorm, eps, run);
    let mlp = gatedMlp(run, normed2, w, 'gelu_tanh');
    if (experts) {
      const all: Weights = w;
      const dense = behind(mlp, (all as ExpertWeights).denseNorm);
      mlp = summed({ x: dense, addend: ofExperts(run, all, middle) });
    }
    const made = behind(mlp, w.madeNorm);
    let sum = summed({ x: middle, addend: made });
    if (layerInputWidth > 0) sum = summed({ x: sum, addend: ofLayerInput(run, w, index, sum) });
    return { x: moved(sum, (t) => t.mul(w.scalar)), addend: null };
  },

  norm: (run, w: LlamaHead, x) => moved(x, (t) => rmsNorm(t, w.norm, run.config.rmsNormEps, run.dtype)),

  numbers(c, index) {
    const { hiddenSize: d, numAttentionHeads: heads, layerInputWidth: p } = c;
    const { q, kv, headDim, ownKeys, ownValues, ff } = sizesOf(c, index);
    const { numExperts, expertsPerToken: k, expertSize } = c.experts ?? none;
    // The outputs of the MLP and of the experts before their norms; what the experts make and gate.
    const routedKept = k > 0 ? 2 * d + k * (d + 2 * expertSize) : 0;
    const ownKv = ownKeys ? kv : 0;
    const isRead = c.layers.some((one) => one.keysOf === index);
    return {
      // What the norms of q, k and v read and give, what attention gives, and what those behind the three parts of a block read.
      kept: 4 * d + 3 * q + 4 * ownKv + 2 * ff + 3 * p + routedKept,
      keptFloats: 2 * d + 2 * heads + 2 * (ownKv / headDim) + 6 + (k > 0 ? 4 + 6 * k + numExperts : 0),
      crossing: 2 * p + (isRead ? 2 * kv : 0),
      working: 2 * d + q + 2 * ownKv + 3 * Math.max(ff, k * expertSize) + 2 * k * d,
      inputs: [[d], [q], [ff], ...(p > 0 ? [[p]] : [])],
      gradients: [
        [q, ...(ownKeys ? [kv] : []), ...(ownValues ? [kv] : [])],
        [d],
        [ff, ff],
        ...(p > 0 ? [[p]] : []),
      ],
    };
  },

  gguf: gemma4Layout,
};
