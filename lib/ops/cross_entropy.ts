/** loss = Σ −log softmax(logits)[label] over the labels that are not −100, count = how many there are. */
import { needsGrad, record } from '../tensor/autograd';
import { call, entry } from '../native/calls';
import { loraLinear } from './lora_linear';
import { tensor } from '../tensor/create';
import type { NativeTensor } from '../native/binding';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { alias, type CrossEntropyOptions, handleOf, type Labels, Tensor, wrap } from '../tensor/tensor';
import { checkOneOf, checkOptions } from '../validate';
import { checkDims, checkFloat } from '../tensor/arguments';
import { gradientMade } from '../tensor/gradient_memory';
import { rawBinary, rawFilled, rawMatmul, rawUnary, rawUnaryBackward, rawView } from '../tensor/raw';
import { moved, temporaries, track } from '../tensor/scope';

export interface LossAndCount {
  /** The summed loss, a scalar in f32, with a gradient. */
  loss: Tensor;
  /** How many labels counted, a scalar in f32. */
  count: Tensor;
}

/** What is said of each row, in the shape of the labels. */
export interface RowLosses {
  /** −log p of the label in f32, with a gradient of its own; 0 where the label is −100. */
  losses: Tensor;
  /** −Σ p·log p in f32, without a gradient; 0 where the label is −100. Present when asked for. */
  entropies: Tensor | null;
}

interface Wanted {
  readonly losses: boolean;
  readonly entropies: boolean;
}
const sumAlone: Wanted = { losses: false, entropies: false };

/** What an op says of rows [n], in the shape of their labels. */
function rowValues(handle: NativeTensor | null, { shape, numel, device }: Tensor): Tensor | null {
  if (handle === null) return null;
  const flat = wrap(handle, 'f32', [numel], device);
  return shape.length === 1 ? flat : moved(flat, (t) => rawView(t, 0, shape));
}

/** All that cross_entropy gives. Of loss and losses, the one that is asked for has a gradient. */
function crossEntropyCall(
  logits: Tensor,
  labels: Tensor,
  wanted: Wanted,
): LossAndCount & { losses: Tensor | null; entropies: Tensor | null } {
  const op = 'cross_entropy';
  const handles = [handleOf(logits, op, 'logits'), handleOf(labels, op, 'labels')] as const;
  // The op sees rows: labels [2, 3] would fit logits [3, 2, vocab].
  checkDims(op, 'labels', labels, logits.shape.slice(0, -1), 'that of the rows of logits');
  const [lossHandle, countHandle, lseHandle, lossesHandle, entropiesHandle] = call().crossEntropyForward(
    ...handles,
    needsGrad([logits]),
    wanted.losses,
    wanted.entropies,
  );
  const { device } = logits;
  const loss = wrap(lossHandle, 'f32', [], device);
  const count = wrap(countHandle, 'f32', [], device);
  const lse = lseHandle && wrap(lseHandle, 'f32', labels.shape, device);
  const losses = rowValues(lossesHandle, labels);
  if (lse) {
    record([logits], [losses ?? loss], [logits, labels, lse], ([g], [x, ids, kept]) => {
      const d = call().crossEntropyBackward(x!.handle, ids!.handle, kept!.handle, g!.handle);
      return [wrap(d, x!.dtype, x!.shape, x!.device)];
    });
    lse.dispose();
  }
  return { loss, count, losses, entropies: rowValues(entropiesHandle, labels) };
}

/**
 * logits [..., vocab], labels i32 [...];  dlogits = (softmax(logits) − onehot)·g. A label outside
 * [0, vocab) other than −100 fails with ERR_DATA, and so does a call in which none counts.
 */
export function crossEntropy(logits: Tensor, labels: Tensor): LossAndCount {
  const { loss, count } = crossEntropyCall(logits, labels, sumAlone);
  return { loss, count };
}

/** The losses of rows, of which none need count. */
export function rowCrossEntropy(
  logits: Tensor,
  labels: Tensor,
  { entropies: wanted = false } = {},
): RowLosses {
  const { loss, count, losses, entropies } = crossEntropyCall(logits, labels, {
    losses: true,
    entropies: wanted,
  });
  loss.dispose();
  count.dispose();
  return { losses: losses!, entropies };
}

/** Tensor.crossEntropy: the mean, the sum, or each. */
export function crossEntropyOf(logits: Tensor, labels: Labels, options: CrossEntropyOptions = {}): Tensor {
  checkOptions('crossEntropy', options, ['reduction']);
  const { reduction = 'mean' } = options;
  checkOneOf('crossEntropy', 'reduction', reduction, ['mean', 'sum', 'none']);
  checkFloat('crossEntropy', logits, 'the tensor');
  return entry(() => {
    const ids = labels instanceof Tensor ? labels : tensor(labels, { dtype: 'i32', device: logits.device });
    if (reduction === 'none') {
      const { losses } = rowCrossEntropy(logits, ids);
      if (ids !== labels) ids.dispose();
      return losses;
    }
    const { loss, count } = crossEntropy(logits, ids);
    if (ids !== labels) ids.dispose();
    if (reduction === 'sum') {
      count.dispose();
      return loss;
    }
    const mean = loss.div(count);
    loss.dispose();
    count.dispose();
    return mean;
  });
}

/** What makes logits of a product: scale·x, or scale·cap·tanh(x / cap) with a cap, which is 0 where there is none. */
interface Scaled {
  readonly scale: number;
  readonly cap: number;
}

