/**
 * Which request runs next. Clients take turns, so that one with a thousand requests waits for them itself; where the queue is full, it
 * is the longest line that loses a request (McKenney, "Stochastic fairness queueing", 1990).
 */
import { tooMany } from './api_error';

/** A place among those that run. */
export interface Lease {
  /** Gives the place to others for a while, as of a stream whose reader is slow; resume() takes it back at once. */
  pause(): void;
  resume(): void;
  /** Gives it back; a second time does nothing. */
  release(): void;
}

interface Waiting {
  readonly weight: number;
  readonly begin: (lease: Lease) => void;
  readonly refuse: (reason: Error) => void;
}

export interface QueueLimits {
  /** Texts that are generated at once. */
  readonly maxRunning: number;
  /** Requests that wait. */
  readonly maxQueued: number;
  /** Most places of one client, where others may begin while it has them. Default: all. */
  readonly maxPerClient?: number;
}

export class FairQueue {
  readonly #limits: QueueLimits;
  /** The line of each client that has requests waiting; the first line is the next to be served. */
  readonly #lines = new Map<unknown, Waiting[]>();
  /** The places of each client that has any. */
  readonly #places = new Map<unknown, number>();
  #running = 0;
  #waiting = 0;

  constructor(limits: QueueLimits) {
    this.#limits = limits;
  }

  /** Texts that have a place. */
  get running(): number {
    return this.#running;
  }
  /** Requests that have none. */
  get waiting(): number {
    return this.#waiting;
  }

  /**
   * Waits for a place for `weight` texts; more than there are places take all of them.
   * @throws 429 where the queue is full and no client has a longer line, or a later request of another client took this one's place;
   * the reason of the signal.
   */
  enter(client: unknown, weight: number, signal: AbortSignal): Promise<Lease> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const leave = (): void => {
        if (this.#remove(client, entry)) reject(signal.reason as Error);
      };
      const settle = (): void => signal.removeEventListener('abort', leave);
      const entry: Waiting = {
        weight: Math.min(weight, this.#limits.maxRunning),
        begin: (lease) => {
          settle();
          resolve(lease);
        },
        refuse: (reason) => {
          settle();
          reject(reason);
        },
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#admit(client, entry);
    });
  }

  #admit(client: unknown, entry: Waiting): void {
    const line = this.#lines.get(client);
    if (line) line.push(entry);
    else this.#lines.set(client, [entry]);
    this.#waiting++;
    this.#serve();
    if (this.#waiting > this.#limits.maxQueued) this.#shorten(client);
  }

  /** Takes the newest request from the longest line; of lines that are equally long, from that of `newcomer`. */
  #shorten(newcomer: unknown): void {
    let longest = newcomer;
    for (const [client, line] of this.#lines)
      if (line.length > this.#lines.get(longest)!.length) longest = client;
    const last = this.#lines.get(longest)!.at(-1)!;
    this.#remove(longest, last);
    last.refuse(tooMany(`${this.#limits.maxQueued} requests wait already: try again later`));
  }

  #remove(client: unknown, entry: Waiting): boolean {
    const line = this.#lines.get(client);
    const at = line?.indexOf(entry) ?? -1;
    if (at < 0) return false;
    line!.splice(at, 1);
    if (line!.length === 0) this.#lines.delete(client);
    this.#waiting--;
    return true;
  }

  /** Lets requests begin while there is room for the next one. */
  #serve(): void {
    for (;;) {
      const next = this.#nextLine();
      if (!next) return;
      const [client, line] = next;
      const entry = line[0]!;
      if (this.#running > 0 && this.#running + entry.weight > this.#limits.maxRunning) return;
      this.#remove(client, entry);
      if (line.length > 0) {
        // Behind the lines of all other clients.
        this.#lines.delete(client);
        this.#lines.set(client, line);
      }
      entry.begin(this.#lease(client, entry.weight));
    }
  }

  /** The first line whose client may have another place. */
  #nextLine(): [client: unknown, line: Waiting[]] | undefined {
    const { maxPerClient = Infinity } = this.#limits;
    for (const next of this.#lines) if ((this.#places.get(next[0]) ?? 0) < maxPerClient) return next;
    return undefined;
  }

  #lease(client: unknown, weight: number): Lease {
    let held = false;
    let ended = false;
    const count = (places: number): void => {
      this.#running += places;
      const had = (this.#places.get(client) ?? 0) + places;
      if (had > 0) this.#places.set(client, had);
      else this.#places.delete(client);
    };
    const take = (): void => {
      held = true;
      count(weight);
    };
    const give = (): void => {
      if (!held) return;
      held = false;
      count(-weight);
      this.#serve();
    };
    take();
    return {
      pause: give,
      resume: () => {
        if (!held && !ended) take();
      },
      release: () => {
        ended = true;
        give();
      },
    };
  }
}
