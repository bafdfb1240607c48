/** Qwen3.5's text models: three layers of the gated delta rule to one of attention with a gate on its output and a rope on a quarter of a head. */
import {
  embedding,
  gated,
  gatedDelta,
  gatedDeltaAppend,
  rmsNorm,
  shortConv,
  shortConvAppend,
  unary,
} from '../../ops';
import { statesOf } from '../../ops/attention_paged';
import { convStateShape } from '../../ops/short_conv';
import { deltaStateShape, type DeltaOperands } from '../../ops/gated_delta';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { decoderConfig } from '../config/common';
import { refuse, type ConfigJson } from '../config/config_json';
import type { LayerShape } from '../config/model_config';
import { parseRope } from '../config/rope';
import { linear, table, taps, vector, type WeightsOf } from '../config/rows';
import { layerTypes } from '../config/windows';
import type { Family } from './family';
import { llamaHead, type LlamaHead } from './llama';
import {
  attend,
  columnsOf,
  gatedMlp,
  joinHeads,
  linearOf,
  linears,
  normOf,
  splitHeads,
  type Run,
} from './parts';
import { qwen35Layout, type Qwen35Config } from './qwen3_5_gguf';

/** What the norms of blocks, of q and of k add to their weights; the norm behind a delta rule adds nothing. */
const normOffset = 1;

/** Added to the squares of q, and of k, of a delta rule. */
const l2Eps = 1e-6;

const isDelta = (c: Qwen35Config, index: number): boolean => c.layers[index]!.kind === 'state';

/** The widths of q, or k, and of v of a delta rule. */
const deltaWidths = (c: Qwen35Config): { keys: number; values: number } => ({
  keys: c.linearKeyHeads * c.linearKeyDim,
  values: c.linearValueHeads * c.linearValueDim,
});

const attentionRows = (c: Qwen35Config) => {
  const { hiddenSize: d, attentionBias: bias } = c;
  const [q, kv] = [c.numAttentionHeads * c.headDim, c.numKeyValueHeads * c.headDim];
  return {
    qNorm: vector('self_attn.q_norm', c.headDim),
    kNorm: vector('self_attn.k_norm', c.headDim),
    // Each head has its q, and behind it the gate of its output.
    q: linear('query', 'self_attn.q_proj', 2 * q, d, bias),
    k: linear('key', 'self_attn.k_proj', kv, d, bias),
    v: linear('value', 'self_attn.v_proj', kv, d, bias),
    o: linear('attentionOutput', 'self_attn.o_proj', d, q, bias),
  };
};

const deltaRows = (c: Qwen35Config) => {
  const { hiddenSize: d, linearValueHeads: heads } = c;
  const { keys, values } = deltaWidths(c);
  return {
    qkv: linear('mixerInput', 'linear_attn.in_proj_qkv', 2 * keys + values, d),
    z: linear('mixerInput', 'linear_attn.in_proj_z', values, d),
    b: linear('mixerInput', 'linear_attn.in_proj_b', heads, d),
    a: linear('mixerInput', 'linear_attn.in_proj_a', heads, d),
    conv: taps('linear_attn.conv1d', 2 * keys + values, c.convTaps),
    dtBias: vector('linear_attn', heads, 'dt_bias'),
    aLog: vector('linear_attn', heads, 'A_log'),
    deltaNorm: vector('linear_attn.norm', c.linearValueDim),
    o: linear('attentionOutput', 'linear_attn.out_proj', d, values),
  };
};

const commonRows = (c: Qwen35Config) => {
  const { hiddenSize: d, intermediateSize: ff } = c;
  return {
    inputNorm: vector('input_layernorm', d),
    postNorm: vector('post_attention_layernorm', d),
    gate: linear('gate', 'mlp.gate_proj', ff, d),
    up: linear('up', 'mlp.up_proj', ff, d),
    down: linear('mlpOutput', 'mlp.down_proj', d, ff),
  };
};

type AttentionWeights = WeightsOf<ReturnType<typeof attentionRows>>;
type DeltaWeights = WeightsOf<ReturnType<typeof deltaRows>>;
type Layer = WeightsOf<ReturnType<typeof commonRows>> & (AttentionWeights | DeltaWeights);

/** Which layers have a delta rule: three of four where config.json does not list them. */
function deltaLayers(json: ConfigJson, layers: number): boolean[] {
  const kinds = layerTypes(json, layers, ['linear_attention', 'full_attention']);
  if (kinds) return kinds.map((kind) => kind === 'linear_attention');
  const interval = json.positiveInteger('full_attention_interval', 4);
  return Array.from({ length: layers }, (_, i) => (i + 1) % interval !== 0);
}