/** Logits whose gradient is held at once, where the matrix is trained. */
export const maxLogits = 2 ** 24;

/**
 * Adds scale·(g·dlogits)ᵀ·hidden to `dw` [vocab, dim], or begins it: dlogits = softmax(scale·hidden·Wᵀ) − onehot, times the slope of a cap,
 * computed once more for some rows at a time. g [] or [n].
 */
function matrixGradient(
  weight: FrozenWeight,
  [hidden, labels, g]: readonly [Tensor, Tensor, Tensor],
  { scale, cap }: Scaled,
  dw: Tensor | null,
): Tensor {
  const { rows: vocab, cols, device } = weight;
  const [n] = hidden.shape as [number];
  const most = Math.max(1, Math.floor(maxLogits / vocab));
  let sum = dw;
  for (let from = 0; from < n; from += most) {
    const count = Math.min(most, n - from);
    const part = temporaries(() => {
      const rows = rawView(hidden, from * cols, [count, cols]);
      const scaled = (x: Tensor): Tensor => (scale === 1 ? x : rawUnary('scale', scale, x));
      const uncapped = scaled(loraLinear(rows, { weight }));
      const logits = cap === 0 ? uncapped : rawUnary('softcap', cap * scale, uncapped);
      // The log-sums do not depend on labels, and there may be none that counts in these rows.
      const any = rawFilled([count], 0, 'i32', device);
      const [loss, counted, lse] = call().crossEntropyForward(logits.handle, any.handle, true, false, false);
      wrap(loss, 'f32', [], device);
      wrap(counted, 'f32', [], device);
      const kept = wrap(lse!, 'f32', [count], device);
      const own = rawView(labels, from, [count]);
      const ofRows = scaled(g.shape.length === 0 ? g : rawView(g, from, [count]));
      const handle = call().crossEntropyBackward(logits.handle, own.handle, kept.handle, ofRows.handle);
      const capped = wrap(handle, logits.dtype, logits.shape, device);
      const dlogits = cap === 0 ? capped : rawUnaryBackward('softcap', cap * scale, uncapped, capped);
      return alias(rawMatmul(dlogits, rows, true, false, 'f32', [vocab, cols]));
    });
    if (sum === null) {
      sum = part;
      track(sum);
    } else {
      call().accumulate(part.handle, sum.handle);
      part.dispose();
    }
  }
  return gradientMade(sum ?? rawFilled([vocab, cols], 0, 'f32', device));
}

/** All that linear_cross_entropy gives. Of loss and losses, the one that is asked for has a gradient. */
function linearCrossEntropyCall(
  hidden: Tensor,
  weight: FrozenWeight,
  labels: Tensor,
  { losses: wantLosses, entropies: wantEntropies, scale, cap }: Wanted & Scaled,
): LossAndCount & { losses: Tensor | null; entropies: Tensor | null } {
  const op = 'linear_cross_entropy';
  weight.check(op);
  const [lossHandle, countHandle, dHandle, lossesHandle, entropiesHandle] = call().linearCrossEntropy(
    handleOf(hidden, op, 'hidden'),
    weight.handle,
    handleOf(labels, op, 'labels'),
    scale,
    cap,
    needsGrad([hidden]),
    wantLosses,
    wantEntropies,
  );
  const { shape, dtype, device } = hidden;
  const loss = wrap(lossHandle, 'f32', [], device);
  const count = wrap(countHandle, 'f32', [], device);
  const losses = rowValues(lossesHandle, labels);
  const d = dHandle === null ? null : wrap(dHandle, 'f32', shape, device);
  const { master } = weight;
  const own = master && needsGrad([master]) ? { master, saved: [hidden, labels] } : undefined;
  record(
    own ? [hidden, own.master] : [hidden],
    [losses ?? loss],
    [...(own ? own.saved : []), ...(d ? [d] : [])],
    ([g], saved) => {
      const each = losses ? rawView(g!, 0, [...g!.shape, 1]) : g!;
      const dx = d ? rawBinary('mul', saved.at(-1)!, each, dtype, shape) : null;
      if (!own) return [dx];
      const { grad } = own.master;
      const there = grad !== null && !grad.disposed;
      const dw = matrixGradient(weight, [saved[0]!, saved[1]!, g!], { scale, cap }, there ? grad : null);
      return [dx, there ? null : dw];
    },
  );
  d?.dispose();
  return { loss, count, losses, entropies: rowValues(entropiesHandle, labels) };
}

/**
 * The same loss of logits = hidden·Wᵀ, which are never held whole: hidden [n, dim], weight [vocab, dim],
 * labels i32 [n]. With a cap, logits = cap·tanh(hidden·Wᵀ / cap).
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: FrozenWeight,
  labels: Tensor,
  { cap = 0 } = {},
): LossAndCount {
  const { loss, count } = linearCrossEntropyCall(hidden, weight, labels, { ...sumAlone, scale: 1, cap });
  return { loss, count };
}

/** The losses of rows of logits = hidden·Wᵀ / temperature, capped before, of which none need count. */
export function rowLinearCrossEntropy(
  hidden: Tensor,
  weight: FrozenWeight,
  labels: Tensor,
  { temperature = 1, entropies: wanted = false, cap = 0 } = {},
): RowLosses {
  const { loss, count, losses, entropies } = linearCrossEntropyCall(hidden, weight, labels, {
    losses: true,
    entropies: wanted,
    scale: 1 / temperature,
    cap,
  });
  loss.dispose();
  count.dispose();
  return { losses: losses!, entropies };
}
