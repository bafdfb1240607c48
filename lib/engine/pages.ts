/**
 * The memory of keys and values: pages of 64 positions in one pool of each layer, counted by those who refer to them.
 * Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (2023).
 */
import { isOutOfMemory, type LoRAError } from '../errors';
import { call } from '../native/calls';
import { pageSize as pageLength } from '../native/constants';
import { poolShape, type LayerPages } from '../ops/attention_paged';
import { bytesPerElement } from '../native/dtype';
import { rawEmpty, rawView } from '../tensor/raw';
import { runDetached, temporaries } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import type { EngineModel } from './model';

export { pageLength };

/** How many pages hold so many positions. */
export const pagesFor = (positions: number): number => Math.ceil(positions / pageLength);

/** What the size of a page depends on, and where it lies. */
type PoolModel = Pick<EngineModel, 'layers' | 'dtype' | 'device'>;

/** The most pages that a first allocation makes room for, unless it needs more. */
const firstPages = 8;

/** A page of all layers. */
export class Page {
  /** How many refer to it; 0: it is free. */
  references = 0;

  /** `number`: where it lies in each layer; the pool may move it between two steps. */
  constructor(public number: number) {}
}

/** The memory that a pool shares with the work on its pages, and with the rest of the program. */
export interface PoolMemory {
  /** Bytes that the pool may take beside those that it has. */
  spare(): number;
  /** Notes that so many bytes are wanted elsewhere, or were not there. */
  denied(bytes: number): void;
  /** Drops what refers to the tensors of the layers, since others take their place. */
  letGo(): void;
  /** Has those give memory back that have no use for it now; whether there were any. */
  reclaim(): boolean;
}

const boundless: PoolMemory = {
  spare: () => Infinity,
  denied: () => undefined,
  letGo: () => undefined,
  reclaim: () => false,
};

/** Bytes of a page in all layers. */
export function pageBytes({ layers, dtype }: Pick<PoolModel, 'layers' | 'dtype'>): number {
  const numbers = layers.reduce((sum, { kvHeads, headDim }) => sum + 2 * kvHeads * headDim, 0);
  return pageLength * numbers * bytesPerElement[dtype];
}

/** Pages of all layers at once: page p of a sequence is page p in every layer. */
export class PagePool {
  /** Bytes of a page in all layers. */
  readonly pageBytes: number;
  /** The most pages that the limit allows. */
  readonly most: number;
  /** The layers; others when the pool has grown or shrunk. */
  layers: readonly LayerPages[] = [];
  readonly #model: PoolModel;
  readonly #memory: PoolMemory;
  /** Keys and values of each layer, one after the other. One of them may have room for more pages than there are. */
  readonly #tensors: Tensor[] = [];
  /** All pages, by their numbers. */
  readonly #pages: Page[] = [];
  /** Those that nobody refers to; the last one is taken first. */
  #free: Page[] = [];

  constructor(model: PoolModel, limitBytes: number, memory: PoolMemory = boundless) {
    this.#model = model;
    this.#memory = memory;
    this.pageBytes = pageBytes(model);
    this.most = Math.floor(limitBytes / this.pageBytes);
  }

  /** Pages that there is memory for now. */
  get capacity(): number {
    return this.#pages.length;
  }

  /** Pages that somebody refers to. */
  get used(): number {
    return this.capacity - this.free;
  }

  /** Pages that there is memory for and nobody refers to. */
  get free(): number {
    return this.#free.length;
  }

