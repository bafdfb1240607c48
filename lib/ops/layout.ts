/** reshape, transpose and view: the same elements in another order or shape. */
import { record } from '../tensor/autograd';
import { handleOf, type Tensor } from '../tensor/tensor';
import { check, checkInteger, checkShape, describe, isListOf, numelOf, shapeText } from '../validate';
import { checkFloat } from '../tensor/arguments';
import { rawTranspose, rawView } from '../tensor/raw';

/** Shares the memory of x. One dimension may be −1, which takes what is left. dx = g in the shape of x. */
export function reshape(x: Tensor, wanted: readonly number[]): Tensor {
  handleOf(x, 'reshape');
  check(
    isListOf(wanted, (d) => Number.isSafeInteger(d) && (d as number) >= -1),
    'reshape',
    () => `expected a list of dimensions but received ${describe(wanted)}`,
  );
  const rest = wanted.filter((d) => d !== -1);
  const known = numelOf(rest);
  const open = wanted.length - rest.length;
  check(
    open === 0 ? known === x.numel : open === 1 && known > 0 && x.numel % known === 0,
    'reshape',
    () =>
      `expected a shape of ${x.numel} elements for ${shapeText(x.shape)} but received ${shapeText(wanted)}`,
  );
  const shape = wanted.map((d: number) => (d === -1 ? x.numel / known : d));
  const y = rawView(x, 0, shape);
  const from = x.shape;
  record([x], [y], [], ([g]) => [rawView(g!, 0, from)]);
  return y;
}

/** y[i_perm…] = x[i…]: dimension d of y is dimension perm[d] of x;  dx is g put back. */
export function transpose(x: Tensor, wanted?: readonly number[], op = 'transpose'): Tensor {
  checkFloat(op, x, 'the tensor');
  const rank = x.shape.length;
  let perm: readonly number[];
  if (wanted === undefined) {
    check(rank >= 2, op, () => `expected at least two dimensions but received ${shapeText(x.shape)}`);
    perm = x.shape.map((_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i));
  } else {
    check(
      Array.isArray(wanted) &&
        wanted.length === rank &&
        [...(wanted as number[])].sort((a, b) => a - b).every((d, i) => d === i),
      op,
      () =>
        `expected perm to be an order of the ${rank} dimensions of ${shapeText(x.shape)} but received ${describe(wanted)}`,
    );
    perm = wanted;
  }
  const y = rawTranspose(x, perm);
  const inverse = perm.map((_, d) => perm.indexOf(d));
  record([x], [y], [], ([g]) => [rawTranspose(g!, inverse)]);
  return y;
}

/** A part of x from an element on, sharing its memory; no gradient. */
export function view(x: Tensor, elementOffset: number, shape: readonly number[]): Tensor {
  handleOf(x, 'view', 'x');
  checkInteger('view', 'elementOffset', elementOffset);
  checkShape('view', shape);
  check(
    elementOffset + numelOf(shape) <= x.numel,
    'view',
    () => `expected at most ${x.numel} elements but received ${shapeText(shape)} from ${elementOffset} on`,
  );
  return rawView(x, elementOffset, shape);
}
