/** The same values in another dtype (rounded to nearest even) or on another device. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { deviceName, nativeDevice, type Device } from '../native/device';
import { dtypes, type DType } from '../native/dtype';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { check, checkOneOf } from '../validate';
import { rawCast, rawView } from '../tensor/raw';

/** dx = g in the dtype of x. Shares the memory of x when nothing changes. */
export function cast(x: Tensor, dtype: DType): Tensor {
  handleOf(x, 'to');
  checkOneOf('to', 'dtype', dtype, dtypes);
  check(
    (x.dtype === 'i32') === (dtype === 'i32'),
    'to',
    `casts go between float dtypes, not from ${x.dtype} to ${dtype}`,
  );
  const from = x.dtype;
  const y = from === dtype ? rawView(x, 0, x.shape) : rawCast(x, dtype);
  record([x], [y], [], ([g]) => [g!.dtype === from ? g! : rawCast(g!, from)]);
  return y;
}

/** dx = g on the device of x. */
export function toDevice(x: Tensor, name: Device): Tensor {
  handleOf(x, 'to');
  const device = deviceName('to', name);
  const from = x.device;
  const y = wrap(call().toDevice(x.handle, nativeDevice(device)), x.dtype, x.shape, device);
  record([x], [y], [], ([g]) => {
    return [wrap(call().toDevice(g!.handle, nativeDevice(from)), g!.dtype, g!.shape, from)];
  });
  return y;
}
