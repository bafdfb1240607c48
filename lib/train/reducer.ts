/** Where the ranks of a run meet: between the last backward pass of a step and clipping, and for the figures of an evaluation. */
import type { Batch } from '../data/batches';
import type { Parameter } from '../tensor/tensor';

/** What a step gets from all ranks. */
export interface Reduced<T> {
  /** Resolves when every gradient is its sum over the ranks, which may be before the scalars are there. */
  readonly gradients: Promise<void>;
  /** What each rank gave, in their order. */
  readonly scalars: Promise<readonly T[]>;
}

/** Which rank this is, and what it asks of the others. */
export interface Ranks {
  readonly rank: number;
  readonly size: number;
  /** What every rank gave, in their order. */
  gather<T>(value: T): Promise<readonly T[]>;
}

/** Nothing but gradients and figures goes through it. */
export interface Reducer extends Ranks {
  /** `batches`: those of the whole step, which every rank must have alike. */
  sum<T>(
    parameters: readonly Parameter[],
    scalars: Promise<T>,
    batches: readonly Batch[],
    signal: AbortSignal | undefined,
  ): Reduced<T>;
  /** A batch is done: this rank does not hang. */
  progress(): void;
  /** Runs what takes its time, such as saving, while the others wait. */
  during<T>(run: () => Promise<T>): Promise<T>;
}

/** One process. */
export const alone: Reducer = {
  rank: 0,
  size: 1,
  gather: (value) => Promise.resolve([value]),
  sum: (_, scalars) => ({ gradients: Promise.resolve(), scalars: scalars.then((own) => [own]) }),
  progress: () => undefined,
  during: (run) => run(),
};
