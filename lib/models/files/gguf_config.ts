/** The values of a GGUF file as the files that stand for them in a Hugging Face directory: config.json and generation_config.json. */
import type { GgufValues } from '../../formats/gguf_values';
import type { GgufBlock } from '../../formats/gguf_types';
import { torchNames, floatOfStored } from '../../formats/dtypes';
import { isBlockFormat, type BlockFormat } from '../../native/block_formats';
import { ggufTokenId } from '../../text/gguf_tokenizer';
import { suggest } from '../../validate';
import type { ModelConfig } from '../config/model_config';
import { familyOf, modelTypes, type ModelType } from '../families';
import type { FrequencyFactors, GgufLayout } from '../families/gguf_layout';
import { ggufTensors, movesWhole } from './gguf_names';
import { inverseFrequencies, type RopeScaling } from '../config/rope';

type Json = Record<string, unknown>;

/** What a configuration depends on of the tensors of a file. */
export interface GgufTensors {
  has(name: string): boolean;
  get(name: string): { readonly block: GgufBlock } | undefined;
}

/** The matrices that are kept in blocks, by the paths of their modules; not those whose columns cannot be put in order in them. */
export function ggufPacked(tensors: GgufTensors, config: ModelConfig): ModelConfig['packed'] {
  const packed = new Map<string, BlockFormat>();
  for (const [tensor, { name, columns }] of ggufTensors(config)) {
    const block = tensors.get(name)?.block;
    const format = block?.type.toLowerCase() ?? '';
    if (!block || !isBlockFormat(format) || (columns && !movesWhole(columns, block))) continue;
    packed.set(tensor.replace(/\.weight$/, ''), format);
  }
  return packed.size > 0 ? packed : undefined;
}

/** Keys that change the mathematics, with the only values that leave it as implemented; after the architecture's name. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  'attention.causal': [true],
  'attention.clamp_kqv': [0],
  'attention.max_alibi_bias': [0],
  'attention.scale': [],
  'attention.sliding_window_pattern': [],
  'attention.temperature_scale': [],
  attn_logit_softcapping: [],
  embedding_scale: [1],
  expert_count: [0],
  final_logit_softcapping: [],
  logit_scale: [1],
  nextn_predict_layers: [0],
  residual_scale: [1],
  'rope.dimension_sections': [],
  'rope.scale_linear': [1],
  'rope.scaling.attn_factor': [1],
  'rope.scaling.yarn_attn_factor': [1],
  'rope.scaling.yarn_ext_factor': [1],
  'rope.scaling.yarn_log_multiplier': [0],
  use_parallel_residual: [false],
};

function checkNeutral(values: GgufValues, { architecture, neutral: own }: GgufLayout): void {
  const version = values.get('general.quantization_version') ?? 2;
  if (version !== 2)
    values.fail(
      `has general.quantization_version = ${JSON.stringify(String(version).slice(0, 80))}; supported is 2`,
      'ERR_UNSUPPORTED',
    );
  for (const [name, allowed] of Object.entries({ ...neutral, ...own })) {
    const key = `${architecture}.${name}`;
    const value = values.get(key);
    if (value === undefined || allowed === 'read' || allowed.includes(value)) continue;
    const shown = JSON.stringify(
      typeof value === 'object' ? Array.from(value as Iterable<number>) : String(value),
    );
    values.fail(
      `has ${key} = ${shown.slice(0, 120)}, which is not supported${allowed.length > 0 ? `; supported is ${allowed.map(String).join(', ')}` : ''}`,
      'ERR_UNSUPPORTED',
    );
  }
}

/** The family of an architecture of llama.cpp's; several may be one there, which then differ in their windows. */
function typeOf(values: GgufValues, architecture: string, slides: boolean): ModelType {
  const own = modelTypes.filter((type) => familyOf({ modelType: type }).gguf.architecture === architecture);
  const found = own.find((type) =>
    [slides, 'any'].includes(familyOf({ modelType: type }).gguf.slides ?? false),
  );
  if (found) return found;
  if (own.length > 0)
    values.fail(
      `has ${slides ? `${architecture}.attention.sliding_window, which models of this architecture do not have here` : `no ${architecture}.attention.sliding_window, which models of this architecture have here`}`,
      'ERR_UNSUPPORTED',
    );
  const known = [...new Set(modelTypes.map((type) => familyOf({ modelType: type }).gguf.architecture))];
  const near = suggest(architecture, known);
  return values.fail(
    `has general.architecture = ${JSON.stringify(architecture.slice(0, 80))}; supported are ${known.join(', ')}${near ? ` (did you mean ${near}?)` : ''}`,
    'ERR_UNSUPPORTED',
  );
}

/** Relative differences of factors that are of rounding: llama.cpp's writer computes them in f32. */
const rounding = 1e-4;

