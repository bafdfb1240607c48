// DoRA against float64: forward, every gradient, the merged weight; with and without dropout and bias.
import {
  memoryUsage,
  noGrad,
  parameter,
  setThreads,
  tensor,
  type Parameter,
  type Tensor,
  type TensorValues,
} from '../../lib/index';
import type { ComputedDelta, Delta, DeltaUse } from '../../lib/linear/delta';
import { dora } from '../../lib/linear/dora';
import { Linear } from '../../lib/linear/linear';
import { dropout } from '../../lib/ops/dropout';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { recordedLater } from '../../lib/tensor/scope';
import { restore } from '../../lib/tensor/state';
import { relativeError, roundToBf16, values } from '../support/numbers';

const [m, n, k, r] = [5, 7, 9, 3];
const spec = { r, scale: 1.5, stream: 0, layer: 4 };
beforeAll(() => setThreads(1)); // tiny matrices

/** Numbers of a matrix as f32 holds them. */
const numbers = (count: number, seed: number): number[] => values(count, seed).map(Math.fround);
const at = (a: readonly number[], cols: number, i: number, j: number): number => a[i * cols + j]!;
const table = (rows: number, cols: number, f: (i: number, j: number) => number): number[] =>
  Array.from({ length: rows * cols }, (_, i) => f(Math.floor(i / cols), i % cols));
const sum = (count: number, f: (i: number) => number): number => {
  let total = 0;
  for (let i = 0; i < count; i++) total += f(i);
  return total;
};

interface Problem {
  w: number[];
  x: number[];
  a: number[];
  b: number[];
  magnitude: number[];
  bias: number[] | undefined;
  g: number[];
  /** x_d = mask ⊙ x; undefined: x_d is x, and the product with W is taken once. */
  mask: number[] | undefined;
  scale: number;
}

/** m, with a zero and a negative number. */
const magnitudes = (): number[] =>
  numbers(n, 6).map((v, o) => (o === 1 ? 0 : Math.fround((o === 4 ? -2 : 2) + v)));

/** The definition, in double. */
function byHand({ w, x, a, b, magnitude, bias, g, mask, scale: s }: Problem) {
  const ab = table(n, k, (o, i) => s * sum(r, (q) => at(a, r, o, q) * at(b, k, q, i)));
  const adapted = ab.map((v, i) => w[i]! + v);
  const norm = Array.from({ length: n }, (_, o) => Math.hypot(...adapted.slice(o * k, (o + 1) * k)));
  const c = magnitude.map((v, o) => v / norm[o]!);
  const keep = mask ?? x.map(() => 1);
  const xd = x.map((v, i) => v * keep[i]!);
  const product = (rows: number[], weight: number[]): number[] =>
    table(m, n, (t, o) => sum(k, (i) => at(rows, k, t, i) * at(weight, k, o, i)));
  const frozen = product(x, w);
  const dropped = product(xd, w);
  const whole = product(xd, adapted);
  const y = table(m, n, (t, o) => {
    const j = t * n + o;
    return frozen[j]! + (bias?.[o] ?? 0) + c[o]! * whole[j]! - dropped[j]!;
  });
  const gc = g.map((v, j) => v * c[j % n]!);
  const h = table(m, r, (t, q) => sum(k, (i) => at(xd, k, t, i) * at(b, k, q, i)));
  const u = table(m, r, (t, q) => sum(n, (o) => at(gc, n, t, o) * at(a, r, o, q)));
  return {
    y,
    inference: y,
    merged: adapted.map((v, i) => c[Math.floor(i / k)]! * v),
    dm: Array.from({ length: n }, (_, o) => sum(m, (t) => g[t * n + o]! * whole[t * n + o]!) / norm[o]!),
    da: table(n, r, (o, q) => s * sum(m, (t) => at(gc, n, t, o) * at(h, r, t, q))),
    db: table(r, k, (q, i) => s * sum(m, (t) => at(u, r, t, q) * at(xd, k, t, i))),
    dx: table(m, k, (t, i) => {
      const through = sum(n, (o) => (at(gc, n, t, o) - at(g, n, t, o)) * at(w, k, o, i));
      const pair = s * sum(r, (q) => at(u, r, t, q) * at(b, k, q, i));
      return sum(n, (o) => at(g, n, t, o) * at(w, k, o, i)) + at(keep, k, t, i) * (through + pair);
    }),
  };
}

