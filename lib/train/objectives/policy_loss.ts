/** policyLoss: the loss of completions that were rewarded (GRPO, BNPO, Dr. GRPO, DAPO, GSPO). Formulas and figures are those of TRL. */
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { labelLogProbs } from '../../models/running/log_probs';
import type { LabelLogProbs } from '../../models/core/label_log_probs';
import { joinRows, rowSums } from '../../ops/rows';
import type { Adapter } from '../../peft/adapter';
import { ignoredLabel } from '../../data/example';
import { tensor } from '../../tensor/create';
import { noGrad, tidy } from '../../tensor/scope';
import type { Tensor, TensorValues } from '../../tensor/tensor';
import {
  check,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  describe,
  isListOf,
} from '../../validate';

/** How a policy is changed by its advantages. */
export interface PolicySettings {
  /** The weight of the KL divergence from the reference (k3: e^d − d − 1 of d = log π_ref − log π). Default 0. */
  beta?: number | undefined;
  /** Ratios below 1 − epsilon get no gradient where the advantage is negative. Default 0.2. */
  epsilon?: number | undefined;
  /** Ratios above 1 + epsilonHigh get none where it is positive. Default: epsilon. */
  epsilonHigh?: number | undefined;
  /**
   * What the losses of tokens are divided by: 'grpo', those of a completion by its length, and the mean of completions; 'bnpo', by the tokens of the batch; 'dr_grpo', by
   * completions · maxCompletionLength; 'dapo', by numItemsInBatch. Default 'dapo'.
   */
  lossType?: 'grpo' | 'bnpo' | 'dr_grpo' | 'dapo' | undefined;
  /** Whether each token has a ratio, or each completion the geometric mean of those of its tokens (GSPO). Default 'token'. */
  importanceSamplingLevel?: 'token' | 'sequence' | undefined;
  /** Divides all logits, as when the completions were drawn. Default 1. */
  temperature?: number | undefined;
  /** Of 'dr_grpo'. Default 256. */
  maxCompletionLength?: number | undefined;
}

/** The options of {@link policyLoss}: a list has an entry for each completion. */
export interface PolicyLossOptions extends PolicySettings {
  /** The model. */
  model: CausalLM;
  /** The prompt of each completion. */
  promptIds: readonly (readonly number[])[];
  /** The completions, with their end tokens. */
  completionIds: readonly (readonly number[])[];
  /** How much better than others each is. */
  advantages: readonly number[];
  /** log p of their tokens when they were made. Default: as they are now, so that ratios are 1. */
  oldLogProbs?: readonly (readonly number[])[] | undefined;
  /** log p of their tokens by the reference, where beta is above 0. */
  refLogProbs?: readonly (readonly number[])[] | undefined;
  /** The adapter that is trained: a name, or an Adapter. Default: the active one. */
  adapter?: string | Adapter | null | undefined;
  /** Of 'dapo': tokens of the completions of the whole step. Default: those of this call. */
  numItemsInBatch?: number | undefined;
  /** Keeps only the input of each block for backward(). Default false. */
  gradientCheckpointing?: boolean | undefined;
}

/** What {@link policyLoss} gives. */
export interface PolicyLoss {
  /** The loss of the completions, a scalar with its graph. */
  loss: Tensor;
  /** The figures that TRL logs, under its names; the first call reads them from the device. */
  metrics: () => Promise<Record<string, number>>;
}

const op = 'policyLoss';