  /** Pages that it has or may have: the limit allows them, and there is memory that nothing else is known to need. */
  get affordable(): number {
    if (this.pageBytes === 0) return this.most; // a model without layers keeps nothing
    const spare = (this.#memory.spare() * 8) / 9; // a block may be an eighth larger than what was asked for
    const copied = 1 / (2 * this.#model.layers.length); // of a page; a tensor is there twice while it is copied
    const more = Math.floor((spare / this.pageBytes - copied * this.capacity) / (1 + copied));
    return Math.min(this.most, this.capacity + Math.max(0, more));
  }

  /**
   * So many pages with one reference each, or undefined where it may not have as many. `atAnyCost`: memory that other work may need is
   * taken too.
   * @throws ERR_OUT_OF_MEMORY
   */
  take(count: number, atAnyCost = false): Page[] | undefined {
    if (count > this.free) {
      const needed = this.used + count;
      const { affordable } = this;
      if (needed > (atAnyCost ? this.most : affordable)) return undefined;
      this.#grow(needed, affordable);
    }
    // The lowest numbers first, so that a pool that is hardly used stays dense.
    const pages = this.#free.splice(this.free - count, count).reverse();
    for (const page of pages) page.references = 1;
    return pages;
  }

  retain(page: Page): void {
    page.references++;
  }

  /** Drops a reference; a page without one is free at once, since later commands run after those that use it. */
  release(page: Page): void {
    if (--page.references === 0) this.#free.push(page);
  }

  #grow(needed: number, affordable: number): void {
    const before = this.capacity;
    let capacity = Math.max(needed, Math.min(affordable, Math.max(2 * before, firstPages)));
    this.#memory.letGo();
    const denied = this.#failing(capacity);
    if (denied) {
      if (needed <= affordable) this.#memory.denied((capacity - before) * this.pageBytes);
      if (capacity === needed || this.#failing(needed)) {
        this.#failing(before); // what has grown already
        throw denied;
      }
      capacity = needed;
    }
    const fresh = Array.from({ length: capacity - before }, (_, i) => new Page(before + i));
    this.#pages.push(...fresh);
    this.#free = [...fresh.reverse(), ...this.#free];
  }

  /**
   * Gives memory back for other work: `capacity` pages are left, no fewer than are in use. Those that lie behind them move.
   * @throws ERR_OUT_OF_MEMORY where a tensor cannot be copied; the pages are good, but not all memory was given back.
   */
  shrink(capacity: number): void {
    this.#memory.denied((this.capacity - capacity) * this.pageBytes);
    this.#memory.letGo();
    const pages = this.#pages;
    const places = this.#free.map(({ number }) => number).filter((number) => number < capacity);
    for (const page of pages.slice(capacity)) {
      if (page.references === 0) continue;
      const place = places.pop()!;
      this.#copyPage(page.number, place);
      page.number = place;
      pages[place] = page;
    }
    pages.length = capacity;
    this.#free = pages.filter(({ references }) => references === 0).reverse();
    this.#resize(capacity);
  }

  #copyPage(from: number, to: number): void {
    for (const tensor of this.#tensors) {
      const shape = [1, ...tensor.shape.slice(1)];
      const size = tensor.numel / tensor.shape[0]!;
      copy(tensor, from * size, tensor, to * size, shape);
    }
  }

  /** Resizes; the error, where there is too little memory. */
  #failing(capacity: number): LoRAError | undefined {
    try {
      this.#resize(capacity);
    } catch (error) {
      if (!isOutOfMemory(error)) throw error;
      return error;
    }
    return undefined;
  }

  /** Copies the tensors that have room for another number of pages into others. Where memory runs out, some are as they were. */
  #resize(capacity: number): void {
    const { layers, dtype, device } = this.#model;
    try {
      for (let i = 0; i < 2 * layers.length; i++) {
        const old = this.#tensors[i];
        if (old?.shape[0] === capacity) continue;
        const { kvHeads, headDim } = layers[i >> 1]!;
        const shape = poolShape(capacity, kvHeads, headDim);
        const fresh = runDetached(null, () => rawEmpty(shape, dtype, device));
        if (old) copy(old, 0, fresh, 0, poolShape(Math.min(capacity, old.shape[0]!), kvHeads, headDim));
        old?.dispose();
        this.#tensors[i] = fresh;
      }
    } finally {
      this.layers = Array.from(layers, (_, i) => ({
        k: this.#tensors[2 * i]!,
        v: this.#tensors[2 * i + 1]!,
      }));
    }
  }

  /** Has others give memory back that they do not use; whether there were any. */
  reclaim(): boolean {
    return this.#memory.reclaim();
  }

  /** Frees the memory; nobody refers to a page any more. */
  clear(): void {
    this.#memory.letGo();
    for (const tensor of this.#tensors.splice(0)) tensor.dispose();
    this.layers = [];
    this.#pages.length = 0;
    this.#free = [];
  }
}

/** Copies `shape` numbers from an offset in one tensor to one in another. */
function copy(from: Tensor, at: number, to: Tensor, toAt: number, shape: readonly number[]): void {
  temporaries(() => call().copyInto(rawView(from, at, shape).handle, rawView(to, toAt, shape).handle));
}
