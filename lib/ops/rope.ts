/**
 * Rotary position embedding, half-split: y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin, where x1 and x2 are the first and the second w numbers
 * of a head of d. The d − 2w numbers behind them stay.
 */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { checkOptions } from '../validate';

const op = 'rope';

/** cos and sin [positions, w] in f32, w ≤ d/2. */
export interface RopeAngles {
  cos: Tensor;
  sin: Tensor;
}

export interface RopeOptions {
  /** The position of the first element of a sequence. */
  offset?: number;
  /** The position of each element, i32 [b, s], in place of `offset`. */
  positions?: Tensor;
}

/** Tensors [b, s, .., d], two at most, each rotated;  their gradients are rotated back. */
function rotatedAll(
  xs: readonly [q: Tensor, k?: Tensor],
  { cos, sin }: RopeAngles,
  options: RopeOptions,
): Tensor[] {
  checkOptions(op, options, ['offset', 'positions']);
  const { offset = 0, positions } = options;
  const [q, k] = xs;
  const handles = call().rope(
    handleOf(q, op, 'q'),
    k ? handleOf(k, op, 'k') : null,
    handleOf(cos, op, 'cos'),
    handleOf(sin, op, 'sin'),
    positions ? handleOf(positions, op, 'positions') : null,
    offset,
    false,
  );
  const inputs = k ? [q, k] : [q];
  const rotated = inputs.map((x, i) => wrap(handles[i]!, x.dtype, x.shape, x.device));
  const wanted = inputs.map(({ requiresGrad }) => requiresGrad);
  record(inputs, rotated, [cos, sin, ...(positions ? [positions] : [])], (grads, [c, n, p]) => {
    const gs = grads.map((g, i) => (wanted[i] ? g : null));
    const [first, second = null] = gs.filter((g) => g !== null);
    if (!first) return gs;
    const back = call().rope(
      first.handle,
      second?.handle ?? null,
      c!.handle,
      n!.handle,
      p?.handle ?? null,
      offset,
      true,
    );
    const next = back.values();
    return gs.map((g) => g && wrap(next.next().value!, g.dtype, g.shape, g.device));
  });
  return rotated;
}

/** q [b, s, heads, d] and k [b, s, kvHeads, d], each rotated. */
export function rope(
  q: Tensor,
  k: Tensor,
  table: RopeAngles,
  options: RopeOptions = {},
): [q: Tensor, k: Tensor] {
  return rotatedAll([q, k], table, options) as [Tensor, Tensor];
}

/** q alone, whose keys were rotated before. */
export const rotatedQueries = (q: Tensor, table: RopeAngles, options: RopeOptions = {}): Tensor =>
  rotatedAll([q], table, options)[0]!;
