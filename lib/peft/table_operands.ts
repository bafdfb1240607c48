/** What an adapter puts into the slot of a table (linear/delta_table.ts), and the layers of a call whose rows have slots. */
import type { AddedOperands } from '../linear/delta';
import type { DeltaTable } from '../linear/delta_table';
import { addedOperands, type Linear } from '../linear/linear';
import type { LinearPhase } from '../native/binding';
import { loraLinearGroup } from '../ops';
import type { Tensor } from '../tensor/tensor';
import type { Adapter } from './adapter';
import type { RowDeltas } from './adapter_use';

/** What it adds to each of these layers. */
export type TableOperands = readonly (AddedOperands | undefined)[];

/** Whether the fused op computes its changes, where no gradient is wanted; a whole module takes the place of W, and changes of experts are in no table. */
export const fitsTable = (adapter: Adapter, linears: readonly Linear[]): boolean =>
  !adapter.changesExperts &&
  linears.every(({ path }) => {
    const delta = adapter.delta(path);
    return !delta || 'branch' in delta || ('forward' in delta && delta.fused !== undefined);
  });

/** The operands of its changes; undefined where one of them computes its layer in a way of its own, which no table holds. */
export function tableOperands(adapter: Adapter, linears: readonly Linear[]): TableOperands | undefined {
  const operands: (AddedOperands | undefined)[] = [];
  for (const linear of linears) {
    const applied = adapter.applied(linear.path);
    const added = applied && addedOperands(linear, applied);
    if (applied && !added) return undefined;
    operands.push(added);
  }
  return operands;
}

/** Whether they hold factors, which are computed for one version of the parameters. */
export const haveFactors = (operands: TableOperands): boolean =>
  operands.some((each) => each?.factor !== undefined && each.factor !== null);

/** The largest rank among them, at least 1. */
export const largestRank = (operands: TableOperands): number =>
  Math.max(1, ...operands.flatMap((each) => each?.up?.shape[1] ?? []));

/** What computes layers with the changes of a table, whose sites are `sites`; `slots` [m] i32: that of each row, −1 for none. */
export function tableForward(
  table: DeltaTable,
  sites: readonly Linear[],
  slots: Tensor,
  phase?: LinearPhase,
): RowDeltas['forward'] {
  const siteOf = new Map(sites.map(({ path }, site) => [path, site]));
  return (x, linears) => {
    const branches = linears.map(({ path, weight, bias }) => ({ weight, bias, site: siteOf.get(path) }));
    return loraLinearGroup(x, branches, { phase, rows: { table, slots } });
  };
}
