/**
 * The bytes of bodies that arrive, or whose requests wait for their turn. Where they are too many, the client with most of them loses its newest
 * request, as in the queue: one that sends little is not refused because of others.
 */
import { tooMany } from './api_error';

/** What one request holds. */
export class HeldBytes {
  /** Bytes of its body so far. */
  bytes = 0;
  #released = false;

  constructor(
    readonly lane: unknown,
    readonly refuse: (reason: Error) => void,
    readonly counted: (held: HeldBytes, bytes: number) => void,
  ) {}

  /** Counts bytes that have come. */
  take(bytes: number): void {
    this.bytes += bytes;
    if (!this.#released) this.counted(this, bytes);
  }

  /** Counts no longer, as when the request has its turn. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.counted(this, -this.bytes);
  }
}

export class WaitingBytes {
  readonly #most: number;
  #total = 0;
  /** What each client holds, and its requests in the order in which they came. */
  readonly #lanes = new Map<unknown, { bytes: number; readonly held: Set<HeldBytes> }>();

  constructor(most: number) {
    this.#most = most;
  }

  get total(): number {
    return this.#total;
  }

  /** The bytes of a request of a client; `refuse` is called where they have to go. */
  hold(lane: unknown, refuse: (reason: Error) => void): HeldBytes {
    return new HeldBytes(lane, refuse, (held, bytes) => this.#count(held, bytes));
  }

  #count(held: HeldBytes, bytes: number): void {
    const lane = this.#lanes.get(held.lane) ?? { bytes: 0, held: new Set() };
    this.#lanes.set(held.lane, lane);
    lane.bytes += bytes;
    this.#total += bytes;
    if (bytes > 0) lane.held.add(held);
    else lane.held.delete(held);
    if (lane.held.size === 0) this.#lanes.delete(held.lane);
    while (this.#total > this.#most) this.#refuseOne();
  }

  #refuseOne(): void {
    const [largest] = [...this.#lanes.values()].sort((a, b) => b.bytes - a.bytes);
    const newest = [...largest!.held].at(-1)!;
    newest.release();
    newest.refuse(
      tooMany(`the bodies of waiting requests have ${this.#most} bytes already: try again later`),
    );
  }
}
