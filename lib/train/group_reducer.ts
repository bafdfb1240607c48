/** The reducer of a run of several processes. */
import type { Batch } from '../data/batches';
import { PeerEnded, type ProcessGroup } from '../distributed/process_group';
import type { WireDtype } from '../distributed/transport';
import { loraError } from '../errors';
import type { Parameter } from '../tensor/tensor';
import { cut, gradientsOf, spread, valuesOf, type Bucket } from './buckets';
import { DataDigest } from './resume';
import type { Reduced, Reducer } from './reducer';

/** More parameters than these are compared once in so many steps, fewer in every one. */
const many = 2 ** 24;
const compareEvery = 100;
/** Steps between two looks for a slow rank. */
const watched = 20;

/** What the ranks tell each other before they send gradients. */
interface StepMessage<T> {
  readonly scalars: T;
  readonly data: string;
  readonly parameters: bigint | undefined;
  /** How long this rank waited for the others in the step before, in ms. */
  readonly waited: number;
}

export class GroupReducer implements Reducer {
  readonly #group: ProcessGroup;
  readonly #wire: WireDtype;
  readonly #stop: (reason: unknown) => void;
  #steps = 0;
  #waited = 0;
  /** Since the last look: the sum of each rank's waits, and when it began. */
  #waits: number[];
  #since = performance.now();

  /** `wire`: the dtype in which gradients are sent. `stop` is called where another rank was stopped: this one ends as it does. */
  constructor(group: ProcessGroup, wire: WireDtype, stop: (reason: unknown) => void) {
    this.#group = group;
    this.#wire = wire;
    this.#stop = stop;
    this.#waits = Array<number>(group.size).fill(0);
  }

  get rank(): number {
    return this.#group.rank;
  }

  get size(): number {
    return this.#group.size;
  }

  gather<T>(value: T): Promise<readonly T[]> {
    return this.#heeding(this.#group.gather(value));
  }

  progress(): void {
    this.#group.progress();
  }

  async during<T>(run: () => Promise<T>): Promise<T> {
    const { strict } = this.#group;
    this.#group.strict = false;
    try {
      return await run();
    } finally {
      this.#group.strict = strict;
    }
  }

  sum<T>(
    parameters: readonly Parameter[],
    scalars: Promise<T>,
    batches: readonly Batch[],
    signal: AbortSignal | undefined,
  ): Reduced<T> {
    const all = this.#heeding(this.#sum(parameters, scalars, batches, signal));
    return { gradients: all.then(() => undefined), scalars: all };
  }

  /** Where another rank was stopped, the run is aborted here too. */
  async #heeding<T>(answer: Promise<T>): Promise<T> {
    return answer.catch((error: unknown) => {
      if (error instanceof PeerEnded && error.stopped !== undefined) this.#stop(error);
      throw error;
    });
  }

  async #sum<T>(
    parameters: readonly Parameter[],
    scalars: Promise<T>,
    batches: readonly Batch[],
    signal: AbortSignal | undefined,
  ): Promise<readonly T[]> {
    this.#group.strict = true;
    const own = await scalars;
    const buckets = cut(parameters);
    // What can fail alone comes first: from the first message on all ranks go on together.
    const first = await gradientsOf(buckets[0]!);
    const digest = new DataDigest();
    digest.add(batches);
    const message = {
      scalars: own,
      data: digest.value,
      parameters: await this.#compared(parameters, buckets),
    };
    return this.#group.together(async () => {
      const began = performance.now();
      const all = await this.#group.gather<StepMessage<T>>({ ...message, waited: this.#waited });
      this.#waited = performance.now() - began;
      this.#checkAlike(all);
      this.#lookForSlow(all.map(({ waited }) => waited));
      for (const [i, bucket] of buckets.entries()) {
        const values = i === 0 ? first : await gradientsOf(bucket);
        await this.#group.sum(values, this.#wire);
        if (!signal?.aborted) spread(bucket, values);
      }
      return all.map((one) => one.scalars);
    }, signal);
  }

  /** A checksum of the parameters; undefined where this step compares none. */
  async #compared(parameters: readonly Parameter[], buckets: readonly Bucket[]): Promise<bigint | undefined> {
    const numbers = parameters.reduce((sum, { numel }) => sum + numel, 0);
    if (this.#steps++ % (numbers > many ? compareEvery : 1) !== 0) return undefined;
    let digest = 0n;
    for (const bucket of buckets) {
      const { buffer } = await valuesOf(bucket);
      digest = await this.#group.digest(new Uint8Array(buffer), digest);
    }
    return digest;
  }

  /** @throws ERR_DATA, ERR_DISTRIBUTED for a rank that has something else than most of them have. */
  #checkAlike(all: readonly Pick<StepMessage<unknown>, 'data' | 'parameters'>[]): void {
    const name = (rank: number): string => this.#group.nameOf(rank);
    const data = odd(all.map((one) => one.data));
    if (data !== undefined)
      throw loraError(
        'Trainer',
        'ERR_DATA',
        `${name(data)} has other batches than the other ranks: every rank must iterate the same data in the same order`,
      );
    const parameters = odd(all.map((one) => one.parameters));
    if (parameters !== undefined)
      throw loraError(
        'Trainer',
        'ERR_DISTRIBUTED',
        `the parameters of ${name(parameters)} differ from those of the other ranks: its memory or its processor may be faulty, or the program has changed them there`,
      );
  }

  /** Names a rank that the others wait for, on rank 0. */
  #lookForSlow(waited: readonly number[]): void {
    for (const [rank, ms] of waited.entries()) this.#waits[rank]! += ms;
    if (this.#steps % watched !== 0) return;
    const now = performance.now();
    const shares = this.#waits.map((ms) => ms / (now - this.#since));
    this.#since = now;
    this.#waits = this.#waits.map(() => 0);
    const slow = slowRank(shares);
    if (slow === undefined || this.rank !== 0) return;
    process.emitWarning(
      `[distributed] ${this.#group.nameOf(slow.rank)} is slow: the others waited for it ${Math.round(100 * slow.share)}% of the last ${watched} steps`,
      { code: 'LORA_SLOW_RANK' },
    );
  }
}

/** The rank for which all others wait more than a quarter of the time; undefined: there is none. */
export function slowRank(shares: readonly number[]): { rank: number; share: number } | undefined {
  const least = Math.min(...shares);
  const rank = shares.indexOf(least);
  const share = Math.min(...shares.filter((_, other) => other !== rank));
  return share > 0.25 && least < share / 4 ? { rank, share } : undefined;
}

/** The first rank whose value is not that of most ranks; of two, rank 1. Undefined: all are alike. */
export function odd(values: readonly unknown[]): number | undefined {
  const count = (value: unknown): number => values.filter((other) => other === value).length;
  const usual = values.find((value) => 2 * count(value) > values.length) ?? values[0];
  const rank = values.findIndex((value) => value !== usual);
  return rank < 0 ? undefined : rank;
}
