/** The native add-on: its types, and the one copy of it that a process (or a worker) loads. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { DType } from '../tensor/dtype';
import { LoRAError } from '../errors';
import { here, loadBinary, packageRoot, requireBinary } from './loader';

declare const tensorTag: unique symbol;
declare const weightTag: unique symbol;
declare const tableTag: unique symbol;
declare const deviceTag: unique symbol;
declare const guardTag: unique symbol;
declare const fileTag: unique symbol;
declare const programTag: unique symbol;

/** A reference to storage on a device: released explicitly, or by the garbage collector at the latest. */
export interface NativeTensor {
  readonly [tensorTag]: true;
}
/** A frozen matrix [out, in] in the layout of its backend. */
export interface NativeWeight {
  readonly [weightTag]: true;
}
/** The changes of several adapters: slots × sites. */
export interface NativeTable {
  readonly [tableTag]: true;
}
/** A change in a table: A [out, r] and B [r, in] in the table's dtype, A packed where that is bf16; a factor [out] in f32. */
export interface NativeChange {
  up: NativeTensor | NativeWeight;
  down: NativeTensor;
  scale: number;
  factor: NativeTensor | null;
}
export interface NativeDevice {
  readonly [deviceTag]: true;
}
/** Remembers that an in-place update was skipped because an operand had failed. */
export interface NativeGuard {
  readonly [guardTag]: true;
}
/** A private, read-only mapping of a file. */
export interface NativeFile {
  readonly [fileTag]: true;
}
/** Ops that were recorded, and run as one command. */
export interface NativeProgram {
  readonly [programTag]: true;
}

export interface NativeDropout {
  p: number;
  seed: number;
  layer: number;
  forward: number;
}
/** What the values of a weight are kept as: 'i8' needs a scale for each row. */
export type StoredDType = DType | 'i8';
/** One linear layer fed by a shared input; up and down are absent together. */
export interface NativeBranch {
  weight: NativeWeight;
  bias: NativeTensor | null;
  up: NativeTensor | null;
  down: NativeTensor | null;
  scale: number;
  dropout: NativeDropout | null;
  /** In the table of a forward call; −1: none. */
  site: number;
  factor: NativeTensor | null;
}
/** A parameter that an optimizer's step updates, with its gradient and what is kept for it. */
export type NativeSegment<State extends string = never> = Readonly<
  Record<'param' | 'grad' | State, NativeTensor>
>;
/** As kLinearPhases, kBinaryKinds and kUnaryKinds of native/core/ops; a test compares them. */
export const linearPhases = ['auto', 'prefill', 'decode'] as const;
export type LinearPhase = (typeof linearPhases)[number];
export const binaryKinds = ['add', 'sub', 'mul', 'div'] as const;
export const unaryKinds = ['copy', 'scale', 'square', 'sqrt', 'relu', 'gelu', 'silu'] as const;
export type BinaryKind = (typeof binaryKinds)[number];
export type UnaryKind = (typeof unaryKinds)[number];

export interface NativeTensorInfo {
  dtype: DType;
  shape: number[];
  device: string;
}
/** One device of this machine. */
export interface DeviceInfo {
  /** What `device:` takes: 'cpu', 'cuda', 'cuda:1'. */
  id: string;
  /** What the maker calls it. */
  name: string;
  /** Bytes of memory in all. */
  memoryBytes: number;
  /** The compute capability of a GPU, such as '8.6'. */
  computeCapability?: string;
}
/** All calls of an op with one shape, while a profile was on. `flops` and `bytes` are those of one call (native/core/ops/work.h). */
export interface NativeProfileEntry {
  op: string;
  shape: string;
  calls: number;
  ms: number;
  flops: number;
  bytes: number;
}
/** What the native side holds. */
export interface MemoryUsage {
  /** How many native tensors live. */
  tensors: number;
  /** Bytes that they take. */
  bytes: number;
  /** The same bytes by device. */
  byDevice: Record<string, number>;
  /** The most bytes that were held at once. */
  peakBytes: number;
}
export interface NativeCpuInfo {
  /** The instruction set whose kernels run, and all that are compiled in and usable here. */
  target: string;
  targets: string[];
  threads: number;
  highwayVersion: string;
}

/**
 * Every op checks its arguments, allocates its outputs and scratch (ERR_OUT_OF_MEMORY throws here) and
 * enqueues the work; nothing waits, except for back-pressure. All operands of a call are on one device.
 */
export interface NativeBinding {
  /** All native errors, thrown or rejected, are made by `make`; `tag` is that of the call that failed. */
  setErrorFactory(make: (code: string, op: string, message: string, tag: number) => Error): void;
  /** Marks the calls that follow; a failure that shows later carries the tag of its call. */
  setTag(tag: number): void;

