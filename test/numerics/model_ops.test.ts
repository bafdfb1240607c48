// The ops of a Llama-family model: gradients against central differences, cpu against reference.
import { tensor, type Tensor } from '../../lib/index';
import type { Device, DType, TensorValues } from '../../lib/index';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import {
  addRmsNorm,
  attention,
  attentionPaged,
  combineRows,
  crossEntropy,
  embedding,
  gated,
  gatedDelta,
  layerNorm,
  linearCrossEntropy,
  pageAppend,
  poolShape,
  positions,
  randomNormal,
  randomUniform,
  rowCrossEntropy,
  rowLinearCrossEntropy,
  rmsNorm,
  rope,
  route,
  routedLinear,
  sample,
  shortConv,
  softcap,
  splitColumns,
  spreadRows,
  unary,
} from '../../lib/ops';
import { expectReject, expectThrow } from '../support/errors';
import { gradientError, numel, relativeError, seeded, weigh, type Input } from '../support/numbers';

const table = (d: number, n: number, device: Device): { cos: Tensor; sin: Tensor } => {
  const angles = Array.from({ length: n * (d / 2) }, (_, i) => Math.floor(i / (d / 2)) / (1 + (i % (d / 2))));
  const make = (f: (x: number) => number): Tensor =>
    tensor(Float32Array.from(angles, f), { shape: [n, d / 2], device });
  return { cos: make(Math.cos), sin: make(Math.sin) };
};
const ints = (list: number[], shape: number[], device: Device): Tensor =>
  tensor(Int32Array.from(list), { shape, device });

interface Case {
  name: string;
  fn: (device: Device) => (...x: Tensor[]) => Tensor;
  inputs: Input[];
}
const product = ([a, b]: readonly [Tensor, Tensor]): Tensor => a.mul(b);
const qkv = (heads: number, kv: number): Input[] => [
  { shape: [2, 5, heads, 4] },
  { shape: [2, 5, kv, 4] },
  { shape: [2, 5, kv, 4] },
];

/** q, k, v, −g and β. */
const delta: Input[] = [
  { shape: [2, 5, 1, 3] },
  { shape: [2, 5, 1, 3] },
  { shape: [2, 5, 2, 4] },
  { shape: [2, 5, 2] },
  { shape: [2, 5, 2] },
];

const deltaOf = (q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) => ({
  ...{ q, k, v },
  g: g.to({ dtype: 'f32' }).mul(-1),
  beta: beta.to({ dtype: 'f32' }),
});

