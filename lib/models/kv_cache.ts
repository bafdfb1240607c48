/** Keys and values of the past, one pair of tensors per layer, grown in steps. */
import type { Device } from '../native/device';
import { cacheAppend, view } from '../ops';
import { runUntracked } from '../tensor/scope';
import { rawEmpty } from '../tensor/raw';
import type { Tensor } from '../tensor/tensor';
import type { DType } from '../tensor/dtype';

const STEP = 64;

export class KVCache {
  readonly #shape: { layers: number; heads: number; headDim: number };
  readonly #dtype: DType;
  readonly #device: Device;
  #layers: { k: Tensor; v: Tensor }[] = [];
  #capacity = 0;
  /** Positions that every layer holds. */
  length = 0;

  constructor(shape: { layers: number; heads: number; headDim: number }, dtype: DType, device: Device) {
    this.#shape = shape;
    this.#dtype = dtype;
    this.#device = device;
  }

  get capacity(): number {
    return this.#capacity;
  }

  #allocate(capacity: number): Tensor {
    const shape = [1, capacity, this.#shape.heads, this.#shape.headDim];
    return rawEmpty(shape, this.#dtype, this.#device);
  }

  /** Makes room for `positions` in all; grows by half at least, so that copying stays linear. */
  reserve(positions: number): void {
    if (positions <= this.#capacity) return;
    const wanted = Math.max(positions, Math.ceil(this.#capacity * 1.5));
    const capacity = Math.ceil(wanted / STEP) * STEP;
    const moved = (old: Tensor | undefined): Tensor => {
      const grown = this.#allocate(capacity);
      if (old && this.length > 0) {
        const used = view(old, 0, [1, this.length, this.#shape.heads, this.#shape.headDim]);
        cacheAppend(used, grown, 0);
        used.dispose();
      }
      old?.dispose();
      return grown;
    };
    runUntracked(() => {
      this.#layers = Array.from({ length: this.#shape.layers }, (_, i) => ({
        k: moved(this.#layers[i]?.k),
        v: moved(this.#layers[i]?.v),
      }));
    });
    this.#capacity = capacity;
  }

  /** Writes k and v [1, s, heads, headDim] behind the past and returns the whole caches of the layer. */
  append(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const cache = this.#layers[layer]!;
    cacheAppend(k, cache.k, this.length);
    cacheAppend(v, cache.v, this.length);
    return cache;
  }

  dispose(): void {
    for (const { k, v } of this.#layers) {
      k.dispose();
      v.dispose();
    }
    this.#layers = [];
    this.#capacity = 0;
    this.length = 0;
  }
}
