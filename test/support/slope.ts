/** The gradients of a model against differences of its loss. */
import { noGrad, SGD, type CausalLM, type Parameter } from '../../lib/index';

interface Batch {
  readonly ids: number[][];
  readonly labels: number[][];
}

/** The slope of the loss along its gradient, as the gradient says it and between two steps of `size`. */
export async function slope(
  model: CausalLM,
  { ids, labels }: Batch,
  parameters: Parameter[],
  length = 0.001,
): Promise<{ told: number; found: number }> {
  const loss = async (): Promise<number> => noGrad(() => model.forward(ids, { labels })).loss.item();
  model.forward(ids, { labels }).loss.backward();
  const grads = parameters.map((p) => p.grad!);
  let squares = 0;
  for (const g of grads) squares += await g.mul(g).sum().item();
  const size = length / Math.sqrt(squares);
  const step = new SGD(parameters, { lr: size, weightDecay: 0 });
  step.step();
  const below = await loss();
  for (const [i, p] of parameters.entries()) p.grad = grads[i]!.mul(-2);
  step.step();
  return { told: squares, found: ((await loss()) - below) / (2 * size) };
}
