/** Parts of a dimension, and tensors put together along one. Elements are copied bit for bit, or share the memory. */
import { record } from '../tensor/autograd';
import { aroundDim, checkSameDevice, dimOf, promote } from '../tensor/arguments';
import { call } from '../native/calls';
import type { DType } from '../native/dtype';
import { rawCast, rawView } from '../tensor/raw';
import { moved } from '../tensor/scope';
import { alias, handleOf, Tensor, wrap } from '../tensor/tensor';
import type { DimOptions } from '../tensor/tensor_options';
import { check, checkOptions, describe, shapeText } from '../validate';
import { reshape } from './layout';

/** As Array.slice counts: from the end where it is negative, and within the dimension. */
function place(op: string, name: string, value: unknown, length: number): number {
  check(
    typeof value === 'number' && Number.isInteger(value),
    op,
    () => `expected ${name} to be an integer but received ${describe(value)}`,
  );
  return Math.min(Math.max(value < 0 ? value + length : value, 0), length);
}

/** Elements [begin, begin + count) of a dimension, without a graph; a view where they are one run. */
function rawSlice(x: Tensor, dim: number, begin: number, count: number): Tensor {
  const [outer, length, inner] = aroundDim(x.shape, dim);
  const shape = x.shape.map((d, i) => (i === dim ? count : d));
  if (outer === 1) return rawView(x, begin * inner, shape);
  return moved(rawView(x, 0, [outer, length * inner]), (rows) => {
    const sizes = [begin * inner, count * inner, (length - begin - count) * inner];
    const [, part] = call().splitColumns(rows.handle, sizes, [false, true, false]);
    return moved(wrap(part!, x.dtype, [outer, count * inner], x.device), (t) => rawView(t, 0, shape));
  });
}

/** y = x[.., start … end − 1, ..];  dx is g there and 0 elsewhere. */
export function slice(x: Tensor, start: number, end: number | undefined, options: DimOptions = {}): Tensor {
  const op = 'slice';
  handleOf(x, op, 'the tensor');
  checkOptions(op, options, ['dim']);
  const dim = dimOf(op, x, options.dim ?? 0);
  const { shape, dtype, device } = x;
  const length = shape[dim]!;
  const begin = place(op, 'start', start, length);
  const count = Math.max(place(op, 'end', end ?? length, length) - begin, 0);
  const y = rawSlice(x, dim, begin, count);
  record([x], [y], [], ([g]) => {
    const [outer, , inner] = aroundDim(shape, dim);
    const sizes = [begin, count, length - begin - count].map((n) => n * inner);
    const rows = rawView(g!, 0, [outer, count * inner]);
    const joined = call().joinColumns([null, rows.handle, null], sizes);
    return [rawView(wrap(joined, dtype, [outer, length * inner], device), 0, shape)];
  });
  return y;
}

/** What joinColumns takes at once (kMaxColumnParts of native/core/ops/tape.h). */
const mostParts = 8;

/** Matrices of one dtype and height side by side, in as many turns as that takes. The caller owns the result, and the parts as before. */
function joined(parts: readonly Tensor[]): Tensor {
  const [{ dtype, device, shape }] = parts as readonly [Tensor];
  if (parts.length === 1) return alias(parts[0]!);
  if (parts.length > mostParts) {
    const groups: Tensor[] = [];
    for (let i = 0; i < parts.length; i += mostParts) groups.push(joined(parts.slice(i, i + mostParts)));
    const all = joined(groups);
    for (const group of groups) group.dispose();
    return all;
  }
  const sizes = parts.map((part) => part.shape[1]!);
  const handle = call().joinColumns(
    parts.map((part) => part.handle),
    sizes,
  );
  return wrap(handle, dtype, [shape[0]!, sizes.reduce((sum, n) => sum + n, 0)], device);
}