/** What the loss is made of, beside log-probabilities. */
export interface PolicyCompletions {
  readonly advantages: readonly number[];
  readonly old: readonly (readonly number[])[] | undefined;
  readonly reference: readonly (readonly number[])[] | undefined;
  readonly numItemsInBatch: number | undefined;
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const mean = (values: readonly number[]): number => sum(values) / values.length;

/** The weight that the loss of each token of a completion has. */
function tokenWeights(
  counts: readonly number[],
  { lossType, maxCompletionLength }: Required<PolicySettings>,
  numItemsInBatch: number | undefined,
): number[] {
  const [rows, tokens] = [counts.length, sum(counts)];
  return counts.map((count) => {
    if (lossType === 'grpo') return 1 / (rows * count);
    if (lossType === 'dr_grpo') return 1 / (rows * maxCompletionLength);
    return 1 / (lossType === 'dapo' ? (numItemsInBatch ?? tokens) : tokens);
  });
}

/**
 * With the ratio r = exp(log π − log π_old) and the advantage A: Σ w·(−min(r·A, clip(r)·A) + β·(e^d − d − 1)). As the sign of A is known, the
 * minimum is A times r cut at one side.
 */
export function policyLossOf(
  { logProbs, entropies, counts }: LabelLogProbs,
  { advantages, old, reference, numItemsInBatch }: PolicyCompletions,
  settings: Required<PolicySettings>,
): { sum: Tensor; values: Tensor; read: (values: TensorValues) => Record<string, number> } {
  const { beta, epsilon, epsilonHigh, importanceSamplingLevel } = settings;
  const { device } = logProbs;
  const constant = (values: readonly number[]): Tensor => tensor(values, { device });
  const perToken = (values: readonly number[]): number[] =>
    values.flatMap((value, i) => Array<number>(counts[i]!).fill(value));
  const weights = tokenWeights(counts, settings, numItemsInBatch);

  const logRatios = logProbs.sub(old ? constant(old.flat()) : logProbs.detach());
  const byToken = importanceSamplingLevel === 'token';
  const ratios = (
    byToken ? logRatios : rowSums(logRatios, counts).mul(constant(counts.map((count) => 1 / count)))
  ).exp();
  const each = (values: readonly number[]): number[] => (byToken ? perToken(values) : [...values]);
  const signs = constant(each(advantages.map((advantage) => (advantage < 0 ? -1 : 1))));
  const limits = constant(each(advantages.map((a) => (a < 0 ? 1 - epsilon : 1 + epsilonHigh))));
  const cut = ratios.sub(ratios.sub(limits).mul(signs).relu().mul(signs));
  const shares = advantages.map((advantage, i) => -advantage * weights[i]! * (byToken ? 1 : counts[i]!));
  let loss = cut.mul(constant(each(shares))).sum();
  let divergences: Tensor | undefined;
  if (beta > 0) {
    const d = constant(reference!.flat()).sub(logProbs);
    divergences = d.exp().sub(d).sub(1);
    loss = loss.add(divergences.mul(constant(perToken(weights.map((weight) => beta * weight)))).sum());
  }

  const measured = [ratios, entropies!, ...(divergences ? [divergences] : [])];
  const values = noGrad(() => joinRows(measured.map((part) => part.detach())));
  const read = (all: TensorValues): Record<string, number> => {
    let at = 0;
    const next = (length: number): number[] => [...all.subarray(at, (at += length))];
    const found = next(ratios.numel);
    const tokens = sum(counts);
    const entropy = mean(next(tokens));
    let begin = 0;
    // Whether each ratio of a completion is cut, by completion.
    const clipped = (is: (ratio: number, advantage: number) => boolean): number[][] => {
      begin = 0;
      return advantages.map((advantage, i) => {
        const own = found.slice(begin, (begin += byToken ? counts[i]! : 1));
        return own.map((ratio) => Number(is(ratio, advantage)));
      });
    };
    const low = clipped((ratio, advantage) => ratio < 1 - epsilon && advantage < 0);
    const high = clipped((ratio, advantage) => ratio > 1 + epsilonHigh && advantage > 0);
    return {
      entropy,
      'clip_ratio/low_mean': mean(low.flat()),
      'clip_ratio/high_mean': mean(high.flat()),
      'clip_ratio/region_mean': mean(low.flat()) + mean(high.flat()),
      'clip_ratio/low_min': Math.min(...low.map(mean)),
      'clip_ratio/high_max': Math.max(...high.map(mean)),
      ...(divergences && { kl: mean(next(tokens)) }),
    };
  };
  return { sum: loss, values, read };
}

/** @throws ERR_ARGUMENT */
export function policySettings(tag: string, options: PolicySettings): Required<PolicySettings> {
  const { beta = 0, epsilon = 0.2, temperature = 1, maxCompletionLength = 256 } = options;
  const { epsilonHigh = epsilon, lossType = 'dapo', importanceSamplingLevel = 'token' } = options;
  checkNumber(tag, 'beta', beta, 0);
  checkNumber(tag, 'epsilon', epsilon, 0);
  checkNumber(tag, 'epsilonHigh', epsilonHigh, 0);
  checkNumber(tag, 'temperature', temperature, 0);
  check(temperature > 0, tag, 'expected temperature to be above 0 but received 0');
  checkInteger(tag, 'maxCompletionLength', maxCompletionLength, 1);
  checkOneOf(tag, 'lossType', lossType, ['grpo', 'bnpo', 'dr_grpo', 'dapo']);
  checkOneOf(tag, 'importanceSamplingLevel', importanceSamplingLevel, ['token', 'sequence']);
  return { beta, epsilon, epsilonHigh, lossType, importanceSamplingLevel, temperature, maxCompletionLength };
}

/** Demands a list of numbers for each completion, one for each of its tokens. */
function checkLogProbs(name: string, lists: unknown, completions: readonly (readonly number[])[]): void {
  check(
    isListOf(lists, Array.isArray) && lists.length === completions.length,
    op,
    () =>
      `expected ${name} to be a list for each of ${completions.length} completions but received ${describe(lists)}`,
  );
  for (const [i, list] of (lists as unknown[][]).entries())
    check(
      list.length === completions[i]!.length && list.every(Number.isFinite),
      op,
      `expected ${name} of completion ${i} to be ${completions[i]!.length} finite numbers, one for each token`,
    );
}

function checkCompletions(options: PolicyLossOptions, beta: number): void {
  const { promptIds, completionIds, advantages, oldLogProbs, refLogProbs, numItemsInBatch } = options;
  const isRows = (rows: unknown): rows is number[][] => isListOf(rows, Array.isArray);
  check(
    isRows(completionIds) && isRows(promptIds) && promptIds.length === completionIds.length,
    op,
    'expected promptIds and completionIds to be lists of as many rows of token ids',
  );
  if (completionIds.length === 0 || completionIds.some((row) => row.length === 0))
    throw loraError(op, 'ERR_DATA', 'expected completions of at least one token');
  if (promptIds.some((row) => row.length === 0))
    throw loraError(op, 'ERR_DATA', 'expected prompts of at least one token');
  check(
    isListOf(advantages, Number.isFinite) && advantages.length === completionIds.length,
    op,
    () =>
      `expected advantages to be ${completionIds.length} finite numbers but received ${describe(advantages)}`,
  );
  if (oldLogProbs !== undefined) checkLogProbs('oldLogProbs', oldLogProbs, completionIds);
  check(beta === 0 || refLogProbs !== undefined, op, 'expected refLogProbs, since beta is above 0');
  if (refLogProbs !== undefined) checkLogProbs('refLogProbs', refLogProbs, completionIds);
  if (numItemsInBatch !== undefined) checkInteger(op, 'numItemsInBatch', numItemsInBatch, 1);
}

/**
 * The loss of completions with their advantages, recorded for backward(), without dropout.
 *
 * @throws ERR_ARGUMENT for a bad option, ERR_DATA for an empty prompt or completion, and as model.forward.
 * @example
 * const advantages = groupAdvantages([1, 0], { numGenerations: 2 });
 * const { loss, metrics } = policyLoss({ model, promptIds: [[1, 306], [1, 306]], completionIds: [[29, 2], [31, 2]], advantages });
 * loss.backward();
 * console.log(await loss.item(), (await metrics()).entropy);
 */
export function policyLoss(options: PolicyLossOptions): PolicyLoss {
  const { model, promptIds, completionIds, advantages, adapter, gradientCheckpointing } = options;
  checkOptions(op, options, [
    ...['model', 'promptIds', 'completionIds', 'advantages', 'oldLogProbs', 'refLogProbs', 'adapter', 'beta'],
    ...[
      'epsilon',
      'epsilonHigh',
      'lossType',
      'importanceSamplingLevel',
      'temperature',
      'maxCompletionLength',
    ],
    ...['numItemsInBatch', 'gradientCheckpointing'],
  ]);
  const settings = policySettings(op, options);
  checkCompletions(options, settings.beta);
  const ids = promptIds.map((prompt, i) => [...prompt, ...completionIds[i]!]);
  const labels = promptIds.map((prompt, i) => [...prompt.map(() => ignoredLabel), ...completionIds[i]!]);
  const { sum, values, read } = tidy(() => {
    const { temperature } = settings;
    const pass = { adapter, temperature, entropies: true, train: false, gradientCheckpointing };
    const completions = {
      ...{ advantages, old: options.oldLogProbs, reference: options.refLogProbs },
      numItemsInBatch: options.numItemsInBatch,
    };
    return policyLossOf(labelLogProbs(model.core, ids, labels, pass), completions, settings);
  });
  let metrics: Promise<Record<string, number>> | undefined;
  const readOnce = async (): Promise<Record<string, number>> => {
    const found = read(await values.data());
    values.dispose();
    return found;
  };
  return { loss: sum, metrics: () => (metrics ??= readOnce()) };
}