/** The rope without the sections of images: the three positions of a token of a text are one. */
function textRope(json: ConfigJson, context: number, headDim: number) {
  const settings = json.get('rope_parameters') ?? json.get('rope_scaling');
  if (typeof settings !== 'object') return parseRope(json.raw, context, headDim);
  const text = Object.fromEntries(
    Object.entries(settings as object).filter(([name]) => !name.startsWith('mrope_')),
  );
  return parseRope({ ...json.raw, rope_parameters: text }, context, headDim);
}

/** o(σ(gate) · attention(x)). Consumes x. */
function attentionOf(run: Run<Qwen35Config>, w: AttentionWeights, index: number, x: Tensor): Tensor {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, rmsNormEps: eps } = run.config;
  const [flatQ, flatK, flatV] = linears(run, x, [w.q, w.k, w.v]);
  x.dispose();
  const [q, gate] = columnsOf(splitHeads(flatQ, heads), [headDim, headDim]);
  const normed = (t: Tensor, weight: Tensor): Tensor =>
    moved(t, (of) => rmsNorm(of, weight, eps, of.dtype, normOffset));
  const [normedQ, normedK] = [normed(q, w.qNorm), normed(splitHeads(flatK, kvHeads), w.kNorm)];
  const attended = attend(run, index, normedQ, normedK, splitHeads(flatV, kvHeads));
  return linearOf(run, gatedBy(joinHeads(gate), attended, 'sigmoid'), w.o);
}

/** f(gate)·x. Consumes both. */
function gatedBy(gate: Tensor, x: Tensor, kind: 'sigmoid' | 'silu'): Tensor {
  const y = gated(gate, x, kind);
  gate.dispose();
  x.dispose();
  return y;
}

/** −e^A·softplus(a + dt), the logarithm of what a token leaves of S, in f32. Consumes a. */
function decayOf(a: Tensor, w: DeltaWeights): Tensor {
  const rate = moved(
    moved(w.aLog.to({ dtype: 'f32' }), (t) => t.exp()),
    (t) => t.mul(-1),
  );
  const shifted = moved(
    moved(a, (t) => t.to({ dtype: 'f32' })),
    (t) => moved(w.dtBias.to({ dtype: 'f32' }), (dt) => t.add(dt)),
  );
  const steps = moved(shifted, (t) => unary('softplus', t));
  return moved(rate, (by) => moved(steps, (t) => t.mul(by)));
}

/** silu(conv(x)). Consumes x. */
function convolved(run: Run<Qwen35Config>, w: DeltaWeights, index: number, x: Tensor): Tensor {
  const { past, segments } = run;
  const weight = w.conv.reshape([w.conv.shape[0]!, w.conv.shape[2]!]);
  return moved(x, (t) =>
    moved(weight, (taps) => {
      if (!past) return shortConv(t, taps, { kind: 'silu', keyBegin: segments?.keyBegin });
      const { states, slots } = statesOf(past, index);
      return shortConvAppend(t, taps, states['conv']!, slots, past.lengths, { kind: 'silu' });
    }),
  );
}

/** The delta rule of q, k and v → [b, s, heads, dv]. Consumes them. */
function deltaRule(run: Run<Qwen35Config>, index: number, operands: DeltaOperands): Tensor {
  const { past, segments, config } = run;
  const options = { scale: 1 / Math.sqrt(config.linearKeyDim), eps: l2Eps };
  let y: Tensor;
  if (past) {
    const { states, slots } = statesOf(past, index);
    const { lengths, phase } = past;
    y = gatedDeltaAppend(operands, states['delta']!, slots, lengths, { ...options, phase });
  } else y = gatedDelta(operands, { ...options, keyBegin: segments?.keyBegin });
  for (const t of Object.values(operands) as Tensor[]) t.dispose();
  return y;
}

/** o(norm(delta rule)·silu(z)). Consumes x. */
function deltaOf(run: Run<Qwen35Config>, w: DeltaWeights, index: number, x: Tensor): Tensor {
  const { linearKeyHeads: kHeads, linearValueHeads: vHeads, rmsNormEps: eps } = run.config;
  const { keys, values } = deltaWidths(run.config);
  const [qkv, z, b, a] = linears(run, x, [w.qkv, w.z, w.b, w.a]);
  x.dispose();
  const [q, k, v] = columnsOf(convolved(run, w, index, qkv), [keys, keys, values]);
  const made = deltaRule(run, index, {
    ...{ q: splitHeads(q, kHeads), k: splitHeads(k, kHeads), v: splitHeads(v, vHeads) },
    g: decayOf(a, w),
    beta: moved(
      moved(b, (t) => t.to({ dtype: 'f32' })),
      (t) => t.sigmoid(),
    ),
  });
  const normed = moved(made, (t) => rmsNorm(t, w.deltaNorm, eps));
  return linearOf(run, gatedBy(z, joinHeads(normed), 'silu'), w.o);
}

