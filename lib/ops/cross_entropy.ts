/** loss = Σ −log softmax(logits)[label] over the labels that are not −100, count = how many there are. */
import { needsGrad, record } from '../tensor/autograd';
import { call, entry } from '../native/calls';
import { tensor } from '../tensor/create';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { type CrossEntropyOptions, handleOf, type Labels, Tensor, wrap } from '../tensor/tensor';
import { checkOneOf, checkOptions, numelOf } from '../validate';
import { checkDims, checkFloat } from '../tensor/arguments';
import { rawBinary } from '../tensor/raw';

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
  if (dHandle !== null) {
    const { shape, dtype, device } = hidden;
    const d = wrap(dHandle, 'f32', shape, device);
    record([hidden], [loss], [d], ([g], [kept]) => [rawBinary('mul', kept!, g!, dtype, shape)]);
    d.dispose();
  }
  return { loss, count };
}
