import { holdFor } from '../../handle';

/** @internal What can be ended: the handle of a generation. */
interface Ending {
  end(why: string): Promise<void>;
}

/** The generations of a model that have begun and not ended, held weakly: a handle that was left half-way may be collected. */
export class Generations {
  readonly #running = new Set<{ handle: WeakRef<Ending>; release: () => void }>();

  /** `release` is called once: by the returned function, or in its place when the handle is collected or ended. */
  add(handle: Ending, release: () => void): () => void {
    const entry = {
      handle: new WeakRef(handle),
      release: (): void => {
        if (this.#running.delete(entry)) release();
      },
    };
    this.#running.add(entry);
    return holdFor(handle, entry.release);
  }

  /** Waits for those that run; ends those that wait for their consumer. */
  async end(why: string): Promise<void> {
    const endings = [...this.#running].map(async ({ handle, release }) => {
      await handle.deref()?.end(why);
      release();
    });
    await Promise.all(endings);
  }
}
