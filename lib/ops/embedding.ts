/** y[i] = W[ids[i]]: rows of a frozen matrix. */
import { call } from '../native/calls';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { type Tensor, wrap } from '../tensor/tensor';
import { checkIds, checkSameDevice } from '../tensor/arguments';

/** weight [vocab, dim], ids i32 [...] → [..., dim]; an id outside [0, vocab) fails with ERR_DATA. */
export function embedding(weight: FrozenWeight, ids: Tensor): Tensor {
  checkIds('embedding', ids, 'ids');
  weight.check('embedding');
  checkSameDevice('embedding', 'ids', ids.device, weight.device);
  const y = call().embedding(weight.handle, ids.handle);
  return wrap(y, weight.dtype, [...ids.shape, weight.cols], ids.device);
}
