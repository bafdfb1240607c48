// LoRALinear and loraLinearGroup against hand computation, differences and the reference device.
import { LoRALinear, noGrad, parameter, tensor, type Tensor } from '../../lib/index';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { loraLinear, loraLinearGroup } from '../../lib/ops';
import { gradientError, numel, relativeError, seeded, values, weigh } from '../support/numbers';

type Matrix = number[][];
const matrix = (rows: number, cols: number, seed: number): Matrix => {
  const v = values(rows * cols, seed).map(Math.fround);
  return Array.from({ length: rows }, (_, i) => v.slice(i * cols, (i + 1) * cols));
};
const times = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((s, x, k) => s + x * b[k]![j]!, 0)));
const turned = (a: Matrix): Matrix => a[0]!.map((_, j) => a.map((row) => row[j]!));
const scaled = (a: Matrix, s: number): Matrix => a.map((row) => row.map((x) => x * s));
const plus = (a: Matrix, b: Matrix): Matrix => a.map((row, i) => row.map((x, j) => x + b[i]![j]!));

describe.each(['reference', 'cpu'] as const)('on %s', (device) => {
  test.each([
    [1, 1],
    [4, 0.5],
    [16, 2],
  ])('r = %d: forward and gradients by hand', async (r, alpha) => {
    const [m, n, k] = [5, 7, 9];
    const [w, x, a, b, g] = [
      matrix(n, k, 1),
      matrix(m, k, 2),
      matrix(n, r, 3),
      matrix(r, k, 4),
      matrix(m, n, 5),
    ] as [Matrix, Matrix, Matrix, Matrix, Matrix];
    const bias = values(n, 6).map(Math.fround);
    const layer = new LoRALinear({
      inFeatures: k,
      outFeatures: n,
      r,
      loraAlpha: alpha,
      weight: tensor(w, { device }),
      bias: Float32Array.from(bias),
      device,
    });
    layer.loadStateDict({ up: tensor(a, { device }), down: tensor(b, { device }), forwards: 0 });
    const input = tensor(x, { device, requiresGrad: true });
    const y = layer.forward(input);
    y.backward(tensor(g, { device }));

    const s = alpha / r;
    const h = times(x, turned(b));
    const wantY = plus(times(x, turned(w)), scaled(times(h, turned(a)), s)).map((row) =>
      row.map((v, j) => v + bias[j]!),
    );
    const u = times(g, a);
    const want = {
      y: wantY,
      dx: plus(times(g, w), scaled(times(u, b), s)),
      da: scaled(times(turned(g), h), s),
      db: scaled(times(turned(u), x), s),
    };
    const close = async (got: Tensor, to: Matrix): Promise<void> =>
      expect(relativeError(await got.data(), to.flat())).toBeLessThan(1e-5);
    await close(y, want.y);
    await close(input.grad!, want.dx);
    await close(layer.up.grad!, want.da);
    await close(layer.down.grad!, want.db);
  });

  test('dropout drops in training only, anew each time, the same from one seed', async () => {
    const make = (): LoRALinear => {
      const layer = new LoRALinear({
        inFeatures: 40,
        outFeatures: 8,
        r: 4,
        loraDropout: 0.5,
        device,
        seed: 3,
      });
      layer.loadStateDict({ ...layer.stateDict(), up: seeded([8, 4], 9, { device }) });
      return layer;
    };
    const x = seeded([3, 40], 1, { device });
    const [one, two] = [make(), make()];
    const text = (t: Tensor): string => Buffer.from(t.bytesSync()).toString('hex');
    const [first, second] = [text(one.forward(x)), text(one.forward(x))];
    expect(second).not.toBe(first);
    expect([text(two.forward(x)), text(two.forward(x))]).toEqual([first, second]);
    const still = text(one.forward(x, { train: false }));
    expect(text(noGrad(() => one.forward(x)))).toBe(still);
    expect(still).not.toBe(first);
    expect(one.stateDict().forwards).toBe(2);
  });

  test('every bit of the dropout seed counts, those above 32 too', () => {
    const weight = FrozenWeight.pack(seeded([3, 40], 1, { device }));
    const [x, up, down] = [
      seeded([2, 40], 2, { device }),
      seeded([3, 2], 3, { device }),
      seeded([2, 40], 4, { device }),
    ];
    const y = (seed: number): string => {
      const dropout = { p: 0.5, seed, layer: 0, forward: 0 };
      return Buffer.from(loraLinear(x, { weight, up, down, dropout }).bytesSync()).toString('hex');
    };
    const seeds = [5, 5 + 2 ** 31, 5 + 2 ** 32, 5 + 2 ** 52];
    expect(new Set(seeds.map(y)).size).toBe(seeds.length);
    expect(seeds.map(y)).toEqual(seeds.map(y));
  });

  test('gradients under dropout are those of the same mask', async () => {
    const weight = FrozenWeight.pack(seeded([3, 16], 1, { device }));
    const error = await gradientError(
      (x, up, down) =>
        loraLinear(x, {
          weight,
          up: up,
          down: down,
          scale: 1.5,
          dropout: { p: 0.4, seed: 5, layer: 2, forward: 7 },
        }),
      [{ shape: [2, 16] }, { shape: [3, 2] }, { shape: [2, 16] }],
      { device },
    );
    expect(error).toBeLessThan(3e-3);
  });

  test('a factor of each output, and the gradients through it', async () => {
    const weight = FrozenWeight.pack(seeded([5, 16], 1, { device }));
    const factor = tensor(Float32Array.of(1.5, 0, -2, 0.25, -0.75), { device });
    const error = await gradientError(
      (x, up, down, bias) => loraLinear(x, { weight, bias, up, down, scale: 1.5, factor }),
      [{ shape: [6, 16] }, { shape: [5, 2] }, { shape: [2, 16] }, { shape: [5] }],
      { device },
    );
    expect(error).toBeLessThan(3e-3);

    const x = seeded([6, 16], 2, { device });
    const bias = seeded([5], 3, { device });
    const want = loraLinear(x, { weight }).mul(factor).add(bias);
    expect(
      relativeError(await loraLinear(x, { weight, bias, factor }).data(), await want.data()),
    ).toBeLessThan(1e-6);
    const call = (f: Tensor) => () => loraLinear(x, { weight, factor: f });
    expect(call(seeded([4], 1, { device }))).toThrow(
      /expected factor of shape \[5\] \(out\) but received \[4\]/,
    );
    expect(call(factor.to({ dtype: 'bf16' }))).toThrow(/expected factor of dtype f32 but received bf16/);
    expect(call(parameter(factor))).toThrow(/expected factor to be a constant, but it requires a gradient/);
  });

  test('a group is its members, gradients added', async () => {
    const x = seeded([2, 3, 8], 1, { device, requiresGrad: true });
    const branch = (rows: number, seed: number, adapted: boolean): Parameters<typeof loraLinear>[1] => ({
      weight: FrozenWeight.pack(seeded([rows, 8], seed, { device })),
      bias: parameter(seeded([rows], seed + 3, { device })),
      ...(adapted && {
        up: parameter(seeded([rows, 2], seed + 1, { device })),
        down: parameter(seeded([2, 8], seed + 2, { device })),
        scale: 0.5,
      }),
    });
    const branches = [branch(4, 10, true), branch(3, 20, false), branch(5, 30, true)];
    const grads = async (): Promise<Float32Array[]> => {
      const all = [x, ...branches.flatMap((b) => [b.up, b.down, b.bias])];
      const out: Float32Array[] = [];
      for (const t of all) {
        if (!t) continue;
        out.push(await t.grad!.data());
        t.grad = null;
      }
      return out;
    };
    const outputs = loraLinearGroup(x, branches);
    expect(outputs.map((y) => y.shape)).toEqual([
      [2, 3, 4],
      [2, 3, 3],
      [2, 3, 5],
    ]);
    outputs
      .map(weigh)
      .reduce((a, b) => a.add(b))
      .backward();
    const together = await grads();
    const apart = branches.map((b) => loraLinear(x, b));
    for (const [i, y] of apart.entries()) {
      expect(relativeError(await outputs[i]!.data(), await y.data())).toBeLessThan(1e-6);
    }
    apart
      .map(weigh)
      .reduce((a, b) => a.add(b))
      .backward();
    const single = await grads();
    together.forEach((g, i) => expect(relativeError(g, single[i]!)).toBeLessThan(1e-5));
    // One output alone: the others have no gradient.
    weigh(loraLinearGroup(x, branches)[2]!).backward();
    expect(branches[0]!.up!.grad).toBeNull();
    expect(branches[2]!.up!.grad).not.toBeNull();
  });
});