/**
 * The values that give the factors of Llama 3's rope, which a GGUF file has instead of them: the frequencies of other models of 2^k original
 * positions, with the bounds of all published ones.
 */
function llama3Rope(values: GgufValues, factors: Float32Array, theta: number): Json | undefined {
  const headDim = 2 * factors.length;
  const factor = factors.reduce((most, one) => Math.max(most, one), 0);
  if (factors.every((one) => one === 1)) return undefined;
  const whole = inverseFrequencies({ theta, scaling: { type: 'default' } }, headDim);
  for (let originalLength = 1; originalLength <= 2 ** 24; originalLength *= 2) {
    const scaling: RopeScaling = {
      type: 'llama3',
      factor,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalLength,
    };
    const scaled = inverseFrequencies({ theta, scaling }, headDim);
    const fits = factors.every((one, i) => Math.abs((one * scaled[i]!) / whole[i]! - 1) < rounding);
    if (fits)
      return {
        ...{ rope_type: 'llama3', factor, low_freq_factor: 1, high_freq_factor: 4 },
        original_max_position_embeddings: originalLength,
      };
  }
  return values.fail(
    'has factors in rope_freqs.weight that are not those of Llama 3, which is not supported',
    'ERR_UNSUPPORTED',
  );
}

/** `rope_scaling`; undefined for none. */
function ropeScaling(
  values: GgufValues,
  architecture: string,
  { factors, theta, long }: { factors: Float32Array | undefined; theta: number; long: boolean },
): Json | undefined {
  const key = (name: string): string => `${architecture}.rope.scaling.${name}`;
  const type = values.text(key('type')) ?? 'none';
  const factor = values.number(key('factor'));
  const original = values.count(key('original_context_length'));
  if (factors) {
    if (type !== 'none' && type !== 'llama3')
      values.fail(
        `has ${key('type')} = ${type} beside rope_freqs.weight, which is not supported`,
        'ERR_UNSUPPORTED',
      );
    return llama3Rope(values, factors, theta);
  }
  if (type === 'none' || (type === 'longrope' && long)) return undefined;
  if (type !== 'linear' && type !== 'yarn')
    values.fail(
      `has ${key('type')} = ${JSON.stringify(type.slice(0, 80))}; supported are none, linear and yarn`,
      'ERR_UNSUPPORTED',
    );
  if (factor === undefined) return values.fail(`has ${key('type')} = ${type} and no ${key('factor')}`);
  if (type === 'linear') return { rope_type: 'linear', factor };
  return {
    ...{ rope_type: 'yarn', factor },
    ...(original !== undefined && { original_max_position_embeddings: original }),
    ...Object.fromEntries(
      ['beta_fast', 'beta_slow'].flatMap((name) => {
        const beta = values.number(key(`yarn_${name}`));
        return beta === undefined ? [] : [[name, beta]];
      }),
    ),
  };
}

/** The width of a head, which keys, values and, unless `partial`, the rotation must share. */
function headDim(values: GgufValues, architecture: string, partial: boolean): number | undefined {
  const [key, value, turned] = ['attention.key_length', 'attention.value_length', 'rope.dimension_count'].map(
    (name) => values.count(`${architecture}.${name}`),
  );
  const heads = values.countOfLayers(`${architecture}.attention.head_count`);
  const width = values.count(`${architecture}.embedding_length`);
  const divided = heads && width ? Math.floor(width / heads) : undefined;
  const size = key ?? divided;
  for (const [name, other] of [
    ['attention.value_length', value ?? divided ?? size],
    ['rope.dimension_count', partial ? size : (turned ?? size)],
  ] as const)
    if (other !== size)
      values.fail(
        `has heads of ${size} numbers and ${architecture}.${name} = ${other}: supported is the same`,
        'ERR_UNSUPPORTED',
      );
  return size;
}

/** The architecture. @throws ERR_UNSUPPORTED for a file that is no model */
export function architectureOf(values: GgufValues): string {
  const type = values.text('general.type') ?? 'model';
  if (type !== 'model')
    values.fail(
      `has general.type = ${JSON.stringify(type.slice(0, 80))}: expected a model${type === 'adapter' ? '; convertAdapter reads adapters' : ''}`,
      'ERR_UNSUPPORTED',
    );
  return values.text('general.architecture') ?? values.fail('has no general.architecture');
}

/** What a file lacks. */
const needed = <T>(values: GgufValues, key: string, value: T | undefined): T =>
  value ?? values.fail(`has no ${key}`);

/** How many ids there are. */
function vocabularyOf(values: GgufValues, key: string): number {
  const tokens = values.texts('tokenizer.ggml.tokens')?.length;
  const vocabulary = values.count(key) ?? tokens;
  if (vocabulary === undefined) return values.fail(`has neither ${key} nor tokenizer.ggml.tokens`);
  if (tokens !== undefined && tokens > vocabulary)
    values.fail(`has ${tokens} tokens and ${key} = ${vocabulary}`);
  return vocabulary;
}

