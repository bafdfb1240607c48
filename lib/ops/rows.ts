/** Parts of a tensor along its first dimension, and their inverse. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { rawEmpty, rawView } from '../tensor/raw';
import type { Tensor } from '../tensor/tensor';
import { check, numelOf, shapeText } from '../validate';
import { sum } from './reduce';

/** Copies `source` into rows of `to` from an element on, or zeros where there is none. */
function fillRows(to: Tensor, at: number, shape: readonly number[], source: Tensor | null): void {
  const rows = rawView(to, at, shape);
  if (source) call().copyInto(source.handle, rows.handle);
  else call().fill(rows.handle, 0);
  rows.dispose();
}

/** Where each of some parts begins in a tensor of these shapes one after the other, in elements. */
function offsets(shapes: readonly (readonly number[])[]): number[] {
  let at = 0;
  return shapes.map((shape) => {
    const begin = at;
    at += numelOf(shape);
    return begin;
  });
}

/** x [n, ..] → parts [counts[i], ..], which share its memory;  dx is the gradients of the parts, joined. */
export function splitRows(x: Tensor, counts: readonly number[]): Tensor[] {
  const { shape, dtype, device } = x;
  const total = counts.reduce((sum, count) => sum + count, 0);
  check(
    total === shape[0],
    'splitRows',
    () => `expected parts of ${shape[0]} rows in all but received ${total} of ${shapeText(shape)}`,
  );
  const shapes = counts.map((count) => [count, ...shape.slice(1)]);
  const begins = offsets(shapes);
  const parts = shapes.map((part, i) => rawView(x, begins[i]!, part));
  record([x], parts, [], (grads) => {
    const dx = rawEmpty(shape, dtype, device);
    grads.forEach((g, i) => fillRows(dx, begins[i]!, shapes[i]!, g));
    return [dx];
  });
  return parts;
}

/** Parts [nᵢ, ..] of one dtype → y [Σ nᵢ, ..];  the gradient of a part is its rows of g. */
export function joinRows(parts: readonly Tensor[]): Tensor {
  const [first] = parts as readonly [Tensor];
  const shapes = parts.map((part) => part.shape);
  const begins = offsets(shapes);
  const rows = shapes.reduce((sum, shape) => sum + shape[0]!, 0);
  const y = rawEmpty([rows, ...first.shape.slice(1)], first.dtype, first.device);
  parts.forEach((part, i) => fillRows(y, begins[i]!, part.shape, part));
  record(parts, [y], [], ([g]) => shapes.map((shape, i) => rawView(g!, begins[i]!, shape)));
  return y;
}

/** x [Σ counts] in f32 → the sum of each of its parts [counts.length];  dx is g, repeated over its part. */
export function rowSums(x: Tensor, counts: readonly number[]): Tensor {
  const parts = splitRows(x, counts);
  const sums = parts.map((part) => sum(part, { dim: 0, keepDim: true }));
  const joined = joinRows(sums);
  for (const part of [...parts, ...sums]) part.dispose();
  return joined;
}
