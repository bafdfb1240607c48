import { LoRAError } from './errors';

/**
 * A run that has not begun: iterate it for its events, or await it for its result. It does nothing before
 * the first `next()` or `then()`, events wait for the consumer, leaving a `for await` loop ends the run and
 * frees what it holds, and it is consumed once (a second time is ERR_ARGUMENT).
 *
 * @example
 * for await (const event of trainer.run()) console.log(event.type); // its events …
 * const result = await new Trainer({ model, data, maxSteps: 10 }).run(); // … or its result
 */
export class RunHandle<Event, Result> implements AsyncIterable<Event>, PromiseLike<Result> {
  readonly #op: string;
  readonly #start: () => AsyncGenerator<Event, Result, void>;
  #consumed = false;

  constructor(op: string, start: () => AsyncGenerator<Event, Result, void>) {
    this.#op = op;
    this.#start = start;
  }

  #begin(): AsyncGenerator<Event, Result, void> {
    if (this.#consumed)
      throw new LoRAError(
        'ERR_ARGUMENT',
        `[${this.#op}] expected a fresh handle but received one that was already consumed: call ${this.#op}() again`,
        { op: this.#op },
      );
    this.#consumed = true;
    return this.#start();
  }

  /** Begins the run for its events; leaving the loop ends it. */
  [Symbol.asyncIterator](): AsyncIterator<Event, undefined> {
    let run: AsyncGenerator<Event, Result, void> | undefined;
    let left = false;
    return {
      next: async () => {
        if (left) return { value: undefined, done: true };
        run ??= this.#begin();
        const { value, done } = await run.next();
        return done ? { value: undefined, done: true } : { value, done: false };
      },
      return: async () => {
        left = true; // also before the first next(): nothing may begin after that
        // The generator's finally blocks free what the run holds; its own return value is not an event.
        await run?.return(undefined as Result);
        return { value: undefined, done: true };
      },
    };
  }

  /** Begins the run for its result, passing over the events. */
  then<A = Result, B = never>(
    onResult?: ((result: Result) => A | PromiseLike<A>) | null,
    onError?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    const drain = async (): Promise<Result> => {
      const run = this.#begin();
      for (;;) {
        const { value, done } = await run.next();
        if (done) return value;
      }
    };
    return drain().then(onResult, onError);
  }
}
