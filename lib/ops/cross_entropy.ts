/** loss = Σ −log softmax(logits)[label] over the labels that are not −100, count = how many there are. */
import { needsGrad, record } from '../tensor/autograd';
import { call, entry } from '../native/calls';
import { loraLinear } from './lora_linear';
import { tensor } from '../tensor/create';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { alias, type CrossEntropyOptions, handleOf, type Labels, Tensor, wrap } from '../tensor/tensor';
import { checkOneOf, checkOptions, numelOf } from '../validate';
import { checkDims, checkFloat } from '../tensor/arguments';
import { gradientMade } from '../tensor/gradient_memory';
import { rawBinary, rawFilled, rawMatmul, rawView } from '../tensor/raw';
import { temporaries, track } from '../tensor/scope';

export interface LossAndCount {
  /** The summed loss, a scalar in f32, with a gradient. */
  loss: Tensor;
  /** How many labels counted, a scalar in f32. */
  count: Tensor;
}

/**
 * logits [..., vocab], labels i32 [...];  dlogits = (softmax(logits) − onehot)·g. A label outside
 * [0, vocab) other than −100 fails with ERR_DATA, and so does a call in which none counts.
 */
export function crossEntropy(logits: Tensor, labels: Tensor): LossAndCount {
  const op = 'cross_entropy';
  const handles = [handleOf(logits, op, 'logits'), handleOf(labels, op, 'labels')] as const;
  // The op sees rows: labels [2, 3] would fit logits [3, 2, vocab].
  checkDims(op, 'labels', labels, logits.shape.slice(0, -1), 'that of the rows of logits');
  const [lossHandle, countHandle, lseHandle] = call().crossEntropyForward(...handles, needsGrad([logits]));
  const loss = wrap(lossHandle, 'f32', [], logits.device);
  const count = wrap(countHandle, 'f32', [], logits.device);
  if (lseHandle !== null) {
    const lse = wrap(lseHandle, 'f32', [numelOf(labels.shape)], logits.device);
    record([logits], [loss], [logits, labels, lse], ([g], [x, ids, kept]) => {
      const d = call().crossEntropyBackward(x!.handle, ids!.handle, kept!.handle, g!.handle);
      return [wrap(d, x!.dtype, x!.shape, x!.device)];
    });
    lse.dispose();
  }
  return { loss, count };
}

/** Tensor.crossEntropy: the mean or the sum. */
export function crossEntropyOf(logits: Tensor, labels: Labels, options: CrossEntropyOptions = {}): Tensor {
  checkOptions('crossEntropy', options, ['reduction']);
  const { reduction = 'mean' } = options;
  checkOneOf('crossEntropy', 'reduction', reduction, ['mean', 'sum']);
  checkFloat('crossEntropy', logits, 'the tensor');
  return entry(() => {
    const ids = labels instanceof Tensor ? labels : tensor(labels, { dtype: 'i32', device: logits.device });
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

/** Logits whose gradient is held at once, where the matrix is trained. */
export const maxLogits = 2 ** 24;

/**
 * Adds g·dlogitsᵀ·hidden to `dw` [vocab, dim], or begins it: dlogits = softmax(hidden·Wᵀ) − onehot, computed once more for some rows at a time.
 */
function matrixGradient(
  weight: FrozenWeight,
  [hidden, labels, g]: readonly [Tensor, Tensor, Tensor],
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
      const logits = loraLinear(rows, { weight });
      // The log-sums do not depend on labels, and there may be none that counts in these rows.
      const any = rawFilled([count], 0, 'i32', device);
      const [loss, counted, lse] = call().crossEntropyForward(logits.handle, any.handle, true);
      wrap(loss, 'f32', [], device);
      wrap(counted, 'f32', [], device);
      const kept = wrap(lse!, 'f32', [count], device);
      const own = rawView(labels, from, [count]);
      const handle = call().crossEntropyBackward(logits.handle, own.handle, kept.handle, g.handle);
      const dlogits = wrap(handle, logits.dtype, logits.shape, device);
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

/**
 * The same loss of logits = hidden·Wᵀ, which are never held whole: hidden [n, dim], weight [vocab, dim],
 * labels i32 [n].
 */
export function linearCrossEntropy(hidden: Tensor, weight: FrozenWeight, labels: Tensor): LossAndCount {
  const op = 'linear_cross_entropy';
  weight.check(op);
  const [lossHandle, countHandle, dHandle] = call().linearCrossEntropy(
    handleOf(hidden, op, 'hidden'),
    weight.handle,
    handleOf(labels, op, 'labels'),
    needsGrad([hidden]),
  );
  const loss = wrap(lossHandle, 'f32', [], hidden.device);
  const count = wrap(countHandle, 'f32', [], hidden.device);
  const { shape, dtype, device } = hidden;
  const d = dHandle === null ? null : wrap(dHandle, 'f32', shape, device);
  const { master } = weight;
  const own = master && needsGrad([master]) ? { master, saved: [hidden, labels] } : undefined;
  record(
    own ? [hidden, own.master] : [hidden],
    [loss],
    [...(own ? own.saved : []), ...(d ? [d] : [])],
    ([g], saved) => {
      const dx = d ? rawBinary('mul', saved.at(-1)!, g!, dtype, shape) : null;
      if (!own) return [dx];
      const { grad } = own.master;
      const there = grad !== null && !grad.disposed;
      const dw = matrixGradient(weight, [saved[0]!, saved[1]!, g!], there ? grad : null);
      return [dx, there ? null : dw];
    },
  );
  d?.dispose();
  return { loss, count };
}
