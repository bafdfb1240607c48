/** The losses of a better and a worse answer: DPO, ORPO, CPO. Formulas and figures are those of TRL, whose words name them. */
import type { Metrics } from '../metrics';
import type { Tensor, TensorValues } from '../../tensor/tensor';
import { constant, differences, joined, mean, meanLogistic, type AnswerScores } from './answer_scores';
import type { BatchLoss } from './objective';
import type { CPOSettings, DPOSettings, ORPOSettings } from './settings';

/** Of the answers of pairs, the better ones or the worse ones. */
const every2nd = (values: ArrayLike<number>, from: 0 | 1): number[] =>
  Array.from(values).filter((_, i) => i % 2 === from);

/** What all of them tell: rewards and log-probabilities of both answers. */
function pairMetrics(rewards: readonly number[], logProbs: ArrayLike<number>): Record<string, number> {
  const [chosen, rejected] = [every2nd(rewards, 0), every2nd(rewards, 1)];
  return {
    'rewards/chosen': mean(chosen),
    'rewards/rejected': mean(rejected),
    'rewards/accuracies': mean(chosen.map((reward, i) => Number(reward > rejected[i]!))),
    'rewards/margins': mean(chosen.map((reward, i) => reward - rejected[i]!)),
    'logps/chosen': mean(every2nd(logProbs, 0)),
    'logps/rejected': mean(every2nd(logProbs, 1)),
  };
}

/** −Σ log p of the better answers, by the token; `before`: and of what counts before them. */
function chosenLoss({ sums, lengths, before, beforeCounts }: AnswerScores): Tensor {
  const counts = lengths.map((length, i) => (i % 2 === 0 ? length + beforeCounts[i]! : 0));
  const tokens = counts.reduce((a, b) => a + b, 0);
  const share = constant(
    counts.map((_, i) => (i % 2 === 0 ? -1 / tokens : 0)),
    sums,
  );
  return (before ? sums.add(before) : sums).mul(share).sum();
}

const inverse = ({ lengths, sums }: AnswerScores): Tensor =>
  constant(
    lengths.map((length) => 1 / length),
    sums,
  );

/** log-ratios with the reference r = log π(y|x) − log π_ref(y|x), of which the loss takes the difference of both answers. */
export function dpoLoss(policy: AnswerScores, reference: Tensor, settings: DPOSettings): BatchLoss {
  const { beta, lossType, lossWeights, labelSmoothing: smooth } = settings;
  const ratios = policy.sums.sub(reference);
  const scaled = differences(ratios).mul(beta);
  const losses: Record<DPOSettings['lossType'][number], () => Tensor> = {
    sigmoid: () =>
      smooth === 0
        ? meanLogistic(scaled, 1)
        : meanLogistic(scaled, 1)
            .mul(1 - smooth)
            .add(meanLogistic(scaled, -1).mul(smooth)),
    robust: () =>
      meanLogistic(scaled, 1)
        .mul(1 - smooth)
        .sub(meanLogistic(scaled, -1).mul(smooth))
        .div(1 - 2 * smooth),
    // Ratios by the token, so that long answers weigh no more.
    ipo: () =>
      differences(ratios.mul(inverse(policy)))
        .sub(1 / (2 * beta))
        .square()
        .mean(),
    sft: () => chosenLoss(policy),
  };
  const sum = lossType
    .map((type, i) => {
      const weight = lossWeights[i]!;
      return weight === 1 ? losses[type]() : losses[type]().mul(weight);
    })
    .reduce((a, b) => a.add(b));
  const read = (values: TensorValues): Metrics => {
    const n = values.length / 2;
    const logProbs = values.subarray(0, n);
    const rewards = Array.from(logProbs, (value, i) => beta * (value - values[n + i]!));
    return pairMetrics(rewards, logProbs);
  };
  return { sum, measured: { values: joined([policy.sums, reference]), read } };
}

/** The odds p/(1 − p) of an answer, where log p is the mean over its tokens; beside them the loss of prompt and better answer. */
export function orpoLoss(policy: AnswerScores, { beta }: ORPOSettings): BatchLoss {
  const means = policy.sums.mul(inverse(policy));
  const odds = differences(means.sub(means.exp().mul(-1).add(1).log()));
  const likelihood = chosenLoss(policy);
  const sum = likelihood.add(meanLogistic(odds, 1).mul(beta));
  const read = (values: TensorValues): Metrics => {
    const logProbs = values.subarray(0, policy.lengths.length);
    const logOdds = Array.from(logProbs, (value) => value - Math.log(-Math.expm1(value)));
    const differ = every2nd(logOdds, 0).map((chosen, i) => chosen - logOdds[2 * i + 1]!);
    return {
      ...pairMetrics(
        Array.from(logProbs, (value) => beta * value),
        logProbs,
      ),
      nll_loss: values.at(-1)!,
      log_odds_ratio: -mean(differ.map(softplus)),
      log_odds_chosen: mean(differ),
    };
  };
  return { sum, measured: { values: joined([means, likelihood.reshape([1])]), read } };
}

/** −log σ(x). */
const softplus = (x: number): number => Math.max(0, -x) + Math.log1p(Math.exp(-Math.abs(x)));

/** As DPO without a reference, beside the loss of the better answers; SimPO takes log p by the token, and asks for a margin. */
export function cpoLoss(policy: AnswerScores, settings: CPOSettings): BatchLoss {
  const { beta, lossType, simpoGamma, cpoAlpha } = settings;
  const simpo = lossType === 'simpo';
  const logProbs = simpo ? policy.sums.mul(inverse(policy)) : policy.sums;
  const scaled = differences(logProbs).mul(beta);
  const preference = meanLogistic(simpo ? scaled.sub(simpoGamma) : scaled, 1);
  const likelihood = cpoAlpha === 0 ? constant(0, policy.sums) : chosenLoss(policy);
  const read = (values: TensorValues): Metrics => {
    const own = values.subarray(0, policy.lengths.length);
    const rewards = Array.from(own, (value) => beta * value);
    return { ...pairMetrics(rewards, own), nll_loss: values.at(-1)! };
  };
  return {
    sum: cpoAlpha === 0 ? preference : preference.add(likelihood.mul(cpoAlpha)),
    measured: { values: joined([logProbs, likelihood.reshape([1])]), read },
  };
}