  // Devices. Names: 'cpu', 'reference', 'cuda', 'cuda:1'; in useEmulated()'s add-on 'cuda-emulated'. The same name gives the same object.
  openDevice(name: string): NativeDevice;
  devices(): DeviceInfo[];
  cudaUnavailableReason(): string | null;
  /** Versions, compiled architectures: what a bug report should say; empty where no CUDA backend is built in. */
  cudaFacts(): Record<string, string>;
  /** Throws ERR_UNSUPPORTED unless ops of the device take f16 activations, which are for inference. */
  requireF16(device: NativeDevice, op: string): void;
  cpuInfo(): NativeCpuInfo;
  setThreads(threads: number): void;
  memoryUsage(): MemoryUsage;
  synchronize(device: NativeDevice): Promise<void>;
  synchronizeSync(device: NativeDevice): void;
  /** Hands memory that is kept for later tensors back to the system, once what is queued has run. */
  trim(device: NativeDevice): void;
  /** Null where the queue is half empty, else a promise that resolves when it is. */
  roomInQueue(device: NativeDevice): Promise<void> | null;

  // Storage.
  /** Takes uninitialised memory. */
  alloc(device: NativeDevice, dtype: DType, shape: readonly number[]): NativeTensor;
  /** The bytes are copied before the call returns. */
  fromBytes(
    device: NativeDevice,
    dtype: StoredDType,
    shape: readonly number[],
    bytes: Uint8Array,
  ): NativeTensor;
  /** Overwrites a tensor in the order of the calls. The bytes are copied before the call returns. */
  writeBytes(tensor: NativeTensor, bytes: Uint8Array): void;
  /** Gives a second reference to the same storage, from an element offset on. */
  view(tensor: NativeTensor, elementOffset: number, shape: readonly number[]): NativeTensor;
  toDevice(tensor: NativeTensor, device: NativeDevice): NativeTensor;
  read(tensor: NativeTensor): Promise<ArrayBuffer>;
  readSync(tensor: NativeTensor): ArrayBuffer;
  info(tensor: NativeTensor): NativeTensorInfo;
  /** Drops this reference; legal while work on it is queued; a second time does nothing. */
  release(reference: NativeTensor | NativeWeight | NativeTable | NativeProgram): void;
  /** dst ← src, cast to dst's dtype. With a guard, a failed src leaves dst as it is, and the guard remembers the failure. */
  copyInto(src: NativeTensor, dst: NativeTensor, guard?: NativeGuard): void;

  // Programs (lib/tensor/program.ts). While one is recorded on a device, its ops are added to it instead of enqueued.
  beginRecording(device: NativeDevice): void;
  /** Ends the recording also where it throws, for want of memory for scratch. */
  endRecording(device: NativeDevice): NativeProgram;
  abandonRecording(device: NativeDevice): void;
  /** Enqueues one run. */
  runProgram(program: NativeProgram): void;

  // Frozen matrices.
  /** Whether ops with activations of a dtype read weights that are kept as values of another. */
  reads(device: NativeDevice, stored: StoredDType, activations: DType): boolean;
  /** A matrix for activations of `dtype`. `scales` [out] in f32 belong to a matrix of 'i8'. */
  pack(rowMajor: NativeTensor, scales: NativeTensor | null, dtype: DType): NativeWeight;
  /** Row-major, in the dtype of the activations. */
  unpack(weight: NativeWeight): NativeTensor;

  // Changes of adapters, for calls whose rows have their own.
  /** Whether the tables of a device may be of this dtype. */
  readsDeltas(device: NativeDevice, dtype: DType): boolean;
  /** `sites`: the shape [out, in] of the weight of each. One of bf16 is for decode steps on bf16 x. */
  createDeltaTable(
    device: NativeDevice,
    sites: readonly (readonly number[])[],
    slots: number,
    maxRank: number,
    dtype: DType,
  ): NativeTable;
  /** Takes effect in the order of the device's work. The table holds what its entries name. */
  setDeltaSlot(table: NativeTable, slot: number, changes: readonly (NativeChange | null)[] | null): void;

