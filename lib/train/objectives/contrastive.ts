/** Vectors of texts as an objective: texts that belong together get near to each other, and away from the others of their batch. */
import type { Batch } from '../../data/batches';
import { contrastiveRows, type KnownContrastive } from '../../data/retrieval_rows';
import type { RowGroup, RowKind } from '../../data/row_groups';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { normalized } from '../../models/embedding/embed';
import { plannedVectors, vectorSize } from '../../models/embedding/text_vectors';
import { recomputedInSlices } from '../../ops/recompute';
import { joinRows, splitRows } from '../../ops/rows';
import { enqueueInSlices } from '../../tensor/op_slices';
import { noGrad, tidy } from '../../tensor/scope';
import type { Parameter, Tensor } from '../../tensor/tensor';
import { check } from '../../validate';
import type { Metrics } from '../metrics';
import { contrastiveLoss } from './contrastive_loss';
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
import type { ContrastiveSettings } from './settings';

const rowsIn = ({ groups }: Pick<Batch, 'groups'>): KnownContrastive[] =>
  groups!.map(({ row }) => row as KnownContrastive);

type Ids = readonly number[];

/** The texts of a batch: its anchors, the texts that belong to them, and those that seem to. */
function textsIn(batch: Pick<Batch, 'groups'>): { anchors: Ids[]; candidates: Ids[] } {
  const rows = rowsIn(batch);
  return {
    anchors: rows.map(({ anchorIds }) => anchorIds),
    candidates: [
      ...rows.map(({ positiveIds }) => positiveIds),
      ...rows.flatMap(({ negativeIds }) => negativeIds),
    ],
  };
}

/** What an evaluation keeps of a batch. */
interface Seen {
  readonly loss: number;
  readonly rows: number;
  readonly tokens: number;
  /** The key of each text, its vector, and of anchors the key of what belongs to them. */
  readonly anchors: readonly { key: string; vector: number[]; positive: string }[];
  readonly candidates: readonly { key: string; vector: number[] }[];
}

const keyOf = (ids: Ids): string => ids.join();

export class ContrastiveObjective implements Objective {
  readonly rows: RowKind;
  readonly isPerToken = false;
  readonly dropout = true;
  readonly weightless = 'expected rows of texts';

  /** @throws ERR_ARGUMENT for matryoshkaDims beyond the vectors of the model. */
  constructor(
    private readonly options: ContrastiveSettings,
    private readonly model: CausalLM,
  ) {
    this.rows = contrastiveRows(() => model.tokenizer);
    const size = vectorSize(model.core);
    const long = options.matryoshkaDims?.find((d) => d > size);
    check(
      long === undefined,
      'Trainer',
      `expected matryoshkaDims of at most ${size}, which the vectors have, but received ${long}`,
    );
  }

  get settings(): Readonly<Record<string, unknown>> {
    const { miniBatchSize: _, ...own } = this.options; // which changes no number
    return { ...own, pool: this.#pool };
  }

  get facts(): (readonly [name: string, value: string])[] {
    const { scale, matryoshkaDims } = this.options;
    const dims = matryoshkaDims ? `, of the first ${matryoshkaDims.join(', ')} numbers` : '';
    return [['Objective', `contrastive, scale ${scale}, pool ${this.#pool}${dims}`]];
  }

  get #pool(): 'last' | 'mean' {
    return this.options.pool ?? this.model.core.sentence.pool;
  }

  // The loss of a step is the mean over its batches, each of which has negatives of its own.
  weightOf(): number {
    return 1;
  }

  forwardsOf({ inputIds }: Batch): number {
    return Math.ceil(inputIds.length / (this.options.miniBatchSize ?? Infinity)) || 1;
  }