export const qwen35: Family<Qwen35Config> = {
  className: 'Qwen3_5ForCausalLM',
  defaults: {
    ...{ vocab_size: 248320, hidden_size: 4096, intermediate_size: 12288, num_hidden_layers: 32 },
    ...{ num_attention_heads: 16, num_key_value_heads: 4, head_dim: 256, max_position_embeddings: 32768 },
    ...{ linear_num_key_heads: 16, linear_key_head_dim: 128, linear_num_value_heads: 32 },
    ...{ linear_value_head_dim: 128, linear_conv_kernel_dim: 4, partial_rotary_factor: 0.25 },
  },
  neutral: { partial_rotary_factor: 'read', mlp_bias: [false] },

  config(json) {
    const decoder = decoderConfig(json);
    const { headDim, numKeyValueHeads: kvHeads, maxPositionEmbeddings: context } = decoder;
    const config = {
      ...decoder,
      layers: [],
      attentionBias: json.flag('attention_bias'),
      linearKeyHeads: json.width('linear_num_key_heads'),
      linearKeyDim: json.width('linear_key_head_dim'),
      linearValueHeads: json.width('linear_num_value_heads'),
      linearValueDim: json.width('linear_value_head_dim'),
      convTaps: json.positiveInteger('linear_conv_kernel_dim'),
    };
    const { linearKeyHeads: kHeads, linearValueHeads: vHeads, convTaps } = config;
    if (vHeads % kHeads !== 0)
      refuse(
        'ERR_FILE',
        `expected linear_num_value_heads ${vHeads} of config.json to be a multiple of linear_num_key_heads ${kHeads}`,
      );
    const { keys, values } = deltaWidths(config);
    const states = {
      conv: convStateShape(convTaps, 2 * keys + values),
      delta: deltaStateShape(vHeads, config.linearKeyDim, config.linearValueDim),
    };
    const rope = textRope(json, context, headDim);
    const layers = deltaLayers(json, decoder.numHiddenLayers).map((delta): LayerShape =>
      delta ? { kind: 'state', states } : { kind: 'attention', kvHeads, headDim, window: 0, rope },
    );
    return { ...config, layers };
  },

  // Its files have the names of the model that sees images, without its images or with what predicts further tokens.
  nameInModel: (name) =>
    /^(model\.)?mtp\./.test(name) ? null : name.replace(/^model\.language_model\./, 'model.'),
  nameInFile: (name) => name.replace(/^model\./, 'model.language_model.'),

  stem: (c) => ({ embedding: table('model.embed_tokens', c.vocabSize, c.hiddenSize) }),
  blocks: 'model.layers',
  head: llamaHead,
  layer: (c, index) => ({ ...commonRows(c), ...(isDelta(c, index) ? deltaRows(c) : attentionRows(c)) }),

  embed: (_, w, ids) => embedding(w.embedding, ids, 'f32'),

  /** x + o(mix(norm(x))), then x + down(silu(gate(norm(x))) · up(norm(x))). */
  block(run, w: Layer, index, input) {
    const { rmsNormEps: eps } = run.config;
    const [x, normed] = normOf(input, w.inputNorm, eps, run, normOffset);
    const addend = 'conv' in w ? deltaOf(run, w, index, normed) : attentionOf(run, w, index, normed);
    const [middle, normed2] = normOf({ x, addend }, w.postNorm, eps, run, normOffset);
    return { x: middle, addend: gatedMlp(run, normed2, w) };
  },

  norm: (run, w: LlamaHead, x) =>
    moved(x, (t) => rmsNorm(t, w.norm, run.config.rmsNormEps, run.dtype, normOffset)),

  numbers(c, index) {
    const { hiddenSize: d, intermediateSize: ff, numAttentionHeads: heads, headDim } = c;
    if (!isDelta(c, index)) {
      const [q, kv] = [heads * headDim, c.numKeyValueHeads * headDim];
      return {
        // q, k and what their norms read, the gate, v, the attention and what its gate makes of it.
        kept: d + 5 * q + 3 * kv + 2 * ff,
        keptFloats: 2 * d + 2 * heads + c.numKeyValueHeads,
        working: d + 3 * q + 2 * kv + 3 * ff,
        inputs: [[d], [q], [ff]],
        gradients: [[2 * q, kv, kv], [d], [ff, ff]],
      };
    }
    const { keys, values } = deltaWidths(c);
    const { linearValueHeads: vHeads } = c;
    const mixed = 2 * keys + values;
    return {
      // What the convolution reads and makes, z, the delta rule and its norm.
      kept: d + 2 * mixed + 3 * values + vHeads + 2 * ff,
      keptFloats: 2 * d + 6 * vHeads,
      working: d + 2 * mixed + 2 * values + 3 * ff,
      inputs: [[d], [values], [ff]],
      gradients: [[mixed, values, vHeads, vHeads], [d], [ff, ff]],
    };
  },

  gguf: qwen35Layout,
};
