/** What keeps the gradients of weights and the activations of a step from adding up in memory: each takes what the other gives back. */
import { binding } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';

/** Bytes of gradients between two times. */
const every = 2 ** 25;
let made = 0;

/**
 * Gives free memory of the host back to the system. The allocator keeps it for tensors of about its size, and gradients, activations and packed weights have
 * others. A GPU keeps it, since giving it back would wait for the device.
 */
export function trimHostMemory(device: Device): void {
  if (device === 'cpu') binding().trim(nativeDevice(device));
}

/** Counts a gradient of a weight that was made, with which activations become free. */
export function gradientMade<T extends { readonly device: Device; readonly numel: number }>(gradient: T): T {
  made += 4 * gradient.numel;
  if (made >= every) {
    made = 0;
    trimHostMemory(gradient.device);
  }
  return gradient;
}

/** Gradients of so many numbers were freed, before the next activations. */
export function gradientsFreed(device: Device, numel: number): void {
  if (4 * numel >= every) trimHostMemory(device);
}
