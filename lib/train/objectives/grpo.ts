/** Rewards as an objective (GRPO): the model completes prompts, functions reward the completions, and those that are better than others of their prompt become likelier. */
import type { Batch } from '../../data/batches';
import type { DataSource } from '../../data/example';
import { answered } from '../../data/preference_rows';
import { promptRows } from '../../data/prompt_rows';
import type { RowGroup, RowKind } from '../../data/row_groups';
import { loraError } from '../../errors';
import { parseJson } from '../../formats/json';
import type { CausalLM } from '../../models/causal_lm';
import { labelLogProbsInSlices } from '../../models/running/log_probs';
import { joinRows } from '../../ops/rows';
import type { Adapter } from '../../peft/adapter';
import { noGrad } from '../../tensor/scope';
import { isListOf, isRecord } from '../../validate';
import type { Metrics } from '../metrics';
import type { Ranks } from '../reducer';
import { advantagesOf, weighedSum, type Reward } from './advantages';
import { completionMetrics, samplingMetrics } from './completion_metrics';
import { turnsOf, type GRPOSettings, type Rewarded } from './grpo_settings';
import type {
  BatchLoss,
  EvaluationPass,
  Objective,
  ObjectiveEvaluation,
  StepPass,
  StepRows,
  TrainingPass,
  Written,
} from './objective';
import { ownBatches } from './own_batches';
import { policyLossOf } from './policy_loss';
import { rewardMetrics, rewardsOf } from './rewards';
import { completionsOf, type Made, type RolloutPass } from './rollouts';
import { shared } from './shares';

const op = 'Trainer';

/** A completion that steps learn from. */
interface Rolled {
  readonly promptIds: readonly number[];
  readonly completionIds: readonly number[];
  readonly advantage: number;
  /** log p of its tokens by the reference, where the loss compares with one. */
  reference?: readonly number[];
  /** log p of its tokens in the first step that learned from it. */
  old?: readonly number[];
  /** log p of its tokens by what made it, until it is compared with `old`. */
  readonly sampled?: readonly number[];
}

/** The completions of a generation, by batch, and their figures. */
interface Generation {
  /** How many generations came before it. */
  readonly index: number;
  readonly batches: readonly (readonly Rolled[])[];
  readonly metrics: Metrics;
}

/** Completions of prompts, and what each function says of each. */
interface Completed {
  readonly groups: readonly (readonly Made[])[];
  readonly table: readonly (readonly Reward[])[];
}

const joined = (parts: readonly Completed[]): Completed => ({
  groups: parts.flatMap(({ groups }) => groups),
  table: parts.flatMap(({ table }) => table),
});

/** Completions with their rewards. */
interface Scored {
  readonly groups: readonly (readonly Made[])[];
  readonly advantages: readonly number[];
  readonly metrics: Metrics;
}

const isIds = (value: unknown): boolean => isListOf(value, Number.isInteger);

function isRolled(value: unknown): value is Rolled {
  if (!isRecord(value) || !isIds(value['promptIds']) || !isIds(value['completionIds'])) return false;
  const { length } = value['completionIds'] as number[];
  return (
    Number.isFinite(value['advantage']) &&
    ['reference', 'old', 'sampled'].every((name) => {
      const own = value[name];
      return own === undefined || (isListOf(own, Number.isFinite) && own.length === length);
    })
  );
}

const isGeneration = (value: unknown): value is Generation =>
  isRecord(value) &&
  Number.isInteger(value['index']) &&
  isRecord(value['metrics']) &&
  isListOf(value['batches'], (batch) => isListOf(batch, isRolled));

const groupOf = (rolled: Rolled): RowGroup => ({
  examples: [answered(rolled.promptIds, rolled.completionIds)],
  row: rolled,
  marks: [rolled.promptIds.length],
});

function batchOfRolled(rolled: readonly Rolled[]): Batch {
  const groups = rolled.map(groupOf);
  const texts = groups.map(({ examples }) => examples[0]!);
  return {
    inputIds: texts.map(({ inputIds }) => [...inputIds]),
    labels: texts.map(({ labels }) => [...labels]),
    groups,
  };
}

