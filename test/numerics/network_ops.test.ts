// The ops of a network of one's own against the same functions in f64: values, and gradients by central differences in f64.
import { concat, noGrad, stack, tensor, where, type Tensor } from '../../lib/index';
import { layerNorm } from '../../lib/ops';
import { expectReject, expectThrow } from '../support/errors';
import { list, relativeError, values } from '../support/numbers';

type Numbers = readonly number[];

interface Case {
  name: string;
  fn: (...x: Tensor[]) => Tensor;
  /** The same in f64, on the flat values of the inputs. */
  f64: (...x: Numbers[]) => number[];
  inputs: readonly { shape: number[]; at?: Numbers }[];
}

const rows = (x: Numbers, width: number): number[][] =>
  Array.from({ length: x.length / width }, (_, i) => x.slice(i * width, (i + 1) * width));
const logSumExp = (row: Numbers): number => {
  const max = Math.max(...row);
  return max + Math.log(row.reduce((sum, v) => sum + Math.exp(v - max), 0));
};
const positive = [0.3, 1.7, 2.5, 0.9, 1.1, 3];
const apart = [1.3, -2, 0.4, 3, -0.6, 2.2];
const threshold = [0.1, 0.1, 1];

const cases: Case[] = [
  { name: 'exp', fn: (a) => a.exp(), f64: (a) => a.map(Math.exp), inputs: [{ shape: [6] }] },
  { name: 'log', fn: (a) => a.log(), f64: (a) => a.map(Math.log), inputs: [{ shape: [6], at: positive }] },
  { name: 'sqrt', fn: (a) => a.sqrt(), f64: (a) => a.map(Math.sqrt), inputs: [{ shape: [6], at: positive }] },
  { name: 'tanh', fn: (a) => a.tanh(), f64: (a) => a.map(Math.tanh), inputs: [{ shape: [6], at: apart }] },
  {
    name: 'sigmoid',
    fn: (a) => a.sigmoid(),
    f64: (a) => a.map((v) => 1 / (1 + Math.exp(-v))),
    inputs: [{ shape: [6], at: apart }],
  },
  {
    name: 'pow',
    fn: (a, b) => a.pow(b),
    f64: (a, b) => a.map((v, i) => v ** b[i % 3]!),
    inputs: [
      { shape: [2, 3], at: positive },
      { shape: [3], at: [2.5, -1.25, 0.5] },
    ],
  },
  {
    name: 'pow of numbers',
    fn: (a) => a.pow(3).sub(a.pow(-2)),
    f64: (a) => a.map((v) => v ** 3 - v ** -2),
    inputs: [{ shape: [6], at: [-0.8, 1.7, -2.5, 0.9, 1.1, 3] }],
  },
  {
    name: 'maximum and minimum',
    fn: (a, b) => a.maximum(b).sub(a.minimum(b).mul(3)),
    f64: (a, b) => a.map((v, i) => Math.max(v, b[i % 3]!) - 3 * Math.min(v, b[i % 3]!)),
    inputs: [
      { shape: [2, 3], at: apart },
      { shape: [3], at: threshold },
    ],
  },
  {
    name: 'where',
    fn: (a, b) => where(a.greater(0.5), a.square(), b),
    f64: (a, b) => a.map((v, i) => (v > 0.5 ? v * v : b[Math.floor(i / 3)]!)),
    inputs: [{ shape: [2, 3], at: apart }, { shape: [2, 1] }],
  },
  {
    name: 'softmax',
    fn: (a) => a.softmax(),
    f64: (a) => rows(a, 4).flatMap((row) => row.map((v) => Math.exp(v - logSumExp(row)))),
    inputs: [{ shape: [3, 4] }],
  },
  {
    name: 'logSoftmax of the first dimension',
    fn: (a) => a.logSoftmax({ dim: 0 }),
    f64: (a) => {
      const columns = [0, 1, 2].map((j) => logSumExp(rows(a, 3).map((row) => row[j]!)));
      return a.map((v, i) => v - columns[i % 3]!);
    },
    inputs: [{ shape: [4, 3] }],
  },
  {
    name: 'max of columns',
    fn: (a) => a.max({ dim: 0 }),
    f64: (a) => [0, 1, 2].map((j) => Math.max(...rows(a, 3).map((row) => row[j]!))),
    inputs: [{ shape: [2, 3], at: apart }],
  },
  {
    name: 'slice, concat and stack',
    fn: (a, b) => stack([concat([a.slice(1), b], { dim: 0 }), concat([b, a.slice(0, 1)])], { dim: 1 }),
    f64: (a, b) => {
      const [one, two] = [
        [...rows(a, 2).slice(1), ...rows(b, 2)],
        [...rows(b, 2), ...rows(a, 2).slice(0, 1)],
      ];
      return one.flatMap((row, i) => [...row, ...two[i]!]);
    },
    inputs: [{ shape: [2, 2] }, { shape: [1, 2] }],
  },
  {
    name: 'gather and take',
    fn: (a) =>
      a
        .gather([
          [2, 0],
          [1, 1],
        ])
        .matmul(a.take([1, 0, 1], { dim: 1 })),
    f64: (a) => {
      const [x, y] = rows(a, 3) as [number[], number[]];
      const left = [
        [x[2]!, x[0]!],
        [y[1]!, y[1]!],
      ];
      const right = [x, y].map((row) => [row[1]!, row[0]!, row[1]!]);
      return left.flatMap(([p, q]) => [0, 1, 2].map((j) => p! * right[0]![j]! + q! * right[1]![j]!));
    },
    inputs: [{ shape: [2, 3] }],
  },
  {
    name: 'batched matmul that broadcasts',
    fn: (a, b) => a.matmul(b),
    f64: (a, b) => {
      const [p, q] = [rows(a, 2), rows(b, 3)];
      return p.flatMap((row) => [0, 1, 2].map((j) => row[0]! * q[0]![j]! + row[1]! * q[1]![j]!));
    },
    inputs: [{ shape: [3, 2, 2] }, { shape: [2, 3] }],
  },
  {
    name: 'sum and mean over dimensions',
    fn: (a) =>
      a
        .square()
        .sum({ dim: [0, 2] })
        .mul(a.mean({ dim: 0 }).sum({ dim: 1 })),
    f64: (a) => {
      const at = (i: number, j: number, k: number): number => a[(i * 3 + j) * 2 + k]!;
      return [0, 1, 2].map((j) => {
        const all = [0, 1].flatMap((i) => [0, 1].map((k) => at(i, j, k)));
        return all.reduce((s, v) => s + v * v, 0) * (all.reduce((s, v) => s + v, 0) / 2);
      });
    },
    inputs: [{ shape: [2, 3, 2] }],
  },
];

