/** How much memory the pages leave to the work on them: parts of prompts, steps, what is recorded. */
import { freeBytes, type Device } from '../native/device';
import type { PoolMemory } from './pool';

/** What has pages, and works on them: an engine. */
interface Owner {
  /** What forgetSteps() frees. */
  readonly recordedBytes: number;
  forgetSteps(): void;
  /** Frees all that it keeps for later, unless it is at work; whether that was anything. */
  giveUp(): boolean;
}

/** All engines of this thread. */
const owners = new Set<WeakRef<Owner>>();

/**
 * The need of a step follows from the model, the rows, the threads and the kernels that they choose, so it is not computed but learned:
 * work that finds too little takes memory from the pool, which leaves it as much from then on.
 */
export class WorkingMemory implements PoolMemory {
  readonly #engine: Owner;
  readonly #device: Device;
  /** Bytes that pages leave free. */
  #reserve = 0;

  constructor(device: Device, engine: Owner) {
    this.#device = device;
    this.#engine = engine;
    owners.add(new WeakRef(engine));
  }

  get #free(): number {
    return freeBytes(this.#device) + this.#engine.recordedBytes;
  }

  spare(): number {
    return this.#free - this.#reserve;
  }

  letGo(): void {
    this.#engine.forgetSteps();
  }

  reclaim(): boolean {
    let any = false;
    for (const reference of owners) {
      const owner = reference.deref();
      if (!owner) owners.delete(reference);
      else if (owner !== this.#engine && owner.giveUp()) any = true;
    }
    return any;
  }

  denied(bytes: number): void {
    this.#reserve = Math.max(this.#reserve, this.#free + bytes);
  }
}
