/** config.json of a Llama-family model, in the dialects of transformers 4 and 5, read strictly. */
import { LoRAError } from '../errors';
import { suggest } from '../validate';
import { parseRope, type RopeConfig } from './rope';
import type { DType } from '../tensor/dtype';

export const modelTypes = ['llama', 'mistral', 'qwen2', 'qwen3'] as const;
/** The families whose mathematics is known. SmolLM2 is a `llama`. */
export type ModelType = (typeof modelTypes)[number];

/** What the mathematics of a model depends on. */
export interface ModelConfig {
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
  /** Whether q, k and v have biases. */
  readonly qkvBias: boolean;
  /** Whether the output of the attention has a bias. */
  readonly outputBias: boolean;
  /** Whether the MLP has biases. */
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k before the rotation. */
  readonly qkNorm: boolean;
  /** Per layer: how many keys a query sees, itself included; 0 for all. */
  readonly windows: readonly number[];
  /** The id that opens a text, where there is one. */
  readonly bosTokenId: number | null;
  /** The ids that end a text. */
  readonly eosTokenIds: readonly number[];
  /** What the file says its weights are kept in, where it says so. */
  readonly fileDType: DType | null;
  /** config.json as it was read. */
  readonly raw: Readonly<Record<string, unknown>>;
}

type Json = Record<string, unknown>;

function fail(code: 'ERR_UNSUPPORTED' | 'ERR_FILE', message: string): never {
  throw new LoRAError(code, `[from_pretrained] ${message}`, { op: 'from_pretrained' });
}

/** Keys that change the mathematics, with the only values that leave it as implemented. Absent and null always do. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  hidden_act: ['silu', 'swish'],
  hidden_activation: ['silu', 'swish'],
  pretraining_tp: [0, 1],
  quantization_config: [],
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

function refuseUnsupported(raw: Json): void {
  for (const [key, allowed] of Object.entries(neutral)) {
    const value = raw[key];
    if (value === undefined || value === null || allowed.includes(value)) continue;
    const shown = JSON.stringify(value).slice(0, 120);
    fail(
      'ERR_UNSUPPORTED',
      `config.json has ${key} = ${shown}, which is not supported${allowed.length ? `; supported is ${JSON.stringify(allowed.at(-1))}` : ''}`,
    );
  }
  // One entry per layer, 1 where the layer rotates (SmolLM3).
  const noRope = raw['no_rope_layers'];
  if (Array.isArray(noRope) && noRope.some((uses) => uses !== 1))
    fail(
      'ERR_UNSUPPORTED',
      `config.json has no_rope_layers = ${JSON.stringify(noRope).slice(0, 120)}; supported is rope in every layer`,
    );
}

function modelTypeOf(raw: Json): ModelType {
  const type = raw['model_type'];
  const known = modelTypes.find((t) => t === type);
  if (known) return known;
  const near = typeof type === 'string' ? suggest(type, modelTypes) : undefined;
  fail(
    'ERR_UNSUPPORTED',
    `config.json has model_type = ${JSON.stringify(type)}; supported are ${modelTypes.join(', ')}${near ? ` (did you mean ${near}?)` : ''}`,
  );
}

const dtypes: Readonly<Record<string, DType>> = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' };

function fileDType(raw: Json): DType | null {
  const name = raw['dtype'] ?? raw['torch_dtype'];
  if (typeof name !== 'string' || name === 'auto') return null;
  return (
    dtypes[name.replace(/^torch\./, '')] ??
    fail(
      'ERR_UNSUPPORTED',
      `config.json has dtype = ${JSON.stringify(name)}; supported are ${Object.keys(dtypes).join(', ')}`,
    )
  );
}

/** Which layers slide: `layer_types` where given, else the rule of the family. */
function windowsOf(raw: Json, type: ModelType, layers: number): number[] {
  const kinds = raw['layer_types'];
  if (kinds !== undefined && kinds !== null) {
    if (!Array.isArray(kinds) || kinds.length !== layers)
      fail(
        'ERR_FILE',
        `expected layer_types of config.json to list ${layers} layers but received ${JSON.stringify(kinds).slice(0, 120)}`,
      );
    const odd = (kinds as unknown[]).find((k) => k !== 'full_attention' && k !== 'sliding_attention');
    if (odd !== undefined)
      fail(
        'ERR_UNSUPPORTED',
        `config.json has ${JSON.stringify(odd)} in layer_types; supported are full_attention and sliding_attention`,
      );
  }
  const listed = kinds as string[] | undefined | null;
  // Qwen keeps a sliding_window in its files that counts only when use_sliding_window says so; Llama has none.
  const applies = type === 'mistral' || (type !== 'llama' && raw['use_sliding_window'] === true);
  const given = raw['sliding_window'];
  const window = given === undefined && applies ? 4096 : given; // the default of transformers' config classes
  const full = new Array<number>(layers).fill(0);
  if (type === 'llama') {
    if (listed?.includes('sliding_attention'))
      fail(
        'ERR_UNSUPPORTED',
        `config.json has sliding_attention in layer_types, which a llama model does not have`,
      );
    return full;
  }
  if (!applies || window === null || window === 0) return full;
  if (typeof window !== 'number' || !Number.isSafeInteger(window) || window < 0)
    fail(
      'ERR_FILE',
      `expected sliding_window of config.json to be a positive integer or null but received ${JSON.stringify(window)}`,
    );
  const from = type === 'mistral' ? 0 : integer(raw, 'max_window_layers', 28);
  return full.map((_, i) => ((listed ? listed[i] === 'sliding_attention' : i >= from) ? window : 0));
}