const rolledOf = ({ groups }: Batch): Rolled[] => groups!.map(({ row }) => row as Rolled);

/** Cuts the values of all tokens into those of each completion. */
function byCompletion(values: ArrayLike<number>, rolled: readonly Rolled[]): number[][] {
  let at = 0;
  return rolled.map(({ completionIds }) => Array.from(completionIds, () => values[at++]!));
}

export class GRPOObjective implements Objective {
  readonly rows: RowKind;
  readonly isPerToken = false;
  readonly weightless = 'expected prompts';
  readonly stepsPerRows: number;
  #generation: Generation | undefined;
  /** Whether the step is the first on its completions: ratios are then 1, whatever the order of sums. */
  #first = true;

  /** `seed`: of the run. */
  constructor(
    private readonly options: GRPOSettings,
    model: CausalLM,
    private readonly seed: number,
    readonly dropout: boolean,
  ) {
    this.rows = promptRows(() => model.tokenizer, turnsOf(options.generation));
    this.stepsPerRows = options.numIterations;
  }

  get settings(): Readonly<Record<string, unknown>> {
    const { policy, advantages, numIterations, names, generation, rollout } = this.options;
    return {
      ...{ objective: 'grpo', ...policy, ...advantages, numIterations, rewards: names, generation },
      ...(rollout && { rollout: true }),
      ...(this.dropout && { disableDropout: false }),
    };
  }

  get facts(): (readonly [name: string, value: string])[] {
    const { policy, advantages, names } = this.options;
    const { lossType, temperature, beta } = policy;
    return [
      ['Objective', `grpo, lossType ${lossType}, beta ${beta}, temperature ${temperature}`],
      ['Rewards', names.join(', ')],
      [
        'Completions',
        `${advantages.numGenerations} of each prompt, at most ${policy.maxCompletionLength} tokens`,
      ],
    ];
  }

  // A batch weighs the same whatever it holds, except where the loss is the mean over the tokens of the step.
  weightOf({ groups }: Batch): number {
    if (this.options.policy.lossType !== 'dapo') return 1;
    return groups!.reduce((sum, { row }) => sum + (row as Rolled).completionIds.length, 0);
  }

  get state(): string | undefined {
    return this.#generation && JSON.stringify(this.#generation);
  }

  restore(state: unknown, step: number): void {
    const found = parseJson(String(state), 'the completions of the checkpoint');
    if (!isGeneration(found))
      throw loraError(op, 'ERR_FILE', 'the completions of the checkpoint are not those of a run on rewards');
    // Those of steps that are done are not needed.
    if (found.index === Math.floor(step / this.stepsPerRows)) this.#generation = found;
  }

  async prepareStep(model: CausalLM, prompts: readonly Batch[], pass: StepPass): Promise<StepRows> {
    const index = Math.floor(pass.step / this.stepsPerRows);
    this.#first = pass.step % this.stepsPerRows === 0;
    if (this.#generation?.index !== index) {
      if (!this.#first)
        throw loraError(
          op,
          'ERR_FILE',
          `step ${pass.step + 1} goes on with completions of the step before, and the checkpoint has none`,
        );
      this.#generation = undefined;
      this.#generation = await this.#generate(model, prompts, index, pass);
    }
    const { batches, metrics } = this.#generation;
    return { batches: batches.map(batchOfRolled), metrics };
  }

  async #generate(
    model: CausalLM,
    prompts: readonly Batch[],
    index: number,
    { adapter, signal, ranks }: StepPass,
  ): Promise<Generation> {
    const groups = prompts.map((batch) => batch.groups!);
    const pass = { adapter, seed: `${this.seed}/${index}`, signal };
    const completed = await shared(ranks, groups.length, (own) =>
      this.#completeBatches(model, groups, own, pass),
    );
    const { groups: made, advantages, metrics } = this.#score(joined(completed));
    const { numGenerations: n } = this.options.advantages;
    let prompt = 0;
    const batches = groups.map((own) =>
      own.flatMap(({ examples }): Rolled[] => {
        const at = prompt++;
        return made[at]!.map(({ ids, logProbs }, i) => ({
          promptIds: examples[0]!.inputIds,
          completionIds: ids,
          advantage: advantages[at * n + i]!,
          ...(logProbs && { sampled: logProbs }),
        }));
      }),
    );
    if (this.options.policy.beta > 0) {
      const references = await shared(ranks, batches.length, async (own) => {
        const found: number[][][] = [];
        for (const batch of own) {
          signal?.throwIfAborted();
          found.push(await this.#logProbs(model, batches[batch]!, null));
        }
        return found;
      });
      for (const [batch, rolled] of batches.entries())
        for (const [i, one] of rolled.entries()) one.reference = references[batch]![i]!;
    }
    return { index, batches, metrics };
  }

  /** Those of the batches `own` of a step, for each of them. */
  async #completeBatches(
    model: CausalLM,
    groups: readonly (readonly RowGroup[])[],
    own: readonly number[],
    pass: RolloutPass,
  ): Promise<Completed[]> {
    if (own.length === 0) return [];
    const numbers = own.flatMap((batch) => {
      const before = groups.slice(0, batch).flat().length;
      return groups[batch]!.map((_, i) => before + i);
    });
    const prompts = own.flatMap((batch) => groups[batch]!);
    const made = await this.#complete(model, this.options, prompts, { ...pass, numbers });
    const { numGenerations: n } = this.options.advantages;
    let at = 0;
    return own.map((batch) => {
      const [begin, end] = [at, (at += groups[batch]!.length)];
      return { groups: made.groups.slice(begin, end), table: made.table.slice(n * begin, n * end) };
    });
  }

