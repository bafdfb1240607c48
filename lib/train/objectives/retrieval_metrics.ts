/** How good an order of documents is: NDCG, recall and reciprocal ranks of queries, and the rank correlation of two lists of numbers. */
import type { Metrics } from '../metrics';

/**
 * The normalized discounted cumulative gain of the first k documents: Σ relᵢ / log₂(i + 1) over that of the best order. `relevant`: of each document
 * in the order that is judged, 1 or 0, or how relevant it is. Järvelin & Kekäläinen (2002).
 */
export function ndcg(relevant: readonly number[], k: number): number {
  const gain = (list: readonly number[]): number =>
    list.slice(0, k).reduce((sum, value, i) => sum + value / Math.log2(i + 2), 0);
  const best = gain([...relevant].sort((a, b) => b - a));
  return best === 0 ? 0 : gain(relevant) / best;
}

/** The share of the relevant documents that is among the first k. */
export function recall(relevant: readonly number[], k: number): number {
  const count = (list: readonly number[]): number => list.filter((value) => value > 0).length;
  return count(relevant) === 0 ? 0 : count(relevant.slice(0, k)) / count(relevant);
}

/** 1 ÷ the place of the first relevant document, 0 where it is none of the first k. */
export function reciprocalRank(relevant: readonly number[], k: number): number {
  const at = relevant.slice(0, k).findIndex((value) => value > 0);
  return at < 0 ? 0 : 1 / (at + 1);
}

/** Places from 1, where equal values share the mean of theirs. */
function ranksOf(values: readonly number[]): number[] {
  const order = [...values.keys()].sort((a, b) => values[a]! - values[b]!);
  const ranks = Array<number>(values.length);
  for (let begin = 0, end; begin < order.length; begin = end) {
    end = begin + 1;
    while (end < order.length && values[order[end]!] === values[order[begin]!]) end++;
    for (let i = begin; i < end; i++) ranks[order[i]!] = (begin + 1 + end) / 2;
  }
  return ranks;
}

/** Spearman's rank correlation: Pearson's, of the places; NaN where one list has no two values. */
export function spearman(a: readonly number[], b: readonly number[]): number {
  const centered = (values: readonly number[]): number[] => {
    const ranks = ranksOf(values);
    const mean = ranks.reduce((sum, rank) => sum + rank, 0) / ranks.length;
    return ranks.map((rank) => rank - mean);
  };
  const dot = (x: readonly number[], y: readonly number[]): number =>
    x.reduce((sum, v, i) => sum + v * y[i]!, 0);
  const [x, y] = [centered(a), centered(b)];
  return dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y));
}

/** The figures of queries, each with the documents in the order of their scores. */
export function retrievalMetrics(orders: readonly (readonly number[])[]): Metrics {
  const mean = (of: (relevant: readonly number[]) => number): number =>
    orders.reduce((sum, order) => sum + of(order), 0) / orders.length;
  return {
    'ndcg@10': mean((order) => ndcg(order, 10)),
    'recall@1': mean((order) => recall(order, 1)),
    'recall@10': mean((order) => recall(order, 10)),
    'mrr@10': mean((order) => reciprocalRank(order, 10)),
  };
}
