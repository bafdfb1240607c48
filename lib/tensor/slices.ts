/** Large tensors moved between files and devices in slices, so that no step holds the event loop or a second copy in memory. */
import type { NativeTensor } from '../native/binding';
import { binding, call } from '../native/calls';
import { nativeDevice, roomInQueue, type Device } from '../native/device';
import { bytesPerElement, type DType } from '../native/dtype';
import { handleOf, wrap, type Tensor } from './tensor';
import { check, numelOf } from '../validate';

/** Bytes of a slice that is read back: the runtime clears as many on the thread of JavaScript. */
const readBytes = 2 ** 20;
/** Slices that are queued before their device is waited for: more would only fill memory. */
const queued = 4;

/** A tensor that is filled from its first to its last element, by bytes of another dtype where they are so. */
export class SlicedUpload {
  readonly tensor: Tensor;
  #at = 0;
  #slices = 0;

  constructor(
    readonly from: DType,
    dtype: DType,
    shape: readonly number[],
    readonly device: Device,
  ) {
    this.tensor = wrap(binding().alloc(nativeDevice(device), dtype, shape), dtype, shape, device);
  }

  /** The next elements, little endian; their bytes may be overwritten afterwards. */
  async add(bytes: Uint8Array): Promise<void> {
    await roomInQueue(this.device);
    const device = nativeDevice(this.device);
    const shape = [bytes.byteLength / bytesPerElement[this.from]];
    const source = binding().fromBytes(device, this.from, shape, bytes);
    const target = call().view(handleOf(this.tensor, 'tensor', 'the tensor'), this.#at, shape);
    call().copyInto(source, target);
    binding().release(source);
    binding().release(target);
    this.#at += shape[0]!;
    check(this.#at <= this.tensor.numel, 'tensor', 'expected no more elements than the shape has');
    if (++this.#slices % queued === 0) await binding().synchronize(device);
  }
}

/** The bytes of a tensor, in order. Nothing may change it meanwhile. */
export function slicedBytes(x: Tensor): AsyncGenerator<Uint8Array, void, void> {
  return slicesOf(handleOf(x, 'read', 'the tensor'), numelOf(x.shape), bytesPerElement[x.dtype]);
}

/** The same of a tensor of so many elements of `width` bytes. */
export async function* slicesOf(
  x: NativeTensor,
  elements: number,
  width: number,
): AsyncGenerator<Uint8Array, void, void> {
  const step = readBytes / width;
  for (let at = 0; at < elements; at += step) {
    const slice = binding().view(x, at, [Math.min(step, elements - at)]);
    const bytes = binding().read(slice);
    binding().release(slice);
    yield new Uint8Array(await bytes);
  }
}
