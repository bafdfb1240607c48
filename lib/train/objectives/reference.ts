/** What answers are compared with: the model without its adapter, or with one that is not trained. */
import { createHash } from 'node:crypto';
import { batchesOf, type Batch } from '../../data/batches';
import type { DataSource } from '../../data/example';
import type { RowKind } from '../../data/row_groups';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { labelLogProbsInSlices } from '../../models/running/log_probs';
import type { Device } from '../../native/device';
import type { Adapter } from '../../peft/adapter';
import { tensor } from '../../tensor/create';
import { noGrad } from '../../tensor/scope';
import { answerLengthsOf, answerScores, type AnswerScores } from './answer_scores';
import type { EvaluationPass } from './objective';

/** What tells a text from others: its tokens and which of them count. */
function keyOf(ids: readonly number[], labels: readonly number[]): string {
  const hash = createHash('sha256');
  for (const row of [ids, labels]) hash.update(Int32Array.from([row.length, ...row]));
  return hash.digest('base64');
}

export class Reference {
  /** log p of the answers of the data, by text, where they are computed before the first step. */
  readonly #known: Map<string, number> | undefined;
  #values = '';

  /** `name`: of an adapter; null: the base. `precompute`: before the first step, for the base may be trained. */
  constructor(
    readonly adapter: Adapter | null,
    readonly precompute: boolean,
  ) {
    this.#known = precompute ? new Map<string, number>() : undefined;
  }

  /** What checkpoints are compared with; the base is known by its weights. */
  get settings(): Readonly<Record<string, unknown>> {
    return this.#values === '' ? {} : { referenceValues: this.#values };
  }

  /** Computes what is computed once. */
  async prepare(
    model: CausalLM,
    rows: RowKind,
    sources: readonly (DataSource<unknown> | undefined)[],
    { batchSize, signal }: EvaluationPass,
  ): Promise<void> {
    if (this.adapter !== null) this.#values = await digestOf(this.adapter);
    if (!this.#known) return;
    for (const data of sources) {
      if (data === undefined) continue;
      for await (const batch of batchesOf(rows, data, { batchSize, signal })) {
        signal?.throwIfAborted();
        const { inputIds, labels } = batch;
        const { sums } = await noGrad(async () => {
          const found = await labelLogProbsInSlices(model.core, inputIds, labels, {
            adapter: this.adapter,
            train: false,
          });
          return answerScores(found, answerLengthsOf(batch));
        });
        const values = await sums.data();
        sums.dispose();
        for (const [i, value] of values.entries()) this.#known.set(keyOf(inputIds[i]!, labels[i]!), value);
      }
    }
  }

  /** What was computed before; undefined: it is computed when it is asked for. */
  known(
    { inputIds, labels, groups }: Pick<Batch, 'inputIds' | 'labels' | 'groups'>,
    device: Device,
  ): AnswerScores | undefined {
    const known = this.#known;
    if (!known) return undefined;
    const values = inputIds.map((ids, i) => {
      const value = known.get(keyOf(ids, labels[i]!));
      if (value !== undefined) return value;
      throw loraError('Trainer', 'ERR_DATA', 'the data has other rows than when the reference was computed');
    });
    const lengths = answerLengthsOf({ labels, groups });
    return { sums: tensor(values, { device }), lengths, before: null, beforeCounts: lengths.map(() => 0) };
  }
}

/** A digest of the values of an adapter. */
async function digestOf(adapter: Adapter): Promise<string> {
  const hash = createHash('sha256');
  for (const parameter of adapter.parameters()) hash.update(await parameter.bytes());
  return hash.digest('hex');
}