function checkTensors(op: string, tensors: readonly Tensor[]): readonly [Tensor, ...Tensor[]] {
  check(
    Array.isArray(tensors) && tensors.length > 0 && tensors.every((t) => t instanceof Tensor),
    op,
    () => `expected a list of tensors but received ${describe(tensors)}`,
  );
  tensors.forEach((t, i) => {
    handleOf(t, op, `tensor ${i}`);
    checkSameDevice(op, `tensor ${i}`, t.device, tensors[0]!.device);
  });
  return tensors as unknown as readonly [Tensor, ...Tensor[]];
}

/**
 * Tensors one after the other along a dimension (default: the first), in which alone they may differ; mixed floats give the wider.
 *
 * @throws ERR_ARGUMENT for an empty list, other shapes, integers beside floats, and tensors on two devices.
 * @example
 * const y = concat([tensor([[1, 2]]), tensor([[3, 4], [5, 6]])]); // [3, 2]
 */
export function concat(tensors: readonly Tensor[], options: DimOptions = {}): Tensor {
  const op = 'concat';
  const [first, ...rest] = checkTensors(op, tensors);
  checkOptions(op, options, ['dim']);
  const dim = dimOf(op, first, options.dim ?? 0);
  for (const [i, t] of rest.entries()) {
    const fits =
      t.shape.length === first.shape.length && t.shape.every((d, at) => at === dim || d === first.shape[at]);
    check(
      fits,
      op,
      () =>
        `expected tensors of one shape but for dim ${dim} but received ${shapeText(first.shape)} and ${shapeText(t.shape)} (tensor ${i + 1})`,
    );
    check(
      (t.dtype === 'i32') === (first.dtype === 'i32'),
      op,
      () => `expected floats or integers but received ${first.dtype} and ${t.dtype} (tensor ${i + 1})`,
    );
  }
  const dtype = tensors.reduce<DType>((wide, t) => promote(wide, t.dtype), first.dtype);
  const [outer] = aroundDim(first.shape, dim);
  const parts = tensors.map((t) =>
    moved(t.dtype === dtype ? alias(t) : rawCast(t, dtype), (same) =>
      rawView(same, 0, [outer, outer === 0 ? 0 : t.numel / outer]),
    ),
  );
  const counts = tensors.map((t) => t.shape[dim]!);
  const total = counts.reduce((sum, n) => sum + n, 0);
  const shape = first.shape.map((d, i) => (i === dim ? total : d));
  const y = moved(joined(parts), (t) => rawView(t, 0, shape));
  for (const part of parts) part.dispose();
  const wants = tensors.map((t) => t.requiresGrad);
  const dtypes = tensors.map((t) => t.dtype);
  record(tensors, [y], [], ([g]) => {
    let begin = 0;
    return counts.map((count, i) => {
      const at = begin;
      begin += count;
      if (!wants[i]) return null;
      const part = rawSlice(g!, dim, at, count);
      return part.dtype === dtypes[i] ? part : rawCast(part, dtypes[i]!);
    });
  });
  return y;
}

/**
 * Tensors of one shape along a new dimension (default: the first).
 *
 * @throws ERR_ARGUMENT as concat().
 * @example
 * const rows = stack([tensor([1, 2]), tensor([3, 4])]); // [2, 2]
 */
export function stack(tensors: readonly Tensor[], options: DimOptions = {}): Tensor {
  const op = 'stack';
  const [first, ...rest] = checkTensors(op, tensors);
  checkOptions(op, options, ['dim']);
  const { dim = 0 } = options;
  const rank = first.shape.length;
  check(
    Number.isInteger(dim) && dim >= -rank - 1 && dim <= rank && rank < 8,
    op,
    () => `expected dim in [${-rank - 1}, ${rank}] but received ${describe(dim)}`,
  );
  for (const [i, t] of rest.entries())
    check(
      shapeText(t.shape) === shapeText(first.shape),
      op,
      () =>
        `expected tensors of one shape but received ${shapeText(first.shape)} and ${shapeText(t.shape)} (tensor ${i + 1})`,
    );
  const at = dim < 0 ? dim + rank + 1 : dim;
  const shape = [...first.shape.slice(0, at), 1, ...first.shape.slice(at)];
  const parts = tensors.map((t) => reshape(t, shape));
  const y = concat(parts, { dim: at });
  for (const part of parts) part.dispose();
  return y;
}
