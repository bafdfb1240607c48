/** How much memory the pages leave to the work on them: parts of prompts, steps, what is recorded. */
import { freeBytes, type Device } from '../native/device';
import type { PoolMemory } from './pages';

/**
 * The need of a step follows from the model, the rows, the threads and the kernels that they choose, so it is not computed but learned:
 * work that finds too little takes memory from the pool, which leaves it as much from then on.
 */
export class WorkingMemory implements PoolMemory {
  readonly letGo: () => void;
  readonly #device: Device;
  readonly #recordedBytes: () => number;
  /** Bytes that pages leave free. */
  #reserve = 0;

  /** `recordedBytes`: what letGo() frees beside. */
  constructor(device: Device, recordedBytes: () => number, letGo: () => void) {
    this.#device = device;
    this.#recordedBytes = recordedBytes;
    this.letGo = letGo;
  }

  get #free(): number {
    return freeBytes(this.#device) + this.#recordedBytes();
  }

  spare(): number {
    return this.#free - this.#reserve;
  }

  denied(bytes: number): void {
    this.#reserve = Math.max(this.#reserve, this.#free + bytes);
  }
}