  /** The vectors of texts, [texts, size] in f32, with their graph; in parts that are computed once more for their gradient where these are asked for. */
  async #vectors(
    { core }: CausalLM,
    texts: readonly Ids[],
    { adapter, train, gradientCheckpointing }: TrainingPass,
  ): Promise<Tensor> {
    const { miniBatchSize } = this.options;
    const how = { pool: this.#pool, adapter: adapter ?? core.noAdapter, train, gradientCheckpointing };
    const planned = (own: readonly Ids[]) =>
      plannedVectors(
        core,
        own.map((ids) => ({ ids })),
        how,
      );
    if (miniBatchSize === undefined) return tidy(() => enqueueInSlices(core.device, planned(texts)()));
    const parameters: readonly Parameter[] = adapter?.parameters() ?? core.trainedParameters;
    const parts: Tensor[] = [];
    for (let at = 0; at < texts.length; at += miniBatchSize)
      parts.push(
        await recomputedInSlices(core.device, parameters, planned(texts.slice(at, at + miniBatchSize))),
      );
    const vectors = joinRows(parts);
    for (const part of parts) part.dispose();
    return vectors;
  }

  async #compared(
    model: CausalLM,
    batch: Batch,
    pass: TrainingPass,
  ): Promise<{ loss: Tensor; scores: Tensor; vectors: Tensor }> {
    const { anchors, candidates } = textsIn(batch);
    const vectors = await this.#vectors(model, [...anchors, ...candidates], pass);
    const [a, c] = splitRows(vectors, [anchors.length, candidates.length]) as [Tensor, Tensor];
    return { ...contrastiveLoss(a, c, this.options), vectors };
  }

  async loss(model: CausalLM, batch: Batch, pass: TrainingPass): Promise<BatchLoss> {
    const { loss, scores } = await this.#compared(model, batch, pass);
    const [n, m] = scores.shape as [number, number];
    const read = (values: ArrayLike<number>): Metrics => {
      let right = 0;
      for (let i = 0; i < n; i++) {
        const own = Array.from({ length: m }, (_, j) => values[i * m + j]!);
        if (own.every((score, j) => j === i || score < own[i]!)) right++;
      }
      return { accuracy: right / n };
    };
    return { sum: loss, measured: { values: noGrad(() => scores.detach()), read } };
  }

  /** The cosine of the first two texts of a row, in the place of an answer. */
  async write(
    model: CausalLM,
    { examples }: RowGroup,
    { adapter, signal }: Pick<EvaluationPass, 'adapter' | 'signal'>,
  ): Promise<Written> {
    const texts = examples.slice(0, 2).map(({ inputIds }) => inputIds);
    const [a, b] = await model.embed(texts, { pool: this.#pool, adapter, signal });
    const cosine = a!.reduce((sum, x, i) => sum + x * b![i]!, 0);
    return { text: model.tokenizer.decode([...texts[1]!]), note: `cosine ${cosine.toFixed(3)}` };
  }

  async evaluate(
    model: CausalLM,
    data: Parameters<Objective['evaluate']>[1],
    pass: EvaluationPass,
  ): Promise<ObjectiveEvaluation> {
    const seen: Seen[] = [];
    for await (const { batch } of ownBatches(model, this.rows, data, pass))
      seen.push(await this.#seen(model, batch, pass.adapter));
    const all = (await pass.ranks.gather(seen)).flat();
    if (all.length === 0) throw loraError('evaluate', 'ERR_DATA', 'expected rows but the data has none');
    const metrics = retrieved(all);
    const rows = all.reduce((sum, batch) => sum + batch.rows, 0);
    const loss = all.reduce((sum, batch) => sum + batch.loss * batch.rows, 0) / rows;
    const tokens = all.reduce((sum, batch) => sum + batch.tokens, 0);
    return { figures: { loss, score: metrics['ndcg@10']!, tokens, metrics }, higherIsBetter: true };
  }

  async #seen(model: CausalLM, batch: Batch, adapter: EvaluationPass['adapter']): Promise<Seen> {
    const pass = { adapter, train: false, gradientCheckpointing: false };
    const { loss, scores, vectors } = await noGrad(() => tidy(() => this.#compared(model, batch, pass)));
    const [value, values] = [await loss.item(), await vectors.data()];
    const size = vectors.shape[1]!;
    for (const tensor of [loss, scores, vectors]) tensor.dispose();
    const { anchors, candidates } = textsIn(batch);
    const vectorOf = (i: number): number[] => [...normalized(values.slice(i * size, (i + 1) * size))];
    return {
      loss: value,
      rows: anchors.length,
      tokens: batch.inputIds.reduce((sum, ids) => sum + ids.length, 0),
      anchors: anchors.map((ids, i) => ({
        key: keyOf(ids),
        vector: vectorOf(i),
        positive: keyOf(candidates[i]!),
      })),
      candidates: candidates.map((ids, i) => ({ key: keyOf(ids), vector: vectorOf(anchors.length + i) })),
    };
  }
}

/** Every anchor against all other texts of the data, each of which counts once. */
function retrieved(all: readonly Seen[]): Metrics {
  const documents = new Map(
    all.flatMap(({ candidates }) => candidates.map(({ key, vector }) => [key, vector] as const)),
  );
  const queries = new Map<string, { vector: number[]; relevant: Set<string> }>();
  for (const { key, vector, positive } of all.flatMap(({ anchors }) => anchors)) {
    const query = queries.get(key) ?? { vector, relevant: new Set<string>() };
    queries.set(key, query);
    query.relevant.add(positive);
  }
  const orders = [...queries.values()].map(({ vector, relevant }) =>
    [...documents]
      .map(([key, other]) => ({ key, score: vector.reduce((sum, x, i) => sum + x * other[i]!, 0) }))
      .sort((a, b) => b.score - a.score)
      .map(({ key }) => Number(relevant.has(key))),
  );
  return retrievalMetrics(orders);
}
