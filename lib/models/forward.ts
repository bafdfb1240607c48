/** model.forward: logits and loss of a batch. */
import { crossEntropy, linearCrossEntropy } from '../ops';
import type { Tensor } from '../tensor/tensor';
import type { Device } from '../native/device';
import { idsTensor, targetsTensor, type TokenRows } from './batch';
import { finalNorm, headLogits, hiddenStates, type AdapterUse, type Decoder } from './decoder';

export interface ForwardRequest {
  ids: TokenRows;
  labels?: TokenRows;
  reduction: 'mean' | 'sum';
  wantLogits: boolean;
  use: AdapterUse;
  device: Device;
}

export interface ForwardResult {
  /** Mean or sum of −log p of the labels that count; present when labels were given. */
  loss?: Tensor;
  /** [batch, seq, vocab] f32; present when asked for. */
  logits?: Tensor;
}

/** Runs inside one scope of the caller's, which frees what is left when a check fails midway. */
export function forwardBatch(decoder: Decoder, request: ForwardRequest): ForwardResult {
  const { use, device } = request;
  const { vocabSize } = decoder.config;
  const ids = idsTensor(request.ids, vocabSize, device);
  const [batch, length] = ids.shape as [number, number];
  const targets = request.labels && targetsTensor(request.labels, request.ids, ids.shape, vocabSize, device);

  const hidden = finalNorm(decoder, hiddenStates(decoder, ids, use));
  ids.dispose();
  // The fused loss never holds all logits, but knows only a plain head.
  const plainHead = use.adapter?.delta(decoder.weights.head.path) === undefined;
  let logits: Tensor | undefined;
  if (request.wantLogits || !plainHead) {
    const narrow = headLogits(decoder, hidden, use);
    logits = narrow.dtype === 'f32' ? narrow : narrow.to({ dtype: 'f32' });
    if (logits !== narrow) narrow.dispose();
  }
  let loss: Tensor | undefined;
  if (targets) {
    const flat = (logits ?? hidden).reshape([batch * length, (logits ?? hidden).shape[2]!]);
    const { loss: sum, count } = logits
      ? crossEntropy(flat, targets.labels)
      : linearCrossEntropy(flat, decoder.weights.head.weight, targets.labels);
    flat.dispose();
    targets.labels.dispose();
    loss = request.reduction === 'sum' ? sum : sum.div(targets.count ?? count);
    if (loss !== sum) sum.dispose();
    count.dispose();
  }
  hidden.dispose();
  if (!request.wantLogits) {
    logits?.dispose();
    logits = undefined;
  }
  return { loss, logits };
}
