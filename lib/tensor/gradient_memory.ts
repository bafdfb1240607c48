/** Lets the gradients of weights and the activations of a step take the same memory, one after the other. */
import { binding } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';

/** Bytes of gradients that are made between two trims. */
const trimEvery = 2 ** 25;
let made = 0;

/**
 * Gives free memory of the host back to the system. The allocator keeps freed memory for tensors of about the same size, and gradients, activations and
 * packed weights differ in size. A GPU keeps its memory: giving it back would wait for the device.
 */
export function trimHostMemory(device: Device): void {
  if (device === 'cpu') binding().trim(nativeDevice(device));
}

/** Counts a gradient of a weight that was made; the backward pass frees activations with each. */
export function gradientMade<T extends { readonly device: Device; readonly numel: number }>(gradient: T): T {
  made += 4 * gradient.numel;
  if (made >= trimEvery) {
    made = 0;
    trimHostMemory(gradient.device);
  }
  return gradient;
}

/** Trims where gradients of many numbers were freed, before the next step makes activations. */
export function gradientsFreed(device: Device, numel: number): void {
  if (4 * numel >= trimEvery) trimHostMemory(device);
}