  /** The first step on completions tells the later ones, and checkpoints, how likely they were. */
  async shareStep(ranks: Ranks): Promise<void> {
    if (!this.#first || this.stepsPerRows === 1) return;
    const { batches } = this.#generation!;
    const all = await shared(ranks, batches.length, (own) =>
      own.map((batch) => batches[batch]!.map(({ old }) => old!)),
    );
    for (const [batch, rolled] of batches.entries())
      for (const [i, one] of rolled.entries()) one.old = all[batch]![i]!;
  }

  /** Completions of prompts, and what each function says of each. */
  async #complete(
    model: CausalLM,
    options: GRPOSettings,
    prompts: readonly RowGroup[],
    pass: RolloutPass,
  ): Promise<Completed> {
    const asked = prompts.map(({ examples, row }) => ({
      promptIds: examples[0]!.inputIds,
      row: row as Rewarded['row'],
    }));
    const groups = await completionsOf(model, options, asked, pass);
    const completions = groups.flatMap((group, i) => {
      const { promptIds, row } = asked[i]!;
      const known = row['prompt'];
      const prompt =
        typeof known === 'string' ? known : model.hasTokenizer ? model.tokenizer.decode([...promptIds]) : '';
      return group.map(({ ids, text }) => ({ prompt, completion: text, promptIds, completionIds: ids, row }));
    });
    return { groups, table: await rewardsOf(completions, options, pass.signal) };
  }

