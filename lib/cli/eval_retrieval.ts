/** What eval measures of rows of texts that belong together. */
import type { ContrastiveRow, RankRow } from '../data/retrieval_rows';
import { rowsOfFile } from '../data/row_files';
import type { CausalLM } from '../models/causal_lm';
import {
  evaluateRetrieval,
  type RetrievalEvaluation,
  type SimilarityRow,
} from '../train/objectives/evaluate_retrieval';
import { baseName } from './adapters';
import { textTable } from './text_table';

/** What is measured, and how. */
interface RetrievalRun {
  readonly objective: 'contrastive' | 'rank';
  readonly adapters: readonly (string | null)[];
  readonly batchSize: number;
  readonly limit: number | undefined;
  readonly signal: AbortSignal;
}

/** What eval prints of it. */
export interface RetrievalReport {
  readonly kind: 'contrastive' | 'rank';
  readonly rows: number;
  readonly results: readonly (Omit<RetrievalEvaluation, 'rows'> & { readonly adapter: string | null })[];
}

export async function retrievalReport(
  model: CausalLM,
  file: string,
  { objective, adapters, batchSize, limit = Infinity, signal }: RetrievalRun,
): Promise<RetrievalReport> {
  const data: (ContrastiveRow | RankRow | SimilarityRow)[] = [];
  for await (const { row } of rowsOfFile('eval', file, signal)) {
    // evaluateRetrieval() checks them.
    data.push(row as unknown as ContrastiveRow);
    if (data.length === limit) break;
  }
  const results: RetrievalReport['results'][number][] = [];
  for (const adapter of adapters) {
    const { loss, metrics } = await evaluateRetrieval(model, data, { objective, adapter, batchSize, signal });
    results.push({ adapter, ...(loss !== undefined && { loss }), metrics });
  }
  return { kind: objective, rows: data.length, results };
}

/** A line for the names of the columns, and one for each adapter. */
export function retrievalTable({ results }: RetrievalReport): string[] {
  const names = Object.keys(results[0]?.metrics ?? {});
  const has = results.some(({ loss }) => loss !== undefined);
  return textTable([
    ['', ...results.map(({ adapter }) => adapter ?? baseName)],
    ...(has ? [['loss', ...results.map(({ loss }) => loss!.toFixed(4))]] : []),
    ...names.map((name) => [name, ...results.map(({ metrics }) => metrics[name]!.toFixed(4))]),
  ]);
}
