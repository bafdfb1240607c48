/** Tensors: a shape, a dtype and a counted reference to memory on a device. */
/* eslint-disable @typescript-eslint/no-unsafe-declaration-merging -- a method that is missing is a type error in ops/methods.ts */
import { inspect } from 'node:util';
import { loraError } from '../errors';
import type { NativeTensor } from '../native/binding';
import { binding, call } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';
import { check, describe, numelOf, shapeText } from '../validate';
import type { DType } from '../native/dtype';
import { owner, type Scope, track, untrack } from './scope';
import { Storage } from './storage';
import type {
  CrossEntropyOptions,
  DimOptions,
  MaxOptions,
  NestedNumbers,
  ReduceOptions,
  TensorValues,
} from './tensor_options';

export type {
  CrossEntropyOptions,
  DimOptions,
  MaxOptions,
  NestedNumbers,
  ReduceOptions,
  TensorValues,
} from './tensor_options';

/** One class per row: numbers (nested as the rows are) or an i32 tensor; −100 counts nothing. */
export type Labels = NestedNumbers | Tensor;

/** @internal The place of a tensor in a recorded graph, as the tape (autograd.ts) makes it. */
export interface Edge {
  /** The tensor is gone: nothing can start a backward pass at it any more. */
  drop(): void;
}

/** @internal Access for the modules that implement the tape. */
export let storageOf: (tensor: Tensor) => Storage;
/** @internal */
export let edgeOf: (tensor: Tensor) => Edge | null;
/** @internal Makes a tensor the output of a graph node. */
export let setEdge: (tensor: Tensor, edge: Edge) => void;

/**
 * An array of numbers on a device. Work on it is queued and runs off the event loop; only `data()`,
 * `bytes()` and `item()` wait. Made by `tensor`, by ops and by layers.
 *
 * @example
 * const x = tensor([[1, 2], [3, 4]], { requiresGrad: true });
 * const loss = x.square().mean();
 * loss.backward();
 * await x.grad!.data(); // Float32Array [0.5, 1, 1.5, 2]
 */
export class Tensor {
  /** @internal The native reference. An own property that cannot be cloned, so that structuredClone fails loudly. */
  readonly handle: NativeTensor;
  /** The sizes of its dimensions; [] is a scalar. */
  readonly shape: readonly number[];
  /** The type of its elements. */
  readonly dtype: DType;
  /** Where its memory is. */
  readonly device: Device;
  /** Whether backward() reaches it. */
  requiresGrad = false;
  /** The gradient that backward() accumulated, for leaves that require one. */
  grad: Tensor | null = null;
  /** For messages; the key in the file, for parameters of an adapter. */
  name?: string;
  #scope: Scope | null = null;
  #storage: Storage;
  #edge: Edge | null = null;
  #disposed = false;

  static {
    storageOf = (tensor) => tensor.#storage;
    edgeOf = (tensor) => tensor.#edge;
    setEdge = (tensor, edge) => {
      tensor.#edge = edge;
      tensor.requiresGrad = true;
    };
  }

  /** @internal Use `tensor(…)`. */
  constructor(storage: Storage, dtype: DType, shape: readonly number[], device: Device) {
    check(storage instanceof Storage, 'Tensor', 'tensors are made by tensor(data, options)');
    this.handle = storage.handle;
    this.#storage = storage;
    this.dtype = dtype;
    this.shape = Object.isFrozen(shape) ? shape : Object.freeze([...shape]);
    this.device = device;
  }

  /** @internal Private, so that a program may freeze a tensor. */
  get [owner](): Scope | null {
    return this.#scope;
  }
  /** @internal */
  set [owner](scope: Scope | null) {
    this.#scope = scope;
  }

