/** The loss of a model over a data set. */
import { batches } from '../../data/batches';
import type { DataSource } from '../../data/example';
import type { SequencePlan } from '../../data/sequence_plan';
import { loraError } from '../../errors';
import type { Adapter } from '../../peft/adapter';
import type { Tensor } from '../../tensor/tensor';

/** The options of {@link CausalLM.evaluate}. */
export interface EvaluateOptions {
  /** A name, an Adapter, or null for the base alone; while one is merged, ERR_BUSY. Default: the active adapter, or what is merged. */
  adapter?: string | Adapter | null | undefined;
  /** Examples per forward pass; it changes speed and memory only. Default 4. */
  batchSize?: number | undefined;
  /** Checked between batches, and while the data gives nothing; an abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}

/** How well a model predicts a data set. */
export interface Evaluation {
  /** The mean of −log p over all counted tokens, in nats. */
  loss: number;
  /** exp(loss). */
  perplexity: number;
  /** How many tokens counted. */
  tokens: number;
}

/** −log p of tokens, summed, and how many they are. */
export interface LossSum {
  readonly sum: number;
  readonly tokens: number;
}

/**
 * The summed loss over a data set, or over its batches for whose index `isOwn` holds. `lossOf` gives the summed loss of a batch, without gradients and without dropout; a
 * batch without a label that counts is left out.
 */
export async function lossSum(
  lossOf: (inputIds: number[][], labels: number[][]) => Promise<Tensor>,
  data: DataSource,
  { batchSize = 4, signal, plan }: Omit<EvaluateOptions, 'adapter'> & { plan: SequencePlan },
  isOwn: (index: number) => boolean = () => true,
): Promise<LossSum> {
  let sum = 0;
  let tokens = 0;
  let index = 0;
  for await (const { inputIds, labels } of batches(data, { batchSize, signal })) {
    signal?.throwIfAborted();
    if (!isOwn(index++)) continue;
    const counted = plan.countedLabels(labels);
    if (counted === 0) continue;
    const loss = await lossOf(inputIds, labels);
    sum += await loss.item();
    loss.dispose();
    tokens += counted;
  }
  return { sum, tokens };
}

/** The mean over all of the sums. @throws ERR_DATA where nothing counts. */
export function meanLoss(sums: readonly LossSum[]): Evaluation {
  const sum = sums.reduce((total, one) => total + one.sum, 0);
  const tokens = sums.reduce((total, one) => total + one.tokens, 0);
  if (tokens === 0)
    throw loraError('evaluate', 'ERR_DATA', 'expected labels that count but the data has none');
  return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens };
}
