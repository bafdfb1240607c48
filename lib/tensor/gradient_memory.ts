/** What is done so that the gradients of weights and the activations of a step do not add up, where each takes the memory that the other gives back. */
import { binding } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';

/** Bytes of gradients between two times. */
const every = 2 ** 25;
let made = 0;

/**
 * The allocator keeps freed memory for tensors of about its size, and a gradient has another one than the activations. On the host what is free goes back
 * to the system where much of it changes hands. A GPU keeps it, since giving it back would wait for the device.
 */
function giveBack(device: Device): void {
  if (device === 'cpu') binding().trim(nativeDevice(device));
}

/** Counts a gradient of a weight that was made, with which activations become free. */
export function gradientMade<T extends { readonly device: Device; readonly numel: number }>(gradient: T): T {
  made += 4 * gradient.numel;
  if (made >= every) {
    made = 0;
    giveBack(gradient.device);
  }
  return gradient;
}

/** Gradients of so many numbers were freed, before the next activations. */
export function gradientsFreed(device: Device, numel: number): void {
  if (4 * numel >= every) giveBack(device);
}
