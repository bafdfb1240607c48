/** Texts as vectors, with a gradient: rows that hold them, the forward pass without the head, and pooling. */
import type { AdapterUse } from '../../peft/adapter_use';
import { tensor } from '../../tensor/create';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import type { ModelCore } from '../core/model_core';
import type { ForwardOptions } from '../core/options';
import { plannedNormed } from '../running/forward';
import type { Pool } from './sentence_files';

/** The tokens of a text. */
export interface TextTokens {
  readonly ids: readonly number[];
  /** How many of the first ones do not count in a mean. */
  readonly skipped?: number | undefined;
}

/** How vectors are made of texts. */
export interface VectorOptions extends Pick<ForwardOptions, 'adapter' | 'train' | 'gradientCheckpointing'> {
  readonly pool: Pool;
}

/** The rows of a call, and where the tokens of each text lie in them. */
interface TextRows {
  readonly ids: number[][];
  readonly segmentIds?: number[][];
  /** The first token of each text, in all rows one after the other. */
  readonly begins: readonly number[];
  readonly positions: number;
}

/** All texts in one row, without padding; attention and positions stay inside each. */
function packed(texts: readonly TextTokens[]): TextRows {
  const ids = texts.flatMap((text) => [...text.ids]);
  const segmentIds = texts.flatMap((text, i) => text.ids.map(() => i + 1));
  let at = 0;
  const begins = texts.map((text) => (at += text.ids.length) - text.ids.length);
  return { ids: [ids], segmentIds: [segmentIds], begins, positions: ids.length };
}

/** A row for each text, as calls with an adapter for each of them need it. */
function padded(texts: readonly TextTokens[]): TextRows {
  const width = Math.max(...texts.map((text) => text.ids.length));
  return {
    ids: texts.map((text) => [...text.ids]),
    begins: texts.map((_, i) => i * width),
    positions: texts.length * width,
  };
}

/** The weights of positions in the vectors of texts, [texts, positions]. */
function poolingWeights(
  texts: readonly TextTokens[],
  { begins, positions }: TextRows,
  pool: Pool,
): Float32Array {
  const weights = new Float32Array(texts.length * positions);
  for (const [i, { ids, skipped = 0 }] of texts.entries()) {
    const begin = i * positions + begins[i]!;
    const end = begin + ids.length;
    if (pool === 'last') weights[end - 1] = 1;
    else weights.fill(1 / (ids.length - skipped), begin + skipped, end);
  }
  return weights;
}

/** Vectors of texts as the last norm leaves them. */
export interface Pooled {
  /** [texts, hiddenSize] in f32. */
  readonly pooled: Tensor;
  /** The adapters of the call. */
  readonly use: AdapterUse;
}

/**
 * What makes the pooled vectors of texts behind the last norm, [texts, hiddenSize] in f32, with a pause after each block. Each run of it has the
 * same dropout masks.
 */
export function plannedPooled(
  model: ModelCore,
  texts: readonly TextTokens[],
  { pool, ...options }: VectorOptions,
): () => Generator<void, Pooled, void> {
  const rows = (Array.isArray(options.adapter) ? padded : packed)(texts);
  const weights = poolingWeights(texts, rows, pool);
  const normed = plannedNormed(model, rows.ids, { ...options, segmentIds: rows.segmentIds });
  return function* () {
    const { hidden, layout, use } = yield* normed();
    const ofTokens = layout.tokens(hidden);
    const flat = moved(ofTokens, (t) => t.reshape([rows.positions, t.shape[2]!]));
    const wide = moved(flat, (t) => t.to({ dtype: 'f32' }));
    const shares = tensor(weights, { shape: [texts.length, rows.positions], device: model.device });
    const pooled = moved(wide, (t) => shares.matmul(t));
    shares.dispose();
    return { pooled, use };
  };
}

/** The same behind the dense layers of the model: its vectors before they are cut and normalized. */
export function plannedVectors(
  model: ModelCore,
  texts: readonly TextTokens[],
  options: VectorOptions,
): () => Generator<void, Tensor, void> {
  const pooledOf = plannedPooled(model, texts, options);
  return function* () {
    let { pooled: x } = yield* pooledOf();
    for (const layer of model.sentence.dense) x = moved(x, (t) => layer.forward(t));
    return x;
  };
}

/** How many numbers the vectors of a model have. */
export const vectorSize = ({ sentence, config }: Pick<ModelCore, 'sentence' | 'config'>): number =>
  sentence.dense.at(-1)?.outFeatures ?? config.hiddenSize;