const cases: Case[] = [
  {
    name: 'rms_norm',
    fn: (device) => (x) => rmsNorm(x, seeded([6], 3, { device }), 1e-5),
    inputs: [{ shape: [2, 2, 6] }],
  },
  {
    name: 'rms_norm whose weight is trained',
    fn: () => (x, weight) => rmsNorm(x, weight, 1e-5),
    inputs: [{ shape: [2, 2, 6] }, { shape: [6] }],
  },
  {
    name: 'rms_norm whose weight is stored less 1',
    fn: () => (x, weight) => rmsNorm(x, weight, 1e-5, x.dtype, 1),
    inputs: [{ shape: [2, 2, 6] }, { shape: [6] }],
  },
  {
    name: 'rms_norm of a sum, whose weight is stored less 1',
    fn: () => (x, addend, weight) => {
      const [sum, y] = addRmsNorm(x, addend, weight, 1e-5, x.dtype, 1);
      return sum.mul(y);
    },
    inputs: [{ shape: [2, 2, 6] }, { shape: [2, 2, 6] }, { shape: [6] }],
  },
  {
    name: 'rms_norm of a sum, both of which count',
    fn: () => (x, addend, weight) => {
      const [sum, y] = addRmsNorm(x, addend, weight, 1e-5);
      return sum.mul(y);
    },
    inputs: [{ shape: [2, 2, 6] }, { shape: [2, 2, 6] }, { shape: [6] }],
  },
  {
    name: 'layer_norm',
    fn: () => (x, weight, bias) => layerNorm(x, weight, bias, 1e-5),
    inputs: [{ shape: [2, 2, 6] }, { shape: [6] }, { shape: [6] }],
  },
  {
    name: 'a gated short convolution, of all of whose operands there are gradients',
    fn: () => (x, weight, bias) => shortConv(x, weight, { kind: 'gated', bias }),
    inputs: [{ shape: [2, 5, 12] }, { shape: [4, 3] }, { shape: [4] }],
  },
  {
    name: 'a short convolution with silu, of texts in packed rows',
    fn: (device) => (x, weight) => {
      const keyBegin = ints([0, 0, 2, 2, 2, 0, 1, 2, 2, 4], [2, 5], device);
      return shortConv(x, weight, { kind: 'silu', keyBegin });
    },
    inputs: [{ shape: [2, 5, 4] }, { shape: [4, 4] }],
  },
  {
    name: 'rope',
    fn: (device) => (q, k) => product(rope(q, k, table(4, 9, device), { offset: 3 })),
    inputs: [{ shape: [2, 3, 2, 4] }, { shape: [2, 3, 1, 4] }],
  },
  {
    name: 'rope with positions',
    fn: (device) => (q, k) =>
      product(rope(q, k, table(4, 9, device), { positions: ints([0, 1, 2, 5, 6, 0], [2, 3], device) })),
    inputs: [{ shape: [2, 3, 2, 4] }, { shape: [2, 3, 1, 4] }],
  },
  {
    name: 'rope of a part of the head',
    fn: (device) => (q, k) => product(rope(q, k, table(4, 9, device), { offset: 3 })),
    inputs: [{ shape: [2, 3, 2, 8] }, { shape: [2, 3, 1, 8] }],
  },
  {
    name: 'rope of a q and of a k that have no gradient beside the other',
    fn: (device) => (x) => {
      const fixed = seeded(x.shape, 3, { device, dtype: x.dtype });
      const [q] = rope(x, fixed, table(4, 9, device));
      const [, k] = rope(fixed, x, table(4, 9, device), { offset: 1 });
      return q.mul(k);
    },
    inputs: [{ shape: [2, 3, 2, 4] }],
  },
  { name: 'attention', fn: () => (q, k, v) => attention(q, k, v, { scale: 0.5 }), inputs: qkv(2, 2) },
  {
    name: 'grouped attention in a window',
    fn: () => (q, k, v) => attention(q, k, v, { scale: 0.7, window: 2 }),
    inputs: qkv(4, 2),
  },
  {
    name: 'attention with sinks in a window',
    fn: () => (q, k, v, sinks) =>
      attention(q, k, v, { scale: 0.7, window: 3, sinks: sinks.to({ dtype: 'f32' }) }),
    inputs: [...qkv(4, 2), { shape: [4] }],
  },
  {
    name: 'attention with sinks that are not trained',
    fn: (device) => (q, k, v) =>
      attention(q, k, v, { scale: 0.7, sinks: seeded([2], 9, { device, dtype: 'f32' }) }),
    inputs: qkv(2, 2),
  },
  {
    name: 'packed attention',
    fn: (device) => (q, k, v) =>
      attention(q, k, v, {
        scale: 0.7,
        keyBegin: ints([0, 0, 2, 2, 2, 0, 0, 0, 0, 4], [2, 5], device),
      }),
    inputs: qkv(2, 1),
  },
  {
    name: 'a gated delta rule',
    fn: () => (q, k, v, g, beta) => gatedDelta(deltaOf(q, k, v, g, beta), { scale: 0.7, eps: 0.1 }),
    inputs: delta,
  },
  {
    name: 'a gated delta rule of packed texts',
    fn: (device) => (q, k, v, g, beta) => {
      const keyBegin = ints([0, 0, 2, 2, 2, 0, 0, 0, 0, 4], [2, 5], device);
      return gatedDelta(deltaOf(q, k, v, g, beta), { scale: 0.7, eps: 0.1, keyBegin });
    },
    inputs: delta,
  },
  { name: 'softplus', fn: () => (x) => unary('softplus', x), inputs: [{ shape: [9] }] },
  {
    name: 'a gate of a sigmoid',
    fn: () => (x, up) => gated(x, up, 'sigmoid'),
    inputs: [{ shape: [9] }, { shape: [9] }],
  },
  {
    name: 'columns, of which all count',
    fn: () => (x) => {
      const [a, b, c] = splitColumns(x, [3, 1, 3]) as [Tensor, Tensor, Tensor];
      return a.mul(c).add(b);
    },
    inputs: [{ shape: [2, 3, 7] }],
  },
  {
    name: 'columns, of which some have no gradient',
    fn: () => (x) => splitColumns(x, [2, 3, 2])[1]!.mul(3),
    inputs: [{ shape: [5, 7] }],
  },
  {
    name: 'rows scaled by their positions',
    fn: (device) => (x) => x.mul(seeded([2, 3, 1], 3, { device })),
    inputs: [{ shape: [2, 3, 8] }],
  },
  ...[true, false].map((amongChosen) => ({
    name: `experts, weighted among ${amongChosen ? 'the chosen' : 'all'}`,
    // Logits are far from a tie; the expert in the middle has no row.
    fn: (device: Device) => (x: Tensor, logits: Tensor, up: Tensor, down: Tensor) => {
      const far = tensor([3, 0, -9, 1, 0, 4, -9, 2, 2, 1, -9, 6, 7, 3, -9, 0, 0, 5, -9, 9], {
        shape: [5, 4],
        device,
      });
      const weights = [0, 1, 2, 3].map((e) =>
        FrozenWeight.pack(seeded([3, 6], 10 + e, { device }).to({ dtype: x.dtype })),
      );
      const change = { up: up.to({ dtype: 'f32' }), down: down.to({ dtype: 'f32' }), scale: 0.5 };
      const routing = route(logits.add(far), 2, amongChosen);
      const y = routedLinear(spreadRows(x, routing), routing.offsets, weights, {
        change,
      });
      for (const weight of weights) weight.dispose();
      return combineRows(y, routing);
    },
    inputs: [{ shape: [5, 6] }, { shape: [5, 4] }, { shape: [4, 3, 2] }, { shape: [4, 2, 6] }],
  })),
  {
    name: 'biases of experts',
    fn:
      (device) =>
      (x, ...biases) => {
        const routing = route(seeded([5, 3], 8, { device, dtype: 'f32' }), 2, true);
        const weights = [1, 2, 3].map((e) =>
          FrozenWeight.pack(seeded([4, 6], e, { device, dtype: x.dtype })),
        );
        const y = routedLinear(spreadRows(x, routing), routing.offsets, weights, { biases });
        for (const weight of weights) weight.dispose();
        return combineRows(y, routing);
      },
    inputs: [{ shape: [5, 6] }, { shape: [4] }, { shape: [4] }, { shape: [4] }],
  },
  ...(['silu', 'gelu_tanh', 'clamped'] as const).map((kind) => ({
    name: `gated by ${kind}`,
    fn: () => (a: Tensor, b: Tensor) => gated(a, b, kind),
    inputs: [{ shape: [3, 5] }, { shape: [3, 5] }],
  })),
  {
    name: 'cross_entropy',
    fn: (device) => (x) => crossEntropy(x, ints([2, -100, 0, 5], [2, 2], device)).loss,
    inputs: [{ shape: [2, 2, 6] }],
  },
  {
    name: 'linear_cross_entropy',
    fn: (device) => (x) =>
      linearCrossEntropy(
        x,
        FrozenWeight.pack(seeded([7, 4], 5, { device })),
        ints([1, 6, -100], [3], device),
      ).loss.mul(0.5),
    inputs: [{ shape: [3, 4] }],
  },
  {
    name: 'losses of rows',
    fn: (device) => (x) =>
      x.crossEntropy(ints([2, -100, 0, 5], [2, 2], device), { reduction: 'none' }).mul(
        tensor(
          [
            [1, 2],
            [3, -4],
          ],
          { device },
        ),
      ),
    inputs: [{ shape: [2, 2, 6] }],
  },
  {
    name: 'linear_cross_entropy of rows, at a temperature',
    fn: (device) => (x) =>
      rowLinearCrossEntropy(
        x,
        FrozenWeight.pack(seeded([7, 4], 5, { device })),
        ints([1, 6, -100], [3], device),
        { temperature: 1.5 },
      ).losses.mul(tensor([2, -3, 4], { device })),
    inputs: [{ shape: [3, 4] }],
  },
  {
    name: 'linear_cross_entropy of rows with a cap, at a temperature',
    fn: (device) => (x) =>
      rowLinearCrossEntropy(
        x,
        FrozenWeight.pack(seeded([7, 4], 5, { device })),
        ints([1, 6, -100], [3], device),
        { temperature: 1.5, cap: 0.8 },
      ).losses.mul(tensor([2, -3, 4], { device })),
    inputs: [{ shape: [3, 4] }],
  },
  { name: 'softcap', fn: () => (x) => softcap(x, 0.7), inputs: [{ shape: [3, 5] }] },
];

