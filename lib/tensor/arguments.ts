/** Argument rules that several ops share. */
import type { DType } from '../native/dtype';
import { handleOf, type Tensor } from './tensor';
import { check, shapeText } from '../validate';

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
