/** Rotary position embedding, half-split: y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { checkOptions } from '../validate';

const op = 'rope';

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
  checkOptions(op, options, ['offset', 'positions']);
  const { offset = 0, positions } = options;
  const { cos, sin } = table;
  const handle = call().rope(
    handleOf(x, op, 'x'),
    handleOf(cos, op, 'cos'),
    handleOf(sin, op, 'sin'),
    positions ? handleOf(positions, op, 'positions') : null,
    offset,
    false,
  );
  const y = wrap(handle, x.dtype, x.shape, x.device);
  record([x], [y], [cos, sin, ...(positions ? [positions] : [])], ([g], [c, n, p]) => {
    const dx = call().rope(g!.handle, c!.handle, n!.handle, p?.handle ?? null, offset, true);
    return [wrap(dx, g!.dtype, g!.shape, g!.device)];
  });
  return y;
}
