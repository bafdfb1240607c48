/** The native add-on: its types, and the one copy of it that a process (or a worker) loads. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockFormat } from './block_formats';
import type { DType } from './dtype';
import { loraError } from '../errors';
import type {
  NativeDevice,
  NativeFile,
  NativeGuard,
  NativeLock,
  NativeProgram,
  NativeTable,
  NativeTensor,
  NativeWeight,
} from './handles';
import { here, loadBinary, packageRoot, requireBinary } from './loader';
import type { OpFunctions } from './op_functions';

export type * from './handles';

/** A change in a table: up [out, r] and down [r, in] in the table's dtype, up packed where that is bf16; a factor [out] in f32. */
export interface NativeChange {
  up: NativeTensor | NativeWeight;
  down: NativeTensor;
  scale: number;
  factor: NativeTensor | null;
}
/** What the values of a weight are kept as: 'i8' needs a scale for each row. */
export type StoredDType = DType | 'i8';

/** How a frozen matrix is kept: native/core/maths/weight_format.h has the table. */
export type WeightFormat = 'f32' | 'bf16' | 'f16' | 'int8' | 'nf4' | 'fp4' | BlockFormat;
/** One linear layer fed by a shared input; up and down are absent together. */
export type NativeBranch = Parameters<OpFunctions['loraLinearForward']>[1][number];
export type NativeDropout = NonNullable<NativeBranch['dropout']>;
/** A parameter that an optimizer's step updates, with its gradient and what is kept for it. */
export type NativeSegment<State extends string = never> = Readonly<
  Parameters<OpFunctions['sgd']>[0][number] & (string extends State ? unknown : Record<State, NativeTensor>)
>;
export type Activations = NativeBranch['activations'];

export type LinearPhase = Parameters<OpFunctions['loraLinearForward']>[2];
export type BinaryKind = Parameters<OpFunctions['binary']>[0];
export type UnaryKind = Parameters<OpFunctions['unary']>[0];
export type GatedKind = Parameters<OpFunctions['gatedForward']>[0];

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
/** What a device was given since it was opened. */
export interface NativeActivity {
  /** Of kernels, also in graphs. */
  launches: number;
  /** How often its thread waited for it. */
  waits: number;
  /** Launches of graphs, which run many steps of a recorded program at once (docs/internals/programs.md). */
  graphs: number;
  /** Pieces of programs of which the device has no graph. */
  refused: number;
  /** Why there is none of the last such piece, or ''. */
  refusal: string;
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
  /** What this CPU has beyond the best of them, best first, where the binary was built for another CPU. */
  missingTargets?: string[];
  threads: number;
  highwayVersion: string;
}

/**
 * The functions of the add-on. Every op checks its arguments, allocates its outputs and scratch (ERR_OUT_OF_MEMORY throws here) and
 * enqueues the work; nothing waits, except for back-pressure. All operands of a call are on one device.
 */
export interface NativeBinding extends OpFunctions {
  /** All native errors, thrown or rejected, are made by `make`; `tag` is that of the call that failed. */
  setErrorFactory(make: (code: string, op: string, message: string, tag: number) => Error): void;
  /** Marks the calls that follow; a failure that shows later carries the tag of its call. */
  setTag(tag: number): void;

  // Devices. Names: 'cpu', 'reference', 'cuda', 'cuda:1'; in useEmulated()'s add-on 'cuda-emulated'. The same name gives the same object.
  openDevice(name: string): NativeDevice;
  /** Opens it on another thread: what openDevice() would do, but for the handle. */
  openDeviceLater(name: string): Promise<void>;
  devices(): DeviceInfo[];
  cudaUnavailableReason(): string | null;
  /** Versions, compiled architectures: what a bug report should say; empty where no CUDA backend is built in. */
  cudaFacts(): Record<string, string>;
  /** Throws ERR_UNSUPPORTED unless ops of the device take f16 activations, which are for inference. */
  requireF16(device: NativeDevice, op: string): void;
  cpuInfo(): NativeCpuInfo;
  setThreads(threads: number): void;
  memoryUsage(): MemoryUsage;
  /** Collects garbage, then begins to watch anew how many bytes are held at most, on all devices. */
  watchPeak(): void;
  /** The most bytes that were held at once since watchPeak(), or ever. */
  watchedPeakBytes(): number;
  synchronize(device: NativeDevice): Promise<void>;
  synchronizeSync(device: NativeDevice): void;
  /** Hands memory that is kept for later tensors back to the system, once what is queued has run. */
  trim(device: NativeDevice): void;
  /** Bytes that tensors of the device can take, those that are kept for later tensors included. */
  freeBytes(device: NativeDevice): number;
  /** Bytes of the copies that a call on the CPU makes of operands [rows, width] of f32 or bf16, one for each width; 0 of those that its kernels read where they are. */
  copiedBytes(dtype: DType, rows: number, widths: readonly number[]): number;
  /** Null where the queue is half empty, else a promise that resolves when it is. */
  roomInQueue(device: NativeDevice): Promise<void> | null;

  // Storage.
  /** Takes uninitialized memory. */
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
  /** Whether ops with activations of a dtype read weights that are kept in a format. */
  reads(device: NativeDevice, format: WeightFormat, activations: DType): boolean;

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

  createGuard(): NativeGuard;
  /** Throws the failure that the guard remembers, if any. */
  checkGuard(guard: NativeGuard): void;
  clearGuard(guard: NativeGuard): void;

  // Files (native/node/mapped_file.cc).
  openFile(path: string): { file: NativeFile; bytes: number };
  /** A view of [offset, offset + length); each view is its own ArrayBuffer. */
  fileView(file: NativeFile, offset: number, length: number): ArrayBuffer;
  /** Copies [offset, offset + length). */
  fileBytes(file: NativeFile, offset: number, length: number): ArrayBuffer;
  /** Detaches every view (their length becomes 0). The mapping goes when no view can be reached any more. */
  closeFile(file: NativeFile): void;
  /**
   * Locks a file that exists, as flock(1) and Python's filelock do, until unlockFile(), or the lock is collected, or the process ends;
   * null where another holds the lock, or the file is gone. Never waits.
   */
  lockFile(path: string): NativeLock | null;
  unlockFile(lock: NativeLock): void;

  // For `npm run bench -- --profile`.
  /** Times every op that is called on the device from now on. */
  startProfile(device: NativeDevice): void;
  /** Waits for the queued work, and ends the profile. */
  endProfile(device: NativeDevice): NativeProfileEntry[];

  /** What the device was given since it was opened; 0 on the host. */
  activity(device: NativeDevice): NativeActivity;

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
    | 'programs'
    | 'locks',
    number
  >;
  /**
   * Not in published add-ons, as injectOutOfMemory: the next enqueued op of this base name ('lora_linear_forward', 'binary', …), or the first of the next program that
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
    throw loraError(
      'device',
      'ERR_DEVICE_UNAVAILABLE',
      `cannot open cuda-emulated: ${loaded ? 'another device was used before it' : 'only builds with tests have it (node scripts/ctest.mjs)'}`,
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