  /** How many elements there are. */
  get numel(): number {
    return numelOf(this.shape);
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Frees this tensor; a second time does nothing. Legal while work on it is queued, and what a recorded
   * graph needs of it lives on until backward().
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    untrack(this);
    const edge = this.#edge;
    this.#edge = null;
    edge?.drop();
    this.#storage.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * The values: Float32Array (bf16 and f16 widened) or Int32Array. Rejects with the failure of the op
   * that this tensor depends on, if one failed. `data<Int32Array>()` where the type matters.
   *
   * @throws ERR_DISPOSED, or the failure of an op before it.
   * @example
   * const values = await x.data(); // Float32Array
   * const ids = await labels.data<Int32Array>();
   */
  async data<T extends TensorValues = Float32Array>(): Promise<T> {
    const wide = this.#widened('data');
    try {
      return typed(this.dtype, await binding().read(wide.handle)) as T;
    } finally {
      wide.dispose();
    }
  }

  /** data() for scripts: blocks the event loop. */
  dataSync<T extends TensorValues = Float32Array>(): T {
    const wide = this.#widened('dataSync');
    try {
      return typed(this.dtype, binding().readSync(wide.handle)) as T;
    } finally {
      wide.dispose();
    }
  }

  /** The raw little-endian bytes, in row-major order. */
  async bytes(): Promise<Uint8Array> {
    handleOf(this, 'bytes');
    return new Uint8Array(await binding().read(this.handle));
  }

  /** bytes() for scripts: blocks the event loop. */
  bytesSync(): Uint8Array {
    handleOf(this, 'bytesSync');
    return new Uint8Array(binding().readSync(this.handle));
  }

  /** The number of a one-element tensor. @throws ERR_ARGUMENT when there are more elements. */
  async item(): Promise<number> {
    this.#checkOne('item');
    return (await this.data())[0]!;
  }

  /** item() for scripts: blocks the event loop. */
  itemSync(): number {
    this.#checkOne('itemSync');
    return this.dataSync()[0]!;
  }

  /** The same values without the graph; shares the memory. */
  detach(): Tensor {
    handleOf(this, 'detach');
    const out = alias(this);
    track(out);
    return out;
  }

  /** A short description: the values are read with data(). */
  toString(): string {
    return `Tensor(${this.dtype} ${shapeText(this.shape)} on ${this.device})`;
  }

  toJSON(): string {
    return this.toString();
  }

  [Symbol.toPrimitive](): never {
    throw loraError(
      'Tensor',
      'ERR_ARGUMENT',
      'a tensor is not a number or a string; its value is read with await loss.item()',
    );
  }

  [inspect.custom](): string {
    const words: string[] = [this.dtype, shapeText(this.shape), `on ${this.device}`];
    if (this.requiresGrad) words.push('requiresGrad');
    if (this.#disposed) words.push('disposed');
    const label = this.name === undefined ? '' : ` '${this.name}'`;
    return `${this instanceof Parameter ? 'Parameter' : 'Tensor'}${label} { ${words.join(' ')} }`;
  }

  #checkOne(op: string): void {
    handleOf(this, op);
    check(
      this.numel === 1,
      op,
      () => `expected a tensor of one element but received ${shapeText(this.shape)}`,
    );
  }

  /** An owned reference to the values in a dtype that JavaScript can hold. */
  #widened(op: string): Tensor {
    handleOf(this, op);
    if (this.dtype === 'f32' || this.dtype === 'i32') return alias(this);
    const handle = call().unary('copy', 1, this.handle, 'f32');
    return new Tensor(new Storage(handle), 'f32', this.shape, this.device);
  }
}

/** The ops, which lib/ops/methods.ts implements: they make tensors, so that this file does not import them. */
export interface Tensor {
  /**
   * The values in another dtype, on another device; differentiable.
   *
   * @example
   * const narrow = x.to({ dtype: 'bf16' });
   */
  to(options: { dtype?: DType | undefined; device?: Device | undefined }): Tensor;

