/** How likely a model finds the answers of a batch, and the small tensors that losses are made of. */
import type { Batch } from '../../data/batches';
import type { LabelLogProbs } from '../../models/core/label_log_probs';
import { joinRows, rowSums } from '../../ops/rows';
import { tensor } from '../../tensor/create';
import { noGrad } from '../../tensor/scope';
import type { NestedNumbers, Tensor } from '../../tensor/tensor';

/** The answers of a batch, text after text. */
export interface AnswerScores {
  /** Σ log p of each answer, [texts]. */
  readonly sums: Tensor;
  /** Tokens of each answer. */
  readonly lengths: readonly number[];
  /** Σ log p of what counts before each answer, [texts], where something does. */
  readonly before: Tensor | null;
  /** How many tokens that are. */
  readonly beforeCounts: readonly number[];
}

/** `answerLengths`: of each text. */
export function answerScores(
  { logProbs, counts }: LabelLogProbs,
  answerLengths: readonly number[],
): AnswerScores {
  const beforeCounts = counts.map((count, i) => count - answerLengths[i]!);
  if (beforeCounts.every((count) => count === 0))
    return { sums: rowSums(logProbs, counts), lengths: answerLengths, before: null, beforeCounts };
  const parts = answerLengths.flatMap((length, i) => [beforeCounts[i]!, length]);
  const sums = rowSums(logProbs, parts).reshape([counts.length, 2]);
  const column = (which: readonly number[][]): Tensor =>
    sums.matmul(constant(which, sums)).reshape([counts.length]);
  return { sums: column([[0], [1]]), lengths: answerLengths, before: column([[1], [0]]), beforeCounts };
}

/** The tokens of the answers of a batch, of which each is the end of its text. */
export function answerLengthsOf({ labels, groups }: Pick<Batch, 'labels' | 'groups'>): number[] {
  const prompts = groups!.flatMap(({ examples, marks }) => examples.map(() => marks![0]!));
  return labels.map(({ length }, i) => length - prompts[i]!);
}

/** Numbers beside a tensor, of which no gradient is wanted. */
export const constant = (values: NestedNumbers, { device }: Tensor): Tensor => tensor(values, { device });

/** The first of each pair less the second: x [2·n] → [n, 1]. */
export const differences = (x: Tensor): Tensor =>
  x.reshape([x.numel / 2, 2]).matmul(constant([[1], [-1]], x));

/** The mean of −log σ(h), or of −log σ(−h): h [n, 1]. As a cross entropy of two classes it overflows nowhere. */
export function meanLogistic(h: Tensor, side: 1 | -1): Tensor {
  const labels = Array<number>(h.numel).fill(side === 1 ? 0 : 1);
  return h.matmul(constant([[1, 0]], h)).crossEntropy(labels, { reduction: 'mean' });
}

/** Tensors of one dimension one after the other, for figures. */
export const joined = (parts: readonly Tensor[]): Tensor =>
  noGrad(() => joinRows(parts.map((part) => part.detach())));

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
