/**
 * A causal convolution of each channel along the sequence, with k taps of which the last is that of the token itself, and what stands around it:
 * `gated` (LFM2) y = C·conv(B·v) of x = [B | C | v], `silu` (Qwen3.5) y = silu(conv(x)).
 */
import { record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { checkOptions } from '../validate';

export type ShortConvKind = 'gated' | 'silu';

export interface ShortConvOptions {
  kind: ShortConvKind;
  /** Added by the convolution, [c]. */
  bias?: Tensor | undefined;
  /** The first position of the text of each token, i32 [b, s]: what lies before it does not exist. */
  keyBegin?: Tensor | undefined;
}

/** The shape of y. */
const outputShape = (x: Tensor, weight: Tensor): number[] => [...x.shape.slice(0, 2), weight.shape[0]!];

/** x [b, s, 3c] for `gated`, else [b, s, c], and weight [c, k] → [b, s, c]. The gradients of weight and bias are f32. */
export function shortConv(x: Tensor, weight: Tensor, options: ShortConvOptions): Tensor {
  const op = 'short_conv';
  checkOptions(op, options, ['kind', 'bias', 'keyBegin']);
  const { kind, bias, keyBegin } = options;
  const handle = call().shortConvForward(
    kind,
    handleOf(x, op, 'x'),
    handleOf(weight, op, 'weight'),
    bias ? handleOf(bias, op, 'bias') : null,
    keyBegin ? handleOf(keyBegin, op, 'keyBegin') : null,
  );
  const y = wrap(handle, x.dtype, outputShape(x, weight), x.device);
  const inputs = [x, weight, ...(bias ? [bias] : [])];
  const [wantX, wantWeight, wantBias = false] = inputs.map(({ requiresGrad }) => requiresGrad);
  record(inputs, [y], [...inputs, ...(keyBegin ? [keyBegin] : [])], ([g], kept) => {
    const [kx, kw] = kept;
    const begin = keyBegin ? kept.at(-1)! : null;
    const [dx, dweight, dbias] = call().shortConvBackward(
      kind,
      kx!.handle,
      kw!.handle,
      bias ? kept[2]!.handle : null,
      begin && begin.handle,
      g!.handle,
      wantX!,
      wantWeight!,
      wantBias,
    );
    const { device } = kx!;
    return [
      dx && wrap(dx, kx!.dtype, kx!.shape, device),
      dweight && wrap(dweight, 'f32', kw!.shape, device),
      ...(bias ? [dbias && wrap(dbias, 'f32', kept[2]!.shape, device)] : []),
    ];
  });
  return y;
}

/** The shape of a pool of states: the last k − 1 inputs of the convolution of each sequence. */
export const convStateShape = (taps: number, channels: number): [positions: number, channels: number] => [
  taps - 1,
  channels,
];

/**
 * The same for the tokens behind others: row i of sequence b is at position lengths[b] − s + i, and pool[slots[b]] of pool [slots, k − 1, c] in f32 is
 * what the taps find before the call; anything where that begins at position 0. It then holds the state behind the last token. slots and lengths are i32 [b],
 * read when the op runs; no two sequences may have one slot. A text has the same bits wherever it is cut into calls, and those of `shortConv`. No gradient.
 */
export function shortConvAppend(
  x: Tensor,
  weight: Tensor,
  pool: Tensor,
  slots: Tensor,
  lengths: Tensor,
  options: Omit<ShortConvOptions, 'keyBegin'>,
): Tensor {
  const op = 'short_conv_append';
  checkOptions(op, options, ['kind', 'bias']);
  const { kind, bias } = options;
  const handle = call().shortConvAppend(
    kind,
    handleOf(x, op, 'x'),
    handleOf(weight, op, 'weight'),
    bias ? handleOf(bias, op, 'bias') : null,
    handleOf(pool, op, 'pool'),
    handleOf(slots, op, 'slots'),
    handleOf(lengths, op, 'lengths'),
  );
  return wrap(handle, x.dtype, outputShape(x, weight), x.device);
}