test.each(cases)('$name: gradients are those of central differences', async ({ fn, inputs }) => {
  expect(await gradientError(fn('reference'), inputs)).toBeLessThan(3e-3);
});

test.each(cases)('$name: cpu against reference', async ({ name, fn, inputs }) => {
  for (const [dtype, bound] of [
    ['f32', 2e-5],
    ['bf16', 2 ** -6],
  ] as const) {
    if (dtype === 'bf16' && name.startsWith('linear_cross_entropy')) continue; // its weight is f32 here
    const run = async (device: Device): Promise<ArrayLike<number>[]> => {
      const xs = inputs.map((x, i) => seeded(x.shape, 40 + i, { dtype, device, requiresGrad: true }));
      const y = fn(device)(...xs);
      weigh(y).backward();
      return Promise.all([y, ...xs.map((x) => x.grad!)].map((t) => t.data()));
    };
    const [cpu, reference] = [await run('cpu'), await run('reference')];
    cpu.forEach((got, i) => expect(relativeError(got, reference[i]!)).toBeLessThan(bound));
  }
});

test.each([
  ['reference', 0],
  ['cpu', 0],
  ['cpu', 0.8],
] as const)(
  'the losses of rows are those of the product, also in the gradient of a head that is trained, on %s with a cap of %d',
  async (device, cap) => {
    const labels = ints([1, 6, -100, 3], [4], device);
    const g = tensor([2, -3, 4, 0.5], { device });
    const [hidden, w] = [
      seeded([4, 5], 1, { device, requiresGrad: true }),
      seeded([7, 5], 2, { device, requiresGrad: true }),
    ];
    const product = hidden.matmul(w.transpose());
    const logits = (cap > 0 ? softcap(product, cap) : product).div(1.5);
    const whole = rowCrossEntropy(logits, labels, { entropies: true });
    whole.losses.mul(g).sum().backward();
    const weight = FrozenWeight.pack(seeded([7, 5], 2, { device }));
    const master = weight.train('head');
    const own = seeded([4, 5], 1, { device, requiresGrad: true });
    const fused = rowLinearCrossEntropy(own, weight, labels, { temperature: 1.5, entropies: true, cap });
    fused.losses.mul(g).sum().backward();
    for (const [got, want] of [
      [fused.losses, whole.losses],
      [fused.entropies!, whole.entropies!],
      [own.grad!, hidden.grad!],
      [master.grad!, w.grad!],
    ] as const)
      expect(relativeError(await got.data(), await want.data())).toBeLessThan(1e-5);
    expect(
      relativeError(
        await fused.losses.data(),
        await logits.crossEntropy(labels, { reduction: 'none' }).data(),
      ),
    ).toBeLessThan(1e-5);
    expect((await fused.losses.data())[2]).toBe(0);
    expect((await fused.entropies!.data())[2]).toBe(0);
  },
);

