/** Log-probabilities of labels, without the logits of all positions at once: also where an adapter changes the head. */
import { fromBytes } from '../../tensor/create';
import { rowCrossEntropy, rowLinearCrossEntropy } from '../../ops';
import { maxLogits } from '../../ops/cross_entropy';
import { recomputed } from '../../ops/recompute';
import { joinRows, splitRows } from '../../ops/rows';
import { ignoredLabel } from '../../data/example';
import type { AdapterUse } from '../../peft/adapter_use';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { deltasOf, headLogits, type Decoder } from './decoder';

export interface LogProbsWanted {
  /** Divides all logits. Default 1. */
  readonly temperature?: number | undefined;
  /** Default false. */
  readonly entropies?: boolean | undefined;
}

/** The labels that count, one behind the other, row after row. */
export interface LabelLogProbs {
  /** log p of each, [tokens] in f32, with a gradient. */
  logProbs: Tensor;
  /** The entropy of the distribution that each comes from, [tokens] in f32, without a gradient; null where nobody asked. */
  entropies: Tensor | null;
  /** How many each row has. */
  counts: number[];
}

/** x [positions, n] → its positions whose label counts [tokens, n]. `rows`: the labels of rows of `length` positions each. */
function countedPositions(x: Tensor, rows: readonly (readonly number[])[], length: number): Tensor {
  const runs: { counts: boolean; length: number }[] = [];
  for (const row of rows) {
    for (let t = 0; t < length; t++) {
      const counts = (row[t] ?? ignoredLabel) !== ignoredLabel;
      if (runs.at(-1)?.counts !== counts) runs.push({ counts, length: 0 });
      runs.at(-1)!.length++;
    }
  }
  const parts = splitRows(
    x,
    runs.map((run) => run.length),
  );
  const joined = joinRows(parts.filter((_, i) => runs[i]!.counts));
  for (const part of parts) part.dispose();
  return joined;
}

/** The losses of an adapted head, whose logits are computed for some positions at a time, and once more for their gradient. */
function adaptedHeadLosses(
  decoder: Decoder,
  [hidden, labels]: readonly [Tensor, Tensor],
  use: AdapterUse,
  { temperature = 1, entropies: wanted = false }: LogProbsWanted,
): { losses: Tensor; entropies: Tensor | null } {
  const { config, weights } = decoder;
  const [n] = hidden.shape as [number];
  const parameters = deltasOf(use, weights.head.output.path).flatMap((delta) => [
    ...delta.parameters.values(),
  ]);
  const most = Math.max(1, Math.floor(maxLogits / config.vocabSize));
  const sizes = Array.from({ length: Math.ceil(n / most) }, (_, i) => Math.min(most, n - i * most));
  const ids = splitRows(labels, sizes);
  const entropies: Tensor[] = [];
  const losses = splitRows(hidden, sizes).map((part, i) =>
    recomputed(part, [ids[i]!], parameters, (x, own) => {
      const narrow = moved(x, (t) => headLogits(decoder, t, use));
      const wide = narrow.dtype === 'f32' ? narrow : moved(narrow, (t) => t.to({ dtype: 'f32' }));
      const logits = temperature === 1 ? wide : moved(wide, (t) => t.div(temperature));
      const again = entropies.length > i; // for the gradient
      const result = moved(logits, (t) => rowCrossEntropy(t, own, { entropies: wanted && !again }));
      if (result.entropies) entropies.push(result.entropies);
      return result.losses;
    }),
  );
  const result = { losses: joinRows(losses), entropies: wanted ? joinRows(entropies) : null };
  for (const part of [...losses, ...ids, ...entropies]) part.dispose();
  return result;
}

/**
 * hidden [batch, length, hiddenSize] after the last norm. `rows`: what each position predicts, by row; behind its end a row predicts nothing.
 */
export function headLogProbs(
  decoder: Decoder,
  hidden: Tensor,
  rows: readonly (readonly number[])[],
  use: AdapterUse,
  { temperature = 1, entropies = false }: LogProbsWanted,
): LabelLogProbs {
  const [batch, length, size] = hidden.shape as [number, number, number];
  const wanted = rows.map((row) => row.filter((label) => label !== ignoredLabel));
  const counts = wanted.map((row) => row.length);
  const flat = Int32Array.from(wanted.flat());
  const labels = fromBytes(new Uint8Array(flat.buffer), 'i32', [flat.length], hidden.device);
  const x = moved(hidden.reshape([batch * length, size]), (t) => countedPositions(t, rows, length));
  const { output: head } = decoder.weights.head;
  const options = { temperature, entropies, cap: decoder.config.logitCap };
  const result =
    deltasOf(use, head.path).length === 0
      ? rowLinearCrossEntropy(x, head.weight, labels, options)
      : adaptedHeadLosses(decoder, [x, labels], use, options);
  x.dispose();
  labels.dispose();
  return { logProbs: moved(result.losses, (t) => t.mul(-1)), entropies: result.entropies, counts };
}
