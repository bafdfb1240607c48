/** Devices, threads and memory. */
import { useEmulated, type NativeDevice, type NativeDeviceInfo, type NativeMemoryUsage } from './binding';
import { binding } from './calls';
import { LoRAError } from '../errors';
import { check, checkInteger, describe } from '../validate';

/**
 * Where tensors lie and ops run: 'cpu', or a GPU, 'cuda' being 'cuda:0'. 'reference' is the slow, exact implementation that tests compare with; 'cuda-emulated', which only builds
 * with tests have, runs the CUDA kernels on the CPU and checks every access.
 */
export type Device = 'cpu' | 'cuda' | `cuda:${number}` | 'reference' | 'cuda-emulated';

/** One device of this machine. */
export type DeviceInfo = NativeDeviceInfo;
/** What the native side holds. */
export type MemoryUsage = NativeMemoryUsage;

/** One name per device: 'cuda:0' is 'cuda'. */
export function deviceName(op: string, name: unknown): Device {
  check(
    typeof name === 'string' && /^(cpu|reference|cuda(:\d+|-emulated)?)$/.test(name),
    op,
    `expected device to be 'cpu', 'cuda', 'cuda:N' or 'reference' but received ${describe(name)}`,
  );
  if (name === 'cuda-emulated') useEmulated();
  return (name === 'cuda:0' ? 'cuda' : name) as Device;
}

/** f16 activations: inference, and not on the CPU. */
export function checkF16(op: string, device: Device): void {
  if (device !== 'cpu') return;
  throw new LoRAError(
    'ERR_UNSUPPORTED',
    `[${op}] f16 activations are for inference on GPUs; use bf16 on cpu`,
    {
      op,
    },
  );
}

const opened = new Map<Device, NativeDevice>();

/** Opens a device; throws ERR_DEVICE_UNAVAILABLE with the reason where there is none. */
export function nativeDevice(name: Device): NativeDevice {
  let device = opened.get(name);
  if (device === undefined) {
    device = binding().openDevice(deviceName('device', name));
    opened.set(name, device);
  }
  return device;
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
}

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
export function synchronize(device: Device = 'cpu'): Promise<void> {
  return binding().synchronize(nativeDevice(deviceName('synchronize', device)));
}
