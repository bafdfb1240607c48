/** Comparisons, and the larger and the smaller of two, elementwise with NumPy broadcasting. */
import { record } from '../tensor/autograd';
import { checkSameDevice, broadcastShapes } from '../tensor/arguments';
import { rawBinary, rawCast, rawScalar, rawUnary, reduceTo, sameShape } from '../tensor/raw';
import { moved } from '../tensor/scope';
import { alias, handleOf, Tensor } from '../tensor/tensor';
import { check, describe } from '../validate';
import { broadcast, leftOperand } from './binary';

/** The larger one, or the smaller one; NaN where one of them is. da = g·s and db = g·(1 − s), where s is 1 where a is taken, and ½ where both are equal. */
export function extreme(kind: 'maximum' | 'minimum', a: Tensor, other: Tensor | number): Tensor {
  leftOperand(kind, a);
  const number = typeof other === 'number';
  const b = number ? rawScalar(other, a.device) : other;
  const { shape, dtype } = number ? a : broadcast(kind, a, b);
  const y = rawBinary(kind, a, b, dtype, shape);
  const wants = [a.requiresGrad, b.requiresGrad];
  record([a, b], [y], [a, b], ([g], [keptA, keptB]) => {
    const half = rawUnary('scale', 0.5, rawBinary('equal', keptA!, keptB!, 'f32', shape));
    const part = (mine: Tensor, theirs: Tensor): Tensor => {
      const [small, large] = kind === 'maximum' ? [theirs, mine] : [mine, theirs];
      const share = rawBinary('add', rawBinary('less', small, large, 'f32', shape), half, 'f32', shape);
      const first = sameShape(mine.shape, shape) ? mine.dtype : 'f32';
      return reduceTo(rawBinary('mul', g!, share, first, shape), mine.shape, mine.dtype);
    };
    return [wants[0] ? part(keptA!, keptB!) : null, wants[1] ? part(keptB!, keptA!) : null];
  });
  if (number) b.dispose();
  return y;
}

/** 1 where the relation holds, else 0, in f32. Integers are compared as f32. No gradient. */
export function compare(op: 'less' | 'greater' | 'equal', a: Tensor, other: Tensor | number): Tensor {
  handleOf(a, op, 'the left operand');
  check(
    typeof other === 'number' || other instanceof Tensor,
    op,
    () => `expected a tensor or a number but received ${describe(other)}`,
  );
  if (typeof other === 'number')
    return moved(rawScalar(other, a.device), (scalar) => relation(op, a, scalar, a.shape));
  handleOf(other, op, 'the right operand');
  checkSameDevice(op, 'the right operand', other.device, a.device);
  return relation(op, a, other, broadcastShapes(op, a.shape, other.shape));
}

function relation(op: 'less' | 'greater' | 'equal', a: Tensor, b: Tensor, shape: readonly number[]): Tensor {
  return moved(asFloats(a), (x) =>
    moved(asFloats(b), (y) =>
      op === 'greater' ? rawBinary('less', y, x, 'f32', shape) : rawBinary(op, x, y, 'f32', shape),
    ),
  );
}

/** The same tensor without its graph, integers as f32; the caller owns it. */
export function asFloats(x: Tensor): Tensor {
  return x.dtype === 'i32' ? rawCast(x, 'f32') : alias(x);
}
