/** The order of documents as an objective: of two documents, the model says "yes" sooner to the one that answers the query. */
import type { Batch } from '../../data/batches';
import { rankRows, type KnownRank } from '../../data/retrieval_rows';
import type { RowGroup, RowKind } from '../../data/row_groups';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { plannedRelevance } from '../../models/embedding/relevance';
import { enqueueInSlices } from '../../tensor/op_slices';
import { noGrad, tidy } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { meanMetrics, type Metrics } from '../metrics';
import { differences, meanLogistic } from './answer_scores';
import type {
  BatchLoss,
  EvaluationPass,
  Objective,
  ObjectiveEvaluation,
  TrainingPass,
  Written,
} from './objective';
import { ownBatches } from './own_batches';
import { retrievalMetrics } from './retrieval_metrics';
import type { RankSettings } from './settings';

/** A document that was scored for a query. */
interface Scored {
  readonly query: string;
  readonly document: string;
  readonly score: number;
  readonly relevant: boolean;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** What the scores of pairs tell, the better document of each first. */
function pairMetrics(scores: ArrayLike<number>): Metrics {
  const pairs = Array.from(
    { length: scores.length / 2 },
    (_, i) => [scores[2 * i]!, scores[2 * i + 1]!] as const,
  );
  return meanMetrics(
    pairs.map(([better, worse]) => ({ accuracy: Number(better > worse), margin: better - worse })),
  );
}

/** The loss is RankNet's, −log σ(s⁺ − s⁻), of the logits by which documents are ranked: Burges et al. (2005). */
export class RankObjective implements Objective {
  readonly rows: RowKind;
  readonly isPerToken = false;
  readonly dropout = true;
  readonly weightless = 'expected rows of documents';
  readonly facts = [['Objective', 'rank, by pairs of documents']] as const;

  constructor(
    readonly settings: RankSettings & Readonly<Record<string, unknown>>,
    model: CausalLM,
  ) {
    this.rows = rankRows(() => model.tokenizer);
  }

  weightOf(): number {
    return 1;
  }

  /** [2 · pairs] */
  #scores({ core }: CausalLM, { inputIds }: Batch, pass: TrainingPass): Promise<Tensor> {
    const { adapter, train, gradientCheckpointing } = pass;
    const texts = inputIds.map((ids) => ({ ids }));
    const how = { adapter: adapter ?? core.noAdapter, train, gradientCheckpointing };
    return tidy(() => enqueueInSlices(core.device, plannedRelevance('Trainer', core, texts, how)()));
  }

  async loss(model: CausalLM, batch: Batch, pass: TrainingPass): Promise<BatchLoss> {
    const scores = await this.#scores(model, batch, pass);
    const sum = meanLogistic(differences(scores), 1);
    return { sum, measured: { values: noGrad(() => scores.detach()), read: pairMetrics } };
  }

  async write(
    model: CausalLM,
    { examples }: RowGroup,
    { adapter }: Pick<EvaluationPass, 'adapter'>,
  ): Promise<Written> {
    const batch = { inputIds: examples.map(({ inputIds }) => [...inputIds]), labels: [] };
    const pass = { adapter, train: false, gradientCheckpointing: false };
    const scores = await noGrad(() => this.#scores(model, batch, pass));
    const [better, worse] = (await scores.data()) as unknown as [number, number];
    scores.dispose();
    const shown = (score: number): string => sigmoid(score).toFixed(3);
    return { text: 'yes', note: `${shown(better)}, of the other document ${shown(worse)}` };
  }

  async evaluate(
    model: CausalLM,
    data: Parameters<Objective['evaluate']>[1],
    evaluation: EvaluationPass,
  ): Promise<ObjectiveEvaluation> {
    const losses: Metrics[] = [];
    const scored: Scored[] = [];
    let tokens = 0;
    const pass = { adapter: evaluation.adapter, train: false, gradientCheckpointing: false };
    for await (const { batch, index } of ownBatches(model, this.rows, data, evaluation)) {
      const { sum, measured } = await noGrad(() => tidy(() => this.loss(model, batch, pass)));
      const [loss, values] = [await sum.item(), await measured!.values.data()];
      for (const tensor of [sum, measured!.values]) tensor.dispose();
      // Each row weighs the same, so a last smaller batch counts as often as it has rows.
      for (const [i, { row }] of batch.groups!.entries()) {
        losses.push({ ...pairMetrics(values.slice(2 * i, 2 * i + 2)), loss });
        const { query, positiveIds, negativeIds } = row as KnownRank;
        const documents = [positiveIds, negativeIds];
        for (const [j, ids] of documents.entries())
          scored.push({
            query: query || `row ${index} ${i}`,
            document: ids.join(),
            score: values[2 * i + j]!,
            relevant: j === 0,
          });
      }
      tokens += batch.inputIds.reduce((sum_, ids) => sum_ + ids.length, 0);
    }
    const all = await evaluation.ranks.gather({ losses, scored, tokens });
    const ofAll = all.flatMap((own) => own.losses);
    if (ofAll.length === 0) throw loraError('evaluate', 'ERR_DATA', 'expected rows but the data has none');
    const { loss, ...means } = meanMetrics(ofAll);
    const metrics = { ...means, ...retrievalMetrics(ordersOf(all.flatMap((own) => own.scored))) };
    const allTokens = all.reduce((sum, own) => sum + own.tokens, 0);
    return {
      figures: { loss: loss!, score: metrics['ndcg@10']!, tokens: allTokens, metrics },
      higherIsBetter: true,
    };
  }
}

/** Of each query its documents, each once, the best score first: 1 where one is relevant. */
function ordersOf(scored: readonly Scored[]): number[][] {
  const queries = new Map<string, Map<string, Scored>>();
  for (const one of scored) {
    const documents = queries.get(one.query) ?? new Map<string, Scored>();
    queries.set(one.query, documents);
    const relevant = one.relevant || documents.get(one.document)?.relevant === true;
    documents.set(one.document, { ...one, relevant });
  }
  return [...queries.values()].map((documents) =>
    [...documents.values()].sort((a, b) => b.score - a.score).map(({ relevant }) => Number(relevant)),
  );
}