test('the gradient of a head whose logits do not fit at once is that of its parts', async () => {
  const [vocab, n] = [2 ** 20, 18]; // the logits of 16 rows fit
  const labels = Array.from({ length: n }, (_, i) => i * 50_000);
  const g = labels.map((_, i) => 1 + i);
  const x = await seeded([n, 2], 1, { device: 'cpu' }).data();
  const gradient = async (calls: readonly (readonly [from: number, to: number])[]): Promise<TensorValues> => {
    const weight = FrozenWeight.pack(seeded([vocab, 2], 2, { device: 'cpu' }));
    const master = weight.train('head');
    for (const [from, to] of calls) {
      const rows = tensor(x.slice(2 * from, 2 * to), { shape: [to - from, 2], device: 'cpu' });
      const { losses } = rowLinearCrossEntropy(
        rows,
        weight,
        ints(labels.slice(from, to), [to - from], 'cpu'),
      );
      losses
        .mul(tensor(g.slice(from, to), { device: 'cpu' }))
        .sum()
        .backward();
    }
    return master.grad!.data();
  };
  const parts = await gradient([
    [0, 7],
    [7, n],
  ]);
  expect(relativeError(await gradient([[0, n]]), parts)).toBeLessThan(1e-5);
});

test('layer_norm of a row: its values, and the gradients of weight and bias in f32', async () => {
  const g = [0.1234567, 0.7654321];
  const [x, weight, bias] = [[[1, 3]], [2, 1], [0, 5]].map((values) => tensor(values, { device: 'cpu' }));
  for (const trained of [weight!, bias!]) trained.requiresGrad = true;
  const y = layerNorm(x!, weight!, bias!, 0);
  expect(await y.data()).toEqual(Float32Array.of(-2, 6));
  y.mul(tensor([g], { device: 'cpu' }))
    .sum()
    .backward();
  expect(await weight!.grad!.data()).toEqual(Float32Array.of(-g[0]!, g[1]!));
  expect(await bias!.grad!.data()).toEqual(Float32Array.from(g));
});

