/** What is made of the largest element of a row, and of ln Σ exp(x − max) of it: max, argmax, softmax and its logarithm. */
import { record } from '../tensor/autograd';
import { checkFloat, dimOf } from '../tensor/arguments';
import { call } from '../native/calls';
import { rawBinary, rawCast, rawReduceSum, rawTranspose, rawUnary, rawView } from '../tensor/raw';
import { moved } from '../tensor/scope';
import { alias, type Tensor, wrap } from '../tensor/tensor';
import type { DimOptions, MaxOptions } from '../tensor/tensor_options';
import { check, checkBoolean, checkOptions, shapeText } from '../validate';
import { transpose } from './layout';
import { gradientOfTaken } from './take';

/** The order of dimensions in which `dim` is the last; its own inverse. */
function lastInstead(rank: number, dim: number): number[] {
  const order = Array.from({ length: rank }, (_, d) => d);
  [order[dim], order[rank - 1]] = [rank - 1, dim];
  return order;
}

function checkLength(op: string, x: Tensor, length: number, what: string): void {
  check(length > 0, op, () => `expected at least one element ${what} but received ${shapeText(x.shape)}`);
}

/** y = exp(x − max)/Σ exp(x − max) with dx = y·(g − Σ g·y), or its logarithm with dx = g − exp(y)·Σ g, over one dimension. */
export function softmax(op: 'softmax' | 'logSoftmax', x: Tensor, options: DimOptions = {}): Tensor {
  checkFloat(op, x, 'the tensor');
  checkOptions(op, options, ['dim']);
  const dim = dimOf(op, x, options.dim ?? -1);
  const rank = x.shape.length;
  checkLength(op, x, x.shape[dim]!, `along dim ${dim}`);
  if (dim < rank - 1) {
    const order = lastInstead(rank, dim);
    return moved(transpose(x, order), (t) => moved(softmax(op, t), (y) => transpose(y, order)));
  }
  const { shape, dtype, device } = x;
  const [max, , logSum] = call().rowMax(x.handle, true, false, true);
  const ones = [...shape.slice(0, -1), 1];
  const column = (handle: typeof max): Tensor =>
    moved(wrap(handle!, 'f32', [x.numel / shape[dim]!], device), (flat) => rawView(flat, 0, ones));
  const less = (a: Tensor, b: Tensor, to = a.dtype): Tensor =>
    moved(a, () => moved(b, () => rawBinary('sub', a, b, to, shape)));
  const centered = moved(column(max), (m) => rawBinary('sub', x, m, 'f32', shape));
  const log = op === 'logSoftmax';
  const shifted = less(centered, column(logSum), log ? dtype : 'f32');
  const y = log ? shifted : moved(shifted, (t) => rawUnary('exp', 1, t, dtype));
  record([x], [y], [y], ([g], [kept]) => {
    if (log) {
      const probabilities = rawUnary('exp', 1, kept!, 'f32');
      const part = rawBinary('mul', probabilities, rawReduceSum(g!, ones, 'f32'), 'f32', shape);
      return [rawBinary('sub', g!, part, dtype, shape)];
    }
    const mean = rawReduceSum(rawBinary('mul', g!, kept!, 'f32', shape), ones, 'f32');
    return [rawBinary('mul', kept!, rawBinary('sub', g!, mean, 'f32', shape), dtype, shape)];
  });
  return y;
}

interface Searched {
  /** Rows whose elements are searched, which the caller owns. */
  readonly rows: Tensor;
  readonly dim: number | undefined;
  readonly shape: readonly number[];
}

/** x with what is searched as its last dimension, and the shape of the result. */
function searched(op: string, x: Tensor, options: MaxOptions): Searched {
  checkFloat(op, x, 'the tensor');
  checkOptions(op, options, ['dim', 'keepDim']);
  const { keepDim = false } = options;
  checkBoolean(op, 'keepDim', keepDim);
  if (options.dim === undefined) {
    checkLength(op, x, x.numel, 'in all');
    return { rows: rawView(x, 0, [x.numel]), dim: undefined, shape: keepDim ? x.shape.map(() => 1) : [] };
  }
  const dim = dimOf(op, x, options.dim);
  const last = x.shape.length - 1;
  checkLength(op, x, x.shape[dim]!, `along dim ${dim}`);
  const shape = keepDim ? x.shape.map((d, i) => (i === dim ? 1 : d)) : x.shape.filter((_, i) => i !== dim);
  const rows = dim === last ? alias(x) : rawTranspose(x, lastInstead(last + 1, dim));
  return { rows, dim, shape };
}

/** The result of the rows of `searched`, [n], in the shape that was asked for: other dimensions are where they were. */
function placed(found: Tensor, rows: Tensor, { dim, shape }: Searched): Tensor {
  if (dim === undefined || dim === rows.shape.length - 1) return rawView(found, 0, shape);
  const columns = [...rows.shape.slice(0, -1), 1];
  return moved(rawView(found, 0, columns), (t) =>
    moved(rawTranspose(t, lastInstead(columns.length, dim)), (back) => rawView(back, 0, shape)),
  );
}

/** i32, without a gradient. */
export function argmax(x: Tensor, options: MaxOptions = {}): Tensor {
  const found = searched('argmax', x, options);
  return moved(found.rows, (rows) => {
    const [, index] = call().rowMax(rows.handle, false, true, false);
    return moved(wrap(index!, 'i32', [rows.numel / rows.shape.at(-1)!], x.device), (flat) =>
      placed(flat, rows, found),
    );
  });
}

/** In the dtype of x;  dx is g at the place of the largest element, of equal ones the first. */
export function max(x: Tensor, options: MaxOptions = {}): Tensor {
  const found = searched('max', x, options);
  const { shape: from, dtype, device } = x;
  const at = found.dim ?? 0;
  const flat = found.dim === undefined;
  return moved(found.rows, (rows) => {
    const [values, index] = call().rowMax(rows.handle, true, true, false);
    const n = rows.numel / rows.shape.at(-1)!;
    const inPlace = (handle: NonNullable<typeof values>, of: 'f32' | 'i32'): Tensor =>
      moved(wrap(handle, of, [n], device), (t) => placed(t, rows, found));
    const places = inPlace(index!, 'i32');
    const y = moved(inPlace(values!, 'f32'), (t) => rawCast(t, dtype));
    record([x], [y], [places], ([g], [kept]) => {
      const of = flat ? [rows.numel] : from;
      const kept1 = of.map((d, i) => (i === at ? 1 : d));
      const [index, grad] = [kept!, g!].map((t) => rawView(t, 0, kept1)) as [Tensor, Tensor];
      return [rawView(gradientOfTaken(grad, index, at, of, dtype), 0, from)];
    });
    places.dispose();
    return y;
  });
}
