/** The largest activations of a forward pass: where numbers that are none come from. */
import type { CausalLM } from '../models/causal_lm';
import type { ForwardOptions } from '../models/options';
import { noGrad } from '../tensor/scope';

/** max |x|; NaN counts as more than everything. */
function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (Number.isNaN(size)) return NaN;
    if (size > most) most = size;
  }
  return most;
}

/** Runs a forward pass once more and gives the largest activations between its blocks, in order: 'model.layers.3 Infinity, …'. */
export async function largestActivations(
  model: CausalLM,
  inputIds: number[][],
  options: ForwardOptions,
): Promise<string> {
  const seen: { module: string; values: Promise<ArrayLike<number>> }[] = [];
  noGrad(() => {
    const output = model.forward(inputIds, {
      ...options,
      watch: (module, x) => seen.push({ module, values: x.data() }),
    });
    output.loss?.dispose();
    output.logits?.dispose();
  });
  const sizes: { module: string; size: number }[] = [];
  for (const { module, values } of seen) sizes.push({ module, size: largest(await values) });
  const order = (size: number): number => (Number.isNaN(size) ? Infinity : size);
  // The first module with the largest number is where it comes from: sort() keeps their order.
  const top = [...sizes].sort((a, b) => order(b.size) - order(a.size) || 0).slice(0, 3);
  return top.map(({ module, size }) => `${module} ${Number(size.toPrecision(3))}`).join(', ');
}
