// Gradients of the tape against central differences on the reference device, and cpu against reference.
import { concat, stack, tensor, where, type Tensor } from '../../lib/index';
import { gradientError, list, relativeError, seeded, weigh, type Input } from '../support/numbers';

interface Case {
  name: string;
  fn: (...x: Tensor[]) => Tensor;
  inputs: Input[];
}

const away = (shape: number[], at: number[]): Input => ({ shape, at });
const positive = away([2, 3], [0.7, 1.2, 2, 0.9, 1.6, 3]);

const cases: Case[] = [
  { name: 'add', fn: (a, b) => a.add(b), inputs: [{ shape: [2, 3] }, { shape: [2, 3] }] },
  { name: 'add row', fn: (a, b) => a.add(b), inputs: [{ shape: [2, 3] }, { shape: [3] }] },
  { name: 'sub column', fn: (a, b) => a.sub(b), inputs: [{ shape: [2, 1] }, { shape: [2, 3] }] },
  { name: 'mul both ways', fn: (a, b) => a.mul(b), inputs: [{ shape: [2, 1, 3] }, { shape: [4, 1] }] },
  { name: 'mul scalar', fn: (a, b) => a.mul(b), inputs: [{ shape: [3] }, { shape: [] }] },
  { name: 'div', fn: (a, b) => a.div(b), inputs: [{ shape: [2, 3] }, positive] },
  { name: 'div row', fn: (a, b) => a.div(b), inputs: [{ shape: [2, 3] }, away([3], [0.8, 1.5, 2])] },
  { name: 'numbers', fn: (a) => a.add(2).sub(0.5).mul(3).div(7), inputs: [{ shape: [2, 3] }] },
  { name: 'square', fn: (a) => a.square(), inputs: [{ shape: [7] }] },
  { name: 'relu', fn: (a) => a.relu(), inputs: [away([5], [-2, -0.5, 0.4, 1, 3])] },
  { name: 'exp', fn: (a) => a.exp(), inputs: [away([6], [-3, -1, -0.2, 0, 0.7, 2])] },
  { name: 'log', fn: (a) => a.log(), inputs: [away([5], [0.2, 0.5, 1, 1.7, 3])] },
  { name: 'sigmoid', fn: (a) => a.sigmoid(), inputs: [away([6], [-3, -1, -0.2, 0, 0.7, 2])] },
  { name: 'gelu', fn: (a) => a.gelu(), inputs: [away([6], [-3, -1, -0.2, 0, 0.7, 2])] },
  { name: 'silu', fn: (a) => a.silu(), inputs: [away([6], [-3, -1, -0.2, 0, 0.7, 2])] },
  { name: 'sum', fn: (a) => a.square().sum(), inputs: [{ shape: [2, 3] }] },
  { name: 'sum rows', fn: (a) => a.square().sum({ dim: 0 }), inputs: [{ shape: [2, 3] }] },
  { name: 'sum kept', fn: (a) => a.sum({ dim: [-1, 0], keepDim: true }), inputs: [{ shape: [2, 3, 4] }] },
  { name: 'mean', fn: (a) => a.square().mean(), inputs: [{ shape: [2, 3] }] },
  { name: 'mean columns', fn: (a) => a.mean({ dim: 1 }), inputs: [{ shape: [2, 3, 2] }] },
  { name: 'reshape', fn: (a) => a.reshape([3, -1]).square(), inputs: [{ shape: [2, 3] }] },
  { name: 'transpose', fn: (a) => a.transpose(), inputs: [{ shape: [2, 3] }] },
  { name: 'transpose perm', fn: (a) => a.transpose([2, 0, 1]), inputs: [{ shape: [2, 3, 4] }] },
  { name: 'matmul', fn: (a, b) => a.matmul(b), inputs: [{ shape: [3, 4] }, { shape: [4, 2] }] },
  {
    name: 'matmul stack by matrix',
    fn: (a, b) => a.matmul(b),
    inputs: [{ shape: [2, 3, 4] }, { shape: [4, 2] }],
  },
  {
    name: 'matmul broadcast',
    fn: (a, b) => a.matmul(b),
    inputs: [{ shape: [2, 1, 3, 4] }, { shape: [3, 4, 2] }],
  },
  {
    name: 'cross entropy mean',
    fn: (a) => a.crossEntropy([1, -100, 4]),
    inputs: [{ shape: [3, 5] }],
  },
  {
    name: 'cross entropy sum',
    fn: (a) => a.crossEntropy([[0, 2]], { reduction: 'sum' }),
    inputs: [{ shape: [1, 2, 3] }],
  },
  { name: 'sqrt', fn: (a) => a.sqrt(), inputs: [away([5], [0.2, 0.5, 1, 1.7, 3])] },
  { name: 'tanh', fn: (a) => a.tanh(), inputs: [away([6], [-3, -1, -0.2, 0, 0.7, 2])] },
  { name: 'pow of a number', fn: (a) => a.pow(3).add(a.pow(-0.5)).add(a.pow(2)), inputs: [positive] },
  { name: 'pow, both ways', fn: (a, b) => a.pow(b), inputs: [positive, away([3], [0.8, -1.5, 2])] },
  {
    name: 'maximum and minimum',
    fn: (a, b) => a.maximum(b).mul(a.minimum(b).add(2)),
    inputs: [away([2, 3], [1, -2, 3, 0, 2, -1]), away([3], [0.5, 0.5, 0.5])],
  },
  { name: 'maximum of a number', fn: (a) => a.maximum(0.5), inputs: [away([4], [1, -2, 3, 0])] },
  {
    name: 'where',
    fn: (a, b) => where(tensor([1, 0, 1], { device: a.device }), a.square(), b),
    inputs: [{ shape: [2, 3] }, { shape: [2, 1] }],
  },
  { name: 'softmax', fn: (a) => a.softmax(), inputs: [{ shape: [3, 5] }] },
  { name: 'softmax of a column', fn: (a) => a.softmax({ dim: 1 }), inputs: [{ shape: [2, 3, 2] }] },
  { name: 'log softmax', fn: (a) => a.logSoftmax(), inputs: [{ shape: [3, 5] }] },
  { name: 'max', fn: (a) => a.max(), inputs: [away([2, 3], [1, -2, 3, 0, 2, -1])] },
  {
    name: 'max of rows and columns',
    fn: (a) => a.max({ dim: -1, keepDim: true }).add(a.max({ dim: 0 })),
    inputs: [away([2, 3], [1, -2, 3, 0, 2, -1])],
  },
  { name: 'slice of rows', fn: (a) => a.slice(1, 3).square(), inputs: [{ shape: [4, 2] }] },
  { name: 'slice of columns', fn: (a) => a.slice(-3, -1, { dim: 1 }), inputs: [{ shape: [2, 4, 3] }] },
  {
    name: 'concat',
    fn: (a, b) => concat([a, b, a], { dim: 1 }).square(),
    inputs: [{ shape: [2, 3] }, { shape: [2, 1] }],
  },
  {
    name: 'concat of more parts than a call takes',
    fn: (a, b) =>
      concat(
        Array.from({ length: 20 }, (_, i) => (i % 3 === 0 ? b : a)),
        { dim: 1 },
      ),
    inputs: [{ shape: [2, 3] }, { shape: [2, 2] }],
  },
  { name: 'stack', fn: (a, b) => stack([a, b], { dim: -1 }), inputs: [{ shape: [2, 3] }, { shape: [2, 3] }] },
  {
    name: 'take',
    fn: (a) =>
      a.take([
        [2, 0],
        [2, 1],
      ]),
    inputs: [{ shape: [3, 2] }],
  },
  { name: 'take of columns', fn: (a) => a.take([1, 1, 0], { dim: 1 }), inputs: [{ shape: [2, 3, 2] }] },
  {
    name: 'gather',
    fn: (a) =>
      a
        .gather([
          [1, 1],
          [0, 2],
        ])
        .mul(a.gather([[1, 0, 1]], { dim: 0 }).slice(0, 2, { dim: 1 })),
    inputs: [{ shape: [2, 3] }],
  },
  { name: 'permute', fn: (a) => a.permute([1, 2, 0]), inputs: [{ shape: [2, 3, 4] }] },
  {
    name: 'a small net',
    fn: (x, w, b) => x.matmul(w).add(b).gelu().square().mean(),
    inputs: [{ shape: [4, 3] }, { shape: [3, 5] }, { shape: [5] }],
  },
];

