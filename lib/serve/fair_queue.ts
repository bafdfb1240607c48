/**
 * Which request runs next. Clients take turns, so that one with a thousand requests waits for them itself; where the queue is full, it
 * is the longest line that loses a request (McKenney, "Stochastic fairness queueing", 1990).
 */
import { tooMany } from './api_error';

/** A place among those that run. */
export interface Lease {
  /** Gives the place to others for a while, as of a stream whose reader is slow. */
  pause(): void;
  /** Waits for a place again, ahead of those requests of its client that have not begun. Rejects with the reason of the signal. */
  resume(signal: AbortSignal): Promise<void>;
  /** Gives it back; a second time does nothing. */
  release(): void;
}

/**
 * What a request needs before it can run; undefined where that is there. It is asked for when the request has its turn, and while it is on its
 * way others run. The signal says that the request has left.
 */
export type Prepare = (signal: AbortSignal) => Promise<void> | undefined;

interface Waiting {
  readonly weight: number;
  /** Whether it had a place before, and goes on. */
  readonly again: boolean;
  /** Until it is asked for. */
  prepare: Prepare | undefined;
  /** Whether it waits for something else than a place. */
  preparing: boolean;
  readonly begin: () => void;
  readonly refuse: (reason: Error) => void;
  readonly left: AbortController;
}

type Wish = Pick<Waiting, 'weight' | 'again' | 'prepare'>;

/** The texts of a client that have a place, and those that have given it away. */
interface Texts {
  running: number;
  paused: number;
}

const none: Readonly<Texts> = { running: 0, paused: 0 };

export interface QueueLimits {
  /** Texts that are generated at once. A client that has paused as many begins no others. */
  readonly maxRunning: number;
  /** Requests that wait for their first place. */
  readonly maxQueued: number;
  /** Most places of one client, where others may begin while it has them. Default: all. */
  readonly maxPerClient?: number;
}

export class FairQueue {
  readonly #limits: QueueLimits;
  /** The line of each client that has requests waiting, those that go on before others; the first line is the next to be served. */
  readonly #lines = new Map<unknown, Waiting[]>();
  readonly #texts = new Map<unknown, Texts>();
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
   * what `prepare` rejects with; the reason of the signal.
   */
  async enter(client: unknown, weight: number, signal: AbortSignal, prepare?: Prepare): Promise<Lease> {
    const places = Math.min(weight, this.#limits.maxRunning);
    await this.#wait(client, { weight: places, again: false, prepare }, signal);
    return this.#lease(client, places);
  }

  /** Resolves when the place has been taken. */
  #wait(client: unknown, wish: Wish, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const left = new AbortController();
      const leave = (): void => {
        if (this.#remove(client, entry)) entry.refuse(signal.reason as Error);
      };
      const settle = (): void => signal.removeEventListener('abort', leave);
      const entry: Waiting = {
        ...wish,
        preparing: false,
        left,
        begin: () => {
          settle();
          resolve();
        },
        refuse: (reason) => {
          settle();
          left.abort(reason);
          reject(reason);
        },
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#admit(client, entry);
    });
  }

  #admit(client: unknown, entry: Waiting): void {
    const line = this.#lines.get(client) ?? [];
    const newer = entry.again ? line.findIndex(({ again }) => !again) : -1;
    line.splice(newer < 0 ? line.length : newer, 0, entry);
    this.#lines.set(client, line);
    this.#waiting++;
    this.#serve();
    this.#shorten(client);
  }

  /** Where too many wait, the longest line loses its newest request; of lines that are equally long, that of `newcomer`. */
  #shorten(newcomer: unknown): void {
    const { maxRunning, maxQueued } = this.#limits;
    if (this.#waiting <= maxQueued) return;
    let longest: [client: unknown, length: number] = [newcomer, 0];
    let waiting = 0;
    let preparing = 0;
    for (const [client, line] of this.#lines) {
      const length = line.filter(({ again }) => !again).length;
      if (length > longest[1] || (length === longest[1] && client === newcomer)) longest = [client, length];
      waiting += length;
      preparing += line.filter((one) => one.preparing).length;
    }
    // Those that have had their turn, and wait for what they need, take no place of the queue; there may be as many as run.
    if (waiting - Math.min(preparing, maxRunning) <= maxQueued) return;
    const last = this.#lines.get(longest[0])!.at(-1)!;
    this.#remove(longest[0], last);
    last.refuse(tooMany(`${maxQueued} requests wait already: try again later`));
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
      const next = this.#next();
      if (!next) return;
      const [client, entry] = next;
      if (this.#running > 0 && this.#running + entry.weight > this.#limits.maxRunning) return;
      if (!this.#prepared(client, entry)) continue;
      this.#remove(client, entry);
      const line = this.#lines.get(client);
      if (line) {
        // Behind the lines of all other clients.
        this.#lines.delete(client);
        this.#lines.set(client, line);
      }
      this.#count(client, entry.weight, entry.again ? -entry.weight : 0);
      entry.begin();
    }
  }

  /** The first request of the first line that may have another place. */
  #next(): [client: unknown, entry: Waiting] | undefined {
    const { maxRunning, maxPerClient = Infinity } = this.#limits;
    for (const [client, line] of this.#lines) {
      const { running, paused } = this.#texts.get(client) ?? none;
      if (running >= maxPerClient) continue;
      const entry = line.find(({ preparing, again }) => !preparing && (again || paused < maxRunning));
      if (entry) return [client, entry];
    }
    return undefined;
  }

  /** Whether it can run; else it keeps its place in the line until it can. */
  #prepared(client: unknown, entry: Waiting): boolean {
    const ready = entry.prepare?.(entry.left.signal);
    entry.prepare = undefined;
    if (!ready) return true;
    entry.preparing = true;
    ready.then(
      () => {
        entry.preparing = false;
        this.#serve();
      },
      (reason: Error) => {
        if (this.#remove(client, entry)) entry.refuse(reason);
      },
    );
    return false;
  }

  #count(client: unknown, running: number, paused: number): void {
    this.#running += running;
    const had = this.#texts.get(client) ?? none;
    const texts = { running: had.running + running, paused: had.paused + paused };
    if (texts.running + texts.paused > 0) this.#texts.set(client, texts);
    else this.#texts.delete(client);
  }

  /** Of a place that has been taken. */
  #lease(client: unknown, weight: number): Lease {
    let state: 'running' | 'paused' | 'ended' = 'running';
    return {
      pause: () => {
        if (state !== 'running') return;
        state = 'paused';
        this.#count(client, -weight, weight);
        this.#serve();
      },
      resume: async (signal) => {
        if (state !== 'paused') return;
        await this.#wait(client, { weight, again: true, prepare: undefined }, signal);
        state = 'running';
      },
      release: () => {
        if (state === 'ended') return;
        this.#count(client, state === 'running' ? -weight : 0, state === 'paused' ? -weight : 0);
        state = 'ended';
        this.#serve();
      },
    };
  }
}
