/** Numbers of a seed: the same input for the same seed and index, whatever ran before. */
export class Dice {
  #state: number;

  constructor(seed: number, index: number, target: string) {
    let hash = 0x811c9dc5;
    for (const byte of Buffer.from(`${seed} ${index} ${target}`)) hash = Math.imul(hash ^ byte, 0x01000193);
    this.#state = hash >>> 0;
  }

  /** From 0 up to, but not, `end`. */
  below(end: number): number {
    // Mulberry32.
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * end);
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  flag(): boolean {
    return this.once(2);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  /** A count that is mostly small. */
  count(most: number): number {
    return this.below(1 + this.below(1 + this.below(most + 1)));
  }
}
