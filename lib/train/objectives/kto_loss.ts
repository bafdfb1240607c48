/** The loss of answers that are good or bad (KTO). Formula and figures are those of TRL, whose words name them. */
import type { Tensor, TensorValues } from '../../tensor/tensor';
import { noGrad } from '../../tensor/scope';
import type { Metrics } from '../metrics';
import { constant, joined, mean, type AnswerScores } from './answer_scores';
import type { BatchLoss } from './objective';
import type { KTOSettings } from './settings';

/**
 * w·(1 − σ(β·(r − kl))) of a good answer, w·(1 − σ(β·(kl − r))) of a bad one. `others` and their reference: log p of answers to other prompts, of which kl is the mean of
 * the log-ratios, 0 at least; no gradient goes through it.
 */
export function ktoLoss(
  policy: AnswerScores,
  reference: Tensor,
  others: { readonly policy: Tensor; readonly reference: Tensor },
  labels: readonly boolean[],
  { beta, desirableWeight, undesirableWeight }: KTOSettings,
): BatchLoss {
  const kl = noGrad(() => others.policy.sub(others.reference).mean().relu());
  const against = constant(
    labels.map((good) => (good ? -beta : beta)),
    policy.sums,
  );
  const weights = constant(
    labels.map((good) => (good ? desirableWeight : undesirableWeight) / labels.length),
    policy.sums,
  );
  // 1 − σ(x) = σ(−x)
  const sum = policy.sums.sub(reference).sub(kl).mul(against).sigmoid().mul(weights).sum();
  const read = (values: TensorValues): Metrics => {
    const n = labels.length;
    const metrics: Record<string, number> = { kl: values[2 * n]! };
    for (const [name, which] of [
      ['chosen', true],
      ['rejected', false],
    ] as const) {
      const own = labels.flatMap((good, i) => (good === which ? [i] : []));
      if (own.length === 0) continue;
      metrics[`rewards/${name}`] = mean(own.map((i) => beta * (values[i]! - values[n + i]!)));
      metrics[`logps/${name}`] = mean(own.map((i) => values[i]!));
    }
    const [chosen, rejected] = [metrics['rewards/chosen'], metrics['rewards/rejected']];
    if (chosen !== undefined && rejected !== undefined) metrics['rewards/margins'] = chosen - rejected;
    return metrics;
  };
  return { sum, measured: { values: joined([policy.sums, reference, kl.reshape([1])]), read } };
}
