/** What is computed a second time for its gradients: those of several inputs and outputs are those of a graph that keeps everything. */
import { parameter, tensor, type Tensor } from '../../lib/index';
import { recomputedAll } from '../../lib/ops/recompute';
import { reshape } from '../../lib/ops/layout';

const numbers = (values: number[]): Tensor => tensor(values, { device: 'cpu', requiresGrad: true });

/** u = x·k·w, v = k·k twice, and x alone has a second use. */
async function gradients(again: boolean): Promise<number[][]> {
  const [x, k, w] = [numbers([1, 2, -3]), numbers([0.5, -1, 2]), parameter(numbers([2, 4, 8]))];
  const frozen = tensor([3, 5, 7], { device: 'cpu' });
  const f = ([own, keys]: readonly Tensor[], factor: Tensor): Tensor[] => {
    const v = keys!.mul(keys!).mul(factor);
    return [own!.mul(keys!).mul(w), v, v];
  };
  const copy = reshape(x, x.shape);
  const [u, v, twice] = again ? recomputedAll([copy, k], [frozen], [w], f) : f([copy, k], frozen);
  const sum = u!.mul(10).add(v!.mul(x)).add(twice!.mul(-0.25)).sum();
  sum.backward();
  return Promise.all([x, k, w].map(async ({ grad }) => [...(await grad!.data<Float32Array>())]));
}

test('of several inputs and outputs, one of them given twice', async () => {
  expect(await gradients(true)).toEqual(await gradients(false));
});

test('an output without a use has no gradient, and the others have theirs', async () => {
  const [x, k] = [numbers([1, 2]), numbers([3, 4])];
  const [u] = recomputedAll([reshape(x, x.shape), k], [], [], ([own, keys]) => [
    own.mul(keys!),
    keys!.mul(5),
  ]);
  u!.sum().backward();
  expect([...(await x.grad!.data<Float32Array>())]).toEqual([3, 4]);
  expect([...(await k.grad!.data<Float32Array>())]).toEqual([1, 2]);
});
