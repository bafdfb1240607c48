/** Long computations in slices, between which timers and I/O run. */

/** Milliseconds of a slice; the longest gap is this and one step. */
const sliceMs = 8;

/** Lets timers and I/O run. */
export const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** For loops that await now and then: says when it is time to let others run. */
export class Pace {
  #begin = performance.now();

  get due(): boolean {
    return performance.now() - this.#begin >= sliceMs;
  }

  /** @throws the reason of the signal. */
  async rest(signal?: AbortSignal): Promise<void> {
    await breathe();
    signal?.throwIfAborted();
    this.#begin = performance.now();
  }
}

/** Runs a generator to its end. It yields where it may be interrupted, every millisecond or more often. */
export async function inSlices<T>(steps: Generator<void, T, void>, signal?: AbortSignal): Promise<T> {
  let begin = performance.now();
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
    if (performance.now() - begin < sliceMs) continue;
    await breathe();
    signal?.throwIfAborted();
    begin = performance.now();
  }
}

/** Runs it without a pause. */
export function atOnce<T>(steps: Generator<void, T, void>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** Sorts a list, equal items in the order that they had; yields between runs. */
export function* sortInSlices<T>(
  items: readonly T[],
  compare: (a: T, b: T) => number,
): Generator<void, T[], void> {
  const run = 2048;
  let sorted: T[] = [];
  for (let at = 0; at < items.length; at += run) {
    for (const item of items.slice(at, at + run).sort(compare)) sorted.push(item);
    yield;
  }
  for (let width = run; width < items.length; width *= 2) {
    const merged: T[] = [];
    for (let at = 0; at < items.length; at += 2 * width) {
      const middle = Math.min(at + width, items.length);
      const end = Math.min(at + 2 * width, items.length);
      let left = at;
      let right = middle;
      while (left < middle || right < end) {
        const takeLeft = right >= end || (left < middle && compare(sorted[left]!, sorted[right]!) <= 0);
        merged.push(sorted[takeLeft ? left++ : right++]!);
        if (merged.length % run === 0) yield;
      }
    }
    sorted = merged;
  }
  return sorted;
}
