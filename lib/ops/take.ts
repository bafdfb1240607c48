/** Elements of a dimension by their places. */
import { record } from '../tensor/autograd';
import { checkSameDevice, dimOf } from '../tensor/arguments';
import { call } from '../native/calls';
import type { Device } from '../native/device';
import type { DType } from '../native/dtype';
import { tensor } from '../tensor/create';
import { rawCast, rawFilled, rawView } from '../tensor/raw';
import { moved } from '../tensor/scope';
import { handleOf, type NestedNumbers, Tensor, wrap } from '../tensor/tensor';
import type { DimOptions } from '../tensor/tensor_options';
import { check, checkOptions, describe, shapeText } from '../validate';
import { reshape } from './layout';

/** An i32 tensor of places on a device, which the caller disposes of where it is a new one. */
function placesOf(op: string, index: NestedNumbers | Tensor, device: Device): Tensor {
  if (!(index instanceof Tensor)) return tensor(index, { dtype: 'i32', device });
  handleOf(index, op, 'the index');
  check(
    index.dtype === 'i32',
    op,
    () => `expected the index to hold integers (i32) but received ${describe(index)}`,
  );
  checkSameDevice(op, 'the index', index.device, device);
  return index;
}

/** The gradient of elements that were taken: g at their places in zeros of `shape`, summed in f32 where places are equal. */
export function gradientOfTaken(
  g: Tensor,
  index: Tensor,
  dim: number,
  shape: readonly number[],
  dtype: DType,
): Tensor {
  const dx = rawFilled(shape, 0, 'f32', g.device);
  call().takeBackward(rawCast(g, 'f32').handle, index.handle, dim, dx.handle);
  return dtype === 'f32' ? dx : rawCast(dx, dtype);
}

/** y = x[.., index, ..], and dx by gradientOfTaken. `index` has one dimension, or is like x but for `dim`. */
function taken(x: Tensor, index: Tensor, dim: number, of: readonly number[]): Tensor {
  const { shape, dtype, device } = x;
  const y = wrap(call().take(x.handle, index.handle, dim), dtype, of, device);
  record([x], [y], [index], ([g], [kept]) => [gradientOfTaken(g!, kept!, dim, shape, dtype)]);
  return y;
}

/** x [.., n, ..] by an index of any shape → [.., ...index.shape, ..]. */
export function take(x: Tensor, index: NestedNumbers | Tensor, options: DimOptions = {}): Tensor {
  const op = 'take';
  handleOf(x, op, 'the tensor');
  checkOptions(op, options, ['dim']);
  const dim = dimOf(op, x, options.dim ?? 0);
  const places = placesOf(op, index, x.device);
  const list = rawView(places, 0, [places.numel]);
  const [before, behind] = [x.shape.slice(0, dim), x.shape.slice(dim + 1)];
  check(
    before.length + places.shape.length + behind.length <= 8,
    op,
    () => `expected at most 8 dimensions but received ${shapeText(x.shape)} by ${shapeText(places.shape)}`,
  );
  const shape = [...before, ...places.shape, ...behind];
  const y = moved(taken(x, list, dim, [...before, places.numel, ...behind]), (flat) => reshape(flat, shape));
  list.dispose();
  if (places !== index) places.dispose();
  return y;
}

/** x by an index of its shape but for `dim` → the shape of the index. */
export function gather(x: Tensor, index: NestedNumbers | Tensor, options: DimOptions = {}): Tensor {
  const op = 'gather';
  handleOf(x, op, 'the tensor');
  checkOptions(op, options, ['dim']);
  const dim = dimOf(op, x, options.dim ?? -1);
  const places = placesOf(op, index, x.device);
  const like = places.shape.length === x.shape.length;
  check(
    like && places.shape.every((d, i) => i === dim || d === x.shape[i]),
    op,
    () =>
      `expected an index of the shape of the tensor ${shapeText(x.shape)} but for dim ${dim}, but received ${shapeText(places.shape)}`,
  );
  const y = taken(x, places, dim, places.shape);
  if (places !== index) places.dispose();
  return y;
}
