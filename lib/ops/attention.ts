/** y = softmax(scale·q·kᵀ)·v: causal or in both directions, grouped-query, optionally with a sliding window and with sinks; online softmax. */
import { needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { rawBinary, rawReduceSum, rawUnary, rawView } from '../tensor/raw';
import { computed } from '../tensor/scope';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { checkOptions } from '../validate';
import { transpose } from './layout';

const op = 'attention';

export interface AttentionOptions {
  scale: number;
  /** Query i sees keys j > i − window, and with keyEnd only those j < i + window; default: all. */
  window?: number;
  /** The first key that each query may see, i32 [b, s]: keeps packed or padded sequences apart. */
  keyBegin?: Tensor | undefined;
  /** Behind the last key that each query may see, i32 [b, s]: attention in both directions. Without it, query i sees keys j ≤ i. */
  keyEnd?: Tensor | undefined;
  /**
   * A score of each head of q that takes part in the softmax of each query and has no value, f32 [heads] (Xiao et al., "Efficient Streaming
   * Language Models with Attention Sinks", 2023; learned ones are gpt-oss's).
   */
  sinks?: Tensor | undefined;
}

/** q [b, s, heads, d], k and v [b, s, kvHeads, d] → [b, s, heads, d]. */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  checkOptions(op, options, ['scale', 'window', 'keyBegin', 'keyEnd', 'sinks']);
  const { scale, window = 0, keyBegin, keyEnd, sinks } = options;
  const inputs = [q, k, v, ...(sinks ? [sinks] : [])];
  const [handle, lseHandle] = call().attentionForward(
    handleOf(q, op, 'q'),
    handleOf(k, op, 'k'),
    handleOf(v, op, 'v'),
    keyBegin ? handleOf(keyBegin, op, 'keyBegin') : null,
    sinks ? handleOf(sinks, op, 'sinks') : null,
    { window, scale },
    needsGrad(inputs),
    keyEnd ? handleOf(keyEnd, op, 'keyEnd') : null,
  );
  const y = wrap(handle, q.dtype, q.shape, q.device);
  if (lseHandle === null) return y;
  const [b, s, heads] = q.shape as [number, number, number];
  const lse = wrap(lseHandle, 'f32', [b, heads, s], q.device);
  const trained = sinks?.requiresGrad ? sinks : undefined;
  const others = [keyBegin, keyEnd, trained].filter((tensor) => tensor !== undefined);
  record(inputs, [y], [q, k, v, y, lse, ...others], ([g], [kq, kk, kv, ky, kl, ...kept]) => {
    const begin = keyBegin && kept.shift();
    const end = keyEnd && kept.shift();
    const [dq, dk, dv] = call().attentionBackward(
      kq!.handle,
      kk!.handle,
      kv!.handle,
      begin?.handle ?? null,
      ky!.handle,
      kl!.handle,
      g!.handle,
      { window, scale },
      end?.handle ?? null,
    );
    return [
      wrap(dq, kq!.dtype, kq!.shape, kq!.device),
      wrap(dk, kk!.dtype, kk!.shape, kk!.device),
      wrap(dv, kv!.dtype, kv!.shape, kv!.device),
      ...(sinks ? [trained ? sinkGradient(kept[0]!, ky!, g!, kl!) : null] : []),
    ];
  });
  lse.dispose();
  return y;
}

/** dsink = −Σ exp(sink − lse)·(g·y) over the queries of a head: what the softmax gives to its other scores, it takes from the sink. */
function sinkGradient(sinks: Tensor, y: Tensor, g: Tensor, lse: Tensor): Tensor {
  const [b, s, heads, d] = y.shape as [number, number, number, number];
  return computed(() => {
    const products = rawBinary('mul', g, y, 'f32', [b, s, heads, d]);
    const dots = transpose(
      rawView(rawReduceSum(products, [b, s, heads, 1], 'f32'), 0, [b, s, heads]),
      [0, 2, 1],
    );
    const from = rawBinary('sub', rawView(sinks, 0, [1, heads, 1]), lse, 'f32', [b, heads, s]);
    const shares = rawUnary('exp', 1, from);
    const taken = rawReduceSum(rawBinary('mul', shares, dots, 'f32', [b, heads, s]), [1, heads, 1], 'f32');
    return rawUnary('scale', -1, rawView(taken, 0, [heads]));
  });
}
