/** Devices, threads and memory. */
import { useEmulated, type NativeDevice, type DeviceInfo, type MemoryUsage } from './binding';
import { binding } from './calls';
import { check, checkInteger, describe } from '../validate';

/**
 * Where tensors lie and ops run: 'cpu', or a GPU, 'cuda' being 'cuda:0'. 'reference' is the slow, exact implementation that tests compare with; 'cuda-emulated', which only builds
 * with tests have, runs the CUDA kernels on the CPU and checks every access.
 */
export type Device = 'cpu' | 'cuda' | `cuda:${number}` | 'reference' | 'cuda-emulated';

/** A kind of device: what it is called, and what is known about it. */
interface DeviceKind {
  /** The name of a device of this kind in one form, or undefined for the name of another kind. */
  canonical(name: string): Device | undefined;
  /** Its names, for messages; absent: programs do not learn of it. */
  readonly shown?: readonly string[];
  /** Whether 'auto' may take it. */
  readonly auto?: boolean;
  /** Why there is none on this machine; null: there is one. */
  readonly whyNot: () => string | null;
  /** What a bug report should say of it. */
  readonly facts?: () => Record<string, string>;
  /** Before the first device of this kind is opened. */
  readonly prepare?: () => void;
  /** A driver opens it, which may take seconds. */
  readonly slow?: boolean;
}

const only =
  (own: Device) =>
  (name: string): Device | undefined =>
    name === own ? own : undefined;

/** All kinds, a better one after a worse one. */
const kinds: readonly DeviceKind[] = [
  { canonical: only('cpu'), shown: ['cpu'], auto: true, whyNot: () => null },
  {
    canonical: (name) =>
      /^cuda(:\d+)?$/.test(name) ? ((name === 'cuda:0' ? 'cuda' : name) as Device) : undefined,
    shown: ['cuda', 'cuda:N'],
    auto: true,
    whyNot: () => binding().cudaUnavailableReason(),
    facts: () => binding().cudaFacts(),
    slow: true,
  },
  { canonical: only('reference'), shown: ['reference'], whyNot: () => null },
  { canonical: only('cuda-emulated'), whyNot: () => null, prepare: useEmulated, slow: true },
];

/** The kind of a device, and its one name: 'cuda:0' is 'cuda'. */
function find(name: unknown): { kind: DeviceKind; device: Device } | undefined {
  if (typeof name !== 'string') return undefined;
  for (const kind of kinds) {
    const device = kind.canonical(name);
    if (device !== undefined) return { kind, device };
  }
  return undefined;
}

/** One name per device: 'cuda:0' is 'cuda'. */
export function deviceName(op: string, name: unknown): Device {
  const found = find(name);
  check(found, op, () => {
    const names = kinds.flatMap(({ shown = [] }) => shown.map((one) => `'${one}'`));
    return `expected device to be ${names.slice(0, -1).join(', ')} or ${names.at(-1)} but received ${describe(name)}`;
  });
  found.kind.prepare?.();
  return found.device;
}

/** The best device that this machine has. */
export function bestDevice(): Device {
  const usable = kinds.filter(({ auto, whyNot }) => auto && whyNot() === null);
  return usable.at(-1)!.shown![0] as Device;
}

/** What a bug report should say of the devices. */
export function deviceFacts(): Record<string, string> {
  const report: Record<string, string> = {};
  for (const { shown, whyNot, facts } of kinds) {
    if (!facts) continue;
    const reason = whyNot();
    report[shown![0]!] = reason === null ? 'available' : `unavailable: ${reason}`;
    Object.assign(report, facts());
  }
  return report;
}

const opened = new Map<Device, NativeDevice>();

/** The instruction set that runs, and that it is not the best because the binary was built for another CPU. */
export function instructionSet(): { name: string; problem?: string } {
  const { target: name, missingTargets } = binding().cpuInfo();
  if (missingTargets === undefined) return { name };
  return {
    name,
    problem: `${name} runs, because the binary was built for another CPU, without ${missingTargets.join(', ')}: npx lora-native build makes one for this CPU`,
  };
}