/** The sizes and constants of a decoder in the words of Llama's config.json. */
function decoderJson(
  values: GgufValues,
  tensors: GgufTensors,
  { architecture, neutral: own }: GgufLayout,
  ropes: FrequencyFactors,
): Json {
  const factors = ropes['rope_freqs.weight'];
  const key = (name: string): string => `${architecture}.${name}`;
  const count = (name: string): number => needed(values, key(name), values.count(key(name)));
  const layers = (name: string): number => needed(values, key(name), values.countOfLayers(key(name)));
  const window = values.count(key('attention.sliding_window')) ?? 0;
  const theta = values.number(key('rope.freq_base')) ?? 10000;
  const heads = layers('attention.head_count');
  const size = headDim(values, architecture, own?.['rope.dimension_count'] === 'read');
  if (factors && 2 * factors.length !== size)
    values.fail(
      `has ${factors.length} numbers in rope_freqs.weight: expected half of ${size}, the width of a head`,
    );
  const eps = key('attention.layer_norm_rms_epsilon');
  const long = 'rope_factors_long.weight' in ropes;
  return {
    hidden_size: count('embedding_length'),
    intermediate_size: layers('feed_forward_length'),
    num_hidden_layers: count('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: values.countOfLayers(key('attention.head_count_kv')) ?? heads,
    head_dim: size,
    max_position_embeddings: count('context_length'),
    rms_norm_eps: needed(values, eps, values.number(eps)),
    rope_theta: theta,
    rope_scaling: ropeScaling(values, architecture, { factors, theta, long }) ?? null,
    hidden_act: 'silu',
    ...(window > 0 && { sliding_window: window }),
    ...(tensors.has('blk.0.attn_output.bias') && { attention_bias: true }),
    ...(tensors.has('blk.0.ffn_down.bias') && { mlp_bias: true }),
  };
}

/**
 * config.json.
 * @param factors the factors of frequencies that the file has
 * @throws ERR_FILE for a value that is missing or of the wrong kind; ERR_UNSUPPORTED for one that is not implemented. Both name the key.
 */
export function ggufConfigJson(
  values: GgufValues,
  tensors: GgufTensors,
  factors: FrequencyFactors = {},
): Json {
  const architecture = architectureOf(values);
  const key = (name: string): string => `${architecture}.${name}`;
  const window = values.count(key('attention.sliding_window')) ?? 0;
  const modelType = typeOf(values, architecture, window > 0);
  const { className, gguf } = familyOf({ modelType });
  checkNeutral(values, gguf);
  const stored = floatOfStored(tensors.get('token_embd.weight')?.block.type ?? '');
  const ends = endsOf(values);
  const sizes = gguf.sizes
    ? gguf.sizes((name) => needed(values, key(name), values.number(key(name))))
    : decoderJson(values, tensors, gguf, factors);
  return {
    architectures: [className],
    model_type: modelType,
    vocab_size: vocabularyOf(values, key('vocab_size')),
    ...sizes,
    tie_word_embeddings: !tensors.has('output.weight'),
    bos_token_id: ggufTokenId(values, 'bos') ?? null,
    eos_token_id: ends.length > 1 ? ends : (ends[0] ?? null),
    pad_token_id: ggufTokenId(values, 'padding') ?? null,
    ...(stored && { torch_dtype: torchNames[stored] }),
    ...gguf.configJson?.({
      ...{ values, key, factors, hasTensor: (name) => tensors.has(name) },
      headDim: Number(sizes['head_dim'] ?? 0),
    }),
  };
}

/** The ids that end a text or a turn. */
function endsOf(values: GgufValues): number[] {
  const ids = ['eos', 'eot', 'eom'].map((name) => ggufTokenId(values, name));
  return [...new Set(ids.filter((id) => id !== undefined))];
}

/** generation_config.json: what ends a text, and how the model's authors sample. */
export function ggufGenerationJson(values: GgufValues): Json {
  const number = (name: string): number | undefined => values.number(`general.sampling.${name}`);
  const temperature = number('temp');
  const sampled = {
    temperature,
    top_k: number('top_k'),
    top_p: number('top_p'),
    min_p: number('min_p'),
    repetition_penalty: number('penalty_repeat'),
  };
  const given = Object.entries(sampled).filter(([, value]) => value !== undefined);
  return {
    bos_token_id: ggufTokenId(values, 'bos') ?? null,
    eos_token_id: endsOf(values),
    pad_token_id: ggufTokenId(values, 'padding') ?? null,
    ...(temperature !== undefined && { do_sample: temperature > 0 }),
    ...Object.fromEntries(given),
  };
}
