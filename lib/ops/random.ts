/** Seeded numbers: element i depends on (seed, stream, i) only, on every device alike. */
import { call } from '../native/calls';
import { deviceName, nativeDevice, type Device } from '../native/device';
import { type Tensor, wrap } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, checkShape, describe, shapeText } from '../validate';
import { checkFloat } from '../tensor/arguments';

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

export interface SampleOptions {
  /** 0 is greedy: the first of the largest. */
  temperature: number;
  /** Draws from the k largest; 0: from all. */
  topK: number;
  /** Draws from the smallest set of at least this mass; 1: from all. */
  topP: number;
  seed: number;
  step: number;
}

/** One id per row of logits [n, vocab], i32 [n], drawn with the number of (seed, step, row). */
export function sample(logits: Tensor, options: SampleOptions): Tensor {
  checkFloat('sample', logits, 'logits');
  checkOptions('sample', options, ['temperature', 'topK', 'topP', 'seed', 'step']);
  const { temperature, topK, topP, seed, step } = options;
  check(
    logits.shape.length === 2,
    'sample',
    `expected logits of shape [n, vocab] but received ${shapeText(logits.shape)}`,
  );
  checkNumber('sample', 'temperature', temperature, 0);
  checkInteger('sample', 'topK', topK);
  check(
    typeof topP === 'number' && topP > 0 && topP <= 1,
    'sample',
    `expected topP above 0 and at most 1 but received ${describe(topP)}`,
  );
  checkInteger('sample', 'seed', seed);
  checkInteger('sample', 'step', step);
  const ids = call().sample(logits.handle, { temperature, topK, topP, seed, step });
  return wrap(ids, 'i32', [logits.shape[0]!], logits.device);
}
