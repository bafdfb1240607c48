import { batches } from '../data/batches';
import { countedTokens, type DataSource } from '../data/example';
import { LoRAError } from '../errors';
import type { Adapter } from '../models/adapter';
import type { CausalLM } from '../models/causal_lm';
import { noGrad } from '../scope';

/** The options of {@link CausalLM.evaluate}. */
export interface EvaluateOptions {
  /** A name, an Adapter, or null for the base alone. Default: the active adapter. */
  adapter?: string | Adapter | null;
  /** Examples per forward pass; it changes speed and memory only. Default 4. */
  batchSize?: number;
  /** Checked between batches; an abort rejects with its reason. */
  signal?: AbortSignal;
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

/** Mean loss over a data set, without gradients and without dropout. */
export async function evaluate(
  model: CausalLM,
  data: DataSource,
  { adapter, batchSize = 4, signal }: EvaluateOptions = {},
): Promise<Evaluation> {
  let sum = 0;
  let tokens = 0;
  for await (const { inputIds, labels } of batches(data, { batchSize })) {
    signal?.throwIfAborted();
    const counted = countedTokens(labels);
    if (counted === 0) continue;
    const { loss } = noGrad(() =>
      model.forward(inputIds, {
        labels,
        reduction: 'sum',
        train: false,
        ...(adapter === undefined ? {} : { adapter }),
      }),
    );
    sum += await loss.item();
    loss.dispose();
    tokens += counted;
  }
  if (tokens === 0)
    throw new LoRAError('ERR_DATA', '[evaluate] expected labels that count but the data has none', {
      op: 'evaluate',
    });
  return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens };
}
