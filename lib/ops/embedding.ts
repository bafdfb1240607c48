/** y[i] = W[ids[i]]: rows of a frozen matrix. */
import { call } from '../native/calls';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';

/** weight [vocab, dim], ids i32 [...] → [..., dim]; an id outside [0, vocab) fails with ERR_DATA. */
export function embedding(weight: FrozenWeight, ids: Tensor): Tensor {
  weight.check('embedding');
  const y = call().embedding(weight.handle, handleOf(ids, 'embedding', 'ids'));
  return wrap(y, weight.dtype, [...ids.shape, weight.cols], ids.device);
}