test.each(cases)('$name: gradients are those of central differences', async ({ fn, inputs }) => {
  expect(await gradientError(fn, inputs)).toBeLessThan(2e-3);
});

test('the comparison can fail', async () => {
  // A gradient that is off by 1% is seen: the function moves by 1% only in the differences.
  let calls = 0;
  const fn = (x: Tensor): Tensor => x.mul(calls++ === 0 ? 1.01 : 1);
  expect(await gradientError(fn, [{ shape: [3] }])).toBeGreaterThan(5e-3);
});

const bound = { f32: 1e-5, bf16: 2 ** -7 } as const;

describe.each(['f32', 'bf16'] as const)('cpu against reference, %s', (dtype) => {
  test.each(cases)('$name', async ({ fn, inputs }) => {
    const run = async (device: 'cpu' | 'reference'): Promise<ArrayLike<number>[]> => {
      const xs = inputs.map((x, i) => {
        if (!x.at) return seeded(x.shape, 20 + i, { dtype, device, requiresGrad: true });
        return tensor(Float32Array.from(x.at), { shape: x.shape, dtype, device, requiresGrad: true });
      });
      const y = fn(...xs);
      weigh(y).backward();
      return Promise.all([y, ...xs.map((x) => x.grad!)].map((t) => t.data()));
    };
    const [cpu, reference] = [await run('cpu'), await run('reference')];
    cpu.forEach((got, i) => expect(relativeError(got, reference[i]!)).toBeLessThan(bound[dtype]));
  });

  test.each([0, 1, 3, 7, 31, 32, 33, 255, 257])('elementwise and sums of %d elements', async (n) => {
    const run = async (device: 'cpu' | 'reference'): Promise<ArrayLike<number>[]> => {
      const x = seeded([n], 3, { dtype, device, requiresGrad: true });
      const y = x.silu().mul(x.gelu()).add(x.relu());
      const total = y.square().sum();
      total.backward();
      return Promise.all([y, total, x.grad!].map((t) => t.data()));
    };
    const [cpu, reference] = [await run('cpu'), await run('reference')];
    cpu.forEach((got, i) => expect(relativeError(got, reference[i]!)).toBeLessThan(bound[dtype]));
  });
});

