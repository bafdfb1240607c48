/** A run's part in a group of processes: that they train the same, and how they end together. */
import type { ProcessGroup } from '../distributed/process_group';
import { loraError } from '../errors';
import { binding } from '../native/calls';
import { GroupReducer } from './group_reducer';
import type { ResolvedOptions } from './options';
import { alone, type Reducer } from './reducer';
import { difference, type RunSettings } from './resume';

export class Membership {
  readonly reducer: Reducer;
  readonly #group: ProcessGroup | undefined;
  /** Aborted by the signal of the program, and where another rank was stopped. */
  readonly #stopping = new AbortController();

  constructor(
    group: ProcessGroup | undefined,
    {
      distributedTimeout,
      distributedDtype,
    }: Pick<ResolvedOptions, 'distributedTimeout' | 'distributedDtype'>,
  ) {
    this.#group = group !== undefined && group.size > 1 ? group : undefined;
    if (this.#group) this.#group.timeout = distributedTimeout;
    this.reducer = this.#group
      ? new GroupReducer(this.#group, distributedDtype, (why) => this.#stopping.abort(why))
      : alone;
  }

  /** Whether this process writes files. */
  get writes(): boolean {
    return this.reducer.rank === 0;
  }

  /** Runs with a signal that all ranks share; however it ends, the others learn why. */
  async *run<Event, Result>(
    signal: AbortSignal | undefined,
    train: (signal: AbortSignal | undefined) => AsyncGenerator<Event, Result, void>,
  ): AsyncGenerator<Event, Result, void> {
    const group = this.#group;
    if (!group) return yield* train(signal);
    const stopping = this.#stopping;
    const follow = (): void => stopping.abort(signal!.reason);
    if (signal?.aborted) follow();
    signal?.addEventListener('abort', follow);
    let end: { reason: unknown; stopped: boolean } | undefined = {
      reason: 'its loop was left',
      stopped: true,
    };
    try {
      const result = yield* train(stopping.signal);
      await group.end();
      end = undefined;
      return result;
    } catch (error) {
      end = { reason: error, stopped: stopping.signal.aborted && error === stopping.signal.reason };
      throw error;
    } finally {
      signal?.removeEventListener('abort', follow);
      if (end) await group.leave(end.reason, end.stopped);
    }
  }

  /** @throws ERR_DISTRIBUTED where a rank was given something else to do than rank 0. */
  async checkSame(own: RunSettings): Promise<void> {
    if (!this.#group) return;
    // Sums depend on them, and the parameters of all ranks have the same bits.
    const { threads, target } = binding().cpuInfo();
    const all = await this.reducer.gather({ ...own, threads, instructions: target });
    for (const [rank, other] of all.entries()) {
      const differs = difference(all[0]!, other);
      if (differs === undefined) continue;
      throw loraError(
        'Trainer',
        'ERR_DISTRIBUTED',
        `${this.#group.nameOf(rank)} is to train something else than ${this.#group.nameOf(0)}: ${differs} there`,
      );
    }
  }
}
