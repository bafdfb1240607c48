/** What an evaluation goes over. */
import { batchesOf, type Batch } from '../../data/batches';
import type { DataSource } from '../../data/example';
import type { RowKind } from '../../data/row_groups';
import type { CausalLM } from '../../models/causal_lm';
import type { EvaluationPass } from './objective';

/**
 * The batches of held-out data that this rank measures, with their places among those of all ranks. The adapter is held until the last one.
 * @throws the reason of the signal, before the next batch.
 */
export async function* ownBatches(
  model: CausalLM,
  rows: RowKind,
  data: DataSource<unknown>,
  { adapter, batchSize, signal, ranks }: EvaluationPass,
): AsyncGenerator<{ batch: Batch; index: number }, void, void> {
  const release = model.core.adapters.acquire('evaluate', adapter);
  try {
    let index = -1;
    for await (const batch of batchesOf(rows, data, { batchSize, signal })) {
      signal?.throwIfAborted();
      if (++index % ranks.size === ranks.rank) yield { batch, index };
    }
  } finally {
    release();
  }
}