  /**
   * x + y, elementwise, with NumPy broadcasting; mixed floats give the wider (bf16 with f16 gives f32).
   *
   * @throws ERR_ARGUMENT for shapes that do not broadcast, and for tensors on two devices.
   */
  add(other: Tensor | number): Tensor;
  /** x − y, elementwise, as add(). */
  sub(other: Tensor | number): Tensor;
  /** x · y, elementwise, as add(). */
  mul(other: Tensor | number): Tensor;
  /** x / y, elementwise, as add(). */
  div(other: Tensor | number): Tensor;
  /** The larger one, elementwise, as add(); NaN where one is. Of equal ones each gets half of the gradient. */
  maximum(other: Tensor | number): Tensor;
  /** The smaller one, as maximum(). */
  minimum(other: Tensor | number): Tensor;
  /** xʸ, elementwise, as add(). The gradient of y is xʸ·ln x, and 0 where x is 0. */
  pow(exponent: Tensor | number): Tensor;
  /** 1 where x < y, else 0, in f32, as add() broadcasts; integers too, exact below 2²⁴. No gradient. */
  less(other: Tensor | number): Tensor;
  /** 1 where x > y, as less(). */
  greater(other: Tensor | number): Tensor;
  /** 1 where x = y, as less(): `logits.argmax({ dim: -1 }).equal(labels).mean()` is an accuracy. */
  equal(other: Tensor | number): Tensor;
  /** x². */
  square(): Tensor;
  /** √x. */
  sqrt(): Tensor;
  /** max(x, 0). */
  relu(): Tensor;
  /** x·Φ(x), the exact form (Hendrycks & Gimpel, 2016). */
  gelu(): Tensor;
  /** x·σ(x). */
  silu(): Tensor;
  /** eˣ. */
  exp(): Tensor;
  /** ln x: −∞ of 0, NaN below. */
  log(): Tensor;
  /** σ(x) = 1/(1 + e⁻ˣ). */
  sigmoid(): Tensor;
  /** (eˣ − e⁻ˣ)/(eˣ + e⁻ˣ). */
  tanh(): Tensor;
  /** eˣ / Σ eˣ along `dim` (default: the last one), from the differences to the largest x. */
  softmax(options?: DimOptions): Tensor;
  /** ln softmax(x), without its rounding to 0. */
  logSoftmax(options?: DimOptions): Tensor;
  /** Σ over `dim` (default: everything), accumulated and returned in f32. */
  sum(options?: ReduceOptions): Tensor;
  /** The mean over `dim` (default: everything), accumulated and returned in f32. */
  mean(options?: ReduceOptions): Tensor;
  /** The largest element along `dim` (default: of all), NaN where there is one. The gradient goes to the first of equal ones. */
  max(options?: MaxOptions): Tensor;
  /** Where the largest element along `dim` (default: of all) is, of equal ones the first; i32. */
  argmax(options?: MaxOptions): Tensor;
  /** The same elements in another shape; one dimension may be −1, for what is left. Shares the memory. */
  reshape(shape: readonly number[]): Tensor;
  /** Dimension d of the result is dimension perm[d] of this; without perm, the last two change places. */
  transpose(perm?: readonly number[]): Tensor;
  /** transpose(perm), by PyTorch's name. */
  permute(perm: readonly number[]): Tensor;
  /**
   * The elements from `start` to before `end` of a dimension (default: the first), as Array.slice counts them. Shares the memory where
   * they are one run, as rows are.
   *
   * @example
   * const first = x.slice(0, 8);
   * const lastColumn = x.slice(-1, undefined, { dim: 1 });
   */
  slice(start: number, end?: number, options?: DimOptions): Tensor;
  /**
   * The slices of a dimension (default: the first) that an index names: [d₀, d₁, ..] by an index [n, m] gives [n, m, d₁, ..].
   *
   * @throws ERR_DATA (when it runs) for a place outside of the dimension.
   * @example
   * const batch = x.take([3, 1, 7]);
   */
  take(index: NestedNumbers | Tensor, options?: DimOptions): Tensor;
  /**
   * One element for each of the index, which has the shape of x but for `dim` (default: the last): of two dimensions
   * y[i][j] = x[i][index[i][j]], as PyTorch's gather.
   *
   * @throws ERR_DATA (when it runs) for a place outside of the dimension.
   * @example
   * const ofLabels = x.logSoftmax().gather([[2], [0]]); // [2, 1] of [2, classes]
   */
  gather(index: NestedNumbers | Tensor, options?: DimOptions): Tensor;
  /** Over the last two dimensions: [.., m, k]·[.., k, n] → [.., m, n]; leading dimensions broadcast. */
  matmul(other: Tensor): Tensor;
  /**
   * −log softmax(this)[label] over the last dimension, this [..., classes], labels [...]: the mean (or
   * sum) over the labels that are not −100, or each, in f32.
   *
   * @throws ERR_DATA (when it runs) for a label outside the classes, and when none counts in a mean or sum.
   * @example
   * const logits = tensor([[2, 0, 0], [0, 2, 0]]);
   * const loss = logits.crossEntropy([0, 1]);
   */
  crossEntropy(labels: Labels, options?: CrossEntropyOptions): Tensor;

