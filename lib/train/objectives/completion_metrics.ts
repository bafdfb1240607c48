/** What TRL logs of completions. */
import type { Metrics } from '../metrics';
import type { Made } from './rollouts';

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

function lengths(prefix: string, of: readonly number[]): Metrics {
  const own = of.length > 0 ? of : [0];
  return {
    [`completions/mean_${prefix}length`]: mean(own),
    [`completions/min_${prefix}length`]: Math.min(...own),
    [`completions/max_${prefix}length`]: Math.max(...own),
  };
}

/** Their lengths, those of the ones that ended by themselves, and the share of the others. */
export function completionMetrics(made: readonly Made[]): Metrics {
  const ended = made.filter((one) => one.ended);
  return {
    ...lengths(
      '',
      made.map(({ ids }) => ids.length),
    ),
    ...lengths(
      'terminated_',
      ended.map(({ ids }) => ids.length),
    ),
    'completions/clipped_ratio': 1 - ended.length / made.length,
  };
}

/** How far log p of tokens in training is from that of what drew them, whose kernels sum in another order. */
export function samplingMetrics(
  sampled: readonly (readonly number[] | undefined)[],
  trained: readonly (readonly number[])[],
): Metrics {
  const differences = sampled.flatMap(
    (own, i) => own?.map((value, t) => Math.abs(value - trained[i]![t]!)) ?? [],
  );
  if (differences.length === 0) return {};
  return {
    'sampling/sampling_logp_difference/mean': mean(differences),
    'sampling/sampling_logp_difference/max': differences.reduce((most, value) => Math.max(most, value)),
  };
}
