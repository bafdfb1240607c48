/** Sums and means, accumulated and returned in f32. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { type ReduceOptions, type Tensor, wrap } from '../tensor/tensor';
import { check, checkBoolean, checkOptions, describe, numelOf } from '../validate';
import { checkFloat } from '../tensor/arguments';
import { expandTo, rawUnary, rawView, sameShape } from '../tensor/raw';

/** y = Σ x;  dx = g, repeated. */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  return reduce('sum', x, options);
}

/** y = Σ x / n;  dx = g / n, repeated. */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  return reduce('mean', x, options);
}

function reduce(op: 'sum' | 'mean', x: Tensor, options: ReduceOptions): Tensor {
  checkFloat(op, x, 'the tensor');
  checkOptions(op, options, ['dim', 'keepDim']);
  const { keepDim = false } = options;
  checkBoolean(op, 'keepDim', keepDim);
  const dims = dimsOf(op, x.shape.length, options.dim);
  const kept = x.shape.map((d, i) => (dims.has(i) ? 1 : d));
  const shape = keepDim ? kept : x.shape.filter((_, i) => !dims.has(i));
  const factor = op === 'mean' ? numelOf(kept) / numelOf(x.shape) : 1;

  let y = wrap(call().reduceSum(x.handle, kept, 'f32'), 'f32', kept, x.device);
  const replace = (next: Tensor): void => {
    y.dispose();
    y = next;
  };
  // An empty mean is 0·∞ = NaN, as it should be.
  if (op === 'mean') replace(rawUnary('scale', numelOf(x.shape) === 0 ? Infinity : factor, y));
  if (!sameShape(kept, shape)) replace(rawView(y, 0, shape));

  const { shape: from, dtype } = x;
  record([x], [y], [], ([g]) => {
    const wide = rawView(g!, 0, kept);
    return [expandTo(factor === 1 ? wide : rawUnary('scale', factor, wide), from, dtype)];
  });
  return y;
}

function dimsOf(op: string, rank: number, dim: ReduceOptions['dim']): Set<number> {
  if (dim === undefined) return new Set(Array.from({ length: rank }, (_, i) => i));
  const list = typeof dim === 'number' ? [dim] : dim;
  check(
    Array.isArray(list),
    op,
    () => `expected dim to be an integer or a list but received ${describe(dim)}`,
  );
  return new Set(
    list.map((d: number) => {
      check(
        Number.isInteger(d) && d >= -rank && d < rank,
        op,
        () => `expected dim in [${-rank}, ${rank - 1}] but received ${describe(d)}`,
      );
      return d < 0 ? d + rank : d;
    }),
  );
}