  /**
   * Adds d(this)/d(leaf) to `.grad` of every leaf that requires it, and frees the graph. A tensor of more
   * than one element needs the gradient `g` that reaches it. ERR_ARGUMENT a second time, and when a
   * step() changed parameters since the graph was recorded.
   */
  backward(g?: Tensor): void;
}

function typed(dtype: DType, buffer: ArrayBuffer): TensorValues {
  return dtype === 'i32' ? new Int32Array(buffer) : new Float32Array(buffer);
}

/**
 * A trainable weight. backward() adds to its `.grad` (f32); an optimizer changes it in place and counts
 * that in `version`. Never freed by tidy(). Made by `parameter`, by layers and by adapters.
 */
export class Parameter extends Tensor {
  /** How often an optimizer has changed the value. */
  version = 0;
  /** For messages; the key in the file, for parameters of an adapter. */
  declare name: string;

  /** @internal Use `parameter(x, name)`. */
  constructor(storage: Storage, dtype: DType, shape: readonly number[], device: Device, name = '') {
    super(storage, dtype, shape, device);
    this.name = name;
    this.requiresGrad = true;
  }

  /**
   * Takes the values of a tensor of the same shape, from any device; in the same dtype bit for bit, otherwise rounded. It counts in
   * `version`, as a step does: what was recorded before has no backward pass any more. Its gradient stays.
   *
   * @throws ERR_ARGUMENT for another shape, or integers for floats; ERR_DISPOSED.
   * @example
   * const w = parameter(tensor([0, 0]), 'w');
   * w.copyFrom(tensor([1, 2]));
   * await saveCheckpoint('run', { w });
   * const { w: saved } = await loadCheckpoint<{ w: Tensor }>('run');
   * w.copyFrom(saved);
   */
  copyFrom(source: Tensor): void {
    const op = 'copyFrom';
    check(
      source instanceof Tensor &&
        shapeText(source.shape) === shapeText(this.shape) &&
        (source.dtype === 'i32') === (this.dtype === 'i32'),
      op,
      () =>
        `expected a tensor of shape ${shapeText(this.shape)}${this.dtype === 'i32' ? ' of i32' : ''} but received ${describe(source)}`,
    );
    const [from, target] = [handleOf(source, op, 'the source'), handleOf(this, op, 'the parameter')];
    const away = source.device !== this.device;
    const here = away ? call().toDevice(from, nativeDevice(this.device)) : from;
    call().copyInto(here, target);
    if (away) binding().release(here);
    this.version++;
  }

  /** Frees the weight and its gradient. */
  override dispose(): void {
    this.grad?.dispose();
    this.grad = null;
    super.dispose();
  }
}

/** Makes a tensor of a native reference and takes ownership of it; the innermost tidy() owns the tensor. */
export function wrap(handle: NativeTensor, dtype: DType, shape: readonly number[], device: Device): Tensor {
  const out = new Tensor(new Storage(handle), dtype, shape, device);
  track(out);
  return out;
}

/** A second tensor on the same storage, without graph, owned by nobody. */
export function alias(tensor: Tensor): Tensor {
  return new Tensor(storageOf(tensor).retain(), tensor.dtype, tensor.shape, tensor.device);
}

/** The native reference of an argument: ERR_ARGUMENT when it is no tensor, ERR_DISPOSED when it is gone. */
export function handleOf(value: Tensor, op: string, name = 'the tensor'): NativeTensor {
  check(value instanceof Tensor, op, `expected ${name} to be a tensor`);
  if (value.disposed) {
    throw loraError(op, 'ERR_DISPOSED', `${name} has been disposed`);
  }
  return value.handle;
}
