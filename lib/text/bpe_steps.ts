/** Byte-pair encoding of one long word, in steps. The library's own takes it in one, and seconds for a megabyte. */
import type { Model } from './library';

/** Pairs by their left part, then their right part: made once for a tokenizer, at its first long word. */
type Ranks = ReadonlyMap<string, ReadonlyMap<string, number>>;
const ranksOf = new WeakMap<Model, Ranks>();

function* ranks(model: Model): Generator<void, Ranks, void> {
  const known = ranksOf.get(model);
  if (known) return known;
  const made = new Map<string, Map<string, number>>();
  let rank = 0;
  for (const [left, right] of model.merges ?? []) {
    const rights = made.get(left) ?? new Map<string, number>();
    if (rights.size === 0) made.set(left, rights);
    rights.set(right, rank++); // of equal pairs the last one counts, as in the library
    if (rank % 4096 === 0) yield;
  }
  ranksOf.set(model, made);
  return made;
}

/** A binary heap of numbers, the least first. */
class Heap {
  readonly #items: number[] = [];

  get size(): number {
    return this.#items.length;
  }

  push(item: number): void {
    const items = this.#items;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (items[up]! <= item) break;
      items[at] = items[up]!;
      at = up;
    }
    items[at] = item;
  }

  pop(): number {
    const items = this.#items;
    const least = items[0]!;
    const item = items.pop()!;
    const size = items.length;
    if (size === 0) return least;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      if (down >= size) break;
      if (down + 1 < size && items[down + 1]! < items[down]!) down++;
      if (items[down]! >= item) break;
      items[at] = items[down]!;
      at = down;
    }
    items[at] = item;
    return least;
  }
}

/**
 * The parts of a word: again and again the pair of the lowest rank becomes one, of equal ones the leftmost (Sennrich et al., 2016).
 * The same as the library gives.
 */
export function* bpeSteps(model: Model, word: string): Generator<void, string[], void> {
  const rankOf = yield* ranks(model);
  const parts: string[] = [];
  for (const character of word) {
    parts.push(character);
    if (parts.length % 16384 === 0) yield;
  }
  const count = parts.length;
  if (model.end_of_word_suffix) parts[count - 1] += model.end_of_word_suffix;
  // Places of the neighbors; a part that was merged into the one before it has the length 0.
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  const heap = new Heap();
  /** A pair in the heap is its rank and the place of its left part: in one number, which a double holds exactly. */
  const offer = (left: number): void => {
    const right = next[left]!;
    if (right >= count) return;
    const rank = rankOf.get(parts[left]!)?.get(parts[right]!);
    if (rank !== undefined) heap.push(rank * count + left);
  };
  yield;
  for (let i = 0; i < count; i++) {
    next[i] = i + 1;
    previous[i] = i - 1;
    offer(i);
    if (i % 4096 === 4095) yield;
  }
  for (let popped = 0; heap.size > 0; popped++) {
    if (popped % 2048 === 2047) yield;
    const key = heap.pop();
    const left = key % count;
    const right = next[left]!;
    // Parts only grow, so a pair that is not what it was has another rank, or none.
    if (parts[left] === '' || right >= count) continue;
    if (rankOf.get(parts[left]!)?.get(parts[right]!) !== (key - left) / count) continue;
    parts[left] += parts[right]!;
    parts[right] = '';
    next[left] = next[right]!;
    if (next[left] < count) previous[next[left]] = left;
    if (previous[left]! >= 0) offer(previous[left]!);
    offer(left);
  }
  const result: string[] = [];
  for (let i = 0; i < count; i = next[i]!) {
    result.push(parts[i]!);
    if (result.length % 16384 === 0) yield;
  }
  if (model.continuing_subword_suffix)
    for (let i = 0; i + 1 < result.length; i++) result[i] += model.continuing_subword_suffix;
  return result;
}