describe.each(['reference', 'cpu'] as const)('on %s', (device) => {
  describe.each(['f32', 'bf16'] as const)('%s', (dtype) => {
    const round = dtype === 'f32' ? (v: number): number => v : roundToBf16;
    const bound = dtype === 'f32' ? 2e-6 : 2e-2;

    test.each([
      ['plain', false, false],
      ['with a bias', true, false],
      ['under dropout', false, true],
      ['under dropout, with a bias', true, true],
    ])('%s', async (_, withBias, withDropout) => {
      const w = numbers(n * k, 1).map(round);
      const x = numbers(m * k, 2).map(round);
      const g = numbers(m * n, 3).map(round);
      const [a, b] = [numbers(n * r, 4), numbers(r * k, 5)];
      const magnitude = magnitudes();
      const bias = withBias ? numbers(n, 7).map(round) : undefined;
      const make = (data: number[], shape: number[], type = dtype): Tensor =>
        tensor(Float32Array.from(data), { shape, dtype: type, device });

      const linear = new Linear('w', FrozenWeight.pack(make(w, [n, k])), bias && make(bias, [n]));
      const named = (name: string, data: number[], shape: number[]): [string, Parameter] => [
        name,
        parameter(make(data, shape, 'f32'), name),
      ];
      const parameters = new Map([
        named('up', a, [n, r]),
        named('down', b, [r, k]),
        named('magnitude', magnitude, [n]),
      ]);
      const delta = dora.make(spec, parameters);
      const use: DeltaUse = {
        scale: 0.5,
        ...(withDropout && { dropout: { p: 0.4, seed: 3, forward: 2 } }),
      };
      let mask: number[] | undefined;
      if (use.dropout) {
        const ones = make(Array<number>(m * k).fill(1), [m, k], 'f32');
        mask = [...(await noGrad(() => dropout(ones, { ...use.dropout!, layer: spec.layer })).data())];
        expect(new Set(mask).size).toBe(2);
      }
      const want = byHand({ w, x, a, b, magnitude, bias, g, mask, scale: spec.scale * use.scale });

      const input = make(x, [m, k]);
      input.requiresGrad = true;
      const y = linear.forward(input, { delta, use });
      expect(y.dtype).toBe(dtype);
      y.backward(make(g, [m, n]));
      const got = {
        y,
        dm: parameters.get('magnitude')!.grad!,
        da: parameters.get('up')!.grad!,
        db: parameters.get('down')!.grad!,
        dx: input.grad!,
        merged: linear.rowMajor({ delta, use }),
        inference: noGrad(() => linear.forward(input, { delta, use })),
      };
      const check = async (all: Record<string, Tensor>): Promise<void> => {
        for (const [name, value] of Object.entries(all)) {
          const error = relativeError(await value.data(), want[name as keyof typeof want]);
          expect([name, error < bound, error]).toEqual([name, true, error]);
        }
      };
      await check(got);

      for (const t of [input, ...parameters.values()]) t.grad = null;
      parameters.get('magnitude')!.requiresGrad = false;
      const again = linear.forward(input, { delta, use });
      again.backward(make(g, [m, n]));
      expect(parameters.get('magnitude')!.grad).toBeNull();
      await check({
        y: again,
        da: parameters.get('up')!.grad!,
        db: parameters.get('down')!.grad!,
        dx: input.grad!,
      });
    });
  });

  test('is one fused op, rounded once, where no gradient of m is wanted, and only there', async () => {
    const rows = 40;
    const make = (data: number[], shape: number[], dtype: 'f32' | 'bf16'): Tensor =>
      tensor(Float32Array.from(data), { shape, dtype, device });
    const [w, x] = [numbers(n * k, 1).map(roundToBf16), numbers(rows * k, 2).map(roundToBf16)];
    const [magnitude, bias] = [magnitudes(), numbers(n, 7)];
    const linear = new Linear('w', FrozenWeight.pack(make(w, [n, k], 'bf16')), make(bias, [n], 'f32'));
    const parameters = new Map([
      ['up', parameter(make(Array<number>(n * r).fill(0), [n, r], 'f32'))],
      ['down', parameter(make(numbers(r * k, 5), [r, k], 'f32'))],
      ['magnitude', parameter(make(magnitude, [n], 'f32'))],
    ]);
    const delta = dora.make(spec, parameters) as ComputedDelta;
    const use: DeltaUse = { scale: 1 };
    const y = noGrad(() => linear.forward(make(x, [rows, k], 'bf16'), { delta, use }));
    const c = magnitude.map((v, o) => v / Math.hypot(...w.slice(o * k, (o + 1) * k)));
    const exact = table(rows, n, (t, o) => c[o]! * sum(k, (i) => at(x, k, t, i) * at(w, k, o, i)) + bias[o]!);
    expect([...(await y.data())]).toEqual(exact.map((v) => roundToBf16(Math.fround(v))));

    const fused = (): boolean => delta.fused!(linear, use) !== undefined;
    expect([noGrad(fused), fused(), recordedLater(fused)]).toEqual([true, false, false]);
    const dropout = { p: 0.5, seed: 1, forward: 0 };
    expect(noGrad(() => delta.fused!(linear, { ...use, dropout }))).toBeUndefined();
    parameters.get('magnitude')!.requiresGrad = false;
    expect([fused(), recordedLater(fused)]).toEqual([true, true]);
  });

  test('a merged weight is rounded once', async () => {
    const [rows, cols] = [16, 64];
    const w = numbers(rows * cols, 1).map(roundToBf16);
    const [a, b, magnitude] = [
      numbers(rows * r, 4),
      numbers(r * cols, 5),
      numbers(rows, 6).map((v) => v + 2),
    ];
    const make = (data: number[], shape: number[], dtype: 'f32' | 'bf16' = 'f32'): Tensor =>
      tensor(Float32Array.from(data), { shape, dtype, device });
    const linear = new Linear('w', FrozenWeight.pack(make(w, [rows, cols], 'bf16')));
    const delta = dora.make(
      spec,
      new Map([
        ['up', parameter(make(a, [rows, r]))],
        ['down', parameter(make(b, [r, cols]))],
        ['magnitude', parameter(make(magnitude, [rows]))],
      ]),
    );
    const ab = table(rows, cols, (o, i) => spec.scale * sum(r, (q) => at(a, r, o, q) * at(b, cols, q, i)));
    const adapted = ab.map((v, i) => w[i]! + v);
    const exact = adapted.map((v, i) => {
      const o = Math.floor(i / cols);
      return (Math.fround(magnitude[o]!) / Math.hypot(...adapted.slice(o * cols, (o + 1) * cols))) * v;
    });
    const merged = await linear.rowMajor({ delta, use: { scale: 1 } }).data();
    // Half of the spacing of bf16, and what f32 adds. Two roundings of bf16 give up to twice that.
    for (const [i, v] of exact.entries()) {
      const half = 2 ** (Math.floor(Math.log2(Math.abs(v))) - 8);
      expect(Math.abs(merged[i]! - v)).toBeLessThanOrEqual(half * (1 + 1e-3));
    }
  });

  test('norms follow the scale of the call, and nothing is left behind', async () => {
    const weight = tensor(Float32Array.from(numbers(n * k, 1)), { shape: [n, k], device });
    const linear = new Linear('w', FrozenWeight.pack(weight));
    const parameters = new Map(
      [...dora.initial(linear, spec, { seed: 1, device, initWeights: false })].map(
        ([name, value]): [string, Parameter] => [name, parameter(value, name)],
      ),
    );
    const x = tensor(Float32Array.from(numbers(m * k, 2)), { shape: [m, k], device });
    const run = (delta: Delta, scale: number): Tensor[] => [
      noGrad(() => linear.forward(x, { delta, use: { scale } })),
      linear.forward(x, { delta, use: { scale } }),
    ];
    const read = (outputs: Tensor[]): Promise<TensorValues[]> => Promise.all(outputs.map((y) => y.data()));
    /** How many tensors more there are after a synchronous call, in which no garbage is collected. */
    const added = (call: () => void): number => {
      const { tensors } = memoryUsage();
      call();
      return memoryUsage().tensors - tensors;
    };
    const delta = dora.make(spec, parameters);
    const left = [1, 0.25, 0.25, 1].map((scale) =>
      added(() => noGrad(() => linear.forward(x, { delta, use: { scale } })).dispose()),
    );
    const owned = 3; // the norms, the view of them as a row, and the factor
    expect(left).toEqual([owned, 0, 0, 0]);
    expect(added(() => delta.dispose?.())).toBe(-owned);

    const kept = dora.make(spec, parameters);
    for (const scale of [1, 0.25, 1])
      expect(await read(run(kept, scale))).toEqual(await read(run(dora.make(spec, parameters), scale)));
  });

  test('changes nothing at first, its norms follow the versions of up and down, and the factor that of m', async () => {
    const weight = tensor(Float32Array.from(numbers(n * k, 1)), { shape: [n, k], device });
    const linear = new Linear('w', FrozenWeight.pack(weight));
    const initial = dora.initial(linear, spec, { seed: 1, device, initWeights: true });
    expect([...dora.tensors(linear, spec)]).toEqual([
      ['up', [n, r]],
      ['down', [r, k]],
      ['magnitude', [n]],
    ]);
    for (const [name, shape] of dora.tensors(linear, spec)) expect(initial.get(name)!.shape).toEqual(shape);
    const parameters = new Map([...initial].map(([name, value]) => [name, parameter(value, name)]));
    const delta = dora.make(spec, parameters);
    const x = tensor(Float32Array.from(numbers(m * k, 2)), { shape: [m, k], device });
    const run = async (): Promise<number[]> => [
      ...(await linear.forward(x, { delta, use: { scale: 1 } }).data()),
    ];
    const before = await run();
    expect(relativeError(before, await linear.forward(x).data())).toBeLessThan(1e-6);

    const up = parameters.get('up')!;
    restore('dora', 'up', up, tensor(Float32Array.from(numbers(n * r, 9)), { shape: [n, r], device }));
    up.version++;
    expect(relativeError(await run(), before)).toBeGreaterThan(0.01);
    const inference = async (): Promise<number[]> => [
      ...(await noGrad(() => linear.forward(x, { delta, use: { scale: 1 } })).data()),
    ];
    expect(relativeError(await inference(), await run())).toBeLessThan(1e-6);
    const m2 = parameters.get('magnitude')!;
    restore(
      'dora',
      'magnitude',
      m2,
      noGrad(() => m2.mul(2)),
    );
    m2.version++;
    expect(relativeError(await inference(), await run())).toBeLessThan(1e-6);
    const rows = await linear.rowMajor({ delta, use: { scale: 1 } }).data();
    const magnitude = await parameters.get('magnitude')!.data();
    for (let o = 0; o < n; o++)
      expect(Math.hypot(...rows.subarray(o * k, (o + 1) * k))).toBeCloseTo(magnitude[o]!, 5);
  });
});
