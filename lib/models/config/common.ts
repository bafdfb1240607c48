/** The values of config.json that families share. */
import { checkLimit } from '../../formats/limits';
import type { DType } from '../../native/dtype';
import { refuse, type ConfigJson } from './config_json';
import type { ModelConfig } from './model_config';

const dtypes: Readonly<Record<string, DType>> = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' };

function fileDType(raw: ConfigJson['raw']): DType | null {
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

/** Blocks whose number has the bounds of all configurations. */
export function layerCount(json: ConfigJson, key = 'num_hidden_layers'): number {
  const count = json.integer(key);
  checkLimit(json.limits, 'layers', count, `config.json asks for ${key} = ${count}`, {
    op: 'from_pretrained',
  });
  return count;
}

type Everywhere = Pick<
  ModelConfig,
  'modelType' | 'vocabSize' | 'tieWordEmbeddings' | 'bosTokenId' | 'eosTokenIds' | 'fileDType' | 'raw'
>;

/** What every config.json says in the same words. */
export const everywhere = (json: ConfigJson): Everywhere => ({
  modelType: String(json.raw['model_type']),
  vocabSize: json.width('vocab_size'),
  tieWordEmbeddings: json.flag('tie_word_embeddings'),
  bosTokenId: tokenIds(json.raw['bos_token_id'])[0] ?? null,
  eosTokenIds: tokenIds(json.raw['eos_token_id']),
  fileDType: fileDType(json.raw),
  raw: json.raw,
});

/** The sizes of a decoder in the words of Llama's configuration. */
export interface DecoderConfig extends ModelConfig {
  /** Width of the MLP. */
  readonly intermediateSize: number;
  /** Heads of keys and values; fewer than the queries' with grouped attention. */
  readonly numKeyValueHeads: number;
  /** Width of a head. */
  readonly headDim: number;
  /** Added to the mean square in RMSNorm. */
  readonly rmsNormEps: number;
}

/** Heads that share the width of the residual stream. */
export const dividedHeadDim = (hiddenSize: number, heads: number): number => Math.floor(hiddenSize / heads);

/** @param headDim the width of a head where config.json does not say it */
export function decoderConfig(
  json: ConfigJson,
  headDimOf: (hiddenSize: number, heads: number) => number = dividedHeadDim,
): Omit<DecoderConfig, 'layers'> {
  const hiddenSize = json.width('hidden_size');
  const numAttentionHeads = json.width('num_attention_heads');
  const numKeyValueHeads = json.width('num_key_value_heads', numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0)
    refuse(
      'ERR_FILE',
      `expected num_attention_heads ${numAttentionHeads} of config.json to be a multiple of num_key_value_heads ${numKeyValueHeads}`,
    );
  const headDim = json.width('head_dim', headDimOf(hiddenSize, numAttentionHeads));
  if (headDim % 2 !== 0)
    refuse('ERR_UNSUPPORTED', `config.json has head_dim = ${headDim}; supported are even numbers`);
  const numHiddenLayers = layerCount(json);
  const maxPositionEmbeddings = json.positiveInteger('max_position_embeddings', 2048);
  const rmsNormEps = json.get('rms_norm_eps') ?? 1e-6;
  if (typeof rmsNormEps !== 'number' || !(rmsNormEps >= 0))
    refuse(
      'ERR_FILE',
      `expected rms_norm_eps of config.json to be a number but received ${JSON.stringify(rmsNormEps)}`,
    );
  return {
    ...everywhere(json),
    hiddenSize,
    intermediateSize: json.width('intermediate_size'),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
    rmsNormEps,
  };
}