function integer(raw: Json, key: string, fallback?: number): number {
  const value = raw[key] ?? fallback;
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    fail(
      'ERR_FILE',
      `expected ${key} of config.json to be a non-negative integer but received ${JSON.stringify(raw[key])}`,
    );
  return value;
}

function positiveInteger(raw: Json, key: string, fallback?: number): number {
  const value = integer(raw, key, fallback);
  if (value === 0) fail('ERR_FILE', `expected ${key} of config.json to be positive but received 0`);
  return value;
}

function flag(raw: Json, key: string): boolean {
  const value = raw[key] ?? false;
  if (typeof value !== 'boolean')
    fail(
      'ERR_FILE',
      `expected ${key} of config.json to be true or false but received ${JSON.stringify(value)}`,
    );
  return value;
}

/** Token ids of a key that holds one, a list, or none. */
export function tokenIds(value: unknown): number[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isSafeInteger(id) && id >= 0);
}

/**
 * Reads a parsed config.json.
 * @throws ERR_UNSUPPORTED when a value changes the mathematics in a way that is not implemented, naming key
 * and value; ERR_FILE when a value is missing or of the wrong kind.
 */
export function parseModelConfig(json: unknown): ModelConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    fail(
      'ERR_FILE',
      `expected config.json to hold an object but received ${JSON.stringify(json)?.slice(0, 80)}`,
    );
  const raw = json as Json;
  const modelType = modelTypeOf(raw);
  refuseUnsupported(raw);

  const hiddenSize = positiveInteger(raw, 'hidden_size');
  const numAttentionHeads = positiveInteger(raw, 'num_attention_heads');
  const numKeyValueHeads = positiveInteger(raw, 'num_key_value_heads', numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0)
    fail(
      'ERR_FILE',
      `expected num_attention_heads ${numAttentionHeads} of config.json to be a multiple of num_key_value_heads ${numKeyValueHeads}`,
    );
  const headDim = positiveInteger(
    raw,
    'head_dim',
    modelType === 'qwen3' ? 128 : Math.floor(hiddenSize / numAttentionHeads),
  );
  if (headDim % 2 !== 0)
    fail('ERR_UNSUPPORTED', `config.json has head_dim = ${headDim}; supported are even numbers`);
  const numHiddenLayers = integer(raw, 'num_hidden_layers');
  const maxPositionEmbeddings = positiveInteger(raw, 'max_position_embeddings', 2048);
  const eps = raw['rms_norm_eps'] ?? 1e-6;
  if (typeof eps !== 'number' || !(eps >= 0))
    fail(
      'ERR_FILE',
      `expected rms_norm_eps of config.json to be a number but received ${JSON.stringify(eps)}`,
    );

  // Mistral's class has no biases, Qwen2's has those of q, k, v whatever the file says.
  const attentionBias = flag(raw, 'attention_bias');
  const mlpBias = flag(raw, 'mlp_bias');
  if (modelType === 'mistral' && (attentionBias || mlpBias))
    fail(
      'ERR_UNSUPPORTED',
      `config.json has ${attentionBias ? 'attention_bias' : 'mlp_bias'} = true, which a mistral model does not have`,
    );
  return {
    modelType,
    vocabSize: positiveInteger(raw, 'vocab_size'),
    hiddenSize,
    intermediateSize: positiveInteger(raw, 'intermediate_size'),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
    rmsNormEps: eps,
    rope: parseRope(raw, maxPositionEmbeddings),
    tieWordEmbeddings: flag(raw, 'tie_word_embeddings'),
    qkvBias: modelType === 'qwen2' || attentionBias,
    outputBias: modelType !== 'qwen2' && attentionBias,
    mlpBias: modelType === 'llama' && mlpBias,
    qkNorm: modelType === 'qwen3',
    windows: windowsOf(raw, modelType, numHiddenLayers),
    bosTokenId: tokenIds(raw['bos_token_id'])[0] ?? null,
    eosTokenIds: tokenIds(raw['eos_token_id']),
    fileDType: fileDType(raw),
    raw,
  };
}
