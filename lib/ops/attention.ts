/** y = softmax(scale·q·kᵀ)·v: causal, grouped-query, optionally with a sliding window; online softmax. */
import { needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { checkOptions } from '../validate';

const op = 'attention';

export interface AttentionOptions {
  scale: number;
  /** How many keys a query sees, itself included; default: all before it. */
  window?: number;
  /** The first key that each query may see, i32 [b, s]: keeps packed or padded sequences apart. */
  keyBegin?: Tensor;
}

/** q [b, s, heads, d], k and v [b, s, kvHeads, d] → [b, s, heads, d]. Key j is seen by queries i ≥ j. */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  checkOptions(op, options, ['scale', 'window', 'keyBegin']);
  const { scale, window = 0, keyBegin } = options;
  const [handle, lseHandle] = call().attentionForward(
    handleOf(q, op, 'q'),
    handleOf(k, op, 'k'),
    handleOf(v, op, 'v'),
    keyBegin ? handleOf(keyBegin, op, 'keyBegin') : null,
    { window, scale },
    needsGrad([q, k, v]),
  );
  const y = wrap(handle, q.dtype, q.shape, q.device);
  if (lseHandle === null) return y;
  const [b, s, heads] = q.shape as [number, number, number];
  const lse = wrap(lseHandle, 'f32', [b, heads, s], q.device);
  const saved = [q, k, v, y, lse, ...(keyBegin ? [keyBegin] : [])];
  record([q, k, v], [y], saved, ([g], [kq, kk, kv, ky, kl, kb]) => {
    const [dq, dk, dv] = call().attentionBackward(
      kq!.handle,
      kk!.handle,
      kv!.handle,
      kb?.handle ?? null,
      ky!.handle,
      kl!.handle,
      g!.handle,
      { window, scale },
    );
    return [
      wrap(dq, kq!.dtype, kq!.shape, kq!.device),
      wrap(dk, kk!.dtype, kk!.shape, kk!.device),
      wrap(dv, kv!.dtype, kv!.shape, kv!.device),
    ];
  });
  lse.dispose();
  return y;
}
