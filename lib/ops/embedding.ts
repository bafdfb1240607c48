/** y[i] = W[ids[i]]: rows of a matrix, with the gradient of one that is trained. */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import type { DType } from '../native/dtype';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { rawCast, rawFilled } from '../tensor/raw';
import { moved } from '../tensor/scope';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';

/**
 * weight [vocab, dim], ids i32 [...] → [..., dim] in `dtype`; an id outside [0, vocab) fails with ERR_DATA. dW[v] is the sum of the gradients
 * of the rows of v, in their order, in f32.
 */
export function embedding(weight: FrozenWeight, ids: Tensor, dtype: DType = weight.dtype): Tensor {
  weight.check('embedding');
  const { rows, cols, master, device } = weight;
  const handle = call().embedding(weight.handle, handleOf(ids, 'embedding', 'ids'));
  const narrow = wrap(handle, weight.dtype, [...ids.shape, cols], ids.device);
  const y = dtype === weight.dtype ? narrow : moved(narrow, (t) => rawCast(t, dtype));
  if (!master) return y;
  record([master], [y], [ids], ([g], [keptIds]) => {
    const { grad } = master;
    const there = grad !== null && !grad.disposed; // that of a tied head, say: no second matrix is filled and added
    const dw = there ? grad : rawFilled([rows, cols], 0, 'f32', device);
    const wide = dtype === 'f32' ? g! : rawCast(g!, 'f32');
    call().embeddingBackward(wide.handle, keptIds!.handle, dw.handle);
    return [there ? null : dw];
  });
  return y;
}
