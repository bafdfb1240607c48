/** Seeded numbers: element i depends on (seed, stream, i) only, on every device alike. */
import { call } from '../native/calls';
import { deviceName, nativeDevice, type Device } from '../native/device';
import { type Tensor, wrap } from '../tensor/tensor';
import { checkInteger, checkNumber, checkOptions, checkShape } from '../validate';

interface Place {
  seed: number;
  /** The number of an independent sequence of the seed. */
  stream?: number;
  device?: Device;
}

/** f32 numbers of [lo, hi). */
export function randomUniform(
  shape: readonly number[],
  options: Place & { lo?: number; hi?: number },
): Tensor {
  checkOptions('random', options, ['seed', 'stream', 'device', 'lo', 'hi']);
  return random('uniform', shape, options, options.lo ?? 0, options.hi ?? 1);
}

/** f32 numbers of mean `mean` and standard deviation `std`. */
export function randomNormal(
  shape: readonly number[],
  options: Place & { mean?: number; std?: number },
): Tensor {
  checkOptions('random', options, ['seed', 'stream', 'device', 'mean', 'std']);
  return random('normal', shape, options, options.mean ?? 0, options.std ?? 1);
}

function random(
  kind: 'uniform' | 'normal',
  shape: readonly number[],
  { seed, stream = 0, device: name = 'cpu' }: Place,
  lo: number,
  hi: number,
): Tensor {
  checkShape('random', shape);
  checkInteger('random', 'seed', seed);
  checkInteger('random', 'stream', stream);
  checkNumber('random', kind === 'uniform' ? 'lo' : 'mean', lo);
  checkNumber('random', kind === 'uniform' ? 'hi' : 'std', hi);
  const device = deviceName('random', name);
  return wrap(call().random(nativeDevice(device), kind, seed, stream, lo, hi, shape), 'f32', shape, device);
}
