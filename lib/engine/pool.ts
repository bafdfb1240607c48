/** Memory for equal parts of which the engine takes and gives back some: pages of keys and values, or states. Parts are counted by those who refer to them. */
import { isOutOfMemory, type LoRAError } from '../errors';
import { call } from '../native/calls';
import type { Device } from '../native/device';
import { bytesPerElement, type DType } from '../native/dtype';
import { rawEmpty, rawView } from '../tensor/raw';
import { runDetached, temporaries } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';

/** One part, which lies at one place of every tensor. */
export class Part {
  /** How many refer to it; 0: it is free. */
  references = 0;

  /** `number`: where it lies in each tensor; the pool may move it between two steps. */
  constructor(public number: number) {}
}

/** The memory that pools share with the work on their parts, and with the rest of the program. */
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

export const boundless: PoolMemory = {
  spare: () => Infinity,
  denied: () => undefined,
  letGo: () => undefined,
  reclaim: () => false,
};

/** What a pool holds, and how much of it. */
export interface PoolPlan {
  /** The numbers of a part in each tensor. */
  readonly shapes: readonly (readonly number[])[];
  readonly dtype: DType;
  readonly device: Device;
  /** The most parts that there may be. */
  readonly most: number;
  /** The most that a first allocation makes room for, unless it needs more. */
  readonly first: number;
}

/** Bytes of a part in all tensors. */
export const partBytes = ({ shapes, dtype }: Pick<PoolPlan, 'shapes' | 'dtype'>): number =>
  bytesPerElement[dtype] * shapes.reduce((sum, shape) => sum + shape.reduce((all, dim) => all * dim, 1), 0);

/** Parts of all tensors at once: part p is the p-th of every tensor. */
export class Pool {
  /** Bytes of a part in all tensors. */
  readonly partBytes: number;
  /** The most parts that the limit allows. */
  readonly most: number;
  readonly #plan: PoolPlan;
  readonly #memory: PoolMemory;
  /** [parts, ...shape] each. One of them may have room for more parts than there are. */
  readonly #tensors: Tensor[] = [];
  /** All parts, by their numbers. */
  readonly #parts: Part[] = [];
  /** Those that nobody refers to; the last one is taken first. */
  #free: Part[] = [];

  constructor(plan: PoolPlan, memory: PoolMemory) {
    this.#plan = plan;
    this.#memory = memory;
    this.partBytes = partBytes(plan);
    this.most = plan.most;
  }

  /** Others when the pool has grown or shrunk; none while it is empty. */
  get tensors(): readonly Tensor[] {
    return this.#tensors;
  }

  /** Parts that there is memory for now. */
  get capacity(): number {
    return this.#parts.length;
  }

  /** Parts that somebody refers to. */
  get used(): number {
    return this.capacity - this.free;
  }

  /** Parts that there is memory for and nobody refers to. */
  get free(): number {
    return this.#free.length;
  }

  /** Parts that it has or may have: the limit allows them, and there is memory that nothing else is known to need. */
  get affordable(): number {
    if (this.partBytes === 0) return this.most; // a model without such layers keeps nothing
    const spare = (this.#memory.spare() * 8) / 9; // a block may be an eighth larger than what was asked for
    const copied = 1 / this.#plan.shapes.length; // of a part; a tensor is there twice while it is copied
    const more = Math.floor((spare / this.partBytes - copied * this.capacity) / (1 + copied));
    return Math.min(this.most, this.capacity + Math.max(0, more));
  }

  /**
   * So many parts with one reference each, or undefined where it may not have as many. `atAnyCost`: memory that other work may need is
   * taken too.
   * @throws ERR_OUT_OF_MEMORY
   */
  take(count: number, atAnyCost = false): Part[] | undefined {
    if (count > this.free) {
      const needed = this.used + count;
      const { affordable } = this;
      if (needed > (atAnyCost ? this.most : affordable)) return undefined;
      this.#grow(needed, affordable);
    }
    // The lowest numbers first, so that a pool that is hardly used stays dense.
    const parts = this.#free.splice(this.free - count, count).reverse();
    for (const part of parts) part.references = 1;
    return parts;
  }

  retain(part: Part): void {
    part.references++;
  }

  /** Drops a reference; a part without one is free at once, since later commands run after those that use it. */
  release(part: Part): void {
    if (--part.references === 0) this.#free.push(part);
  }

  #grow(needed: number, affordable: number): void {
    const before = this.capacity;
    let capacity = Math.max(needed, Math.min(affordable, Math.max(2 * before, this.#plan.first)));
    this.#memory.letGo();
    const denied = this.#failing(capacity);
    if (denied) {
      if (needed <= affordable) this.#memory.denied((capacity - before) * this.partBytes);
      if (capacity === needed || this.#failing(needed)) {
        this.#failing(before); // what has grown already
        throw denied;
      }
      capacity = needed;
    }
    const fresh = Array.from({ length: capacity - before }, (_, i) => new Part(before + i));
    this.#parts.push(...fresh);
    this.#free = [...fresh.reverse(), ...this.#free];
  }

  /**
   * Gives memory back for other work: `capacity` parts are left, no fewer than are in use. Those that lie behind them move.
   * @throws ERR_OUT_OF_MEMORY where a tensor cannot be copied; the parts are good, but not all memory was given back.
   */
  shrink(capacity: number): void {
    this.#memory.denied((this.capacity - capacity) * this.partBytes);
    this.#memory.letGo();
    const parts = this.#parts;
    const places = this.#free.map(({ number }) => number).filter((number) => number < capacity);
    for (const part of parts.slice(capacity)) {
      if (part.references === 0) continue;
      const place = places.pop()!;
      this.#copy(part.number, place);
      part.number = place;
      parts[place] = part;
    }
    parts.length = capacity;
    this.#free = parts.filter(({ references }) => references === 0).reverse();
    this.#resize(capacity);
  }

  /** What part `from` holds becomes what part `to` holds. */
  copy(from: Part, to: Part): void {
    this.#copy(from.number, to.number);
  }

  #copy(from: number, to: number): void {
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

  /** Copies the tensors that have room for another number of parts into others. Where memory runs out, some are as they were. */
  #resize(capacity: number): void {
    const { shapes, dtype, device } = this.#plan;
    for (const [i, shape] of shapes.entries()) {
      const old = this.#tensors[i];
      if (old?.shape[0] === capacity) continue;
      const fresh = runDetached(null, () => rawEmpty([capacity, ...shape], dtype, device));
      if (old) copy(old, 0, fresh, 0, [Math.min(capacity, old.shape[0]!), ...shape]);
      old?.dispose();
      this.#tensors[i] = fresh;
    }
  }

  /** Has others give memory back that they do not use; whether there were any. */
  reclaim(): boolean {
    return this.#memory.reclaim();
  }

  /** Frees the memory; nobody refers to a part any more. */
  clear(): void {
    this.#memory.letGo();
    for (const tensor of this.#tensors.splice(0)) tensor.dispose();
    this.#parts.length = 0;
    this.#free = [];
  }
}

/** Copies `shape` numbers from an offset in one tensor to one in another. */
function copy(from: Tensor, at: number, to: Tensor, toAt: number, shape: readonly number[]): void {
  temporaries(() => call().copyInto(rawView(from, at, shape).handle, rawView(to, toAt, shape).handle));
}
