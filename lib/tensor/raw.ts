/** Ops without a tape, for the backward functions of ops. The caller checks shapes. */
import type { BinaryKind, UnaryKind } from '../native/binding';
import { binding, call } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';
import type { DType } from '../native/dtype';
import { track } from './scope';
import { Storage } from './storage';
import { storageOf, Tensor, wrap } from './tensor';
import { numelOf } from '../validate';

export function rawBinary(
  kind: BinaryKind,
  a: Tensor,
  b: Tensor,
  dtype: DType,
  shape: readonly number[],
): Tensor {
  return wrap(call().binary(kind, a.handle, b.handle, dtype), dtype, shape, a.device);
}

export function rawUnary(kind: UnaryKind, alpha: number, x: Tensor, dtype: DType = x.dtype): Tensor {
  return wrap(call().unary(kind, alpha, x.handle, dtype), dtype, x.shape, x.device);
}

/** dx = g·f′(x). */
export function rawUnaryBackward(kind: UnaryKind, alpha: number, x: Tensor, g: Tensor): Tensor {
  return wrap(call().unaryBackward(kind, alpha, x.handle, g.handle), x.dtype, x.shape, x.device);
}

/** Copies, into another dtype or the same. */
export function rawCast(x: Tensor, dtype: DType): Tensor {
  return rawUnary('copy', 1, x, dtype);
}

/** Takes uninitialized memory. */
export function rawEmpty(shape: readonly number[], dtype: DType, device: Device): Tensor {
  return wrap(binding().alloc(nativeDevice(device), dtype, shape), dtype, shape, device);
}

export function rawFilled(shape: readonly number[], value: number, dtype: DType, device: Device): Tensor {
  const out = rawEmpty(shape, dtype, device);
  call().fill(out.handle, value);
  return out;
}

/** Gives the same memory from an element on, in another shape. */
export function rawView(x: Tensor, offset: number, shape: readonly number[]): Tensor {
  const handle = call().view(x.handle, offset, shape);
  const out = new Tensor(new Storage(handle, storageOf(x)), x.dtype, shape, x.device);
  track(out);
  return out;
}

export const sameShape = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((d, i) => d === b[i]);

/** Σ over the dimensions that broadcasting stretched. */
export function reduceTo(g: Tensor, shape: readonly number[], dtype: DType): Tensor {
  if (sameShape(g.shape, shape)) return g.dtype === dtype ? g : rawCast(g, dtype);
  return rawReduceSum(g, shape, dtype);
}

/** Does the inverse: repeats `g`, aligned at the right, up to `shape`. */
export function expandTo(g: Tensor, shape: readonly number[], dtype: DType): Tensor {
  if (sameShape(g.shape, shape)) return g.dtype === dtype ? g : rawCast(g, dtype);
  if (numelOf(shape) === numelOf(g.shape)) {
    const same = rawView(g, 0, shape);
    return g.dtype === dtype ? same : rawCast(same, dtype);
  }
  const zeros = rawFilled(shape, 0, dtype, g.device);
  return rawBinary('add', zeros, g, dtype, shape);
}

/** Σ over the dimensions that are 1 in `shape`. */
export function rawReduceSum(x: Tensor, shape: readonly number[], dtype: DType): Tensor {
  return wrap(call().reduceSum(x.handle, shape, dtype), dtype, shape, x.device);
}

/** Dimension d of the result is dimension perm[d] of x. */
export function rawTranspose(x: Tensor, perm: readonly number[]): Tensor {
  const shape = perm.map((d) => x.shape[d]!);
  return wrap(call().transpose(x.handle, perm), x.dtype, shape, x.device);
}

/** A number as a tensor of no dimensions, f32. */
export function rawScalar(value: number, device: Device): Tensor {
  return rawFilled([], value, 'f32', device);
}

export function rawMatmul(
  a: Tensor,
  b: Tensor,
  transA: boolean,
  transB: boolean,
  dtype: DType,
  shape: readonly number[],
): Tensor {
  return wrap(call().matmul(a.handle, b.handle, transA, transB, dtype), dtype, shape, a.device);
}
