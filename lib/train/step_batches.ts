import { epochs, type Batch } from '../data/batches';
import type { DataSource } from '../data/example';
import type { RowKind } from '../data/row_groups';
import type { ResolvedOptions } from './options';

/** The batches of one step. */
export interface StepBatches {
  readonly batches: readonly Batch[];
  readonly epoch: number;
}

/** Groups of `batchesPerStep` batches, each for `steps` steps; a last smaller group of an epoch makes steps of its own. */
export async function* stepBatches(
  data: DataSource<unknown>,
  rows: RowKind,
  options: ResolvedOptions,
  steps: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<StepBatches, void, void> {
  const { batchSize, seed, shuffleWindow, packing, packLength, groupByLength } = options;
  const { batchesPerStep, epochs: lastEpoch } = options;
  let group: Batch[] = [];
  let groupEpoch = 0;
  const order = { batchSize, seed, shuffle: true, shuffleWindow, packing, packLength, groupByLength, signal };
  const source = epochs(data, order, rows);
  for await (const { epoch, ...batch } of source) {
    if (epoch !== groupEpoch && group.length > 0) {
      for (let i = 0; i < steps; i++) yield { batches: group, epoch: groupEpoch };
      group = [];
    }
    if (lastEpoch !== undefined && epoch >= lastEpoch) return;
    groupEpoch = epoch;
    group.push(batch);
    if (group.length === batchesPerStep) {
      for (let i = 0; i < steps; i++) yield { batches: group, epoch };
      group = [];
    }
  }
}
