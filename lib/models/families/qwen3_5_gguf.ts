/** Qwen3.5 in GGUF files: llama.cpp's architecture qwen35. */
import type { GgufValues } from '../../formats/gguf_values';
import { isRecord } from '../../validate';
import type { DecoderConfig } from '../config/common';
import { attentionLayers } from '../config/model_config';
import type { VectorRow } from '../config/rows';
import {
  decoderFields,
  decoderLayout,
  llamaNames,
  plusOne,
  unsupported,
  type ColumnOrder,
  type GgufLayout,
  type RowOrder,
  type StoredValues,
} from './gguf_layout';

export interface Qwen35Config extends DecoderConfig {
  /** Whether the linear layers of attention have biases. */
  readonly attentionBias: boolean;
  /** Heads of q and k of a delta rule, and numbers of each. */
  readonly linearKeyHeads: number;
  readonly linearKeyDim: number;
  /** Those of v. */
  readonly linearValueHeads: number;
  readonly linearValueDim: number;
  /** Tokens that the convolution before a delta rule sees. */
  readonly convTaps: number;
}

/** A_log, of which files have what multiplies the steps: −e^A. */
const decay: StoredValues = {
  written: (a) => -Math.exp(a),
  read: (rate) => (rate < 0 ? Math.log(-rate) : NaN),
};

function valuesOf({ module, tensor, shape }: VectorRow): StoredValues | undefined {
  if (tensor === 'A_log') return decay;
  const adds = tensor === 'weight' && shape.length === 1 && module !== 'linear_attn.norm';
  return adds ? plusOne : undefined;
}

/**
 * The heads of v of a delta rule, of which several read one head of k: Hugging Face's files have those of one k together, GGUF files first one of
 * each k, then the next.
 */
function headOrder({ linearKeyHeads: keys, linearValueHeads: heads }: Qwen35Config): RowOrder {
  const each = heads / keys;
  return Uint32Array.from({ length: heads }, (_, i) => (i % keys) * each + Math.floor(i / keys));
}

/** The rows of heads of so many numbers, behind `before` rows that stay. */
function rowsOfHeads(order: RowOrder, width: number, before = 0): RowOrder {
  return Uint32Array.from({ length: before + order.length * width }, (_, row) => {
    if (row < before) return row;
    const head = Math.floor((row - before) / width);
    return before + order[head]! * width + ((row - before) % width);
  });
}

/** How many layers lie between two with attention, and this one. @throws ERR_UNSUPPORTED for layers in another order */
function intervalOf({ layers }: Qwen35Config): number {
  const interval = layers.findIndex(({ kind }) => kind === 'attention') + 1;
  const isOwn = ({ kind }: Qwen35Config['layers'][number], i: number): boolean =>
    (kind === 'attention') === ((i + 1) % interval === 0);
  if (interval === 0 || !layers.every(isOwn))
    unsupported('attention is not in every n-th layer, which is what GGUF files of qwen35 say');
  return interval;
}

/** How many of the pairs that are rotated turn by the place of a token in time, in height and in width; of a text these are one. */
function sectionsOf({ raw }: Qwen35Config, pairs: number): number[] {
  const settings = raw['rope_parameters'] ?? raw['rope_scaling'];
  const given: unknown = isRecord(settings) ? settings['mrope_section'] : undefined;
  if (
    Array.isArray(given) &&
    given.length === 3 &&
    given.reduce((a: number, b) => a + Number(b), 0) === pairs
  )
    return [...(given as number[]), 0];
  return [Math.ceil(pairs / 3), Math.ceil((pairs - 1) / 3), Math.floor(pairs / 3), 0];
}

/** Which layers have a delta rule: the file lists them, or every n-th layer has none. */
function layerTypes(values: GgufValues, key: (name: string) => string, count: number): string[] {
  const listed = values.numbers(key('attention.recurrent_layers'));
  if (listed && listed.length < count)
    values.fail(`has ${listed.length} layers in ${key('attention.recurrent_layers')}: expected ${count}`);
  const interval = values.count(key('full_attention_interval')) ?? 4;
  const isDelta = (i: number): boolean => (listed ? listed[i] !== 0 : (i + 1) % interval !== 0);
  return Array.from({ length: count }, (_, i) => (isDelta(i) ? 'linear_attention' : 'full_attention'));
}

