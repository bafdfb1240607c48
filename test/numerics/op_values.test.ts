// What the ops compute, against values worked out by hand or with plain loops: shapes, dtypes and numbers.
import { parameter, tensor, type DType, type Tensor } from '../../lib/index';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { attention, gated, linearCrossEntropy, rmsNorm, rope, view } from '../../lib/ops';
import { list, relativeError, seeded, values } from '../support/numbers';

type Values = { shape: number[]; values: number[] };

describe.each(['reference', 'cpu'] as const)('on %s', (device) => {
  const x = (): Tensor =>
    tensor(
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      { device },
    );
  const row = (): Tensor => tensor([10, 20, 30], { device });
  const column = (): Tensor => tensor([[2], [4]], { device });
  const cube = (): Tensor =>
    tensor(
      Float32Array.from({ length: 24 }, (_, i) => i),
      { shape: [2, 3, 4], device },
    );

  const cases: [string, () => Tensor, Values][] = [
    ['add', () => x().add(row()), { shape: [2, 3], values: [11, 22, 33, 14, 25, 36] }],
    ['sub, stretched on the left', () => row().sub(x()), { shape: [2, 3], values: [9, 18, 27, 6, 15, 24] }],
    ['mul', () => column().mul(row()), { shape: [2, 3], values: [20, 40, 60, 40, 80, 120] }],
    ['div', () => x().div(column()), { shape: [2, 3], values: [0.5, 1, 1.5, 1, 1.25, 1.5] }],
    ['numbers', () => row().add(2).sub(1).mul(4).div(2), { shape: [3], values: [22, 42, 62] }],
    ['square', () => x().square(), { shape: [2, 3], values: [1, 4, 9, 16, 25, 36] }],
    ['relu', () => row().sub(20).relu(), { shape: [3], values: [0, 0, 10] }],
    ['sum', () => x().sum(), { shape: [], values: [21] }],
    ['sum of rows', () => x().sum({ dim: 0 }), { shape: [3], values: [5, 7, 9] }],
    ['sum of columns, from the end', () => x().sum({ dim: -1 }), { shape: [2], values: [6, 15] }],
    ['sum kept', () => x().sum({ dim: [1], keepDim: true }), { shape: [2, 1], values: [6, 15] }],
    ['sum over two', () => cube().sum({ dim: [0, -1] }), { shape: [3], values: [60, 92, 124] }],
    ['sum over none', () => x().sum({ dim: [] }), { shape: [2, 3], values: [1, 2, 3, 4, 5, 6] }],
    ['mean', () => x().mean(), { shape: [], values: [3.5] }],
    ['mean of rows', () => x().mean({ dim: 0 }), { shape: [3], values: [2.5, 3.5, 4.5] }],
    ['mean kept', () => x().mean({ dim: 1, keepDim: true }), { shape: [2, 1], values: [2, 5] }],
    ['all kept', () => x().mean({ keepDim: true }), { shape: [1, 1], values: [3.5] }],
    ['reshape', () => x().reshape([3, -1]), { shape: [3, 2], values: [1, 2, 3, 4, 5, 6] }],
    ['transpose', () => x().transpose(), { shape: [3, 2], values: [1, 4, 2, 5, 3, 6] }],
    [
      'transpose of the last two',
      () => cube().transpose().sum({ dim: 2 }),
      { shape: [2, 4], values: [12, 15, 18, 21, 48, 51, 54, 57] },
    ],
    [
      'transpose perm',
      () => view(cube(), 0, [1, 2, 3]).transpose([2, 0, 1]),
      { shape: [3, 1, 2], values: [0, 3, 1, 4, 2, 5] },
    ],
    ['view', () => view(x(), 2, [1, 2]), { shape: [1, 2], values: [3, 4] }],
    ['matmul', () => x().matmul(x().transpose()), { shape: [2, 2], values: [14, 32, 32, 77] }],
    [
      'matmul of stacks',
      () =>
        x()
          .reshape([2, 1, 3])
          .matmul(
            column()
              .matmul(row().reshape([1, 3]))
              .reshape([2, 3, 1]),
          ),
      { shape: [2, 1, 1], values: [280, 1280] },
    ],
    [
      'matmul that stretches both',
      () =>
        x()
          .reshape([2, 1, 3, 1])
          .matmul(column().reshape([2, 1, 1])),
      {
        shape: [2, 2, 3, 1],
        values: [2, 4, 6, 4, 8, 12, 8, 10, 12, 16, 20, 24],
      },
    ],
    ['detach', () => x().detach(), { shape: [2, 3], values: [1, 2, 3, 4, 5, 6] }],
    [
      'cross entropy',
      () => tensor([[0, 0]], { device }).crossEntropy([1]),
      { shape: [], values: [Math.fround(Math.LN2)] },
    ],
    [
      'cross entropy: the mean is over the labels that count',
      () =>
        tensor(
          [
            [0, 0, 0, 0],
            [0, 0, 0, 0],
            [9, 0, 0, 0],
          ],
          { device },
        ).crossEntropy([1, 2, -100]),
      { shape: [], values: [Math.fround(Math.log(4))] },
    ],
    [
      'cross entropy: sum',
      () =>
        tensor(
          [
            [0, 0],
            [0, 0],
          ],
          { device },
        ).crossEntropy([1, 0], { reduction: 'sum' }),
      { shape: [], values: [Math.fround(2 * Math.LN2)] },
    ],
    [
      'cross entropy: labels as a tensor',
      () => tensor([[0, 0]], { device }).crossEntropy(tensor([0], { dtype: 'i32', device })),
      { shape: [], values: [Math.fround(Math.LN2)] },
    ],
  ];
  test.each(cases)('%s', async (_, fn, wanted) => {
    const y = fn();
    const got = await list(y);
    expect([y.shape, y.dtype, y.device]).toEqual([wanted.shape, 'f32', device]);
    expect(got).toHaveLength(wanted.values.length);
    got.forEach((v, i) => expect(v).toBeCloseTo(wanted.values[i]!, 5));
  });

  const promotions: [DType, DType, DType][] = [
    ['bf16', 'bf16', 'bf16'],
    ['bf16', 'f32', 'f32'],
    ['f32', 'bf16', 'f32'],
  ];
  test.each(promotions)('%s with %s gives %s', async (left, right, wanted) => {
    const [a, b] = [tensor([[1, 2]], { dtype: left, device }), tensor([[3], [4]], { dtype: right, device })];
    for (const y of [a.mul(b), a.add(b), b.matmul(a), a.matmul(b)]) expect(y.dtype).toBe(wanted);
    expect(await list(a.matmul(b))).toEqual([11]);
    expect(a.mul(3).dtype).toBe(left); // a number takes the dtype of the tensor
    expect([a.sum().dtype, a.mean().dtype]).toEqual(['f32', 'f32']);
  });

  test('bf16 is rounded once, after the arithmetic', async () => {
    const near = tensor([1 + 2 ** -7], { dtype: 'bf16', device });
    expect(await list(near.mul(1.5))).toEqual([1.515625]); // 1.51171875 lies between 1.5078125 and 1.515625
    expect(await list(near.add(2 ** -9))).toEqual([1 + 2 ** -7]);
    expect(await list(near.sum())).toEqual([1 + 2 ** -7]);
    const many = tensor(new Float32Array(300).fill(1), { dtype: 'bf16', device });
    expect(await list(many.sum())).toEqual([300]); // 257 and more have no bf16
    expect(await list(many.mean())).toEqual([1]);
  });

  test('a constant gets no gradient, and a gradient is not recorded itself', async () => {
    const [w, c] = [parameter(tensor([2], { device })), tensor([3], { device })];
    for (const y of [w.mul(c), c.mul(w), w.add(c), c.sub(w), w.div(c), c.div(w)]) y.backward();
    w.reshape([1, 1])
      .matmul(c.reshape([1, 1]))
      .backward();
    expect(c.grad).toBeNull();
    expect(w.grad!.requiresGrad).toBe(false);
    expect((await list(w.grad))[0]).toBeCloseTo(3 + 3 + 1 - 1 + 1 / 3 - 3 / 4 + 3, 5);
  });

  test('rms_norm, gated, rope and attention', async () => {
    const a = tensor([[3, 4]], { device });
    const norm = await list(rmsNorm(a, tensor([1, 2], { device }), 0));
    expect(
      relativeError(
        norm,
        [3, 8].map((v) => v / Math.sqrt(12.5)),
      ),
    ).toBeLessThan(1e-6);
    const silu = (v: number): number => v / (1 + Math.exp(-v));
    const gelu = (v: number): number =>
      (v / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)));
    const up = tensor([[5, 6]], { device });
    expect(relativeError(await list(gated(a, up, 'silu')), [5 * silu(3), 6 * silu(4)])).toBeLessThan(1e-6);
    expect(relativeError(await list(gated(a, up, 'gelu_tanh')), [5 * gelu(3), 6 * gelu(4)])).toBeLessThan(
      1e-6,
    );

    // Positions 0, 1, 2 turn the pair (first, second half) by 0, 90 and 180 degrees.
    const cos = tensor([[1], [0], [-1]], { device });
    const sin = tensor([[0], [1], [0]], { device });
    const pair = tensor([1, 2, 1, 2], { device }).reshape([1, 2, 1, 2]);
    const other = tensor([3, 4, 5, 6, 7, 8, 9, 10], { device }).reshape([1, 2, 2, 2]);
    const rotated = async (options = {}): Promise<number[][]> =>
      Promise.all(rope(pair, other, { cos, sin }, options).map(list));
    expect(await rotated()).toEqual([
      [1, 2, -2, 1],
      [3, 4, 5, 6, -8, 7, -10, 9],
    ]);
    expect(await rotated({ offset: 1 })).toEqual([
      [-2, 1, -1, -2],
      [-4, 3, -6, 5, -7, -8, -9, -10],
    ]);
    const positions = tensor([[2, 0]], { dtype: 'i32', device });
    expect(await rotated({ positions })).toEqual([
      [-1, -2, 1, 2],
      [-3, -4, -5, -6, 7, 8, 9, 10],
    ]);

    // Keys of zero: every key that is seen weighs the same.
    const zero = tensor(new Float32Array(6), { shape: [1, 3, 1, 2], device });
    const v = tensor([1, 10, 2, 20, 6, 60], { device }).reshape([1, 3, 1, 2]);
    const seen = async (options: object): Promise<number[]> =>
      (await list(attention(zero, zero, v, { scale: 1, ...options }))).map((n) => Math.round(n * 1e4) / 1e4);
    expect(await seen({})).toEqual([1, 10, 1.5, 15, 3, 30]);
    expect(await seen({ window: 2 })).toEqual([1, 10, 1.5, 15, 4, 40]);
    const keyBegin = tensor([[0, 1, 1]], { dtype: 'i32', device });
    expect(await seen({ keyBegin })).toEqual([1, 10, 2, 20, 4, 40]);
  });

  test('the scale of attention acts on the scores', async () => {
    const q = tensor([0, 2], { device }).reshape([1, 2, 1, 1]);
    const k = tensor([0, 1], { device }).reshape([1, 2, 1, 1]);
    const v = tensor([0, 1], { device }).reshape([1, 2, 1, 1]);
    const [, second] = await list(attention(q, k, v, { scale: 0.5 }));
    expect(second).toBeCloseTo(Math.E / (1 + Math.E), 5);
  });

  test('linear cross entropy is the loss of the product, and counts its labels', async () => {
    const [hidden, weight] = [seeded([3, 4], 1, { device }), seeded([7, 4], 2, { device })];
    const labels = [1, -100, 6];
    const { loss, count } = linearCrossEntropy(
      hidden,
      FrozenWeight.pack(weight),
      tensor(labels, { dtype: 'i32', device }),
    );
    const whole = hidden.matmul(weight.transpose()).crossEntropy(labels, { reduction: 'sum' });
    expect(await loss.item()).toBeCloseTo(await whole.item(), 5);
    expect(await count.item()).toBe(2);
  });

  test('gradients flow through casts and between devices', async () => {
    const start = tensor([1, 2], { dtype: 'bf16', device, requiresGrad: true });
    const other = device === 'cpu' ? 'reference' : 'cpu';
    const there = start.to({ dtype: 'f32', device: other });
    expect([there.dtype, there.device]).toEqual(['f32', other]);
    there.square().sum().backward();
    expect([start.grad!.dtype, start.grad!.device, await list(start.grad)]).toEqual(['bf16', device, [2, 4]]);
    const same = tensor([3], { device, requiresGrad: true });
    same.to({ dtype: 'f32' }).square().backward();
    expect(await list(same.grad)).toEqual([6]);
    const narrowed = tensor([3], { device, requiresGrad: true });
    narrowed.to({ dtype: 'bf16' }).mul(2).backward();
    expect([narrowed.grad!.dtype, await list(narrowed.grad)]).toEqual(['f32', [2]]);
  });

  test('a frozen matrix comes back bit for bit, and lives as long as a graph needs it', async () => {
    const w = tensor(values(15, 3), { shape: [5, 3], dtype: 'bf16', device });
    const packed = FrozenWeight.pack(w);
    expect([packed.rows, packed.cols, packed.dtype, packed.device]).toEqual([5, 3, 'bf16', device]);
    expect(packed.unpack().bytesSync()).toEqual(w.bytesSync());
    expect(packed.disposed).toBe(false);
    packed.dispose();
    packed.dispose();
    expect(packed.disposed).toBe(true);
    expect(() => packed.unpack()).toThrow('[unpack] the weight has been disposed');
    expect(() => FrozenWeight.pack(tensor([1], { device }))).toThrow(
      '[pack] expected a matrix [out, in] but received [1]',
    );
  });
});