describe.each(['reference', 'cpu'] as const)(
  'bf16 on %s: gradients are summed before they are rounded',
  (device) => {
    const bf16 = { dtype: 'bf16', device } as const;
    const near = 1 + 2 ** -7;
    // Every product is 1.5·(1 + 2⁻⁷), which bf16 rounds up; three of them sum to 4.53515625, which it rounds down.
    const rounded = 4.53125;
    const wrong = 4.5625; // what three rounded products give

    test('the bound between the two', async () => {
      const products = tensor([1.5, 1.5, 1.5], bf16).mul(tensor([near, near, near], bf16));
      expect(await products.sum().to({ dtype: 'bf16' }).item()).toBe(wrong);
    });

    test('of a number that was multiplied with a row', async () => {
      const a = tensor(1, { ...bf16, requiresGrad: true });
      const b = tensor([1, 1, 1], { ...bf16, requiresGrad: true });
      const g = tensor([near, near, near], bf16);
      a.mul(tensor([1.5, 1.5, 1.5], bf16)).backward(g);
      expect([a.grad!.dtype, a.grad!.shape, await list(a.grad)]).toEqual(['bf16', [], [rounded]]);
      // On the right, the same.
      const right = tensor(1, { ...bf16, requiresGrad: true });
      tensor([1.5, 1.5, 1.5], bf16).mul(right).backward(g);
      expect(await list(right.grad)).toEqual([rounded]);
      b.mul(1.5).backward(g); // nothing to sum: one rounding each
      expect(await list(b.grad)).toEqual([1.515625, 1.515625, 1.515625]);
    });

    test('of a divisor and a dividend', async () => {
      const a = tensor(1, { ...bf16, requiresGrad: true });
      const g = tensor([1.5, 1.5, 1.5], bf16);
      const third = tensor([3, 3, 3], bf16);
      a.div(third).backward(tensor([near, near, near], bf16));
      // 3·(1 + 2⁻⁷)/3 is exact; each third alone is not.
      expect(await list(a.grad)).toEqual([near]);
      const b = tensor(1, { ...bf16, requiresGrad: true });
      tensor([near, near, near], bf16).div(b).backward(g);
      expect(await list(b.grad)).toEqual([-rounded]);
    });

    test('of a matrix that was multiplied with a stack', async () => {
      const w = tensor([[1]], { ...bf16, requiresGrad: true });
      const x = tensor([[[1.5]], [[1.5]], [[1.5]]], bf16);
      const g = tensor([[[near]], [[near]], [[near]]], bf16);
      x.matmul(w).backward(g);
      expect([w.grad!.dtype, await list(w.grad)]).toEqual(['bf16', [rounded]]);
      const left = tensor([[1]], { ...bf16, requiresGrad: true });
      left.matmul(x).backward(g);
      expect(await list(left.grad)).toEqual([rounded]);
    });
  },
);

test('values of a few functions', async () => {
  const x = tensor([-1, 0, 2], { device: 'reference' });
  const list = async (t: Tensor): Promise<number[]> => [...(await t.data())];
  expect(relativeError(await list(x.gelu()), [-0.15865525, 0, 1.9544997])).toBeLessThan(1e-6);
  expect(relativeError(await list(x.silu()), [-0.26894143, 0, 1.7615942])).toBeLessThan(1e-6);
  const logits = tensor([[1, 2, 3]], { device: 'reference' });
  expect(await logits.crossEntropy([0]).item()).toBeCloseTo(Math.log(Math.E ** 0 + Math.E + Math.E ** 2), 5);
  expect(await tensor([], { device: 'reference' }).mean().item()).toBeNaN();
  expect(await tensor([], { device: 'reference' }).sum().item()).toBe(0);
  expect(await list(x.mul(NaN))).toEqual([NaN, NaN, NaN]);
});
