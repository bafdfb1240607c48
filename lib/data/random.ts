import { atOnce } from '../tensor/pace';

/** The numbers 0, 1, …, n − 1. */
export function* numbers(n: number): Generator<void, number[], void> {
  const all: number[] = [];
  while (all.length < n) {
    all.push(all.length);
    if (all.length % 2 ** 14 === 0) yield;
  }
  return all;
}

/**
 * SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): a small
 * generator for the order of data, the same on every machine.
 */
export class Random {
  #state: bigint;

  constructor(seed: number) {
    this.#state = BigInt.asUintN(64, BigInt(Math.trunc(seed)));
  }

  /** A whole number in [0, n), for n ≤ 2^32: the bias of n / 2^64 is below anything that can be seen. */
  below(n: number): number {
    this.#state = BigInt.asUintN(64, this.#state + 0x9e3779b97f4a7c15n);
    let z = this.#state;
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    z ^= z >> 31n;
    return Number((z * BigInt(n)) >> 64n);
  }

  /** Fisher–Yates, in place. */
  shuffle<T>(items: T[]): T[] {
    return atOnce(this.shuffleSteps(items));
  }

  /** The same; yields where it may be interrupted. */
  *shuffleSteps<T>(items: T[]): Generator<void, T[], void> {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [items[i], items[j]] = [items[j] as T, items[i] as T];
      if (i % 1024 === 0) yield;
    }
    return items;
  }
}
