/** Numbers of data sets, outside JavaScript's heap: what does not fit there ends the process, what does not fit here is an error. */
import { freemem } from 'node:os';
import { loraError } from '../errors';
import { ownMemory } from '../formats/input';
import type { Example } from './example';

const blockBits = 16;
const blockLength = 2 ** blockBits;
/** What is left to the program when a data set has taken what it could. */
const reservedBytes = 64 * 2 ** 20;

/**
 * Bytes that this process may still take; in a container those of the container, where the runtime knows them. A program that may not ask, as
 * in Deno without --allow-sys, learns from the allocation itself.
 */
function freeBytes(): number {
  try {
    return (process as { availableMemory?: () => number }).availableMemory?.() ?? freemem();
  } catch {
    return Infinity;
  }
}

/** A list of numbers that grows: of 32-bit integers, or of doubles. */
export class Column {
  readonly #blocks: (Int32Array | Float64Array)[] = [];
  length = 0;

  /** `path`: whose numbers they are. */
  constructor(
    private readonly kind: 'i32' | 'f64',
    private readonly path: string,
  ) {}

  /** @throws ERR_OUT_OF_MEMORY. */
  push(value: number): void {
    const at = this.length & (blockLength - 1);
    if (at === 0) this.#grow();
    this.#blocks.at(-1)![at] = value;
    this.length++;
  }

  at(index: number): number {
    return this.#blocks[index >>> blockBits]![index & (blockLength - 1)]!;
  }

  slice(from: number, to: number): number[] {
    return Array.from({ length: to - from }, (_, i) => this.at(from + i));
  }

  #grow(): void {
    const bytes = blockLength * (this.kind === 'i32' ? 4 : 8);
    if (freeBytes() < bytes + reservedBytes)
      throw loraError(
        'loadDataset',
        'ERR_OUT_OF_MEMORY',
        `${this.path}: there is no memory left for its examples: read it with inMemory: false, or a part of it`,
      );
    const { buffer } = ownMemory(bytes, this.path);
    this.#blocks.push(this.kind === 'i32' ? new Int32Array(buffer) : new Float64Array(buffer));
  }
}

const isInt32 = (value: number): boolean => value === (value | 0);

/** Examples as columns: 8 bytes for each token. */
export class ExampleColumns {
  readonly #ids: Column;
  readonly #labels: Column;
  readonly #ends: Column;

  constructor(path: string) {
    this.#ids = new Column('i32', path);
    this.#labels = new Column('i32', path);
    this.#ends = new Column('f64', path);
  }

  get length(): number {
    return this.#ends.length;
  }

  /** An id or a label that has no place in it: ids are those of a vocabulary. */
  static misfit({ inputIds, labels }: Required<Example>): number | undefined {
    return inputIds.find((id) => !isInt32(id)) ?? labels.find((label) => !isInt32(label));
  }

  add({ inputIds, labels }: Required<Example>): void {
    for (const id of inputIds) this.#ids.push(id);
    for (const label of labels) this.#labels.push(label);
    this.#ends.push(this.#ids.length);
  }

  at(index: number): Required<Example> {
    const [from, to] = [this.#start(index), this.#ends.at(index)];
    return { inputIds: this.#ids.slice(from, to), labels: this.#labels.slice(from, to) };
  }

  /** Tokens of each example. */
  get lengths(): number[] {
    return Array.from({ length: this.length }, (_, i) => this.#ends.at(i) - this.#start(i));
  }

  #start(index: number): number {
    return index === 0 ? 0 : this.#ends.at(index - 1);
  }
}