const numel = (shape: Numbers): number => shape.reduce((n, d) => n * d, 1);

describe.each(['cpu', 'reference'] as const)('on %s', (device) => {
  test.each(cases)('$name: values and gradients are those in f64', async ({ fn, f64, inputs }) => {
    const start = inputs.map(({ shape, at }, i) => [...Float32Array.from(at ?? values(numel(shape), 5 + i))]);
    const xs = start.map((at, i) =>
      tensor(Float32Array.from(at), { shape: inputs[i]!.shape, device, requiresGrad: true }),
    );
    const y = fn(...xs);
    expect(relativeError(await y.data(), f64(...start))).toBeLessThan(2e-6);
    const weights = [...Float32Array.from(values(y.numel, 99))];
    y.backward(tensor(Float32Array.from(weights), { shape: y.shape, device }));
    const loss = (at: readonly Numbers[]): number =>
      f64(...at).reduce((sum, v, i) => sum + v * weights[i]!, 0);
    for (const [i, x] of xs.entries()) {
      const want = start[i]!.map((v, j) => {
        const moved = (by: number): number => {
          const at = start.map((one) => [...one]);
          at[i]![j] = v + by;
          return loss(at);
        };
        return (moved(1e-6) - moved(-1e-6)) / 2e-6;
      });
      expect(relativeError(await x.grad!.data(), want)).toBeLessThan(1e-5);
    }
  });

  test('softmax keeps its digits far from 0, and takes −∞ for what is masked', async () => {
    const x = tensor([1e6, 1e6 + 1, 1e6 + 3, -Infinity], { device });
    const e = [0, 1, 3].map(Math.exp);
    const sum = e.reduce((a, b) => a + b);
    const want = [...e.map((v) => v / sum), 0];
    expect(relativeError(await x.softmax().data(), want)).toBeLessThan(1e-6);
    const logs = await list(x.logSoftmax());
    expect(logs[3]).toBe(-Infinity);
    expect(relativeError(logs.slice(0, 3), want.slice(0, 3).map(Math.log))).toBeLessThan(1e-6);
  });

  test('the gradient of a softmax in bf16 is summed in f32', async () => {
    const x = tensor([0, 0, 0, 0], { dtype: 'bf16', device, requiresGrad: true });
    const g = [1 + 2 ** -7, 1, 1, 1];
    x.softmax().backward(tensor(g, { dtype: 'bf16', device }));
    expect(await list(x.grad)).toEqual(g.map((v) => (v - (1 + 2 ** -9)) / 4)); // exact; the mean is no bf16
  });

  test('where: what is not selected changes nothing, also where it is not finite', async () => {
    const x = tensor([0, 4, -1], { device, requiresGrad: true });
    const y = where(x.greater(0), x.log(), 7);
    expect(await list(y)).toEqual([7, Math.fround(Math.log(4)), 7]);
    const direct = tensor([1, NaN, Infinity], { device, requiresGrad: true });
    const chosen = where(tensor([1, 0, 0], { dtype: 'i32', device }), direct, tensor([[1], [2]], { device }));
    expect(chosen.shape).toEqual([2, 3]);
    expect(await list(chosen)).toEqual([1, 1, 1, 1, 2, 2]);
    chosen.sum().backward();
    expect(await list(direct.grad)).toEqual([2, 0, 0]);
    expect(await list(where(tensor([1, 0, NaN], { device }), 1, 2))).toEqual([1, 2, 1]);
    const narrow = tensor([1], { dtype: 'bf16', device });
    expect([where(narrow, 2, narrow).dtype, where(narrow, narrow, 2).dtype]).toEqual(['bf16', 'bf16']);
  });

  test('equal ones share the gradient of maximum; of max the first has it', async () => {
    const a = tensor([1, 2, 3], { device, requiresGrad: true });
    const b = tensor([2, 2, 2], { device, requiresGrad: true });
    a.maximum(b).sum().backward();
    expect([await list(a.grad), await list(b.grad)]).toEqual([
      [0, 0.5, 1],
      [1, 0.5, 0],
    ]);
    const x = tensor(
      [
        [5, 7, 7],
        [7, 1, 0],
      ],
      { device, requiresGrad: true },
    );
    x.max().backward();
    expect(await list(x.grad)).toEqual([0, 1, 0, 0, 0, 0]);
    expect(await list(x.argmax())).toEqual([1]);
    expect(await list(x.argmax({ dim: -1 }))).toEqual([1, 0]);
    expect([x.argmax({ dim: 0 }).dtype, await list(x.argmax({ dim: 0 }))]).toEqual(['i32', [1, 0, 0]]);
    expect(x.argmax({ dim: 1, keepDim: true }).shape).toEqual([2, 1]);
    expect(x.max({ keepDim: true }).shape).toEqual([1, 1]);
    expect(await list(tensor([1, NaN, 3], { device }).max())).toEqual([NaN]);
  });

  test('argmax and max of a middle dimension are where they were', async () => {
    const numbers = values(2 * 3 * 4, 8);
    const x = tensor(Float32Array.from(numbers), { shape: [2, 3, 4], device });
    const want = [0, 1].flatMap((i) =>
      [0, 1, 2, 3].map((k) => [0, 1, 2].map((j) => Math.fround(numbers[(i * 3 + j) * 4 + k]!))),
    );
    expect(await list(x.max({ dim: 1 }))).toEqual(want.map((column) => Math.max(...column)));
    expect(await list(x.argmax({ dim: 1 }))).toEqual(
      want.map((column) => column.indexOf(Math.max(...column))),
    );
    expect(x.argmax({ dim: -2, keepDim: true }).shape).toEqual([2, 1, 4]);
    // Of the first one, what is left keeps its order too.
    const pairs = Array.from({ length: 12 }, (_, i) => [numbers[i]!, numbers[12 + i]!].map(Math.fround));
    expect(await list(x.max({ dim: 0 }))).toEqual(pairs.map((pair) => Math.max(...pair)));
    expect(x.max({ dim: 0 }).shape).toEqual([3, 4]);
  });

  test('powers at the ends: gradients are finite where the function is flat', async () => {
    const x = tensor([0, -2, 3], { device, requiresGrad: true });
    const n = tensor([0, 3, 0], { device, requiresGrad: true });
    const y = x.pow(n);
    expect(await list(y)).toEqual([1, -8, 1]);
    y.sum().backward();
    expect(await list(x.grad)).toEqual([0, 12, 0]);
    const [ofZero, , ofThree] = await list(n.grad);
    expect(ofZero).toBe(0);
    expect(ofThree).toBeCloseTo(Math.log(3), 6);
    const z = tensor([0, 2], { device, requiresGrad: true });
    z.pow(0).sum().backward();
    expect(await list(z.grad)).toEqual([0, 0]);
  });

  test('comparisons: 1 or 0 in f32, integers too, without a gradient', async () => {
    const x = tensor([1, 2, 3], { device, requiresGrad: true });
    expect(await list(x.less(2))).toEqual([1, 0, 0]);
    expect(await list(x.greater(2))).toEqual([0, 0, 1]);
    expect(await list(x.equal(tensor([[2], [3]], { device })))).toEqual([0, 1, 0, 0, 0, 1]);
    expect(x.less(2).requiresGrad).toBe(false);
    const ids = tensor([1, 0], { dtype: 'i32', device });
    const hit = tensor(
      [
        [0, 1],
        [0, 1],
      ],
      { device },
    )
      .argmax({ dim: 1 })
      .equal(ids);
    expect([hit.dtype, await list(hit)]).toEqual(['f32', [1, 0]]);
    const narrow = tensor([1, 2], { device, dtype: 'bf16' });
    expect(narrow.maximum(1.5).dtype).toBe('bf16');
  });

  test('slices count as Array.slice does', async () => {
    const numbers = [0, 1, 2, 3, 4];
    const x = tensor(numbers, { device });
    const twoByFive = tensor([numbers, numbers.map((n) => n + 10)], { device });
    for (const [start, end] of [[0], [2], [-2], [1, 3], [1, -1], [-3, -1], [3, 1], [-9, 9], [5]] as [
      number,
      number?,
    ][]) {
      expect(await list(x.slice(start, end))).toEqual(numbers.slice(start, end));
      const columns = twoByFive.slice(start, end, { dim: 1 });
      const want = numbers.slice(start, end);
      expect(columns.shape).toEqual([2, want.length]);
      expect(await list(columns)).toEqual([...want, ...want.map((n) => n + 10)]);
    }
    const ids = tensor(
      [
        [1, 2],
        [3, 4],
      ],
      { dtype: 'i32', device },
    );
    expect(await list(ids.slice(1, 2, { dim: -1 }))).toEqual([2, 4]);
    expect(await list(concat([ids, ids.slice(0, 1)]))).toEqual([1, 2, 3, 4, 1, 2]);
    expect(await list(ids.take([1]))).toEqual([3, 4]);
    expect(stack([x, x]).shape).toEqual([2, 5]);
    expect(concat([x.to({ dtype: 'bf16' }), x]).dtype).toBe('f32');
  });

  test('a gradient of parts whose dtypes differ has the dtype of each', async () => {
    const a = tensor([[1, 2]], { dtype: 'bf16', device, requiresGrad: true });
    const b = tensor([[3, 4]], { device, requiresGrad: true });
    concat([a, b], { dim: 1 }).square().sum().backward();
    expect([a.grad!.dtype, await list(a.grad)]).toEqual(['bf16', [2, 4]]);
    expect([b.grad!.dtype, await list(b.grad)]).toEqual(['f32', [6, 8]]);
    // An op that takes no other dtype than its own finds it.
    const [weight, bias] = [1, 0].map((v) => tensor([v, v], { device, requiresGrad: true }));
    concat([layerNorm(a, weight!, bias!, 1e-5), b])
      .sum()
      .backward();
    expect(await list(bias!.grad)).toEqual([1, 1]);
  });

  test('a place outside of the dimension fails when it runs', async () => {
    const x = tensor([[1, 2, 3]], { device });
    await expectReject(
      x.gather([[3]]).data(),
      'ERR_DATA',
      '[take] expected an index from 0 to 2 but received 3 at position 0',
    );
    await expectReject(
      x.take([0, -1]).data(),
      'ERR_DATA',
      /expected an index from 0 to 0 but received -1 at/,
    );
  });
});