test.each([
  [1, 1, 1, 1],
  [3, 5, 7, 2],
  [8, 16, 33, 4],
  [17, 31, 64, 16],
  [0, 4, 6, 2],
])('cpu against reference, m %d, out %d, in %d, r %d, f32 and bf16', async (m, n, k, r) => {
  for (const dtype of ['f32', 'bf16'] as const) {
    const run = async (device: 'cpu' | 'reference'): Promise<ArrayLike<number>[]> => {
      const layer = new LoRALinear({
        inFeatures: k,
        outFeatures: n,
        r,
        loraAlpha: 2 * r,
        dtype,
        device,
        seed: 8,
      });
      layer.loadStateDict({ ...layer.stateDict(), up: seeded([n, r], 9, { device }) });
      const x = seeded([m, k], 1, { dtype, device, requiresGrad: true });
      const y = layer.forward(x);
      weigh(y).backward();
      return Promise.all([y, x.grad!, layer.up.grad!, layer.down.grad!].map((t) => t.data()));
    };
    const [cpu, reference] = [await run('cpu'), await run('reference')];
    const bound = dtype === 'f32' ? 1e-5 : 2 ** -6;
    cpu.forEach((got, i) => expect(relativeError(got, reference[i]!)).toBeLessThan(bound));
    expect(cpu[0]!.length).toBe(numel([m, n]));
  }
});
