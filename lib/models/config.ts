/** config.json of a Llama-family model, in the dialects of transformers 4 and 5, read strictly. */
import type { BlockFormat } from '../native/block_formats';
import type { DType } from '../native/dtype';
import { checkLimit, defaultLimits, type Limits } from '../formats/limits';
import { suggest } from '../validate';
import { refusedQuantization } from './quantization';
import { ConfigJson, refuse } from './config_json';
import { families, modelTypes, type ModelType } from './families';
import type { BlockShape } from './families/family';
import { parseRope, type RopeConfig } from './rope';

/** What the mathematics of a model depends on. */
export interface ModelConfig extends BlockShape {
  /** The family. */
  readonly modelType: ModelType;
  /** How many ids there are: logits are as wide. */
  readonly vocabSize: number;
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Width of the MLP. */
  readonly intermediateSize: number;
  /** How many blocks there are. */
  readonly numHiddenLayers: number;
  /** Heads of the queries. */
  readonly numAttentionHeads: number;
  /** Heads of keys and values; fewer than the queries' with grouped attention. */
  readonly numKeyValueHeads: number;
  /** Width of a head. */
  readonly headDim: number;
  /** The longest sequence that the model was trained on. */
  readonly maxPositionEmbeddings: number;
  /** Added to the mean square in RMSNorm. */
  readonly rmsNormEps: number;
  /** The rotary position embedding. */
  readonly rope: RopeConfig;
  /** Whether the output embedding is the input embedding. */
  readonly tieWordEmbeddings: boolean;
  /** The id that opens a text, where there is one. */
  readonly bosTokenId: number | null;
  /** The ids that end a text. */
  readonly eosTokenIds: readonly number[];
  /** The formats of matrices that a GGUF file keeps in blocks, by the paths of their modules; absent: there are none. */
  readonly packed?: ReadonlyMap<string, BlockFormat>;
  /** What the file says its weights are kept in, where it says so. */
  readonly fileDType: DType | null;
  /** config.json as it was read. */
  readonly raw: Readonly<Record<string, unknown>>;
}

/** Keys that change the mathematics, with the only values that leave it as implemented. Absent and null always do. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  hidden_act: ['silu', 'swish'],
  hidden_activation: ['silu', 'swish'],
  pretraining_tp: [0, 1],
  partial_rotary_factor: [1],
  rotary_pct: [1],
  attn_logit_softcapping: [],
  final_logit_softcapping: [],
  logit_softcapping: [],
  query_pre_attn_scalar: [],
  attention_multiplier: [1],
  embedding_multiplier: [1],
  residual_multiplier: [1],
  logits_scaling: [1],
  logit_scale: [1],
  scale_embeddings: [false],
  no_rope_layer_interval: [0],
  use_qk_norm: [false],
  attention_sinks: [false],
  attention_chunk_size: [],
  num_experts: [0, 1],
  num_local_experts: [0, 1],
  num_nextn_predict_layers: [0],
  add_cross_attention: [false],
  is_encoder_decoder: [false],
  use_bidirectional_attention: [false],
  alibi: [false],
  attention_dropout: [0],
  hidden_dropout: [0],
  resid_pdrop: [0],
};

function refuseUnsupported(raw: Readonly<Record<string, unknown>>): void {
  for (const [key, allowed] of Object.entries(neutral)) {
    const value = raw[key];
    if (value === undefined || value === null || allowed.includes(value)) continue;
    const shown = JSON.stringify(value).slice(0, 120);
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has ${key} = ${shown}, which is not supported${allowed.length ? `; supported ${allowed.length > 1 ? 'are' : 'is'} ${allowed.map((one) => JSON.stringify(one)).join(', ')}` : ''}`,
    );
  }
  const quantization = raw['quantization_config'] ?? undefined;
  const refused = quantization === undefined ? undefined : refusedQuantization(quantization);
  if (refused !== undefined)
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has quantization_config = ${JSON.stringify(quantization).slice(0, 120)}, which is not supported: ${refused}`,
    );
  // One entry per layer, 1 where the layer rotates (SmolLM3).
  const noRope = raw['no_rope_layers'];
  if (Array.isArray(noRope) && noRope.some((uses) => uses !== 1))
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has no_rope_layers = ${JSON.stringify(noRope).slice(0, 120)}; supported is rope in every layer`,
    );
}

function modelTypeOf(raw: Readonly<Record<string, unknown>>): ModelType {
  const type = raw['model_type'];
  const known = modelTypes.find((t) => t === type);
  if (known) return known;
  const near = typeof type === 'string' ? suggest(type, modelTypes) : undefined;
  refuse(
    'ERR_UNSUPPORTED',
    `config.json has model_type = ${JSON.stringify(type)}; supported are ${modelTypes.join(', ')}${near ? ` (did you mean ${near}?)` : ''}`,
  );
}

const dtypes: Readonly<Record<string, DType>> = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' };

function fileDType(raw: Readonly<Record<string, unknown>>): DType | null {
  const name = raw['dtype'] ?? raw['torch_dtype'];
  if (typeof name !== 'string' || name === 'auto') return null;
  return (
    dtypes[name.replace(/^torch\./, '')] ??
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has dtype = ${JSON.stringify(name)}; supported are ${Object.keys(dtypes).join(', ')}`,
    )
  );
}

/** Token ids of a key that holds one, a list, or none. */
export function tokenIds(value: unknown): number[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isSafeInteger(id) && id >= 0);
}

