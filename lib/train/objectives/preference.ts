/** Preferences as an objective: answers are scored by the model, and by a reference where the loss compares with one. */
import { batchesOf, type Batch } from '../../data/batches';
import { answered, answerKind, labeledRows, pairRows, type LabeledRow } from '../../data/preference_rows';
import type { RowKind } from '../../data/row_groups';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import type { LabelLogProbs } from '../../models/core/label_log_probs';
import {
  labelLogProbs,
  labelLogProbsInSlices,
  type LabelLogProbOptions,
} from '../../models/running/log_probs';
import type { Adapter } from '../../peft/adapter';
import { noGrad, tidy } from '../../tensor/scope';
import type { StateValue } from '../../tensor/state';
import { meanMetrics, type Metrics } from '../metrics';
import { answerLengthsOf, answerScores, type AnswerScores } from './answer_scores';
import { ktoLoss } from './kto_loss';
import type { BatchLoss, EvaluationPass, Objective, ObjectiveEvaluation, TrainingPass } from './objective';
import { ownBatches } from './own_batches';
import { cpoLoss, dpoLoss, orpoLoss } from './pair_losses';
import { ofBatch, OtherAnswersOfData, type OtherAnswers } from './other_answers';
import type { AnswerTexts, Reference } from './reference';
import type { PreferenceSettings } from './settings';

/** The rows of each objective; ORPO's loss covers the prompt of the better answer too. */
export const rowsOf = ({ objective }: Pick<PreferenceSettings, 'objective'>): RowKind =>
  objective === 'kto' ? answerKind(labeledRows) : answerKind(pairRows, objective === 'orpo');

/** How many answers they have. */
export const answersOf = ({ objective }: Pick<PreferenceSettings, 'objective'>): number =>
  (objective === 'kto' ? labeledRows : pairRows).answers.length;

/** Texts that are scored together. */
export interface Scoring {
  readonly texts: AnswerTexts;
  readonly by: 'policy' | 'reference';
  /** Whether its gradient is wanted. */
  readonly recorded: boolean;
}

const labeledRowsOf = ({ groups }: Batch): LabeledRow[] => groups!.map(({ row }) => row as LabeledRow);

/** The prompts of a batch with answers to others. */
function otherTexts(batch: Batch, maxLength: number, others: OtherAnswers): AnswerTexts {
  const rows = labeledRowsOf(batch);
  const answers = others(rows);
  const examples = rows.map(({ promptIds }, i) =>
    answered(promptIds, answers[i]!.slice(0, Math.max(1, maxLength - promptIds.length))),
  );
  return {
    inputIds: examples.map(({ inputIds }) => [...inputIds]),
    labels: examples.map(({ labels }) => [...labels]),
    groups: examples.map((example, i) => ({ examples: [example], marks: [rows[i]!.promptIds.length] })),
  };
}

/** What of a batch is scored, the reference first: what is recorded takes the memory. */
export function scoringsOf(
  settings: PreferenceSettings,
  batch: Batch,
  maxLength = Infinity,
  answers = ofBatch,
): Scoring[] {
  const own = { texts: batch, by: 'policy', recorded: true } as const;
  if (settings.objective === 'orpo' || settings.objective === 'cpo') return [own];
  const reference = { texts: batch, by: 'reference', recorded: false } as const;
  if (settings.objective === 'dpo') return [reference, own];
  const others = otherTexts(batch, maxLength, answers);
  return [
    { texts: others, by: 'reference', recorded: false },
    { texts: others, by: 'policy', recorded: false },
    ...[reference, own],
  ];
}

/** The loss of a batch whose scores are those of scoringsOf(), in its order. */
export function lossOf(
  settings: PreferenceSettings,
  batch: Batch,
  scores: readonly AnswerScores[],
): BatchLoss {
  const policy = scores.at(-1)!;
  const reference = scores.at(-2)?.sums;
  switch (settings.objective) {
    case 'dpo':
      return dpoLoss(policy, reference!, settings);
    case 'orpo':
      return orpoLoss(policy, settings);
    case 'cpo':
      return cpoLoss(policy, settings);
    case 'kto': {
      const labels = labeledRowsOf(batch).map(({ label }) => label);
      const others = { reference: scores[0]!.sums, policy: scores[1]!.sums };
      return ktoLoss(policy, reference!, others, labels, settings);
    }
  }
}

/** Who scores, and how. */
interface Scorers {
  readonly adapter: Adapter | string | null;
  readonly reference: Adapter | null;
  readonly train: boolean;
  readonly gradientCheckpointing: boolean;
}

const scored = ({ texts }: Scoring, logProbs: LabelLogProbs): AnswerScores =>
  answerScores(logProbs, answerLengthsOf(texts));

function optionsOf({ by, recorded }: Scoring, scorers: Scorers): LabelLogProbOptions {
  const { adapter, reference, train, gradientCheckpointing } = scorers;
  if (recorded) return { adapter, train, gradientCheckpointing };
  return { adapter: by === 'policy' ? adapter : reference, train: false };
}

