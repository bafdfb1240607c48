/**
 * Losses that pull texts which belong together towards each other. Formulas are those of sentence-transformers (MultipleNegativesRankingLoss,
 * MatryoshkaLoss, RankNetLoss), whose words name their settings.
 */
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import type { ContrastiveSettings } from './settings';

/** Keeps the length of a row of zeros above 0. */
const tiny = 1e-24;

/** Each row over its length: x [n, d] → x / ‖x‖. */
export function unitRows(x: Tensor): Tensor {
  const squares = moved(x.square(), (t) => t.sum({ dim: 1, keepDim: true }));
  const inverse = moved(squares, (t) => t.add(tiny).pow(-0.5));
  return moved(inverse, (t) => x.mul(t));
}

const firstColumns = (x: Tensor, d: number): Tensor => x.slice(0, d, { dim: 1 });

/** Scaled cosines of anchors [n, d] and candidates [m, d], of which candidate i belongs to anchor i: [n, m]. */
export const similarities = (anchors: Tensor, candidates: Tensor, scale: number): Tensor =>
  unitRows(anchors).matmul(unitRows(candidates).transpose()).mul(scale);

/**
 * InfoNCE: −log softmax(scale · cos(aᵢ, c))[i], the mean over the anchors; every other candidate of the batch is a negative (van den Oord et al., 2018; Henderson
 * et al., 2017). With matryoshkaDims the weighted sum of the losses of the first d numbers of all vectors (Kusupati et al., 2022). Gives the
 * similarities of whole vectors, too.
 */
export function contrastiveLoss(
  anchors: Tensor,
  candidates: Tensor,
  {
    scale,
    matryoshkaDims,
    matryoshkaWeights,
  }: Omit<ContrastiveSettings, 'objective' | 'pool' | 'miniBatchSize'>,
): { loss: Tensor; scores: Tensor } {
  const labels = Array.from({ length: anchors.shape[0]! }, (_, i) => i);
  const scores = similarities(anchors, candidates, scale);
  const width = anchors.shape[1]!;
  const losses = (matryoshkaDims ?? [width]).map((d, i) => {
    const own =
      d === width ? scores : similarities(firstColumns(anchors, d), firstColumns(candidates, d), scale);
    const loss = own.crossEntropy(labels);
    const weight = matryoshkaWeights?.[i] ?? 1;
    return weight === 1 ? loss : loss.mul(weight);
  });
  return { loss: losses.reduce((a, b) => a.add(b)), scores };
}