  // Ops: see native/core/ops for formulas and shapes. Scalars have shape [].
  loraLinearForward(
    x: NativeTensor,
    branches: readonly NativeBranch[],
    phase: LinearPhase,
    slots: NativeTensor | null,
    table: NativeTable | null,
    keepH: boolean,
  ): [y: NativeTensor[], h: (NativeTensor | null)[]];
  /** x is needed where the gradient of a down is wanted, h[i] where that of up is. */
  loraLinearBackward(
    x: NativeTensor | null,
    branches: readonly NativeBranch[],
    g: readonly NativeTensor[],
    h: readonly (NativeTensor | null)[],
    wantDx: boolean,
    wantUp: readonly boolean[],
    wantDown: readonly boolean[],
  ): [dx: NativeTensor | null, dUp: (NativeTensor | null)[], dDown: (NativeTensor | null)[]];
  /** ids of any shape → [...ids.shape, dim]. */
  embedding(weight: NativeWeight, ids: NativeTensor): NativeTensor;
  /** x [..., d]: leading dimensions are flattened inside. */
  rmsNormForward(
    x: NativeTensor,
    weight: NativeTensor,
    eps: number,
    dtype: DType,
    keepRstd: boolean,
  ): [y: NativeTensor, rstd: NativeTensor | null];
  rmsNormBackward(x: NativeTensor, weight: NativeTensor, rstd: NativeTensor, g: NativeTensor): NativeTensor;
  rope(
    x: NativeTensor,
    cos: NativeTensor,
    sin: NativeTensor,
    positions: NativeTensor | null,
    offset: number,
    inverse: boolean,
  ): NativeTensor;
  attentionForward(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    keyBegin: NativeTensor | null,
    options: { window: number; scale: number },
    keepLse: boolean,
  ): [y: NativeTensor, lse: NativeTensor | null];
  attentionBackward(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    keyBegin: NativeTensor | null,
    y: NativeTensor,
    lse: NativeTensor,
    g: NativeTensor,
    options: { window: number; scale: number },
  ): [dq: NativeTensor, dk: NativeTensor, dv: NativeTensor];
  attentionPaged(
    q: NativeTensor,
    kPool: NativeTensor,
    vPool: NativeTensor,
    pageTable: NativeTensor,
    lengths: NativeTensor,
    options: { window: number; scale: number; phase: 'prefill' | 'decode' },
  ): NativeTensor;
  pageAppend(src: NativeTensor, pool: NativeTensor, pageTable: NativeTensor, lengths: NativeTensor): void;
  /** The mask is that of a LoRA path with these numbers. */
  dropout(x: NativeTensor, dropout: NativeDropout): NativeTensor;
  swigluForward(gate: NativeTensor, up: NativeTensor): NativeTensor;
  swigluBackward(
    gate: NativeTensor,
    up: NativeTensor,
    g: NativeTensor,
  ): [dgate: NativeTensor, dup: NativeTensor];
  crossEntropyForward(
    logits: NativeTensor,
    labels: NativeTensor,
    keepLse: boolean,
  ): [loss: NativeTensor, count: NativeTensor, lse: NativeTensor | null];
  crossEntropyBackward(
    logits: NativeTensor,
    labels: NativeTensor,
    lse: NativeTensor,
    g: NativeTensor,
  ): NativeTensor;
  linearCrossEntropy(
    hidden: NativeTensor,
    weight: NativeWeight,
    labels: NativeTensor,
    wantGrad: boolean,
  ): [loss: NativeTensor, count: NativeTensor, dHidden: NativeTensor | null];
  createGuard(): NativeGuard;
  /** Throws the failure that the guard remembers, if any. */
  checkGuard(guard: NativeGuard): void;
  clearGuard(guard: NativeGuard): void;
  adamw(
    segments: readonly NativeSegment<'m' | 'v'>[],
    options: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number; step: number },
    guard: NativeGuard,
  ): void;
  /** As adamw, with moments of 8 bits: codes are bytes, four in an i32, 64 i32 and one scale for each 256 elements. */
  adamw8bit(
    segments: readonly NativeSegment<'mCodes' | 'vCodes' | 'mScales' | 'vScales'>[],
    options: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number; step: number },
    guard: NativeGuard,
  ): void;
  sgd(
    segments: readonly (NativeSegment | NativeSegment<'velocity'>)[],
    options: { lr: number; momentum: number; weightDecay: number; nesterov: boolean },
    guard: NativeGuard,
  ): void;
  lion(
    segments: readonly NativeSegment<'m'>[],
    options: { lr: number; beta1: number; beta2: number; weightDecay: number },
    guard: NativeGuard,
  ): void;
  globalNorm(tensors: readonly NativeTensor[]): NativeTensor;
  clipByNorm(tensors: readonly NativeTensor[], norm: NativeTensor, maxNorm: number): void;
  binary(kind: BinaryKind, a: NativeTensor, b: NativeTensor, dtype: DType): NativeTensor;
  unary(kind: UnaryKind, alpha: number, x: NativeTensor, dtype: DType): NativeTensor;
  unaryBackward(kind: UnaryKind, alpha: number, x: NativeTensor, g: NativeTensor): NativeTensor;
  reduceSum(x: NativeTensor, shape: readonly number[], dtype: DType): NativeTensor;
  /** y ← y + x. */
  accumulate(x: NativeTensor, y: NativeTensor): void;
  fill(y: NativeTensor, value: number): void;
  transpose(x: NativeTensor, perm: readonly number[]): NativeTensor;
  matmul(a: NativeTensor, b: NativeTensor, transA: boolean, transB: boolean, dtype: DType): NativeTensor;
  random(
    device: NativeDevice,
    kind: 'uniform' | 'normal',
    seed: number,
    stream: number,
    lo: number,
    hi: number,
    shape: readonly number[],
  ): NativeTensor;
  /** logits [m, vocab], reals [m, 3] f32, wholes [m, 4] i32 → ids [m] i32. */
  sample(logits: NativeTensor, reals: NativeTensor, wholes: NativeTensor): NativeTensor;
  /** logits [m, vocab]; rows, ids [n] i32; factors, addends [n] f32. */
  adjustLogits(
    logits: NativeTensor,
    rows: NativeTensor,
    ids: NativeTensor,
    factors: NativeTensor,
    addends: NativeTensor,
  ): void;
  /** logits [m, vocab], bits [m, ⌈vocab / 32⌉] i32. */
  maskLogits(logits: NativeTensor, bits: NativeTensor): void;
  /** logits [m, vocab], ids [m] i32 → values [m, 1 + n] f32, ids [m, 1 + n] i32. */
  logProbs(logits: NativeTensor, ids: NativeTensor, n: number): [NativeTensor, NativeTensor];

  // Files (native/node/mapped_file.cc).
  openFile(path: string): { file: NativeFile; bytes: number };
  /** A view of [offset, offset + length); each view is its own ArrayBuffer. */
  fileView(file: NativeFile, offset: number, length: number): ArrayBuffer;
  /** Copies [offset, offset + length). */
  fileBytes(file: NativeFile, offset: number, length: number): ArrayBuffer;
  /** Detaches every view (their length becomes 0). The mapping goes when no view can be reached any more. */
  closeFile(file: NativeFile): void;

  // For `npm run bench -- --profile`.
  /** Times every op that is called on the device from now on. */
  startProfile(device: NativeDevice): void;
  /** Waits for the queued work, and ends the profile. */
  endProfile(device: NativeDevice): NativeProfileEntry[];

  // For tests of failure and of back-pressure.
  /** How many native objects of each kind are there; `handles` are those of all kinds, released ones among them. */
  liveObjects(): Record<
    | 'tensors'
    | 'weights'
    | 'tables'
    | 'devices'
    | 'guards'
    | 'files'
    | 'handles'
    | 'views'
    | 'mappings'
    | 'requests'
    | 'programs',
    number
  >;
  /**
   * The next enqueued op of this base name ('lora_linear_forward', 'binary', …), or the first of the next program that
   * has one, fails when it runs, once; '' takes that back.
   */
  injectFailure(op: string, message: string): void;
  /** The nth allocation from now on throws ERR_OUT_OF_MEMORY; 0: none does. */
  injectOutOfMemory(nth: number): void;
  setQueueLimits(limits: { commands: number; bytes: number }): void;
}