test.each(['reference', 'cpu'] as const)(
  'rms_norm of f32 in bf16 rounds y once and its gradient not at all, on %s',
  async (device) => {
    const weight = seeded([20], 3, { device });
    const g = seeded([3, 20], 4, { device }).to({ dtype: 'bf16' });
    const run = async (dtype: DType): Promise<{ y: Tensor; dx: unknown }> => {
      const x = seeded([3, 20], 5, { device });
      x.requiresGrad = true;
      const y = rmsNorm(x, weight, 1e-5, dtype);
      expect(y.dtype).toBe(dtype);
      y.mul(g).sum().backward();
      expect(x.grad!.dtype).toBe('f32');
      return { y, dx: await x.grad!.data() };
    };
    const [exact, rounded] = [await run('f32'), await run('bf16')];
    expect(await rounded.y.data()).toEqual(await exact.y.to({ dtype: 'bf16' }).data());
    expect(rounded.dx).toEqual(exact.dx);
  },
);

test.each([
  ['both', true, true],
  ['the sum alone', true, false],
  ['the norm alone', false, true],
] as const)(
  'rms_norm of a sum has the bits of add and rms_norm on the CPU, read: %s',
  async (_, ofSum, ofNorm) => {
    for (const dtype of ['f32', 'bf16'] as const) {
      for (const frozen of [[], [0], [1]]) {
        const run = async (fused: boolean): Promise<unknown[]> => {
          const [x, addend, weight] = [
            seeded([3, 20], 1),
            seeded([3, 20], 2, { dtype }),
            seeded([20], 3),
          ] as const;
          const inputs = [x, addend, weight].filter((_, i) => !frozen.includes(i as never));
          for (const t of inputs) t.requiresGrad = true;
          const apart = (): [Tensor, Tensor] => {
            const sum = x.add(addend);
            return [sum, rmsNorm(sum, weight, 1e-5, dtype)];
          };
          const [sum, y] = fused ? addRmsNorm(x, addend, weight, 1e-5, dtype) : apart();
          const read = [...(ofSum ? [weigh(sum)] : []), ...(ofNorm ? [weigh(y)] : [])];
          read.reduce((a, b) => a.add(b)).backward();
          const gradients = inputs.map(async ({ grad }) => grad && [grad.dtype, await grad.data()]);
          return Promise.all([sum.data(), y.data(), ...gradients]);
        };
        expect(await run(true)).toEqual(await run(false));
      }
    }
  },
);

