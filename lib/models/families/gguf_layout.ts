/** How llama.cpp names, orders and describes what a family has. */
import { loraError } from '../../errors';
import type { GgufValues } from '../../formats/gguf_values';
import type { GgufField } from '../../formats/gguf_write';
import type { DecoderConfig } from '../config/common';
import { attentionLayers, type ModelConfig } from '../config/model_config';
import { inverseFrequencies } from '../config/rope';
import type { VectorRow } from '../config/rows';

/** The rows of a matrix in a GGUF file: row i of it is row `order[i]` of Hugging Face's. */
export type RowOrder = Uint32Array;

/** The columns of a matrix in a GGUF file: group i of `width` neighboring ones is group `order[i]` of Hugging Face's. */
export interface ColumnOrder {
  readonly order: Uint32Array;
  readonly width: number;
}

/** The values of a vector in a GGUF file, in F32. */
export interface StoredValues {
  /** That of a value of Hugging Face's file. */
  written(this: void, value: number): number;
  /** And back; NaN where no value gives it. */
  read(this: void, value: number): number;
}

/** The weights of norms that multiply by 1 + w. */
export const plusOne: StoredValues = { written: (w) => w + 1, read: (w) => w - 1 };

/** Where a file says how vectors of texts are pooled. */
export const poolingKey = (architecture: string): string => `${architecture}.pooling_type`;

export interface GgufLayout<C extends ModelConfig = ModelConfig> {
  /** general.architecture. */
  readonly architecture: string;
  /**
   * By the path of a module: its name; inside of block N what follows `blk.N.`. Of a tensor that is no `weight` or `bias`, or not named like
   * those of its module: its whole name, by its own path.
   */
  readonly names: Readonly<Record<string, string>>;
  /** Whether files of this family, of several that are one architecture there, have attention.sliding_window; 'any': some have. */
  readonly slides?: true | 'any';
  /** What the values of a vector are there; absent or undefined: the same. */
  values?(this: void, row: VectorRow): StoredValues | undefined;
  /** The modules of a block whose rows stand in another order, and the tensors of names of their own. */
  rows(c: C): Readonly<Record<string, RowOrder>>;
  /** Those whose columns do. */
  columns?(c: C): Readonly<Record<string, ColumnOrder>>;
  /** Whether a tensor of a file is one that no model of the family reads. */
  skips?(this: void, name: string, c: C): boolean;
  /** The values that llama.cpp computes a model by. @throws ERR_UNSUPPORTED for what its files do not say. */
  fields(c: C): Map<string, GgufField>;
  /**
   * Values of a file, behind the name of the architecture, that change the mathematics of some model, as `neutral` of a family says it of
   * config.json: instead of the common ones (files/gguf_config.ts).
   */
  readonly neutral?: Readonly<Record<string, readonly unknown[] | 'read'>>;
  /** Whether llama.cpp wants the matrix of a tied head a second time. */
  readonly ownHead?: true;
  /** The sizes and constants of config.json in the place of those of Llama's words. `number`: a value that a file must have. */
  sizes?(this: void, number: (name: string) => number): Record<string, unknown>;
  /** Keys of config.json that files of this family say beyond those of all. */
  configJson?(file: DescribedFile): Record<string, unknown>;
  /** What llama.cpp divides the frequencies of the rotation by. */
  frequencyFactors(c: C): FrequencyFactors;
}

/** A file that is read. */
export interface DescribedFile {
  readonly values: GgufValues;
  /** A name behind that of the architecture. */
  key(this: void, name: string): string;
  /** Numbers of a head, said or divided; of a family with `sizes` 0. */
  readonly headDim: number;
  /** The factors of frequencies that the file has. */
  readonly factors: FrequencyFactors;
  /** Whether the file has a tensor. */
  hasTensor(this: void, name: string): boolean;
}

/**
 * The window of layers that slide where `slides` says so, and of no others.
 * @throws ERR_UNSUPPORTED for other windows: they are not `pattern`, which is all that llama.cpp computes
 */
export function windowOfPattern(
  config: ModelConfig,
  slides: (index: number) => boolean,
  pattern: string,
): number {
  const layers = attentionLayers(config);
  const { window } = layers[0]!;
  if (window === 0 || layers.some((one, i) => one.window !== (slides(i) ? window : 0)))
    unsupported(`sliding windows are not those of ${pattern}`);
  return window;
}

