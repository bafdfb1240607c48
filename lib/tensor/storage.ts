/** A counted reference to native memory, shared by the tensors and graph nodes that look at it. */
import type { NativeTensor } from '../native/binding';
import { binding } from '../native/calls';

export class Storage {
  #refs = 1;
  readonly #base: Storage | null;

  /** `viewed`: the storage whose memory this one looks at, if any. */
  constructor(
    readonly handle: NativeTensor,
    viewed: Storage | null = null,
  ) {
    this.#base = viewed === null ? null : (viewed.#base ?? viewed); // views of views stay flat
    this.#base?.retain();
  }

  retain(): this {
    this.#refs++;
    return this;
  }

  release(): void {
    if (--this.#refs > 0) return;
    binding().release(this.handle);
    this.#base?.release();
  }

  /** Nobody else can see the memory, so it may be written. */
  get exclusive(): boolean {
    return this.#refs === 1 && (this.#base === null || this.#base.exclusive);
  }
}