/** Opens a device; throws ERR_DEVICE_UNAVAILABLE with the reason where there is none. */
export function nativeDevice(name: Device): NativeDevice {
  let device = opened.get(name);
  if (device === undefined) {
    device = binding().openDevice(deviceName('device', name));
    opened.set(name, device);
    const { problem } = instructionSet();
    if (name === 'cpu' && problem !== undefined)
      process.emitWarning(`[device] ${problem}`, { code: 'LORA_SIMD_MISSING' });
  }
  return device;
}

/**
 * The same without holding the event loop: another thread asks the driver and waits for it. 'auto' is the best device that this machine has.
 */
export async function openedDevice(op: string, name: string): Promise<Device> {
  const wanted = name === 'auto' ? 'cuda' : deviceName(op, name);
  if (find(wanted)!.kind.slow && !opened.has(wanted)) {
    // nativeDevice() throws what went wrong, with the stack of this call, and 'auto' may stand for another device.
    await binding()
      .openDeviceLater(wanted)
      .catch(() => undefined);
  }
  const device = name === 'auto' ? bestDevice() : wanted;
  nativeDevice(device);
  return device;
}

/** Throws unless activations on the device may be f16, which is for inference and not on the CPU. */
export function checkF16(op: string, device: Device): void {
  binding().requireF16(nativeDevice(device), op);
}

/**
 * The devices that this machine has: the CPU, and the GPUs that kernels run on, in CUDA's order after
 * `CUDA_VISIBLE_DEVICES`.
 *
 * @example
 * devices();
 * // [{ id: 'cpu', name: 'AMD Ryzen 9', memoryBytes: 67430313984 },
 * //  { id: 'cuda', name: 'NVIDIA GeForce RTX 3090', memoryBytes: 25438126080, computeCapability: '8.6' }]
 */
export function devices(): DeviceInfo[] {
  return binding().devices();
}

/**
 * Sets the threads of the CPU device. Results are bitwise reproducible for one number of threads. Default:
 * LORA_THREADS, else every CPU of the process.
 *
 * @throws ERR_ARGUMENT below 1.
 * @example
 * setThreads(2);
 */
export function setThreads(threads: number): void {
  checkInteger('setThreads', 'threads', threads, 1);
  binding().setThreads(threads);
  threadSettings++;
}

let threadSettings = 0;

/** Counts the calls of setThreads(): the bits of what was computed before one may be others. */
export const threadSetting = (): number => threadSettings;

/**
 * Live tensors and bytes of the native side, per device, and the most that were held at once.
 *
 * @example
 * const { tensors, bytes, peakBytes } = memoryUsage();
 */
export function memoryUsage(): MemoryUsage {
  return binding().memoryUsage();
}

/**
 * Watches how many bytes are held, on all devices: the returned function gives the most since this call, which frees first what nobody can
 * reach any more. There is one watch in a thread, which the last call began; `memoryUsage().peakBytes` is left as it is.
 */
export function watchPeak(): () => number {
  binding().watchPeak();
  return () => binding().watchedPeakBytes();
}

/** Bytes that tensors of the device can take, without those that garbage still holds. */
export function freeBytes(device: Device): number {
  return binding().freeBytes(nativeDevice(device));
}

/**
 * Bytes of the copies that a call on the CPU makes of operands [rows, width], one for each width. They follow from the instruction set: tile registers
 * multiply copies of f32 in three parts, and of rows whose lines share sets of the cache.
 */
export function copiedBytes(dtype: 'f32' | 'bf16', rows: number, widths: readonly number[]): number {
  return binding().copiedBytes(dtype, rows, widths);
}

/**
 * Resolves when the device's queue is half empty; null where it is. Who enqueues much awaits it between calls, of which
 * some thousand then find room: an op that finds the queue full blocks the event loop.
 */
export function roomInQueue(device: Device): Promise<void> | null {
  return binding().roomInQueue(nativeDevice(device));
}

/**
 * Resolves when all work queued on the device so far is done. Only for timing: reading a tensor waits for
 * what it needs.
 *
 * @throws ERR_DEVICE_UNAVAILABLE, ERR_DEVICE_LOST.
 * @example
 * const start = performance.now();
 * layer.forward(x);
 * await synchronize('cpu');
 * console.log(performance.now() - start);
 */
export async function synchronize(device: Device = 'cpu'): Promise<void> {
  await binding().synchronize(nativeDevice(deviceName('synchronize', device)));
}
