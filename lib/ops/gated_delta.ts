/**
 * The gated delta rule (Yang et al., "Gated Delta Networks", 2024): a linear attention whose state is a matrix S [dk, dv] of each head. With
 * q' = q/√(Σ q² + eps) and k' = k/√(Σ k² + eps), for each token:
 *
 *   S' = e^g·S,  u = β·(v − S'ᵀ·k'),  S = S' + k'·uᵀ,  y = scale·Sᵀ·q'
 */
import { needsGrad, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { checkOptions } from '../validate';

/** What each token brings. */
export interface DeltaOperands {
  /** q and k [b, s, kHeads, dk]. */
  readonly q: Tensor;
  readonly k: Tensor;
  /** [b, s, vHeads, dv]; head h has head h / (vHeads / kHeads) of q and k. */
  readonly v: Tensor;
  /** The logarithm of what is left of S, [b, s, vHeads] in f32. */
  readonly g: Tensor;
  /** How much of v is written, [b, s, vHeads] in f32. */
  readonly beta: Tensor;
}

export interface GatedDeltaOptions {
  scale: number;
  /** Added to the squares of q, and of k. */
  eps: number;
  /** The first position of the text of each token, i32 [b, s]: S is zeros before it. */
  keyBegin?: Tensor | undefined;
}

const handlesOf = (op: string, { q, k, v, g, beta }: DeltaOperands) =>
  [
    handleOf(q, op, 'q'),
    handleOf(k, op, 'k'),
    handleOf(v, op, 'v'),
    handleOf(g, op, 'g'),
    handleOf(beta, op, 'beta'),
  ] as const;

/** → [b, s, vHeads, dv]. The backward pass computes the states once more. */
export function gatedDelta(operands: DeltaOperands, options: GatedDeltaOptions): Tensor {
  const op = 'gated_delta';
  checkOptions(op, options, ['scale', 'eps', 'keyBegin']);
  const { scale, eps, keyBegin } = options;
  const { q, k, v, g, beta } = operands;
  const handle = call().gatedDeltaForward(
    ...handlesOf(op, operands),
    keyBegin ? handleOf(keyBegin, op, 'keyBegin') : null,
    { scale, eps },
  );
  const y = wrap(handle, v.dtype, v.shape, v.device);
  const inputs = [q, k, v, g, beta];
  if (!needsGrad(inputs)) return y;
  record(inputs, [y], keyBegin ? [...inputs, keyBegin] : inputs, ([dy], [kq, kk, kv, kg, kbeta, kb]) => {
    const kept = [kq!, kk!, kv!, kg!, kbeta!];
    const gradients = call().gatedDeltaBackward(
      kq!.handle,
      kk!.handle,
      kv!.handle,
      kg!.handle,
      kbeta!.handle,
      kb?.handle ?? null,
      dy!.handle,
      { scale, eps },
    );
    return gradients.map((one, i) => wrap(one, kept[i]!.dtype, kept[i]!.shape, kept[i]!.device));
  });
  return y;
}

/** The shape of the state of a sequence. */
export const deltaStateShape = (
  vHeads: number,
  dk: number,
  dv: number,
): [vHeads: number, dk: number, dv: number] => [vHeads, dk, dv];

export interface GatedDeltaAppendOptions extends Omit<GatedDeltaOptions, 'keyBegin'> {
  /** `decode`: one token of each sequence. `prefill`: a part of a text; on the CPU a text has the same bits wherever it is cut at multiples of 64 positions. */
  phase: 'prefill' | 'decode';
}

/**
 * The same for the tokens behind others: token i of sequence b is at position lengths[b] − s + i, and pool[slots[b]] of pool [slots, vHeads, dk, dv] in f32 is S
 * before the call; anything where that begins at position 0. It then holds S behind the last token. slots and lengths are i32 [b], read when the op runs; no two
 * sequences may have one slot. No gradient.
 */
export function gatedDeltaAppend(
  operands: DeltaOperands,
  pool: Tensor,
  slots: Tensor,
  lengths: Tensor,
  options: GatedDeltaAppendOptions,
): Tensor {
  const op = 'gated_delta_append';
  checkOptions(op, options, ['scale', 'eps', 'phase']);
  const { scale, eps, phase } = options;
  const handle = call().gatedDeltaAppend(
    ...handlesOf(op, operands),
    handleOf(pool, op, 'pool'),
    handleOf(slots, op, 'slots'),
    handleOf(lengths, op, 'lengths'),
    { scale, eps, phase },
  );
  const { v } = operands;
  return wrap(handle, v.dtype, v.shape, v.device);
}
