/** The blocks of a GPU's memory, without a GPU: what native/core/runtime/allocator.cc would have in use. */
import { loraError } from '../errors';

/** What memory is counted for. */
export type GpuPart = 'adapters' | 'activations' | 'logits' | 'workspace';

const parts: readonly GpuPart[] = ['adapters', 'activations', 'logits', 'workspace'];

/** Bytes in use, by what for. */
export type GpuUse = Readonly<Record<GpuPart, number>>;

/** A block that tensors hold. */
export interface GpuBlock {
  readonly part: GpuPart;
  readonly bytes: number;
  /** How many hold it. */
  holders: number;
}

/** The bytes of a fresh block for so many: one of eight sizes for each power of two, which are multiples of 64. */
export function blockBytes(bytes: number): number {
  if (bytes <= 64) return 64;
  const step = Math.max(64, 2 ** Math.floor(Math.log2(bytes - 1)) / 8);
  return upTo(bytes, step);
}

/** The next multiple of `step`. */
export const upTo = (n: number, step: number): number => Math.ceil(n / step) * step;

/** Bytes of arrays that lie one after the other in the scratch of a call: see native/backend/cuda/scratch.h. */
export const laid = (...arrays: readonly number[]): number =>
  arrays.reduce((sum, bytes) => sum + upTo(bytes, 256), 0);

/** The bytes that an environment variable sets, as native/core/runtime/memory_limit.cc reads it, or what holds without it. */
export function bytesFrom(name: string, otherwise: number): number {
  const text = process.env[name];
  if (text === undefined || text === '') return otherwise;
  const found = /^(\d+\.?\d*|\.\d+)(?:b|([kmgt])(b|ib)?)?$/i.exec(text.replace(/\s/g, ''));
  if (found === null)
    throw loraError(
      'device',
      'ERR_ARGUMENT',
      `expected ${name} to be a size such as 2GiB but received "${text}"`,
    );
  const [, digits, unit, rest] = found;
  const power = unit === undefined ? 0 : 'kmgt'.indexOf(unit.toLowerCase()) + 1;
  return Math.floor(Number(digits) * (rest?.toLowerCase() === 'b' ? 1000 : 1024) ** power);
}

/** Gives blocks, keeps those that are given back for later ones of nearly their size, and knows the most that were in use at once. */
export class GpuMemory {
  /** The sizes of blocks that nobody holds, ascending. */
  readonly #free: number[] = [];
  readonly #use = Object.fromEntries(parts.map((part) => [part, 0])) as Record<GpuPart, number>;
  #total = 0;
  #most = 0;
  #atMost: GpuUse = { ...this.#use };

  /** What was in use when most was. */
  get atMost(): GpuUse {
    return this.#atMost;
  }

  /** A block with one holder. */
  hold(part: GpuPart, bytes: number): GpuBlock {
    const size = blockBytes(bytes);
    const place = this.#placeOf(size);
    const found = this.#free[place];
    const fits = found !== undefined && found <= size + size / 4;
    const block: GpuBlock = { part, bytes: fits ? found : size, holders: 1 };
    if (fits) this.#free.splice(place, 1);
    this.#use[part] += block.bytes;
    this.#total += block.bytes;
    if (this.#total > this.#most) {
      this.#most = this.#total;
      this.#atMost = { ...this.#use };
    }
    return block;
  }

  /** The same block, with one holder more. */
  keep(block: GpuBlock): GpuBlock {
    block.holders++;
    return block;
  }

  /** Counts one holder of each less. */
  drop(...blocks: readonly GpuBlock[]): void {
    for (const block of blocks) {
      if (--block.holders > 0) continue;
      this.#use[block.part] -= block.bytes;
      this.#total -= block.bytes;
      this.#free.splice(this.#placeOf(block.bytes), 0, block.bytes);
    }
  }

  /** A block that a call has for itself. */
  scratch(part: GpuPart, bytes: number): void {
    if (bytes > 0) this.drop(this.hold(part, bytes));
  }

  /** The place of the first free block of at least so many bytes. */
  #placeOf(bytes: number): number {
    let [from, to] = [0, this.#free.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (this.#free[middle]! < bytes) from = middle + 1;
      else to = middle;
    }
    return from;
  }
}
