/** Completions of prompts: from the engine of the model, or from a function of the program. */
import { createHash } from 'node:crypto';
import { SequencePlan } from '../../data/sequence_plan';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import type { Adapter } from '../../peft/adapter';
import { inLanes } from '../../tasks/lanes';
import { describe, isListOf } from '../../validate';
import type { GRPOSettings, RolloutPrompt } from './grpo_settings';
import { answerOf, inTime } from './rewards';

const op = 'Trainer';

/** A completion that was made. */
export interface Made {
  readonly ids: readonly number[];
  /** '' for a model without a tokenizer. */
  readonly text: string;
  /** Whether it ended before its length did. */
  readonly ended: boolean;
  /** log p of its tokens by what made it, where that tells them. */
  readonly logProbs?: readonly number[];
}

/** Of whom completions are asked, and what decides their draws. */
export interface RolloutPass {
  readonly adapter: Adapter | null;
  /** Each generation of a run has another one. */
  readonly seed: string;
  /** The number of each prompt in its generation, where others complete some of its prompts. Default: in their order. */
  readonly numbers?: readonly number[];
  readonly signal: AbortSignal | undefined;
}

/** Seeds of the draws of a prompt: nothing of them has to be kept for a run that goes on. */
const seedOf = (pass: string, prompt: number): number =>
  createHash('sha256').update(`${pass}/${prompt}`).digest().readUIntBE(0, 6);

/** `numGenerations` completions of each prompt. @throws ERR_DATA for those of a `rollout` that are none. */
export function completionsOf(
  model: CausalLM,
  settings: GRPOSettings,
  prompts: readonly RolloutPrompt[],
  pass: RolloutPass,
): Promise<Made[][]> {
  return settings.rollout
    ? rolledOut(model, settings, prompts, pass)
    : generated(model, settings, prompts, pass);
}

async function rolledOut(
  model: CausalLM,
  { rollout, rewardTimeout, advantages: { numGenerations } }: GRPOSettings,
  prompts: readonly RolloutPrompt[],
  { signal }: RolloutPass,
): Promise<Made[][]> {
  const call = () => rollout!(prompts, { numGenerations, signal });
  const given: unknown = await inTime(answerOf('rollout', call), {
    ...{ mostMs: rewardTimeout, signal, late: () => 'rollout' },
  });
  const isGroup = (group: unknown): boolean =>
    isListOf(group, isCompletion) && group.length === numGenerations;
  if (!isListOf(given, isGroup) || given.length !== prompts.length)
    throw loraError(
      op,
      'ERR_DATA',
      `expected rollout to give ${numGenerations} completions { completionIds } of at least one token for each of ${prompts.length} prompts but received ${describe(given)}`,
    );
  const { eosTokenIds } = model.core.defaults;
  return (given as { completionIds: number[] }[][]).map((group) =>
    group.map(({ completionIds }) => ({
      ids: [...completionIds],
      text: model.hasTokenizer ? model.tokenizer.decode(completionIds, { skipSpecialTokens: true }) : '',
      ended: eosTokenIds.has(completionIds.at(-1)!),
    })),
  );
}

function isCompletion(value: unknown): boolean {
  const ids = (value as { completionIds?: unknown } | null)?.completionIds;
  return isListOf(ids, Number.isInteger) && ids.length > 0;
}

async function generated(
  model: CausalLM,
  { generation, policy, advantages: { numGenerations: n } }: GRPOSettings,
  prompts: readonly RolloutPrompt[],
  { adapter, seed, numbers, signal }: RolloutPass,
): Promise<Made[][]> {
  const { temperature, maxCompletionLength } = policy;
  const sequence = new SequencePlan(adapter, model.config.maxPositionEmbeddings);
  const { tools: _, variables: __, ...drawn } = generation;
  const made = Array<Made[]>(prompts.length);
  const complete = async (i: number, ended: AbortSignal): Promise<void> => {
    const { promptIds } = prompts[i]!;
    const maxNewTokens = sequence.tokensAfter(promptIds.length, undefined, maxCompletionLength);
    if (maxNewTokens === undefined || maxNewTokens < 1)
      throw loraError(
        op,
        'ERR_DATA',
        `a prompt of ${promptIds.length} tokens fills the context: give a shorter one`,
      );
    const { choices, ...only } = await model.generate(promptIds, {
      ...{ topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, stop: [], ...drawn },
      ...{ temperature, maxNewTokens, n, seed: seedOf(seed, numbers?.[i] ?? i), adapter, signal: ended },
      // The engine tells them of unscaled logits.
      ...(temperature === 1 && { logprobs: 0 }),
    });
    made[i] = (choices ?? [only]).map(({ ids, text, logprobs, finishReason }) => ({
      ...{ ids, text, ended: finishReason === 'stop' },
      ...(logprobs && { logProbs: logprobs.map(({ logprob }) => logprob) }),
    }));
  };
  const longest = prompts.reduce((most, { promptIds }) => Math.max(most, promptIds.length), 0);
  const tokens = sequence.vectors + longest + maxCompletionLength;
  const engine = model.core.lendEngine(prompts.length * n, tokens);
  try {
    await inLanes([...prompts.keys()], Math.ceil(engine.maxBatchSize / n), signal, complete);
  } finally {
    engine.giveBack();
  }
  return made;
}