let loaded: NativeBinding | undefined;
/** The path of the add-on whose GPU is emulated, once it is chosen. */
let emulated: string | undefined;

function emulatedPath(): string | undefined {
  const root = packageRoot(here);
  const path = root === undefined ? undefined : join(root, 'build/emulated/lora_native_emulated.node');
  return path !== undefined && existsSync(path) ? path : undefined;
}

/**
 * Chooses the add-on whose GPU is emulated on the CPU. Only builds with tests have it, and only one add-on
 * can be at work in a process.
 */
export function useEmulated(): void {
  if (emulated !== undefined) return;
  const path = emulatedPath();
  if (loaded !== undefined || path === undefined)
    throw new LoRAError(
      'ERR_DEVICE_UNAVAILABLE',
      `[device] cannot open cuda-emulated: ${loaded ? 'another device was used before it' : 'only builds with tests have it (node scripts/ctest.mjs)'}`,
      { op: 'device' },
    );
  emulated = path;
}

/** Loads on first use, so that importing the package never fails. Throws ERR_BINARY when there is no add-on. */
export function native(): NativeBinding {
  loaded ??=
    emulated === undefined
      ? loadBinary<NativeBinding>()
      : requireBinary<NativeBinding>({ path: emulated, source: 'local build' });
  return loaded;
}