/** The loss of a batch at once. */
export function lossNow(
  { core }: CausalLM,
  settings: PreferenceSettings,
  batch: Batch,
  scorers: Scorers,
): BatchLoss {
  const scores = scoringsOf(settings, batch).map((scoring) => {
    const { inputIds, labels } = scoring.texts;
    const run = () => scored(scoring, labelLogProbs(core, inputIds, labels, optionsOf(scoring, scorers)));
    return scoring.recorded ? run() : noGrad(run);
  });
  return lossOf(settings, batch, scores);
}

/** The objectives that compare answers. */
export class PreferenceObjective implements Objective {
  readonly rows: RowKind;
  readonly isPerToken = false;
  readonly weightless = 'expected rows with answers';
  /** Where the reference of KTO is computed before the first step. */
  readonly #others: OtherAnswersOfData | undefined;

  /** `reference`: where the loss has one. `maxLength`: of the rows of the data, which the answers to other prompts do not exceed either. */
  constructor(
    private readonly options: PreferenceSettings,
    private readonly reference: Reference | undefined,
    readonly dropout: boolean,
    private readonly maxLength: number | undefined,
  ) {
    this.rows = rowsOf(options);
    this.#others =
      options.objective === 'kto' && reference?.precompute ? new OtherAnswersOfData() : undefined;
  }

  get reads(): Adapter | null {
    return this.reference?.adapter ?? null;
  }

  get settings(): Readonly<Record<string, unknown>> {
    return { ...this.options, ...this.reference?.settings, ...(this.dropout && { disableDropout: false }) };
  }

  get facts(): (readonly [name: string, value: string])[] {
    const { objective, ...own } = this.options;
    const shown = Object.entries(own).map(([name, value]) => `${name} ${String(value)}`);
    return [['Objective', [objective, ...shown].join(', ')]];
  }

  // A batch weighs the same whatever it holds, as in TRL: the loss of a step is the mean over its batches.
  weightOf(): number {
    return 1;
  }

  async identify(): Promise<void> {
    await this.reference?.identify();
  }

  get state(): StateValue | undefined {
    return this.reference?.state;
  }

  restore(state: StateValue): void {
    this.reference?.restore(state);
  }

  async prepare(
    model: CausalLM,
    sources: Parameters<NonNullable<Objective['prepare']>>[1],
    { batchSize, signal, ranks }: EvaluationPass,
  ): Promise<void> {
    if (!this.reference?.precompute) return;
    let index = 0;
    for (const data of sources) {
      if (data === undefined) continue;
      for await (const batch of batchesOf(this.rows, data, { batchSize, signal })) {
        this.#others?.add(labeledRowsOf(batch));
        if (index++ % ranks.size !== ranks.rank) continue;
        for (const { by, texts } of this.#scoringsOf(batch))
          if (by === 'reference') await this.reference.add(model, texts);
      }
    }
    await this.reference.share(ranks);
  }

  #scoringsOf(batch: Batch): Scoring[] {
    return scoringsOf(this.options, batch, this.maxLength, this.#others?.of);
  }

  async loss(model: CausalLM, batch: Batch, pass: TrainingPass): Promise<BatchLoss> {
    const { adapter, train, gradientCheckpointing } = pass;
    const scorers = { adapter, reference: this.reads, train, gradientCheckpointing };
    const scores: AnswerScores[] = [];
    for (const scoring of this.#scoringsOf(batch)) {
      const known =
        scoring.by === 'reference' ? this.reference?.known(scoring.texts, model.device) : undefined;
      scores.push(known ?? (await this.#score(model, scoring, scorers)));
    }
    return lossOf(this.options, batch, scores);
  }

  async #score(model: CausalLM, scoring: Scoring, scorers: Scorers): Promise<AnswerScores> {
    const { inputIds, labels } = scoring.texts;
    const run = async (): Promise<AnswerScores> =>
      scored(scoring, await labelLogProbsInSlices(model.core, inputIds, labels, optionsOf(scoring, scorers)));
    return scoring.recorded ? run() : noGrad(run);
  }

  async evaluate(
    model: CausalLM,
    data: Parameters<Objective['evaluate']>[1],
    evaluation: EvaluationPass,
  ): Promise<ObjectiveEvaluation> {
    const losses: Metrics[] = [];
    let tokens = 0;
    const pass = { adapter: evaluation.adapter, train: false, gradientCheckpointing: false };
    for await (const { batch } of ownBatches(model, this.rows, data, evaluation)) {
      const { sum, measured } = await noGrad(() => tidy(() => this.loss(model, batch, pass)));
      const metrics = measured!.read(await measured!.values.data());
      const loss = await sum.item();
      for (const tensor of [sum, measured!.values]) tensor.dispose();
      // Each row weighs the same, so a last smaller batch counts as often as it has rows.
      for (const _ of batch.groups!) losses.push({ ...metrics, loss });
      tokens += answerLengthsOf(batch).reduce((a, b) => a + b, 0);
    }
    const all = await evaluation.ranks.gather({ losses, tokens });
    const ofAll = all.flatMap((own) => own.losses);
    if (ofAll.length === 0) throw loraError('evaluate', 'ERR_DATA', 'expected rows but the data has none');
    const { loss, ...metrics } = meanMetrics(ofAll);
    const allTokens = all.reduce((sum, own) => sum + own.tokens, 0);
    return { figures: { loss: loss!, tokens: allTokens, metrics }, higherIsBetter: false };
  }
}