test('errors name both shapes', () => {
  const [a, b] = [tensor([[1, 2, 3]]), tensor([[1], [2]])];
  const wide = tensor([1, 2]);
  expectThrow(
    () => a.maximum(wide),
    'ERR_ARGUMENT',
    '[maximum] expected shapes that broadcast but received [1, 3] and [2]',
  );
  expectThrow(() => a.pow(wide), 'ERR_ARGUMENT', /\[pow\] .* \[1, 3\] and \[2\]/);
  expectThrow(() => a.less(wide), 'ERR_ARGUMENT', /\[less\] .* \[1, 3\] and \[2\]/);
  expectThrow(() => where(a, wide, 0), 'ERR_ARGUMENT', /\[where\] .* \[2\] and \[1, 3\]/);
  expectThrow(
    () => concat([a, b]),
    'ERR_ARGUMENT',
    '[concat] expected tensors of one shape but for dim 0 but received [1, 3] and [2, 1] (tensor 1)',
  );
  expectThrow(
    () => stack([a, b]),
    'ERR_ARGUMENT',
    '[stack] expected tensors of one shape but received [1, 3] and [2, 1] (tensor 1)',
  );
  expectThrow(
    () => a.gather([[1], [2]]),
    'ERR_ARGUMENT',
    '[gather] expected an index of the shape of the tensor [1, 3] but for dim 1, but received [2, 1]',
  );
  expectThrow(() => concat([]), 'ERR_ARGUMENT', '[concat] expected a list of tensors but received []');
  expectThrow(
    () => concat([a, a.argmax({ dim: 1, keepDim: true })], { dim: 1 }),
    'ERR_ARGUMENT',
    '[concat] expected floats or integers but received f32 and i32 (tensor 1)',
  );
  expectThrow(
    () => a.softmax({ dim: 2 }),
    'ERR_ARGUMENT',
    '[softmax] expected dim in [-2, 1] but received 2',
  );
  expectThrow(
    () => tensor(new Float32Array(0), { shape: [2, 0] }).softmax(),
    'ERR_ARGUMENT',
    '[softmax] expected at least one element along dim 1 but received [2, 0]',
  );
  expectThrow(
    () => tensor(1).slice(0),
    'ERR_ARGUMENT',
    '[slice] expected a tensor with dimensions but received a scalar',
  );
  expectThrow(() => a.slice(0.5), 'ERR_ARGUMENT', '[slice] expected start to be an integer but received 0.5');
  expectThrow(() => a.permute([0, 0]), 'ERR_ARGUMENT', /\[permute\] expected perm to be an order/);
  expectThrow(() => a.take(wide), 'ERR_ARGUMENT', /\[take\] expected the index to hold integers \(i32\)/);
  expectThrow(
    () => a.argmax({ axis: 1 } as never),
    'ERR_ARGUMENT',
    "[argmax] unknown option 'axis'; did you mean 'dim'?",
  );
});

test('nothing is recorded where no gradient is wanted', () => {
  const x = tensor([[1, 2]], { requiresGrad: true });
  noGrad(() => {
    for (const y of [x.softmax(), x.slice(0, 1, { dim: 1 }), x.take([0]), x.pow(3), concat([x, x]), x.max()])
      expect(y.requiresGrad).toBe(false);
  });
});
