/**
 * The memory of keys and values: pages of 64 positions in one pool of each layer, counted by those who refer to them.
 * Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (2023).
 */
import { call } from '../native/calls';
import { PAGE_SIZE, poolShape } from '../ops/attention_paged';
import { bytesPerElement } from '../tensor/dtype';
import { rawEmpty, rawView } from '../tensor/raw';
import { noGrad, runUntracked } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import type { EngineModel, LayerPages } from './model';

/** Positions of a page. */
export const pageLength = PAGE_SIZE;

/** How many pages hold so many positions. */
export const pagesFor = (positions: number): number => Math.ceil(positions / pageLength);

/** What the size of a page depends on, and where it lies. */
type PoolModel = Pick<EngineModel, 'layers' | 'kvHeads' | 'headDim' | 'dtype' | 'device'>;

/** The most pages that a first allocation makes room for, unless it needs more. */
const firstPages = 8;

/** Pages of all layers at once: page p of a sequence is page p in every layer. */
export class PagePool {
  /** Bytes of a page in all layers. */
  readonly pageBytes: number;
  /** The most pages that the limit allows. */
  readonly most: number;
  /** The layers; others after each growth. */
  layers: readonly LayerPages[] = [];
  readonly #model: PoolModel;
  /** References to each page; 0: free. */
  readonly #references: number[] = [];
  readonly #free: number[] = [];

  constructor(model: PoolModel, limitBytes: number) {
    this.#model = model;
    const { layers, kvHeads, headDim, dtype } = model;
    this.pageBytes = 2 * layers * pageLength * kvHeads * headDim * bytesPerElement[dtype];
    this.most = Math.floor(limitBytes / this.pageBytes);
  }

  /** Pages that there is memory for now. */
  get capacity(): number {
    return this.#references.length;
  }

  /** Pages that somebody refers to. */
  get used(): number {
    return this.capacity - this.#free.length;
  }

  /** Pages that there is memory for and nobody refers to. */
  get free(): number {
    return this.#free.length;
  }

  /** Pages that can be had without taking one from somebody. */
  get available(): number {
    return this.most - this.used;
  }

  /** So many pages with one reference each, or undefined where the limit does not allow them. */
  take(count: number): number[] | undefined {
    if (count > this.available) return undefined;
    if (count > this.#free.length) this.#grow(this.used + count);
    // The lowest numbers first, so that a pool that is hardly used stays dense.
    const pages = this.#free.splice(this.#free.length - count, count).reverse();
    for (const page of pages) this.#references[page] = 1;
    return pages;
  }

  references(page: number): number {
    return this.#references[page]!;
  }

  retain(page: number): void {
    this.#references[page]!++;
  }

  /** Drops a reference; a page without one is free at once, since later commands run after those that use it. */
  release(page: number): void {
    if (--this.#references[page]! === 0) this.#free.push(page);
  }

  #grow(needed: number): void {
    const capacity = Math.min(this.most, Math.max(2 * this.capacity, needed, firstPages));
    const { kvHeads, headDim, dtype, device } = this.#model;
    const shape = poolShape(capacity, kvHeads, headDim);
    const old = this.layers;
    const grown: LayerPages[] = [];
    const moved = (from: Tensor | undefined): Tensor => {
      const to = rawEmpty(shape, dtype, device);
      if (from) {
        const begin = rawView(to, 0, from.shape);
        call().copyInto(from.handle, begin.handle);
        begin.dispose();
      }
      return to;
    };
    runUntracked(() =>
      noGrad(() => {
        try {
          for (let i = 0; i < this.#model.layers; i++) {
            const k = moved(old[i]?.k);
            try {
              grown.push({ k, v: moved(old[i]?.v) });
            } catch (error) {
              k.dispose();
              throw error;
            }
          }
        } catch (error) {
          disposeLayers(grown);
          throw error;
        }
      }),
    );
    disposeLayers(old);
    this.layers = grown;
    for (let page = this.#references.length; page < capacity; page++) {
      this.#references.push(0);
      this.#free.unshift(page);
    }
  }

  /** Frees the memory; nobody refers to a page any more. */
  clear(): void {
    disposeLayers(this.layers);
    this.layers = [];
    this.#references.length = 0;
    this.#free.length = 0;
  }
}

function disposeLayers(layers: readonly LayerPages[]): void {
  for (const { k, v } of layers) {
    k.dispose();
    v.dispose();
  }
}