export const qwen35Layout: GgufLayout<Qwen35Config> = {
  ...decoderLayout('qwen35', false),
  names: {
    ...llamaNames,
    post_attention_layernorm: 'post_attention_norm',
    'linear_attn.in_proj_qkv': 'attn_qkv',
    'linear_attn.in_proj_z': 'attn_gate',
    'linear_attn.in_proj_b': 'ssm_beta',
    'linear_attn.in_proj_a': 'ssm_alpha',
    'linear_attn.conv1d': 'ssm_conv1d',
    'linear_attn.dt_bias': 'ssm_dt.bias',
    'linear_attn.A_log': 'ssm_a',
    'linear_attn.norm': 'ssm_norm',
    'linear_attn.out_proj': 'ssm_out',
  },
  values: valuesOf,
  neutral: {
    'rope.dimension_count': 'read',
    'rope.dimension_sections': 'read',
    nextn_predict_layers: 'read',
  },

  rows(c): Readonly<Record<string, RowOrder>> {
    if (c.linearKeyHeads === c.linearValueHeads) return {};
    const order = headOrder(c);
    const keys = 2 * c.linearKeyHeads * c.linearKeyDim;
    const mixed = rowsOfHeads(order, c.linearValueDim, keys);
    return {
      'linear_attn.in_proj_qkv': mixed,
      'linear_attn.conv1d': mixed,
      'linear_attn.in_proj_z': rowsOfHeads(order, c.linearValueDim),
      'linear_attn.in_proj_a': order,
      'linear_attn.in_proj_b': order,
      'linear_attn.dt_bias': order,
      'linear_attn.A_log': order,
    };
  },
  columns(c): Readonly<Record<string, ColumnOrder>> {
    if (c.linearKeyHeads === c.linearValueHeads) return {};
    return { 'linear_attn.out_proj': { order: headOrder(c), width: c.linearValueDim } };
  },

  /** The blocks behind those of the model predict further tokens. */
  skips: (name, { numHiddenLayers }) => Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? -1) >= numHiddenLayers,

  fields(c) {
    const interval = intervalOf(c);
    const { rope } = attentionLayers(c)[0]!;
    const { linearKeyDim: width, linearValueHeads: heads } = c;
    if (c.attentionBias) unsupported('attention has biases, which llama.cpp does not read of a qwen35');
    if (width !== c.linearValueDim)
      unsupported(
        `heads of ${width} and ${c.linearValueDim} numbers in a delta rule, of which llama.cpp reads one width`,
      );
    if (rope.scaling.type !== 'default')
      unsupported(`rope of type ${rope.scaling.type} is not written for a qwen35`);
    const fields = decoderFields(c, 'qwen35');
    const numbers = {
      full_attention_interval: interval,
      'ssm.conv_kernel': c.convTaps,
      'ssm.state_size': width,
      'ssm.group_count': c.linearKeyHeads,
      'ssm.time_step_rank': heads,
      'ssm.inner_size': heads * width,
    };
    for (const [name, u32] of Object.entries(numbers)) fields.set(`qwen35.${name}`, { u32 });
    const sections = sectionsOf(c, (rope.width ?? c.headDim) / 2);
    return fields.set('qwen35.rope.dimension_sections', { i32s: sections });
  },

  configJson({ values, key, headDim }) {
    const count = (name: string): number => values.count(key(name)) ?? values.fail(`has no ${key(name)}`);
    const [heads, inner] = [count('ssm.time_step_rank'), count('ssm.inner_size')];
    const layers = count('block_count') - (values.count(key('nextn_predict_layers')) ?? 0);
    if (heads === 0 || inner % heads !== 0 || layers < 1)
      values.fail(
        `has ${inner} numbers in ${heads} heads and ${layers} layers: expected whole heads and at least one layer`,
      );
    return {
      num_hidden_layers: layers,
      layer_types: layerTypes(values, key, layers),
      linear_conv_kernel_dim: count('ssm.conv_kernel'),
      linear_num_key_heads: count('ssm.group_count'),
      linear_key_head_dim: count('ssm.state_size'),
      linear_num_value_heads: heads,
      linear_value_head_dim: inner / heads,
      partial_rotary_factor: (values.count(key('rope.dimension_count')) ?? headDim) / headDim,
    };
  },
};
