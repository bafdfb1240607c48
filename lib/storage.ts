/** A counted reference to native memory, shared by the tensors and graph nodes that look at it. */
import type { NativeTensor } from './binding';
import { binding } from './calls';

export class Storage {
  #refs = 1;

  /** `base`: the storage whose memory this one views, if any. */
  constructor(
    readonly handle: NativeTensor,
    private readonly base: Storage | null = null,
  ) {
    base?.retain();
  }

  retain(): this {
    this.#refs++;
    return this;
  }

  release(): void {
    if (--this.#refs > 0) return;
    binding().release(this.handle);
    this.base?.release();
  }

  /** Nobody else can see the memory, so it may be written. */
  get exclusive(): boolean {
    return this.#refs === 1 && (this.base === null || this.base.exclusive);
  }
}
