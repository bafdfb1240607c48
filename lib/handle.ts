import { LoRAError, loraError } from './errors';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const settled = (promise: Promise<unknown>): Promise<void> => promise.then(nothing, nothing);
function nothing(): void {}

/** Gives back what the runs held whose handles were left half-way and collected. */
const abandoned = new FinalizationRegistry<() => void>((release) => release());

/** The same function as `release`, which is also called where nobody holds the handle any more. It must not hold it. */
export function holdFor(handle: object, release: () => void): () => void {
  abandoned.register(handle, release, handle);
  return () => {
    abandoned.unregister(handle);
    release();
  };
}

/**
 * A run whose inputs `plan` checks now, as they are when the call is made. What it throws reaches whoever awaits or iterates the handle: a call
 * that gives a Promise throws nothing past its `.catch`.
 */
export function plannedRun<Event, Result>(
  op: string,
  plan: () => (handle: RunHandle<Event, Result>) => AsyncGenerator<Event, Result, void>,
): RunHandle<Event, Result> {
  let start: ReturnType<typeof plan>;
  try {
    start = plan();
  } catch (error) {
    start = () => {
      throw error;
    };
  }
  const handle: RunHandle<Event, Result> = new RunHandle(op, () => start(handle));
  return handle;
}

/**
 * A run: a Promise of its result, and an AsyncIterable of its events.
 *
 * It begins in the next turn of the event loop and goes on by itself, whether somebody awaits it or not. Whoever wants
 * the events iterates the handle in the turn that made it: the run then begins with the first `next()` and waits for its
 * consumer before each event; leaving the loop ends it and frees what it holds. The events are given once, the result
 * as often as it is awaited: after the last event `handle.result` has it.
 *
 * A failure rejects the promise and, when the handle is iterated, is thrown into the loop. As with any promise, a
 * rejection that reaches nobody is an `unhandledRejection`; one that the loop got is none.
 *
 * @example
 * for await (const event of trainer.run()) console.log(event.type); // its events …
 * const result = await new Trainer({ model, data, maxSteps: 10 }).run(); // … or its result
 */
export class RunHandle<Event, Result> implements AsyncIterable<Event>, Promise<Result> {
  /** The result. It is rejected where the run fails, and with ERR_DISPOSED where its loop was left before the end. */
  readonly result: Promise<Result>;
  readonly #op: string;
  readonly #start: () => AsyncGenerator<Event, Result, void>;
  readonly #resolve: (result: Result) => void;
  readonly #reject: (reason: unknown) => void;
  #state: 'fresh' | 'by itself' | 'iterated' = 'fresh';
  /** While it is iterated: what runs, whether it was left, and the event that was asked for last. */
  #run: AsyncGenerator<Event, Result, void> | undefined;
  #left = false;
  #asked: Promise<unknown> | undefined;

  /** @internal */
  constructor(op: string, start: () => AsyncGenerator<Event, Result, void>) {
    this.#op = op;
    this.#start = start;
    let settle: [(result: Result) => void, (reason: unknown) => void];
    this.result = new Promise((...functions) => (settle = functions));
    [this.#resolve, this.#reject] = settle!;
    setImmediate(() => {
      if (this.#state !== 'fresh') return;
      this.#state = 'by itself';
      void this.#drain();
    });
  }

  async #drain(): Promise<void> {
    try {
      const run = this.#start();
      for (;;) {
        const { value, done } = await run.next();
        if (done) return this.#resolve(value);
      }
    } catch (error) {
      this.#reject(error);
    }
  }

  /**
   * Begins the run for its events; leaving the loop ends it.
   *
   * @throws (from next()) ERR_ARGUMENT when the events are given already, or the run goes on by itself.
   */
  [Symbol.asyncIterator](): AsyncIterator<Event, undefined> {
    const refused = this.#refusal();
    if (refused) return { next: () => Promise.reject(refused) };
    this.#state = 'iterated';
    this.result.catch(nothing); // a failure reaches the loop
    return {
      next: () => {
        const asked = this.#next();
        this.#asked = asked;
        return asked;
      },
      return: async () => {
        await this.#leave('its loop was left before the end');
        return { value: undefined, done: true };
      },
    };
  }

  #refusal(): LoRAError | undefined {
    if (this.#state === 'fresh') return undefined;
    const why =
      this.#state === 'iterated'
        ? `expected a fresh handle but received one that was already iterated: call ${this.#op}() again`
        : `expected the handle to be iterated in the turn that made it, but it already runs by itself: await it, or iterate at once`;
    return loraError(this.#op, 'ERR_ARGUMENT', why);
  }

  async #next(): Promise<IteratorResult<Event, undefined>> {
    if (this.#left) return { value: undefined, done: true };
    try {
      this.#run ??= this.#start();
      const { value, done } = await this.#run.next();
      if (!done) return { value, done: false };
      if (!this.#left) this.#resolve(value);
      return { value: undefined, done: true };
    } catch (error) {
      this.#reject(error);
      throw error;
    }
  }

  /** Ends the iteration: nothing begins after that, nor goes on. */
  async #leave(why: string): Promise<void> {
    this.#left = true;
    // The generator's finally blocks free what the run holds; its own return value is not an event.
    await this.#run?.return(undefined as Result);
    this.#reject(loraError(this.#op, 'ERR_DISPOSED', `there is no result: ${why}`));
  }

  /**
   * @internal Waits for the end of the run. One that waits for its consumer is ended: that may be the caller, or nobody.
   */
  async end(why: string): Promise<void> {
    if (this.#state !== 'iterated') return settled(this.result);
    for (;;) {
      const asked = this.#asked;
      if (asked) await settled(asked);
      await turn(); // in which a consumer that goes on has asked again
      if (asked === this.#asked) break;
    }
    await this.#leave(why);
  }

  /** As of a Promise. */
  get then(): Promise<Result>['then'] {
    return this.result.then.bind(this.result);
  }

  /** As of a Promise. */
  get catch(): Promise<Result>['catch'] {
    return this.result.catch.bind(this.result);
  }

  /** As of a Promise. */
  get finally(): Promise<Result>['finally'] {
    return this.result.finally.bind(this.result);
  }

  /** As of a Promise. */
  get [Symbol.toStringTag](): string {
    return 'Promise';
  }
}

/** Events of several sources in the order in which they come, with the number of the source. */
export async function* merged<T>(
  sources: readonly AsyncIterable<T>[],
): AsyncGenerator<readonly [source: number, event: T], void, void> {
  // All are asked at once, in the turn that made them, as handles of generations have it.
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const next = async (i: number): Promise<readonly [number, IteratorResult<T, unknown>]> => [
    i,
    await iterators[i]!.next(),
  ];
  const awaited = new Map<number, Promise<readonly [number, IteratorResult<T, unknown>]>>();
  const ask = (i: number): void => {
    const asked = next(i);
    asked.catch(() => undefined); // the race tells of the first failure
    awaited.set(i, asked);
  };
  iterators.forEach((_, i) => ask(i));
  try {
    while (awaited.size > 0) {
      const [i, event] = await Promise.race(awaited.values());
      awaited.delete(i);
      if (event.done) continue;
      yield [i, event.value];
      ask(i);
    }
  } finally {
    await Promise.allSettled(iterators.map(async (iterator) => iterator.return?.()));
  }
}
