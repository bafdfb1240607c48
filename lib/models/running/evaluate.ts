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

/**
 * The mean loss over a data set. `lossOf` gives the summed loss of a batch, without gradients and without dropout; a
 * batch without a label that counts is left out.
 */
export async function evaluate(
  lossOf: (inputIds: number[][], labels: number[][]) => Promise<Tensor>,
  data: DataSource,
  { batchSize = 4, signal, plan }: Omit<EvaluateOptions, 'adapter'> & { plan: SequencePlan },
): Promise<Evaluation> {
  let sum = 0;
  let tokens = 0;
  for await (const { inputIds, labels } of batches(data, { batchSize, signal })) {
    signal?.throwIfAborted();
    const counted = plan.countedLabels(labels);
    if (counted === 0) continue;
    const loss = await lossOf(inputIds, labels);
    sum += await loss.item();
    loss.dispose();
    tokens += counted;
  }
  if (tokens === 0)
    throw loraError('evaluate', 'ERR_DATA', 'expected labels that count but the data has none');
  return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens };
}
