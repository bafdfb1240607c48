/** y = softmax(scale·q·kᵀ)·v: causal, grouped-query, optionally with a sliding window; online softmax. */
import { needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { type Tensor, wrap } from '../tensor/tensor';
import { check, checkInteger, checkOptions, shapeText } from '../validate';
import { checkDims, checkFloat, checkIds, checkSameDevice } from '../tensor/arguments';

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
  checkHeads(q, k, v);
  const [b, s] = q.shape as [number, number];
  check(
    k.shape[1] === s,
    op,
    () => `expected k of shape [${b}, ${s}, kvHeads, d] (that of q) but received ${shapeText(k.shape)}`,
  );
  checkInteger(op, 'window', window);
  if (keyBegin) {
    checkIds(op, keyBegin, 'keyBegin');
    checkDims(op, 'keyBegin', keyBegin, [b, s], 'batch, seq');
  }
  const begin = keyBegin?.handle ?? null;
  const [handle, lseHandle] = call().attentionForward(
    q.handle,
    k.handle,
    v.handle,
    begin,
    { window, scale },
    needsGrad([q, k, v]),
  );
  const y = wrap(handle, q.dtype, q.shape, q.device);
  if (lseHandle === null) return y;
  const lse = wrap(lseHandle, 'f32', [b, q.shape[2]!, s], q.device);
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

function checkHeads(q: Tensor, k: Tensor, v: Tensor): void {
  checkFloat(op, q, 'q');
  for (const [name, t] of [
    ['k', k],
    ['v', v],
  ] as const) {
    checkFloat(op, t, name);
    checkSameDevice(op, name, t.device, q.device);
    check(t.dtype === q.dtype, op, `expected ${name} of dtype ${q.dtype} but received ${t.dtype}`);
  }
  const fits =
    q.shape.length === 4 &&
    k.shape.length === 4 &&
    k.shape[0] === q.shape[0] &&
    k.shape[3] === q.shape[3] &&
    q.shape[2]! % k.shape[2]! === 0;
  check(
    fits,
    op,
    () =>
      'expected q [batch, seq, heads, d] and k [batch, positions, kvHeads, d] with heads a multiple of kvHeads ' +
      `but received ${shapeText(q.shape)} and ${shapeText(k.shape)}`,
  );
  checkDims(op, 'v', v, k.shape, 'that of k');
}
