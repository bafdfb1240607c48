/** The parts of the rows of an expert, such as gate and up, in the parameter of all experts. */
import { reshape } from '../ops/layout';
import { splitColumns } from '../ops/split_columns';
import { moved } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';

/** How they stand in it: one below the other, or row i is of part i % parts. */
export type PartOrder = 'below' | 'interleaved';

/** The rows [experts, n, r] as those of each part, [experts, n / parts, r]. */
export function partsOfRows(rows: Tensor, parts: number, order: PartOrder): Tensor[] {
  const [experts, n, r] = rows.shape as [number, number, number];
  const own = n / parts;
  // Rows that stand side by side are columns.
  const flat = reshape(rows, order === 'below' ? [experts, n * r] : [experts * own, parts * r]);
  const width = order === 'below' ? own * r : r;
  const split = moved(flat, (t) => splitColumns(t, new Array<number>(parts).fill(width)));
  return split.map((part) => moved(part, (t) => reshape(t, [experts, own, r])));
}
