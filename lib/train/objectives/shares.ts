/** Work of a step that ranks divide among each other. */
import type { Ranks } from '../reducer';

/** A value for each of `count` batches, of which rank r computes those of batches r, r + size, …; every rank gets all of them. */
export async function shared<T>(
  ranks: Ranks,
  count: number,
  compute: (own: readonly number[]) => T[] | Promise<T[]>,
): Promise<T[]> {
  const places = Array.from({ length: count }, (_, i) => i);
  const all = await ranks.gather(await compute(places.filter((i) => i % ranks.size === ranks.rank)));
  return places.map((i) => all[i % ranks.size]![Math.floor(i / ranks.size)]!);
}