describe.each(['reference', 'cpu'] as const)('without gradient, on %s', (device) => {
  test('embedding gives rows', async () => {
    const w = FrozenWeight.pack(
      tensor(
        [
          [1, 2],
          [3, 4],
          [5, 6],
        ],
        { device },
      ),
    );
    const y = embedding(w, ints([2, 0], [1, 2], device));
    expect([y.shape, ...(await y.data())]).toEqual([[1, 2, 2], 5, 6, 1, 2]);
    await expectReject(embedding(w, ints([3], [1], device)).data(), 'ERR_DATA', /^\[embedding\] .*3/);
  });

  test('sequences in pages: chunks of two prompts, then a token of each', async () => {
    const [heads, kv, d] = [4, 2, 4];
    const lengths = [70, 131];
    const options = { scale: 0.5, window: 90 };
    const parts = lengths.map((n, i) => ({
      q: seeded([1, n, heads, d], 10 * i + 1, { device }),
      k: seeded([1, n, kv, d], 10 * i + 2, { device }),
      v: seeded([1, n, kv, d], 10 * i + 3, { device }),
    }));
    const rows = async (t: Tensor, from: number, to: number): Promise<Float32Array> => {
      const width = t.shape[2]! * d;
      return Float32Array.from((await t.data()).slice(from * width, to * width));
    };
    const cut = async (t: Tensor, from: number, to: number): Promise<Tensor> =>
      tensor(await rows(t, from, to), { shape: [1, to - from, t.shape[2]!, d], device });
    const [kPool, vPool] = [0, 1].map(() => {
      const shape = poolShape(6, kv, d);
      return tensor(new Float32Array(numel(shape)).fill(NaN), { shape, device });
    }) as [Tensor, Tensor];
    const pools = { k: kPool, v: vPool };
    const pages = [
      [4, 1, -1],
      [5, 0, 2],
    ];
    // A rotation that turns nothing.
    const angles = (value: number): Tensor =>
      tensor(new Float32Array(192 * (d / 2)).fill(value), { shape: [192, d / 2], device });
    const unturned = { cos: angles(1), sin: angles(0) };
    const want = await Promise.all(
      parts.map(async ({ q, k, v }) => [...(await attention(q, k, v, options).data())]),
    );
    for (const [i, { q, k, v }] of parts.entries()) {
      const at = ints(pages[i]!, [1, 3], device);
      let from = 0;
      for (const to of [10, 64, lengths[i]! - 1]) {
        const length = ints([to], [1], device);
        const part = [await cut(q, from, to), await cut(k, from, to), await cut(v, from, to)] as const;
        const y = attentionPaged(pageAppend(...part, unturned, pools, at, length), kPool, vPool, at, length, {
          ...options,
          phase: 'prefill',
        });
        const expected = want[i]!.slice(from * heads * d, to * heads * d);
        expect(relativeError(await y.data(), Float32Array.from(expected))).toBeLessThan(1e-5);
        from = to;
      }
    }
    const last = async (name: 'q' | 'k' | 'v'): Promise<Tensor> => {
      const both = await Promise.all(parts.map((p, i) => rows(p[name], lengths[i]! - 1, lengths[i]!)));
      const data = Float32Array.from(both.flatMap((x) => [...x]));
      return tensor(data, { shape: [2, 1, data.length / 2 / d, d], device });
    };
    const at = ints(pages.flat(), [2, 3], device);
    const length = ints(lengths, [2], device);
    const q = pageAppend(await last('q'), await last('k'), await last('v'), unturned, pools, at, length);
    const y = attentionPaged(q, kPool, vPool, at, length, { ...options, phase: 'decode' });
    const expected = want.flatMap((all, i) => all.slice((lengths[i]! - 1) * heads * d));
    expect(relativeError(await y.data(), Float32Array.from(expected))).toBeLessThan(1e-5);

    const wrong = ints([70, 193], [2], device);
    await expectReject(
      attentionPaged(q, kPool, vPool, at, wrong, { ...options, phase: 'decode' }).data(),
      'ERR_DATA',
      '[attention_paged] expected lengths from 1 (the positions of this call) to 192 (64 per column of pageTable) but received 193 for sequence 1',
    );
  });

  test('the positions of the last tokens', async () => {
    const y = positions(ints([5, 70, 0], [3], device), 2);
    expect([y.dtype, y.shape, [...(await y.data())]]).toEqual(['i32', [3, 2], [3, 4, 68, 69, 0, 0]]);
  });

  test('pages of sequences with tables of their own', async () => {
    const [q, k] = [seeded([2, 1, 2, 4], 1, { device }), seeded([2, 1, 1, 4], 2, { device })];
    const below = (values: Tensor, other: Tensor): Promise<Tensor> =>
      Promise.all([values.data(), other.data()]).then(([a, b]) =>
        tensor(Float32Array.of(...a, ...b), { shape: [128, 2], device }),
      );
    const [short, long] = [
      table(4, 64, device),
      { cos: seeded([64, 2], 3, { device }), sin: seeded([64, 2], 4, { device }) },
    ];
    const both = { cos: await below(short.cos, long.cos), sin: await below(short.sin, long.sin) };
    const append = async (angles: typeof short, starts: Tensor | null): Promise<number[][][]> => {
      const [kPool, vPool] = [0, 1].map(() => seeded([2, 1, 64, 4], 5, { device })) as [Tensor, Tensor];
      const lengths = ints([7, 40], [2], device);
      const y = pageAppend(
        q,
        k,
        k,
        angles,
        { k: kPool, v: vPool },
        ints([0, 1], [2, 1], device),
        lengths,
        starts,
      );
      return Promise.all(
        [y, kPool].map(async (t) => {
          const values = [...(await t.data())];
          return [values.slice(0, values.length / 2), values.slice(values.length / 2)];
        }),
      );
    };
    const [rows, ofShort, ofLong] = [
      await append(both, ints([64, 0], [2], device)),
      await append(short, null),
      await append(long, null),
    ];
    expect(rows).toEqual(ofShort.map(([, second], i) => [ofLong[i]![0], second]));
  });

  test('random numbers depend on seed, stream and index alone', async () => {
    const a = await randomUniform([4, 3], { seed: 1, lo: -2, hi: 2, device }).data();
    const b = await randomUniform([5], { seed: 1, lo: -2, hi: 2, device }).data();
    expect([...b]).toEqual([...a].slice(0, 5));
    const c = await randomUniform([5], { seed: 1, stream: 1, lo: -2, hi: 2, device }).data();
    expect([...c]).not.toEqual([...b]);
    expect(Math.max(...a)).toBeLessThan(2);
    const n = await randomNormal([10_000], { seed: 2, mean: 1, std: 0.5, device }).data();
    const mean = n.reduce((s: number, x: number) => s + x, 0) / n.length;
    const variance = n.reduce((s: number, x: number) => s + (x - mean) ** 2, 0) / n.length;
    expect(Math.abs(mean - 1)).toBeLessThan(0.02);
    expect(Math.abs(Math.sqrt(variance) - 0.5)).toBeLessThan(0.02);
  });

  test('labels that cannot be', async () => {
    const logits = seeded([2, 3], 1, { device });
    await expectReject(logits.crossEntropy([0, 3]).item(), 'ERR_DATA', /^\[cross_entropy\] .*3/);
    await expectReject(logits.crossEntropy([-100, -100]).item(), 'ERR_DATA', /^\[cross_entropy\]/);
    expectThrow(
      () => logits.crossEntropy([0]),
      'ERR_ARGUMENT',
      '[cross_entropy] expected labels of shape [2] (that of the rows of logits) but received [1]',
    );
  });
});

