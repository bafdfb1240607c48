/** What an adapter puts into the slot of a table (linear/delta_table.ts). */
import type { AddedOperands } from '../linear/delta';
import type { Linear } from '../linear/linear';
import type { Adapter } from './adapter';

/** What it adds to each of these layers. */
export type TableOperands = readonly (AddedOperands | undefined)[];

/** The operands of its changes; undefined where one of them computes its layer in a way of its own, which no table holds. */
export function tableOperands(adapter: Adapter, linears: readonly Linear[]): TableOperands | undefined {
  const operands: (AddedOperands | undefined)[] = [];
  for (const { path } of linears) {
    const applied = adapter.applied(path);
    if (!applied) operands.push(undefined);
    else if ('branch' in applied.delta) operands.push(applied.delta.branch(applied.use));
    else return undefined;
  }
  return operands;
}

/** The largest rank among them, at least 1. */
export const largestRank = (operands: TableOperands): number =>
  Math.max(1, ...operands.flatMap((each) => each?.up?.shape[1] ?? []));
