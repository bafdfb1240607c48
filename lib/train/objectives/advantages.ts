/** How much better each completion of a group is than the others: what policyLoss takes for their rewards. Formulas are those of TRL. */
import { check, checkInteger, checkOneOf, checkOptions, describe, isListOf } from '../../validate';
import type { Metrics } from '../metrics';

const op = 'groupAdvantages';

/** What a reward function gives a completion; null: it has nothing to say of it. */
export type Reward = number | null;

/** The options of {@link groupAdvantages}. */
export interface GroupAdvantagesOptions {
  /** Completions of each prompt, which lie together. */
  numGenerations: number;
  /** What advantages are divided by: the deviation of rewards in their group or in the batch, or nothing. Default 'group'. */
  scaleRewards?: 'group' | 'batch' | 'none' | undefined;
  /** The weight of each reward function. Default: 1 for each. */
  rewardWeights?: readonly number[] | undefined;
  /**
   * Several functions: whether their sum is normalized, or each in its group (GDPO) and then their sum in the batch, whatever scaleRewards says. Default
   * 'sum_then_normalize'.
   */
  multiObjectiveAggregation?: 'sum_then_normalize' | 'normalize_then_sum' | undefined;
}

/** Keeps a division by a deviation of 0 finite. */
const tiny = 1e-4;

const known = (values: readonly number[]): number[] => values.filter((value) => !Number.isNaN(value));
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
/** Of what is no NaN. */
export const mean = (values: readonly number[]): number => sum(known(values)) / known(values).length;
/** The deviation of a sample, NaN of one value. */
export function deviation(values: readonly number[]): number {
  const [own, center] = [known(values), mean(values)];
  return Math.sqrt(sum(own.map((value) => (value - center) ** 2)) / (own.length > 1 ? own.length - 1 : NaN));
}
const centered = (values: readonly number[]): number[] => {
  const center = mean(values);
  return values.map((value) => value - center);
};
const normalized = (values: readonly number[]): number[] => {
  const scale = deviation(values) + tiny;
  return centered(values).map((value) => value / scale);
};

/** Rewards of several functions as one; NaN: none. */
export const weighedSum = (row: readonly number[], weights: readonly number[]): number =>
  sum(row.map((value, f) => (Number.isNaN(value) ? 0 : value * weights[f]!)));

/** Rewards as a list of one for each function; NaN: none. */
function rewardTable(rewards: readonly (Reward | readonly Reward[])[]): number[][] {
  const width = Array.isArray(rewards[0]) ? rewards[0].length : 1;
  return rewards.map((of, i) => {
    const row = (Array.isArray(of) ? of : [of]) as readonly Reward[];
    check(
      row.length === width && row.every((reward) => reward === null || Number.isFinite(reward)),
      op,
      () =>
        `expected ${width === 1 ? 'a finite number or null' : `${width} finite numbers or nulls`} for completion ${i} but received ${describe(of)}`,
    );
    return row.map((reward) => reward ?? NaN);
  });
}

/** Advantages, and what TRL logs of the rewards that they come from. */
export function advantagesOf(
  rewards: readonly (Reward | readonly Reward[])[],
  options: GroupAdvantagesOptions,
): { advantages: number[]; metrics: Metrics } {
  checkOptions(op, options, ['numGenerations', 'scaleRewards', 'rewardWeights', 'multiObjectiveAggregation']);
  const {
    numGenerations: size,
    scaleRewards = 'group',
    multiObjectiveAggregation = 'sum_then_normalize',
  } = options;
  checkInteger(op, 'numGenerations', size, 2);
  checkOneOf(op, 'scaleRewards', scaleRewards, ['group', 'batch', 'none']);
  checkOneOf(op, 'multiObjectiveAggregation', multiObjectiveAggregation, [
    'sum_then_normalize',
    'normalize_then_sum',
  ]);
  check(
    Array.isArray(rewards) && rewards.length > 0 && rewards.length % size === 0,
    op,
    () =>
      `expected rewards of whole groups of ${size} completions but received ${Array.isArray(rewards) ? rewards.length : describe(rewards)}`,
  );
  const table = rewardTable(rewards);
  const functions = table[0]!.length;
  const { rewardWeights: weights = Array<number>(functions).fill(1) } = options;
  check(
    isListOf(weights, (weight) => Number.isFinite(weight)) && weights.length === functions,
    op,
    () => `expected rewardWeights to be ${functions} finite numbers but received ${describe(weights)}`,
  );
  const grouped = (values: readonly number[], f: (group: number[]) => number[]): number[] =>
    Array.from({ length: values.length / size }, (_, i) => f(values.slice(i * size, (i + 1) * size))).flat();
  const weighed = (rows: readonly (readonly number[])[]): number[] =>
    rows.map((row, i) => (table[i]!.every(Number.isNaN) ? NaN : weighedSum(row, weights)));
  const total = weighed(table);
  let advantages: number[];
  let deviations: number[];
  if (multiObjectiveAggregation === 'sum_then_normalize') {
    const ofGroups = grouped(total, (group) => group.map(() => deviation(group)));
    deviations = scaleRewards === 'batch' ? total.map(() => deviation(total)) : ofGroups;
    advantages = grouped(total, centered);
    if (scaleRewards !== 'none') advantages = advantages.map((value, i) => value / (deviations[i]! + tiny));
  } else {
    const columns = Array.from({ length: functions }, (_, f) =>
      grouped(
        table.map((row) => row[f]!),
        normalized,
      ),
    );
    const together = weighed(table.map((_, i) => columns.map((column) => column[i]!)));
    deviations = together.map(() => deviation(together));
    advantages = normalized(together);
  }
  const metrics = {
    reward: mean(total),
    reward_std: deviation(total),
    frac_reward_zero_std: deviations.filter((value) => value <= 1e-8).length / deviations.length,
  };
  return { advantages: advantages.map((value) => (Number.isNaN(value) ? 0 : value)), metrics };
}

/**
 * How much better each completion is than the others of its prompt: its reward less their mean, by their deviation. A completion without any reward has 0.
 *
 * @throws ERR_ARGUMENT for rewards that are no finite numbers, and no whole groups.
 * @example
 * groupAdvantages([1, 0, 0.5, 0.5], { numGenerations: 4 }); // about [1.2, -1.2, 0, 0]
 */
export function groupAdvantages(
  rewards: readonly (Reward | readonly Reward[])[],
  options: GroupAdvantagesOptions,
): number[] {
  return advantagesOf(rewards, options).advantages;
}
