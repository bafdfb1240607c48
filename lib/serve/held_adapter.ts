/** The turn of a request, and the adapter that it holds meanwhile. */
import type { Adapter } from '../peft/adapter';
import type { Lease } from './fair_queue';
import type { ServedAdapters, ServedUse } from './served_adapters';
import type { Call } from './service';

/** The adapter of a request, which it holds from its turn on. One that has to be loaded comes before the place: who waits for it has none. */
class HeldAdapter {
  use: ServedUse | undefined;

  constructor(
    readonly adapters: ServedAdapters,
    readonly name: string,
  ) {}

  /** Undefined where it is there. The promise rejects with what is wrong with it, or with the reason of the signal. */
  prepare(left: AbortSignal): Promise<void> | undefined {
    this.use = this.adapters.useNow(this.name);
    return this.use ? undefined : this.#load(left);
  }

  async #load(left: AbortSignal): Promise<void> {
    const use = await this.adapters.use(this.name, left);
    if (left.aborted) use.release();
    else this.use = use;
  }

  release(): void {
    this.use?.release();
  }
}

/** What a request has in its turn. */
export interface Turn {
  readonly adapter: Adapter | null;
  readonly use: ServedUse;
  readonly lease: Lease;
}

/** Notes which model a request names. @throws 404 for one that there is not. */
export async function checkModel({ service: { adapters }, exchange }: Call, name: string): Promise<void> {
  exchange.facts.model = name;
  if (!adapters.has(name) && !(await adapters.discover(name))) throw adapters.unknown(name);
}

/** Waits for `places` among those that run, and does the work with the model of that name, which checkModel() has found. */
export async function inTurn(
  { service, exchange, client, body }: Call,
  name: string,
  places: number,
  work: (turn: Turn) => Promise<void>,
): Promise<void> {
  const held = new HeldAdapter(service.adapters, name);
  try {
    const lease = await service.queue.enter(client.lane, places, exchange.signal, (left) =>
      held.prepare(left),
    );
    body.release();
    try {
      const use = held.use!;
      await work({ adapter: use.adapter, use, lease });
    } finally {
      lease.release();
    }
  } finally {
    held.release();
  }
}
