/** How well a model finds what belongs together, on held-out rows. */
import type { DataSource } from '../../data/example';
import { contrastiveRows, rankRows, type ContrastiveRow, type RankRow } from '../../data/retrieval_rows';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import type { Adapter } from '../../peft/adapter';
import { checkInteger, checkOneOf, checkOptions, checkSignal, describe, isRecord } from '../../validate';
import { checkSource } from '../../data/batches';
import type { Metrics } from '../metrics';
import { alone } from '../reducer';
import { ContrastiveObjective } from './contrastive';
import { RankObjective } from './rank';
import { spearman } from './retrieval_metrics';
import { retrievalSettings } from './settings';

/**
 * Two texts, and how alike they are, for {@link evaluateRetrieval}.
 *
 * @example
 * const row: SimilarityRow = { sentence1: 'A cat sleeps.', sentence2: 'A cat is asleep.', score: 0.96 };
 */
export interface SimilarityRow {
  /** A text. */
  readonly sentence1: string;
  /** Another one. */
  readonly sentence2: string;
  /** How alike they are, on any scale. */
  readonly score: number;
}

/** The options of {@link evaluateRetrieval}. */
export interface EvaluateRetrievalOptions {
  /** What the rows are: 'contrastive' { anchor, positive, negative? } or { sentence1, sentence2, score }, 'rank' { query, positive, negative }. Default 'contrastive'. */
  objective?: 'contrastive' | 'rank' | undefined;
  /** A name, an Adapter, or null for the base alone. Default: the active adapter. */
  adapter?: string | Adapter | null | undefined;
  /** Rows of a forward pass; of 'contrastive' also those whose other texts the loss tells a row from. Default 32. */
  batchSize?: number | undefined;
  /** Of 'contrastive': what of a text becomes its vector. Default: as of {@link CausalLM.embed}. */
  pool?: 'last' | 'mean' | undefined;
  /** Of 'contrastive': what cosines are multiplied by in the loss. Default 20. */
  scale?: number | undefined;
  /** An abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}

/** What {@link evaluateRetrieval} gives. */
export interface RetrievalEvaluation {
  /** How many rows there were. */
  rows: number;
  /** The mean loss of the objective; absent of rows { sentence1, sentence2, score }. */
  loss?: number;
  /**
   * 'ndcg@10', 'recall@1', 'recall@10' and 'mrr@10', of 'rank' also 'accuracy' and 'margin' of pairs; of rows { sentence1, sentence2, score } 'spearman', the rank
   * correlation of cosines and scores.
   */
  metrics: Metrics;
}

const op = 'evaluateRetrieval';

function pairOf(row: unknown, place: number): SimilarityRow {
  const { sentence1, sentence2, score } = isRecord(row) ? row : {};
  if (typeof sentence1 === 'string' && typeof sentence2 === 'string' && Number.isFinite(score))
    return { sentence1, sentence2, score: score as number };
  throw loraError(
    op,
    'ERR_DATA',
    `example ${place}: expected { sentence1, sentence2, score } of two texts and a number but received ${describe(row)}`,
  );
}

async function similarity(
  model: CausalLM,
  rows: readonly SimilarityRow[],
  { adapter, pool, signal }: EvaluateRetrievalOptions,
): Promise<RetrievalEvaluation> {
  const texts = rows.flatMap(({ sentence1, sentence2 }) => [sentence1, sentence2]);
  const vectors = await model.embed(texts, { adapter, pool, signal });
  const cosines = rows.map((_, i) =>
    vectors[2 * i]!.reduce((sum, x, c) => sum + x * vectors[2 * i + 1]![c]!, 0),
  );
  const scores = rows.map(({ score }) => score);
  return { rows: rows.length, metrics: { spearman: spearman(cosines, scores) } };
}

/**
 * Measures how well a model finds what belongs together: every anchor against all other texts of the data by the cosine of their vectors, or with the objective 'rank' the
 * documents of each query by their scores; of rows { sentence1, sentence2, score }, whether cosines have the order of the scores. Figures are those of sentence-transformers' evaluators.
 *
 * @throws ERR_ARGUMENT; ERR_DATA for rows of another form and none; the reason of the signal.
 * @example
 * const { metrics } = await evaluateRetrieval(model, [{ anchor: 'reset my password', positive: 'Click on "Forgot password".' }]);
 * console.log(metrics['ndcg@10'], metrics['recall@1']);
 */
export async function evaluateRetrieval(
  model: CausalLM,
  data: DataSource<ContrastiveRow | RankRow | SimilarityRow>,
  options: EvaluateRetrievalOptions = {},
): Promise<RetrievalEvaluation> {
  checkOptions(op, options, ['objective', 'adapter', 'batchSize', 'pool', 'scale', 'signal']);
  const { objective = 'contrastive', batchSize = 32, pool, scale, signal } = options;
  checkOneOf(op, 'objective', objective, ['contrastive', 'rank']);
  checkInteger(op, 'batchSize', batchSize, 1);
  checkSignal(op, signal);
  const settings = retrievalSettings(op, objective, { pool, scale });
  const tokenizer = () => model.tokenizer;
  checkSource(op, 'data', data, objective === 'rank' ? rankRows(tokenizer) : contrastiveRows(tokenizer));
  const rows: unknown[] = [];
  for await (const row of typeof data === 'function' ? data() : data) rows.push(row);
  if (rows.length === 0) throw loraError(op, 'ERR_DATA', 'expected rows but the data has none');
  if (objective === 'contrastive' && isRecord(rows[0]) && 'sentence1' in rows[0])
    return similarity(model, rows.map(pairOf), options);
  const own =
    settings.objective === 'rank'
      ? new RankObjective({ ...settings }, model)
      : new ContrastiveObjective(settings, model);
  const adapter = model.core.adapters.resolve(op, options.adapter);
  const { figures } = await own.evaluate(model, rows, { adapter, batchSize, signal, ranks: alone });
  return { rows: rows.length, loss: figures.loss, metrics: figures.metrics! };
}
