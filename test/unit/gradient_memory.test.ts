/** Memory that gradients and activations hand to each other goes back to the system between them, on the host. */
import { CausalLM, parameter, SGD } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { matmulTransposed } from '../../lib/ops/matmul';
import { filled } from '../../lib/tensor/create';
import { gradientMade, gradientsFreed } from '../../lib/tensor/gradient_memory';
import { tinyModel } from '../support/tiny_model';

const large = 2 ** 23; // numbers of 32 MiB
const trim = jest.spyOn(binding(), 'trim');
const zeros = (...shape: number[]) => filled(shape, 0, 'f32', 'cpu');
beforeEach(() => trim.mockClear());

test('when gradients of 32 MiB were made or freed, on the CPU alone', () => {
  gradientMade({ device: 'cpu', numel: large });
  expect(trim).toHaveBeenCalledTimes(1);
  for (let i = 0; i < 7; i++) gradientMade({ device: 'cpu', numel: large / 8 });
  expect(trim).toHaveBeenCalledTimes(1);
  gradientMade({ device: 'cpu', numel: large / 8 });
  expect(trim).toHaveBeenCalledTimes(2);
  gradientsFreed('cpu', large - 1);
  expect(trim).toHaveBeenCalledTimes(2);
  gradientsFreed('cpu', large);
  expect(trim).toHaveBeenCalledTimes(3);
  gradientMade({ device: 'cuda', numel: large });
  gradientsFreed('cuda', large);
  expect(trim).toHaveBeenCalledTimes(3);
});

test('in the backward pass of a weight, and where its gradient is cleared', () => {
  const weight = parameter(zeros(2 ** 13, 2 ** 10), 'weight');
  using optimizer = new SGD([weight]);
  const y = matmulTransposed(zeros(1, 2 ** 10), weight);
  y.backward(zeros(1, 2 ** 13));
  expect(trim).toHaveBeenCalledTimes(1);
  optimizer.zeroGrad();
  expect(trim).toHaveBeenCalledTimes(2);
  optimizer.zeroGrad(); // there is none
  expect(trim).toHaveBeenCalledTimes(2);
});

test('when trainAll() has made masters of packed weights', async () => {
  const model = await CausalLM.fromPretrained(await tinyModel());
  trim.mockClear();
  model.trainAll();
  expect(trim).toHaveBeenCalledTimes(1);
  await model.dispose();
});
