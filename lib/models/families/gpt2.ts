/** GPT-2: LayerNorm, learned positions, one layer for q, k and v, and an MLP without a gate. Its files hold matrices as [in, out]. */
import { cast, embedding, layerNorm, splitColumns, unary } from '../../ops';
import type { GgufField } from '../../formats/gguf_write';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { everywhere, layerCount } from '../config/common';
import { refuse } from '../config/config_json';
import type { AttentionShape, ModelConfig } from '../config/model_config';
import { noRope } from '../config/rope';
import { conv1d, linear, table, vector, type WeightsOf } from '../config/rows';
import type { Family } from './family';
import { attend, linearOf, positionsOf, splitHeads, summed, type Run } from './parts';

/** What the block depends on. */
export interface Gpt2Config extends ModelConfig {
  /** Width of the MLP. */
  readonly intermediateSize: number;
  /** Added to the variance in LayerNorm. */
  readonly layerNormEps: number;
}

const stem = (c: Gpt2Config) => ({
  embedding: table('transformer.wte', c.vocabSize, c.hiddenSize),
  positions: table('transformer.wpe', c.maxPositionEmbeddings, c.hiddenSize, false),
});

const layer = ({ hiddenSize: d, intermediateSize: ff }: Gpt2Config) => ({
  norm1: vector('ln_1', d),
  norm1Bias: vector('ln_1', d, 'bias'),
  qkv: conv1d('queryKeyValue', 'attn.c_attn', 3 * d, d),
  o: conv1d('attentionOutput', 'attn.c_proj', d, d),
  norm2: vector('ln_2', d),
  norm2Bias: vector('ln_2', d, 'bias'),
  up: conv1d('up', 'mlp.c_fc', ff, d),
  down: conv1d('mlpOutput', 'mlp.c_proj', d, ff),
});

const head = (c: Gpt2Config) => ({
  norm: vector('transformer.ln_f', c.hiddenSize),
  normBias: vector('transformer.ln_f', c.hiddenSize, 'bias'),
  output: linear('outputEmbedding', 'lm_head', c.vocabSize, c.hiddenSize),
});

/** The norm of the residual stream, whose f32 its weights must have. */
const normOf = ({ config, dtype }: Run<Gpt2Config>, x: Tensor, weight: Tensor, bias: Tensor): Tensor =>
  moved(cast(weight, 'f32'), (w) =>
    moved(cast(bias, 'f32'), (b) => moved(layerNorm(x, w, b, config.layerNormEps), (y) => cast(y, dtype))),
  );

export const gpt2: Family<Gpt2Config> = {
  className: 'GPT2LMHeadModel',
  defaults: {
    n_positions: 1024,
    layer_norm_epsilon: 1e-5,
    activation_function: 'gelu_new',
    tie_word_embeddings: true,
  },
  // Its dropouts are those of its own pretraining: the base of an adapter has none.
  neutral: {
    activation_function: ['gelu_new', 'gelu_pytorch_tanh', 'gelu_fast'],
    scale_attn_weights: [true],
    scale_attn_by_inverse_layer_idx: [false],
    resid_pdrop: 'read',
  },

  config(json) {
    const hiddenSize = json.width('n_embd');
    const heads = json.width('n_head');
    const headDim = hiddenSize / heads;
    if (headDim % 2 !== 0)
      refuse(
        'ERR_UNSUPPORTED',
        `config.json has n_embd = ${hiddenSize} and n_head = ${heads}; supported are heads of an even width`,
      );
    const numHiddenLayers = layerCount(json, 'n_layer');
    const shape: AttentionShape = { kind: 'attention', kvHeads: heads, headDim, window: 0, rope: noRope };
    return {
      ...everywhere(json),
      hiddenSize,
      intermediateSize: json.width('n_inner', 4 * hiddenSize),
      numHiddenLayers,
      numAttentionHeads: heads,
      layers: Array.from({ length: numHiddenLayers }, () => shape),
      maxPositionEmbeddings: json.width('n_positions'),
      layerNormEps: json.number('layer_norm_epsilon'),
    };
  },

  // Older files have the masks of its attention.
  nameInModel: (name) => (/\.attn\.(masked_)?bias$/.test(name) ? null : name),
  stem,
  blocks: 'transformer.h',
  layer,
  head,

  embed: (_, w, ids) => embedding(w.embedding, ids, 'f32'),

  enter(run, w: WeightsOf<ReturnType<typeof stem>>, x) {
    const places = moved(positionsOf(run, x), (t) => embedding(w.positions, t, 'f32'));
    return summed({ x, addend: places });
  },

  /** x + o(attention(norm(x))), then x + down(gelu(up(norm(x)))). */
  block(run, w: WeightsOf<ReturnType<typeof layer>>, index, input) {
    const { hiddenSize: d, numAttentionHeads: heads } = run.config;
    const x = summed(input);
    const qkv = linearOf(run, normOf(run, x, w.norm1, w.norm1Bias), w.qkv);
    const [q, k, v] = moved(qkv, (t) => splitColumns(t, [d, d, d])).map((t) => splitHeads(t, heads));
    const attended = linearOf(run, attend(run, index, q!, k!, v!), w.o);

    const middle = summed({ x, addend: attended });
    const up = linearOf(run, normOf(run, middle, w.norm2, w.norm2Bias), w.up);
    const activated = moved(up, (t) => unary('gelu_tanh', t));
    return { x: middle, addend: linearOf(run, activated, w.down) };
  },

  norm: (run, w: WeightsOf<ReturnType<typeof head>>, x) =>
    moved(x, (t) => normOf(run, t, w.norm, w.normBias)),

  numbers({ hiddenSize: d, intermediateSize: ff, numAttentionHeads: heads }) {
    return {
      kept: 6 * d + 2 * ff,
      keptFloats: 2 * d + heads + 4,
      working: 4 * d + 2 * ff,
      inputs: [[d], [ff]],
      gradients: [[3 * d], [d], [ff]],
    };
  },

  gguf: {
    architecture: 'gpt2',
    names: {
      'transformer.wte': 'token_embd',
      'transformer.wpe': 'position_embd',
      ln_1: 'attn_norm',
      'attn.c_attn': 'attn_qkv',
      'attn.c_proj': 'attn_output',
      ln_2: 'ffn_norm',
      'mlp.c_fc': 'ffn_up',
      'mlp.c_proj': 'ffn_down',
      'transformer.ln_f': 'output_norm',
      lm_head: 'output',
    },
    rows: () => ({}),
    fields: (c) =>
      new Map<string, GgufField>([
        ['gpt2.vocab_size', { u32: c.vocabSize }],
        ['gpt2.context_length', { u32: c.maxPositionEmbeddings }],
        ['gpt2.embedding_length', { u32: c.hiddenSize }],
        ['gpt2.feed_forward_length', { u32: c.intermediateSize }],
        ['gpt2.block_count', { u32: c.numHiddenLayers }],
        ['gpt2.attention.head_count', { u32: c.numAttentionHeads }],
        ['gpt2.attention.layer_norm_epsilon', { f32: c.layerNormEps }],
      ]),
    frequencyFactors: () => ({}),
    sizes: (number) => ({
      n_positions: number('context_length'),
      n_embd: number('embedding_length'),
      n_inner: number('feed_forward_length'),
      n_layer: number('block_count'),
      n_head: number('attention.head_count'),
      layer_norm_epsilon: number('attention.layer_norm_epsilon'),
      activation_function: 'gelu_new',
    }),
  },
};