/** Names of tensors that hold factors of frequencies: Llama 3's, and longrope's. */
export const factorTensors = [
  'rope_freqs.weight',
  'rope_factors_long.weight',
  'rope_factors_short.weight',
] as const;

/** The factors of those that there are. */
export type FrequencyFactors = Readonly<Partial<Record<(typeof factorTensors)[number], Float32Array>>>;

/** The names of Llama's modules. */
export const llamaNames = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
  input_layernorm: 'attn_norm',
  post_attention_layernorm: 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
} as const;

/** @throws why a model is not written. */
export function unsupported(message: string): never {
  throw loraError('convertModel', 'ERR_UNSUPPORTED', message);
}

function refuseWindows(config: DecoderConfig, architecture: string): void {
  const { maxPositionEmbeddings: context } = config;
  const window = attentionLayers(config)
    .map((layer) => layer.window)
    .find((size) => size > 0 && size < context);
  if (window !== undefined)
    unsupported(
      `the model has sliding windows of ${window}, which GGUF files of ${architecture} do not have`,
    );
}

/** The values of a decoder whose layers rotate as `rope` says, which is that of the first. */
export function decoderFields(
  config: DecoderConfig,
  architecture: string,
  rope = attentionLayers(config)[0]!.rope,
): Map<string, GgufField> {
  const { theta, scaling } = rope;
  if (scaling.type === 'yarn' || scaling.type === 'longrope')
    unsupported(`rope of type ${scaling.type} is not written`);
  const u32: readonly [string, number][] = [
    ['vocab_size', config.vocabSize],
    ['context_length', config.maxPositionEmbeddings],
    ['embedding_length', config.hiddenSize],
    ['block_count', config.numHiddenLayers],
    ['feed_forward_length', config.intermediateSize],
    ['attention.head_count', config.numAttentionHeads],
    ['attention.head_count_kv', config.numKeyValueHeads],
    ['attention.key_length', config.headDim],
    ['attention.value_length', config.headDim],
    ['rope.dimension_count', rope.width ?? config.headDim],
  ];
  const fields = new Map<string, GgufField>(
    u32.map(([key, value]) => [`${architecture}.${key}`, { u32: value }]),
  );
  fields.set(`${architecture}.attention.layer_norm_rms_epsilon`, { f32: config.rmsNormEps });
  fields.set(`${architecture}.rope.freq_base`, { f32: theta });
  if (scaling.type === 'linear') {
    fields.set(`${architecture}.rope.scaling.type`, { text: 'linear' });
    fields.set(`${architecture}.rope.scaling.factor`, { f32: scaling.factor });
  }
  return fields;
}

/** Those of Llama 3's rope. */
function llama3Factors(config: DecoderConfig): FrequencyFactors {
  const { headDim } = config;
  const { rope } = attentionLayers(config)[0]!;
  if (rope.scaling.type !== 'llama3') return {};
  const scaled = inverseFrequencies(rope, headDim);
  const whole = inverseFrequencies({ theta: rope.theta, scaling: { type: 'default' } }, headDim);
  return { 'rope_freqs.weight': Float32Array.from(whole, (frequency, i) => frequency / scaled[i]!) };
}

/** Heads whose numbers i and headDim/2 + i are turned together become heads whose numbers 2i and 2i + 1 are. */
function pairedRows(heads: number, headDim: number): RowOrder {
  const half = headDim / 2;
  return Uint32Array.from({ length: heads * headDim }, (_, row) => {
    const within = row % headDim;
    return row - within + (within % 2) * half + Math.floor(within / 2);
  });
}

/**
 * The files of a decoder whose layers are alike.
 * @param paired whether the two numbers of a head of q and k that rope turns together are neighbors there
 */
export const decoderLayout = (architecture: string, paired: boolean): GgufLayout<DecoderConfig> => ({
  architecture,
  names: llamaNames,
  rows: ({
    numAttentionHeads: heads,
    numKeyValueHeads: kvHeads,
    headDim,
  }): Readonly<Record<string, RowOrder>> =>
    paired
      ? { 'self_attn.q_proj': pairedRows(heads, headDim), 'self_attn.k_proj': pairedRows(kvHeads, headDim) }
      : {},
  fields(config) {
    refuseWindows(config, architecture);
    return decoderFields(config, architecture);
  },
  frequencyFactors: llama3Factors,
});
