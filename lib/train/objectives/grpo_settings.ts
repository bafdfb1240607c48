/** The options of runs on rewards, checked. */
import type { PromptTurns } from '../../data/prompt_rows';
import { loraError } from '../../errors';
import type { GenerateOptions } from '../../models/core/options';
import { checkedOptions } from '../../options/option';
import { objectiveOptions } from '../../options/objectives';
import { check, checkOptions, describe, isListOf } from '../../validate';
import type { GroupAdvantagesOptions, Reward } from './advantages';
import { policySettings, type PolicySettings } from './policy_loss';
import { refuseForeign } from './settings';

/** A completion, as a reward function gets it. */
export interface Rewarded<Row = Readonly<Record<string, unknown>>> {
  /** The text of the prompt; '' for a model without a tokenizer. */
  readonly prompt: string;
  /** The text of the completion, without stop strings and special tokens; '' for a model without a tokenizer. */
  readonly completion: string;
  /** The tokens of the prompt. */
  readonly promptIds: readonly number[];
  /** The tokens of the completion, with the one that ends it. */
  readonly completionIds: readonly number[];
  /** The row of the data that the prompt is of. */
  readonly row: Row;
}

/**
 * How good a completion is; null: it has nothing to say of it.
 *
 * @example
 * const short: RewardFunction = ({ completion }) => -completion.length;
 */
export type RewardFunction = (completion: Rewarded) => Reward | Promise<Reward>;

/** A prompt, as a `rollout` gets it. */
export interface RolloutPrompt {
  /** Its tokens. */
  readonly promptIds: readonly number[];
  /** The row of the data that it is of. */
  readonly row: Readonly<Record<string, unknown>>;
}

/** Completions of each prompt that are made elsewhere: `numGenerations` of each. */
export type Rollout = (
  prompts: readonly RolloutPrompt[],
  options: { readonly numGenerations: number; readonly signal: AbortSignal | undefined },
) =>
  | readonly (readonly { readonly completionIds: readonly number[] }[])[]
  | Promise<readonly (readonly { readonly completionIds: readonly number[] }[])[]>;

const generationNames = [
  ...(['stop', 'topK', 'topP', 'minP', 'repetitionPenalty', 'jsonSchema', 'speculate'] as const),
  ...(['tools', 'variables'] as const),
] as const;
/** How completions are drawn beside `temperature`. Default: from all tokens, to the end-of-text token. */
export type RolloutGeneration = Pick<GenerateOptions, (typeof generationNames)[number]>;

/** What a policy is trained with on rewards, in the words of TRL. */
export interface RewardOptions extends PolicySettings, Omit<GroupAdvantagesOptions, 'numGenerations'> {
  /** Functions that tell how good a completion is; each is called once for each completion. */
  rewards?: readonly RewardFunction[] | undefined;
  /** Milliseconds that a reward, or a `rollout`, may take. Default 300000. */
  rewardTimeout?: number | undefined;
  /** Completions of each prompt, among which rewards are compared. Default 8. */
  numGenerations?: number | undefined;
  /** Steps on the same completions. Default 1. */
  numIterations?: number | undefined;
  /** How completions are drawn beside `temperature`. */
  generation?: RolloutGeneration | undefined;
  /** Makes the completions in place of the engine of the model. */
  rollout?: Rollout | undefined;
}

/** The same with every default. */
export interface GRPOSettings {
  readonly policy: Required<PolicySettings>;
  readonly advantages: GroupAdvantagesOptions & { readonly numGenerations: number };
  readonly numIterations: number;
  readonly rewards: readonly RewardFunction[];
  /** Of the rewards, each another one. */
  readonly names: readonly string[];
  readonly rewardTimeout: number;
  readonly generation: RolloutGeneration;
  readonly rollout: Rollout | undefined;
}

/** The names of the functions, and a number where they have none, or one has it already. */
function namesOf(rewards: readonly RewardFunction[]): string[] {
  const names: string[] = [];
  for (const [i, { name }] of rewards.entries())
    names.push(name === '' || names.includes(name) ? `${name || 'reward'}_${i}` : name);
  return names;
}

/** What is told with a conversation, of how completions are drawn. */
export const turnsOf = ({ tools, variables }: RolloutGeneration): PromptTurns => ({
  ...(tools && { tools }),
  ...(variables && { variables }),
});

/** @throws ERR_ARGUMENT; ERR_UNSUPPORTED for an option that runs on rewards do not have. */
export function grpoSettings(op: string, options: RewardOptions): GRPOSettings {
  refuseForeign(op, 'grpo', options);
  const values = checkedOptions(op, objectiveOptions, options);
  const { numGenerations = 8, numIterations = 1, rewardTimeout = 300_000, scaleRewards } = values;
  const { rewards, rewardWeights, generation = {}, rollout } = options;
  check(
    isListOf(rewards, (reward) => typeof reward === 'function') && rewards.length > 0,
    op,
    () => `expected rewards to be a list of functions but received ${describe(rewards)}`,
  );
  check(
    rewardWeights === undefined ||
      (isListOf(rewardWeights, Number.isFinite) && rewardWeights.length === rewards.length),
    op,
    () =>
      `expected rewardWeights to be ${rewards.length} finite numbers, one for each of rewards, but received ${describe(rewardWeights)}`,
  );
  check(
    rollout === undefined || typeof rollout === 'function',
    op,
    () => `expected rollout to be a function but received ${describe(rollout)}`,
  );
  checkOptions(op, generation, generationNames);
  const { multiObjectiveAggregation } = values;
  return {
    policy: policySettings(op, options),
    advantages: { numGenerations, scaleRewards, rewardWeights, multiObjectiveAggregation },
    ...{ numIterations, rewardTimeout, generation, rollout },
    rewards: rewards,
    names: namesOf(rewards),
  };
}

/** @throws ERR_UNSUPPORTED for options of a run that are for rows which are known before it. */
export function refuseKnownRows(op: string, options: object): void {
  for (const name of ['packing', 'packLength', 'neftuneNoiseAlpha', 'maxTokens'])
    if ((options as Record<string, unknown>)[name])
      throw loraError(
        op,
        'ERR_UNSUPPORTED',
        `${name} is not for the objective grpo, whose texts the run makes`,
      );
}