test('activations in f16 are refused by the CPU, op by op, and taken by the reference', async () => {
  const x = (device: Device, ...shape: number[]): Tensor => seeded(shape, 1, { device }).to({ dtype: 'f16' });
  const calls: Record<string, (device: Device) => unknown> = {
    rms_norm: (on) => rmsNorm(x(on, 2, 6), seeded([6], 3, { device: on }), 1e-5),
    rope: (on) => rope(x(on, 2, 3, 2, 4), x(on, 2, 3, 1, 4), table(4, 9, on), { offset: 3 }),
    page_append: (on) => {
      const [q, k] = [x(on, 1, 3, 2, 4), x(on, 1, 3, 1, 4)];
      const pools = { k: x(on, 1, 1, 64, 4), v: x(on, 1, 1, 64, 4) };
      return pageAppend(q, k, k, table(4, 64, on), pools, ints([0], [1, 1], on), ints([3], [1], on));
    },
    attention: (on) => attention(x(on, 1, 3, 2, 4), x(on, 1, 3, 2, 4), x(on, 1, 3, 2, 4), { scale: 0.5 }),
    short_conv: (on) => shortConv(x(on, 1, 3, 2), seeded([2, 3], 3, { device: on }), { kind: 'silu' }),
    gated: (on) => gated(x(on, 2, 6), x(on, 2, 6), 'silu'),
    sample: (on) =>
      sample(
        x(on, 2, 6),
        tensor(
          [
            [1, 1, 0],
            [1, 1, 0],
          ],
          { device: on },
        ),
        ints([0, 0, 0, 0, 0, 0, 0, 0], [2, 4], on),
      ),
    pack: (on) => FrozenWeight.pack(x(on, 2, 6)),
  };
  for (const [op, call] of Object.entries(calls)) {
    call('reference');
    expectThrow(
      () => call('cpu'),
      'ERR_UNSUPPORTED',
      `[${op}] f16 activations are for inference on GPUs; use bf16 on cpu`,
    );
  }
  expectThrow(
    () => rmsNorm(seeded([2, 6], 1, { device: 'cpu' }), seeded([6], 3, { device: 'cpu' }), 1e-5, 'f16'),
    'ERR_UNSUPPORTED',
    '[rms_norm] f16 activations are for inference on GPUs; use bf16 on cpu',
  );
  const y = rmsNorm(x('reference', 2, 6), seeded([6], 3, { device: 'reference' }), 1e-5);
  expect(y.dtype).toBe('f16');
  expect((await y.data()).every(Number.isFinite)).toBe(true);
});
