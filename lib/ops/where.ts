/** Selection by a condition, elementwise with NumPy broadcasting. */
import { record } from '../tensor/autograd';
import { broadcastShapes, checkFloat, checkSameDevice, promote } from '../tensor/arguments';
import { rawBinary, rawScalar, reduceTo, sameShape } from '../tensor/raw';
import { moved } from '../tensor/scope';
import { handleOf, Tensor } from '../tensor/tensor';
import { check, describe } from '../validate';
import { asFloats } from './compare';

const op = 'where';

/**
 * x where the condition is not 0, else y. All three broadcast; a number takes the dtype of the other operand, two numbers give f32. What
 * is not selected has no influence and the gradient 0, also where it is NaN or infinite.
 *
 * @throws ERR_ARGUMENT for shapes that do not broadcast, and for tensors on two devices.
 * @example
 * const positive = where(x.greater(0), x, 0);
 * const masked = where(y, x, -Infinity);
 */
export function where(condition: Tensor, x: Tensor | number, y: Tensor | number): Tensor {
  handleOf(condition, op, 'the condition');
  const { device } = condition;
  for (const [name, value] of [
    ['x', x],
    ['y', y],
  ] as const) {
    if (typeof value === 'number') continue;
    check(
      value instanceof Tensor,
      op,
      () => `expected ${name} to be a tensor or a number but received ${describe(value)}`,
    );
    checkFloat(op, value, name);
    checkSameDevice(op, name, value.device, device);
  }
  const [a, b] = [x, y].map((value) => (typeof value === 'number' ? rawScalar(value, device) : value)) as [
    Tensor,
    Tensor,
  ];
  const dtype = typeof x === 'number' ? b.dtype : typeof y === 'number' ? a.dtype : promote(a.dtype, b.dtype);
  const ofA = broadcastShapes(op, a.shape, condition.shape);
  const ofB = broadcastShapes(op, b.shape, condition.shape);
  const shape = broadcastShapes(op, ofA, ofB);
  const mask = asFloats(condition);
  const out = moved(rawBinary('where', a, mask, dtype, ofA), (first) =>
    moved(rawBinary('where_not', b, mask, dtype, ofB), (second) =>
      rawBinary('add', first, second, dtype, shape),
    ),
  );
  const wants = [a.requiresGrad, b.requiresGrad];
  const likes = [a, b].map((t) => ({ shape: t.shape, dtype: t.dtype }));
  record([a, b], [out], [mask], ([g], [kept]) =>
    (['where', 'where_not'] as const).map((kind, i) => {
      if (!wants[i]) return null;
      const like = likes[i]!;
      const first = sameShape(like.shape, shape) ? like.dtype : 'f32';
      return reduceTo(rawBinary(kind, g!, kept!, first, shape), like.shape, like.dtype);
    }),
  );
  mask.dispose();
  if (a !== x) a.dispose();
  if (b !== y) b.dispose();
  return out;
}
