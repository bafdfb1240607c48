/** What a head of classes is worth on labeled texts. */
import { batchesOf, checkSource } from '../data/batches';
import { classRows, type LabelSet, type TargetRow } from '../data/class_rows';
import { loadDataset } from '../data/dataset';
import type { DataSource } from '../data/example';
import { loraError } from '../errors';
import { toPath } from '../formats/paths';
import type { Adapter } from '../peft/adapter';
import type { Tokenizer } from '../text/tokenizer';
import { classLoss, classScores, isRight } from './class_scores';
import type { EvaluateTaskOptions, TaskData, TaskEvaluation, TaskResult } from './options';
import { meanOf } from './scores';

const op = 'evaluateTask';

/** What is evaluated. */
export interface ClassSubject {
  readonly set: LabelSet;
  readonly tokenizer: () => Tokenizer;
  readonly hasTokenizer: boolean;
  /** Tokens that it reads. */
  readonly context: number;
  /** The logits of texts, in their order. */
  logits(rows: readonly (readonly number[])[], adapter: Adapter | null): Promise<number[][]>;
}

interface Rows {
  readonly rows: TargetRow[];
  readonly truncated: number;
}

/** The rows of a file, or those of a program, up to the limit. */
async function rowsOf(subject: ClassSubject, data: TaskData, options: EvaluateTaskOptions): Promise<Rows> {
  const { limit = Infinity, maxLength = subject.context, signal } = options;
  const kind = classRows(subject.set, subject.tokenizer);
  const isFile = typeof data === 'string' || data instanceof URL;
  const tokenizer = subject.hasTokenizer ? subject.tokenizer() : undefined;
  const file =
    isFile && (await loadDataset(toPath(data, op), { tokenizer, maxLength, objective: 'classify', signal }));
  const source: DataSource<unknown> = file || (data as DataSource<unknown>);
  checkSource(op, 'data', source, kind);
  const rows: TargetRow[] = [];
  for await (const { groups } of batchesOf(kind, source, { signal })) {
    rows.push(groups![0]!.row as TargetRow);
    if (rows.length === limit) break;
  }
  if (rows.length > 0) return { rows, truncated: file ? file.truncated : 0 };
  throw loraError(op, 'ERR_DATA', 'expected data with at least one row but received none');
}

/** Texts between two reports of progress. */
const part = 64;

/** Measures adapters on the same rows. The adapters and the weights are held by the caller. */
export async function classTask(
  subject: ClassSubject,
  adapters: readonly (Adapter | null)[],
  data: TaskData,
  options: EvaluateTaskOptions,
): Promise<TaskEvaluation> {
  const { rows, truncated } = await rowsOf(subject, data, options);
  const { signal, onProgress } = options;
  const results: TaskResult[] = [];
  let done = 0;
  for (const adapter of adapters) {
    const logits: number[][] = [];
    for (let from = 0; from < rows.length; from += part) {
      signal?.throwIfAborted();
      const own = rows.slice(from, from + part).map(({ inputIds }) => inputIds);
      logits.push(...(await subject.logits(own, adapter)));
      done += own.length;
      onProgress?.({ phase: 'labels', done, total: rows.length * adapters.length });
    }
    const outcomes = rows.map(({ target }, i) => ({ logits: logits[i]!, target }));
    const { metrics, confusion } = classScores(subject.set, outcomes);
    const right = meanOf(outcomes.map((one) => Number(isRight(subject.set, one))));
    results.push({
      adapter: adapter?.name ?? null,
      loss: meanOf(outcomes.map((one) => classLoss(subject.set, one))).mean,
      tokens: rows.reduce((sum, { inputIds }) => sum + inputIds.length, 0),
      ...metrics,
      ...(confusion && { confusion }),
      stderr: metrics['accuracy'] === undefined ? {} : { accuracy: right.stderr },
    });
  }
  return { kind: 'labels', rows: rows.length, truncated, results };
}