/**
 * Reads a parsed config.json.
 * @throws ERR_UNSUPPORTED when a value changes the mathematics in a way that is not implemented, naming key
 * and value; ERR_FILE when a value is missing, of the wrong kind or beyond a bound.
 */
export function parseModelConfig(json: unknown, limits: Limits = defaultLimits): ModelConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    refuse(
      'ERR_FILE',
      `expected config.json to hold an object but received ${JSON.stringify(json)?.slice(0, 80)}`,
    );
  const raw = json as Readonly<Record<string, unknown>>;
  const modelType = modelTypeOf(raw);
  refuseUnsupported(raw);
  const config = new ConfigJson(raw, limits);
  const family = families[modelType];

  const hiddenSize = config.width('hidden_size');
  const numAttentionHeads = config.width('num_attention_heads');
  const numKeyValueHeads = config.width('num_key_value_heads', numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0)
    refuse(
      'ERR_FILE',
      `expected num_attention_heads ${numAttentionHeads} of config.json to be a multiple of num_key_value_heads ${numKeyValueHeads}`,
    );
  const headDim = config.width('head_dim', family.headDim(hiddenSize, numAttentionHeads));
  if (headDim % 2 !== 0)
    refuse('ERR_UNSUPPORTED', `config.json has head_dim = ${headDim}; supported are even numbers`);
  const numHiddenLayers = config.integer('num_hidden_layers');
  checkLimit(
    limits,
    'layers',
    numHiddenLayers,
    `config.json asks for num_hidden_layers = ${numHiddenLayers}`,
    { op: 'from_pretrained' },
  );
  const maxPositionEmbeddings = config.positiveInteger('max_position_embeddings', 2048);
  const eps = config.get('rms_norm_eps') ?? 1e-6;
  if (typeof eps !== 'number' || !(eps >= 0))
    refuse(
      'ERR_FILE',
      `expected rms_norm_eps of config.json to be a number but received ${JSON.stringify(eps)}`,
    );
  return {
    modelType,
    vocabSize: config.width('vocab_size'),
    hiddenSize,
    intermediateSize: config.width('intermediate_size'),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
    rmsNormEps: eps,
    rope: parseRope(raw, maxPositionEmbeddings),
    tieWordEmbeddings: config.flag('tie_word_embeddings'),
    ...family.block(config, numHiddenLayers),
    bosTokenId: tokenIds(raw['bos_token_id'])[0] ?? null,
    eosTokenIds: tokenIds(raw['eos_token_id']),
    fileDType: fileDType(raw),
    raw,
  };
}
