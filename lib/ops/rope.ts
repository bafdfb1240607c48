/** Rotary position embedding, half-split: y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { type Tensor, wrap } from '../tensor/tensor';
import { check, checkInteger, checkOptions, shapeText } from '../validate';
import { checkDims, checkFloat, checkIds, checkSameDevice } from '../tensor/arguments';

/** cos and sin [positions, d/2] in f32. */
export interface RopeTable {
  cos: Tensor;
  sin: Tensor;
}

export interface RopeOptions {
  /** The position of the first element of a sequence. */
  offset?: number;
  /** The position of each element, i32 [b, s], in place of `offset`. */
  positions?: Tensor;
}

/** x [b, s, heads, d];  dx is g rotated back. */
export function rope(x: Tensor, table: RopeTable, options: RopeOptions = {}): Tensor {
  checkFloat('rope', x, 'x');
  checkOptions('rope', options, ['offset', 'positions']);
  const { offset = 0, positions } = options;
  checkInteger('rope', 'offset', offset);
  check(
    x.shape.length === 4 && x.shape[3]! % 2 === 0,
    'rope',
    () => `expected x of shape [batch, seq, heads, d] with an even d but received ${shapeText(x.shape)}`,
  );
  const [b, s, , d] = x.shape as [number, number, number, number];
  for (const name of ['cos', 'sin'] as const) {
    checkFloat('rope', table[name], name);
    checkDims('rope', name, table[name], ['positions', d / 2]);
    checkSameDevice('rope', name, table[name].device, x.device);
  }
  if (positions) {
    checkIds('rope', positions, 'positions');
    checkDims('rope', 'positions', positions, [b, s], 'batch, seq');
  }
  const { cos, sin } = table;
  const at = positions?.handle ?? null;
  const y = wrap(
    call().rope(x.handle, cos.handle, sin.handle, at, offset, false),
    x.dtype,
    x.shape,
    x.device,
  );
  record([x], [y], [cos, sin, ...(positions ? [positions] : [])], ([g], [c, n, p]) => {
    const dx = call().rope(g!.handle, c!.handle, n!.handle, p?.handle ?? null, offset, true);
    return [wrap(dx, g!.dtype, g!.shape, g!.device)];
  });
  return y;
}
