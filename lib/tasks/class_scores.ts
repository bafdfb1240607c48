/** What predictions of a head of classes are worth: the loss of a text, and figures over many, in doubles. */
import type { LabelSet } from '../data/class_rows';
import { largest } from './scores';

/** What the head said of a text, and what the data say. */
export interface ClassOutcome {
  readonly logits: readonly number[];
  /** As {@link TargetRow} has it. */
  readonly target: readonly number[];
}

/** How often texts of each label got each label. */
export interface Confusion {
  /** The labels of rows and columns. */
  labels: readonly string[];
  /** `counts[t][p]`: how many texts of label t were given label p. */
  counts: number[][];
}

/** Figures over texts. */
export interface ClassScores {
  /** Under their names: accuracy and macroF1, of regression mae and pearson. */
  metrics: Record<string, number>;
  /** Where a text has one label. */
  confusion?: Confusion;
}

const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const meanOf = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;

/**
 * The loss of a text: −log softmax(logits)[label]; of several labels the mean over labels of softplus(x) − x·y, which is the binary cross entropy of
 * σ(x); of regression the mean of (x − y)².
 */
export function classLoss({ problemType }: LabelSet, { logits, target }: ClassOutcome): number {
  if (problemType === 'single_label_classification') {
    const top = Math.max(...logits);
    const sum = logits.reduce((all, x) => all + Math.exp(x - top), 0);
    return top + Math.log(sum) - logits[target[0]!]!;
  }
  const of =
    problemType === 'regression'
      ? (x: number, y: number) => (x - y) ** 2
      : (x: number, y: number) => softplus(x) - x * y;
  return meanOf(logits.map((x, i) => of(x, target[i]!)));
}

/** Whether all that was said of a text is right; of regression nothing is. */
export function isRight({ problemType }: LabelSet, { logits, target }: ClassOutcome): boolean {
  if (problemType === 'single_label_classification') return largest(logits) === target[0];
  return problemType === 'multi_label_classification' && logits.every((x, i) => Number(x >= 0) === target[i]);
}

/** 2·tp / (2·tp + fp + fn); 0 where a label neither is nor is given. */
function f1(tp: number, fp: number, fn: number): number {
  return tp === 0 ? 0 : (2 * tp) / (2 * tp + fp + fn);
}

const column = (counts: readonly (readonly number[])[], i: number): number =>
  counts.reduce((sum, row) => sum + row[i]!, 0);

/** The mean F1 of the labels that texts have or were given, as scikit-learn's f1_score(average='macro') has it. */
function macroF1({ counts }: Confusion): number {
  const scores = counts.flatMap((row, i) => {
    const [tp, have, given] = [row[i]!, row.reduce((sum, n) => sum + n, 0), column(counts, i)];
    return have + given === 0 ? [] : [f1(tp, given - tp, have - tp)];
  });
  return meanOf(scores);
}

/** Pearson's correlation; NaN where one of them does not vary. */
function pearson(a: readonly number[], b: readonly number[]): number {
  const [meanA, meanB] = [meanOf(a), meanOf(b)];
  const product = (x: readonly number[], mx: number, y: readonly number[], my: number): number =>
    x.reduce((sum, each, i) => sum + (each - mx) * (y[i]! - my), 0);
  return product(a, meanA, b, meanB) / Math.sqrt(product(a, meanA, a, meanA) * product(b, meanB, b, meanB));
}

/**
 * Figures over some texts. Accuracy is the share of texts of which all that was said is right. Macro F1 is the mean over labels of their F1; of several
 * labels for a text over all of them. Of regression they are the mean absolute error and Pearson's correlation, where there is one.
 */
export function classScores(set: LabelSet, outcomes: readonly ClassOutcome[]): ClassScores {
  const { labels, problemType } = set;
  if (problemType === 'regression') {
    const [said, is] = [outcomes.flatMap(({ logits }) => logits), outcomes.flatMap(({ target }) => target)];
    const correlation = pearson(said, is);
    const mae = meanOf(said.map((x, i) => Math.abs(x - is[i]!)));
    return { metrics: { mae, ...(Number.isFinite(correlation) && { pearson: correlation }) } };
  }
  const accuracy = meanOf(outcomes.map((one) => Number(isRight(set, one))));
  if (problemType === 'multi_label_classification') {
    const scores = labels.map((_, i) => {
      const count = (said: boolean, is: number): number =>
        outcomes.filter(({ logits, target }) => logits[i]! >= 0 === said && target[i] === is).length;
      return f1(count(true, 1), count(true, 0), count(false, 1));
    });
    return { metrics: { accuracy, macroF1: meanOf(scores) } };
  }
  const counts = labels.map(() => labels.map(() => 0));
  for (const { logits, target } of outcomes) counts[target[0]!]![largest(logits)]!++;
  const confusion = { labels, counts };
  return { metrics: { accuracy, macroF1: macroF1(confusion) }, confusion };
}
