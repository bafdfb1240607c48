// groupAdvantages, and what is logged of rewards: TRL's numbers.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { groupAdvantages } from '../../lib/index';
import { advantagesOf, type GroupAdvantagesOptions } from '../../lib/train/objectives/advantages';
import { expectThrow } from '../support/errors';
import { describeWithData } from '../support/shared_data';

interface Recorded {
  rewards: (number | null)[][];
  num_generations: number;
  scale_rewards?: GroupAdvantagesOptions['scaleRewards'];
  reward_weights?: number[];
  multi_objective_aggregation?: GroupAdvantagesOptions['multiObjectiveAggregation'];
  advantages: number[];
  metrics: Record<string, number>;
}

describeWithData('advantages', 'golden-objectives', (folder) => {
  const record = JSON.parse(readFileSync(join(folder, 'advantages', 'record.json'), 'utf8')) as {
    cases: Recorded[];
  };

  test.each(
    record.cases.map(
      (one) =>
        [
          JSON.stringify({ ...one, rewards: undefined, advantages: undefined, metrics: undefined }),
          one,
        ] as const,
    ),
  )("are TRL's: %s", (_, { rewards, advantages, metrics, ...words }) => {
    const got = advantagesOf(rewards, {
      numGenerations: words.num_generations,
      scaleRewards: words.scale_rewards,
      rewardWeights: words.reward_weights,
      multiObjectiveAggregation: words.multi_objective_aggregation,
    });
    for (const [i, want] of advantages.entries()) expect(got.advantages[i]).toBeCloseTo(want, 6);
    for (const [name, want] of Object.entries(metrics)) expect(got.metrics[name]).toBeCloseTo(want, 6);
    expect(got.advantages).toHaveLength(advantages.length);
  });
});

test('a group without a spread, and one without rewards, have advantages of 0', () => {
  expect(groupAdvantages([1, 1, null, null, 2, 4], { numGenerations: 2, scaleRewards: 'none' })).toEqual([
    0, 0, 0, 0, -1, 1,
  ]);
  expect(groupAdvantages([1, 1, null, null], { numGenerations: 2 })).toEqual([0, 0, 0, 0]);
  expect(advantagesOf([1, 1, null, null, 2, 4], { numGenerations: 2 }).metrics).toMatchObject({
    frac_reward_zero_std: 1 / 3,
    reward: 2,
  });
});

test('rewards that differ by a rounding have no spread', () => {
  const share = (difference: number): number =>
    advantagesOf([1, 1 + difference, 2, 3], { numGenerations: 2 }).metrics['frac_reward_zero_std']!;
  expect(share(1e-9)).toBe(0.5);
  expect(share(1e-6)).toBe(0);
});

test('what is wrong is said', () => {
  const refused = (rewards: unknown, options: object, text: RegExp): void =>
    void expectThrow(
      () => groupAdvantages(rewards as number[], { numGenerations: 2, ...options }),
      'ERR_ARGUMENT',
      text,
    );
  refused([1, 2, 3], {}, /whole groups of 2 completions but received 3/);
  refused([], {}, /whole groups/);
  refused([1, NaN], {}, /a finite number or null for completion 1 but received NaN/);
  refused([[1, 2], [3]], {}, /2 finite numbers or nulls for completion 1/);
  refused([1, 2], { rewardWeights: [1, 2] }, /rewardWeights to be 1 finite numbers/);
  refused([1, 2], { scaleRewards: 'all' }, /scaleRewards/);
  refused([1, 2], { numGenerations: 1 }, /numGenerations/);
  refused([1, 2], { multiObjectiveAggregation: 'sum' }, /multiObjectiveAggregation/);
});