  #score({ groups, table }: Completed): Scored {
    const { advantages, metrics } = advantagesOf(table, this.options.advantages);
    return {
      groups,
      advantages,
      metrics: {
        ...metrics,
        ...rewardMetrics(table, this.options.names),
        ...completionMetrics(groups.flat()),
      },
    };
  }

  /** log p of the tokens of completions, without gradients. */
  async #logProbs(model: CausalLM, rolled: readonly Rolled[], adapter: Adapter | null): Promise<number[][]> {
    const { inputIds, labels } = batchOfRolled(rolled);
    const { temperature } = this.options.policy;
    const pass = { adapter, temperature, train: false };
    const { logProbs } = await noGrad(() => labelLogProbsInSlices(model.core, inputIds, labels, pass));
    const values = await logProbs.data();
    logProbs.dispose();
    return byCompletion(values, rolled);
  }

  async loss(
    model: CausalLM,
    batch: Batch,
    { adapter, train, gradientCheckpointing }: TrainingPass,
  ): Promise<BatchLoss> {
    const { policy } = this.options;
    const rolled = rolledOf(batch);
    const pass = { adapter, train, gradientCheckpointing, temperature: policy.temperature, entropies: true };
    const found = await labelLogProbsInSlices(model.core, batch.inputIds, batch.labels, pass);
    const first = this.#first;
    const { sum, values, read } = policyLossOf(
      found,
      {
        advantages: rolled.map(({ advantage }) => advantage),
        old: first ? undefined : rolled.map(({ old }) => old!),
        reference: policy.beta > 0 ? rolled.map(({ reference }) => reference!) : undefined,
        // weightOf() has the tokens of the step.
        numItemsInBatch: 1,
      },
      policy,
    );
    if (!first) return { sum, measured: { values, read } };
    const all = noGrad(() => joinRows([found.logProbs.detach(), values]));
    return {
      sum,
      measured: {
        values: all,
        read: (numbers) => {
          const tokens = rolled.reduce((count, { completionIds }) => count + completionIds.length, 0);
          const own = byCompletion(numbers, rolled);
          for (const [i, old] of own.entries()) rolled[i]!.old = old;
          return {
            ...read(numbers.subarray(tokens)),
            ...samplingMetrics(
              rolled.map(({ sampled }) => sampled),
              own,
            ),
          };
        },
      },
    };
  }

  async write(
    model: CausalLM,
    row: RowGroup,
    { adapter, signal }: Pick<EvaluationPass, 'adapter' | 'signal'>,
  ): Promise<Written | undefined> {
    if (this.options.rollout && adapter === null) return undefined;
    const one = { ...this.options, advantages: { ...this.options.advantages, numGenerations: 1 } };
    const pass = { adapter, seed: `${this.seed}/sample`, signal };
    const { groups, table } = await this.#complete(model, one, [row], pass);
    return { text: groups[0]![0]!.text, note: rewardNote(table[0]!, this.options) };
  }

  async evaluate(
    model: CausalLM,
    data: DataSource<unknown>,
    evaluation: EvaluationPass,
  ): Promise<ObjectiveEvaluation> {
    const { adapter, signal, ranks } = evaluation;
    const own: { metrics: Metrics; weight: number; tokens: number }[] = [];
    for await (const { batch, index } of ownBatches(model, this.rows, data, evaluation)) {
      const pass = { adapter, seed: `${this.seed}/evaluation/${index}`, signal };
      const completed = await this.#complete(model, this.options, batch.groups!, pass);
      const { groups: made, metrics } = this.#score(completed);
      const tokens = made.flat().reduce((sum, { ids }) => sum + ids.length, 0);
      own.push({ metrics, weight: batch.groups!.length, tokens });
    }
    const all = (await ranks.gather(own)).flat();
    if (all.length === 0) throw loraError('evaluate', 'ERR_DATA', 'expected rows but the data has none');
    const metrics = weighedMeans(all);
    const score = metrics['reward'] ?? NaN;
    const tokens = all.reduce((sum, batch) => sum + batch.tokens, 0);
    return { figures: { loss: -score, score, tokens, metrics }, higherIsBetter: true };
  }
}

/** The reward of a completion, and what it is made of. */
function rewardNote(row: readonly Reward[], { names, advantages }: GRPOSettings): string {
  if (row.every((reward) => reward === null)) return 'no reward';
  const { rewardWeights = row.map(() => 1) } = advantages;
  const total = weighedSum(
    row.map((reward) => reward ?? NaN),
    rewardWeights,
  );
  const parts = row.map((reward, f) => `${names[f]} ${reward?.toFixed(3) ?? 'null'}`);
  return `reward ${total.toFixed(3)}${row.length > 1 ? ` (${parts.join(', ')})` : ''}`;
}

/** The mean of each figure over the prompts of the batches that have it. */
function weighedMeans(all: readonly { metrics: Metrics; weight: number }[]): Metrics {
  const names = new Set(all.flatMap(({ metrics }) => Object.keys(metrics)));
  return Object.fromEntries(
    [...names].map((name) => {
      const own = all.filter(({ metrics }) => metrics[name] !== undefined);
      const weight = own.reduce((sum, batch) => sum + batch.weight, 0);
      return [name, own.reduce((sum, batch) => sum + batch.metrics[name]! * batch.weight, 0) / weight];
    }),
  );
}
