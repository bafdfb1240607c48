/** Argument rules that several ops share. */
import type { DType } from '../native/dtype';
import { handleOf, type Tensor } from './tensor';
import { check, describe, numelOf, shapeText } from '../validate';

/** A live tensor of floats. */
export function checkFloat(op: string, x: Tensor, name: string): void {
  handleOf(x, op, name);
  check(x.dtype !== 'i32', op, () => `expected ${name} to hold floats but received ${x.toString()}`);
}

export function checkSameDevice(op: string, name: string, device: string, wanted: string): void {
  check(device === wanted, op, `expected ${name} on ${wanted} but received it on ${device}`);
}

/** `expected x of shape [2, 4] (rows, in) but received [4, 2]`. */
export function checkDims(
  op: string,
  name: string,
  x: Tensor,
  wanted: readonly (number | string)[],
  meaning = '',
): void {
  const fits =
    x.shape.length === wanted.length && wanted.every((d, i) => typeof d === 'string' || d === x.shape[i]);
  check(
    fits,
    op,
    () =>
      `expected ${name} of shape [${wanted.join(', ')}]${meaning && ` (${meaning})`} but received ${shapeText(x.shape)}`,
  );
}

/** A dimension of x, counted from the start. */
export function dimOf(op: string, x: Tensor, dim: unknown): number {
  const rank = x.shape.length;
  check(typeof dim === 'number' && Number.isInteger(dim) && dim >= -rank && dim < rank, op, () =>
    rank === 0
      ? 'expected a tensor with dimensions but received a scalar'
      : `expected dim in [${-rank}, ${rank - 1}] but received ${describe(dim)}`,
  );
  return dim < 0 ? dim + rank : dim;
}

/** How many elements lie before, in and behind a dimension. */
export function aroundDim(
  shape: readonly number[],
  dim: number,
): [outer: number, length: number, inner: number] {
  return [numelOf(shape.slice(0, dim)), shape[dim]!, numelOf(shape.slice(dim + 1))];
}

/** The wider of two float dtypes; bf16 with f16 gives f32. */
export function promote(a: DType, b: DType): DType {
  return a === b ? a : 'f32';
}

/** The shape that two shapes broadcast to, aligned at the right. */
export function broadcastShapes(op: string, a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  const out: number[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    check(
      x === y || x === 1 || y === 1,
      op,
      () => `expected shapes that broadcast but received ${shapeText(a)} and ${shapeText(b)}`,
    );
    out.push(x === 1 ? y : x);
  }
  return out;
}
