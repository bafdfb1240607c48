/** Backward functions in two halves: the second of one runs after that of the op whose output it reads. */
import {
  memoryUsage,
  parameter,
  tensor,
  tidy,
  type Device,
  type DType,
  type Parameter,
  type Tensor,
} from '../../lib/index';
import { binding, call } from '../../lib/native/calls';
import { gated } from '../../lib/ops';
import { loraLinearGroup } from '../../lib/ops/lora_linear';
import { addRmsNorm } from '../../lib/ops/rms_norm';
import { backwardSteps, record } from '../../lib/tensor/autograd';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { rawBinary } from '../../lib/tensor/raw';
import { collectGarbage } from '../support/garbage';
import { bits, list, seeded } from '../support/numbers';

const device = 'reference';
const mul = (a: Tensor, b: Tensor): Tensor => rawBinary('mul', a, b, 'f32', a.shape);

/** What ran, and what fails or leaves its output to `rematerialize`. */
let log: string[] = [];
let failing = '';
beforeEach(() => {
  log = [];
  failing = '';
});
function ran(name: string): void {
  log.push(name);
  if (name === failing) throw new Error(`${name} failed`);
}

/** y = x², which costs little to compute. With `gives`, its backward function gives y where it is asked. */
function squared(x: Tensor, gives = true): Tensor {
  const y = mul(x, x);
  record(
    [x],
    [y],
    [x],
    ([g], [kept], rematerialize) => {
      ran(rematerialize ? 'square, asked for y' : 'square');
      const half = mul(kept!, g!);
      const dx = rawBinary('add', half, half, 'f32', half.shape);
      if (!rematerialize || !gives) return [dx];
      call().copyInto(mul(kept!, kept!).handle, g!.handle);
      return [dx, g!];
    },
    {
      rematerialize: ([kept]) => {
        ran('rematerialize');
        return mul(kept!, kept!);
      },
    },
  );
  return y;
}

/** z = y·w, whose gradient of y does not read y. `shares` gives the gradient of z itself to y, as where w is 1. */
function product(y: Tensor, w: Tensor, { halves = true, shares = false, name = 'product' } = {}): Tensor {
  const z = mul(y, w);
  record(
    [y, w],
    [z],
    [w, y],
    ([g], [kw, ky]) => {
      ran(name);
      return [mul(g!, kw!), mul(g!, ky!)];
    },
    halves
      ? {
          inputGradients: ([g], [kw]) => {
            ran(`${name}, input`);
            return {
              gradients: [shares ? g! : mul(g!, kw!), null],
              kept: [null, g!],
              weightGradients: ([none, kept], [, ky]) => {
                ran(`${name}, weights`);
                expect(none).toBeNull();
                return [null, mul(kept!, ky!)];
              },
            };
          },
        }
      : {},
  );
  return z;
}

const leaf = (...values: number[]): Parameter => parameter(tensor(values, { device }));
const gradients = (...leaves: Parameter[]): Promise<number[][]> =>
  Promise.all(leaves.map((p) => list(p.grad)));

test('the second half runs after the op that gives what it reads, which is then not computed again', async () => {
  const [x, w] = [leaf(1, 2, 3), leaf(4, 5, 6)];
  tidy(() => product(squared(x), w).sum().backward());
  expect(log).toEqual(['product, input', 'square, asked for y', 'product, weights']);
  expect(await gradients(x, w)).toEqual([
    [8, 20, 36],
    [1, 4, 9],
  ]);
});

test('an op that does not give its output is computed again, once for all that wait', async () => {
  const [x, v, w] = [leaf(1, 2, 3), leaf(4, 5, 6), leaf(7, 8, 9)];
  tidy(() => {
    const y = squared(x, false);
    product(y, v, { name: 'a' })
      .add(product(y, w, { name: 'b' }))
      .sum()
      .backward();
  });
  const parts = ['b, input', 'a, input', 'square, asked for y', 'rematerialize', 'b, weights', 'a, weights'];
  expect(log).toEqual(parts);
  expect(await gradients(x, v, w)).toEqual([
    [22, 52, 90],
    [1, 4, 9],
    [1, 4, 9],
  ]);
});

test('several that wait for one op get its output, and their gradients of it and of one leaf add up', async () => {
  const [x, w] = [leaf(1, 2, 3), leaf(4, 5, 6)];
  tidy(() => {
    const y = squared(x);
    product(y, w, { name: 'a' })
      .add(product(y, w, { name: 'b' }))
      .sum()
      .backward();
  });
  expect(log).toEqual(['b, input', 'a, input', 'square, asked for y', 'b, weights', 'a, weights']);
  expect(await gradients(x, w)).toEqual([
    [16, 40, 72],
    [2, 8, 18],
  ]);
});

test('an op without halves computes what it reads again', async () => {
  const [x, w] = [leaf(1, 2), leaf(4, 5)];
  tidy(() => product(squared(x), w, { halves: false }).sum().backward());
  expect(log).toEqual(['rematerialize', 'product', 'square']);
  expect(await gradients(x, w)).toEqual([
    [8, 20],
    [1, 4],
  ]);
});

test('what is held is read in one call', async () => {
  const [x, w] = [leaf(1, 2), leaf(4, 5)];
  tidy(() =>
    product(squared(x).reshape([2]), w)
      .sum()
      .backward(),
  );
  expect(log).toEqual(['product', 'square']);
  expect(await gradients(x, w)).toEqual([
    [8, 20],
    [1, 4],
  ]);
});

test('a gradient that others hold is not overwritten', async () => {
  const [x, w] = [leaf(1, 2, 3), leaf(1, 1, 1)];
  const g = tensor([1, 2, 3], { device });
  tidy(() => product(squared(x), w, { shares: true }).backward(g));
  expect(log).toEqual(['product, input', 'square', 'rematerialize', 'product, weights']);
  expect(await list(g)).toEqual([1, 2, 3]);
  expect(await gradients(x, w)).toEqual([
    [2, 8, 18],
    [1, 8, 27],
  ]);
});

test('a gradient of the second half reaches an op that was recorded after the one that is waited for', async () => {
  const [x, w] = [leaf(1, 2), leaf(4, 5)];
  tidy(() => {
    const y = squared(x);
    product(y, w.mul(2)).sum().backward();
  });
  expect(log).toEqual(['rematerialize', 'product', 'square']); // so nothing waits
  log = [];
  tidy(() => {
    const twice = w.mul(2);
    product(squared(x), twice).sum().backward();
  });
  expect(log).toEqual(['product, input', 'square, asked for y', 'product, weights']);
  expect(await gradients(x, w)).toEqual([
    [32, 80],
    [4, 16],
  ]);
});

test.each(['product, input', 'square, asked for y', 'product, weights'])(
  'nothing stays alive where this part fails: %s',
  async (part) => {
    const [x, w] = [leaf(...new Float32Array(1000)), leaf(...new Float32Array(1000))];
    await collectGarbage(); // of other tests
    const before = memoryUsage();
    const loss = tidy(() => product(squared(x), w).sum());
    failing = part;
    expect(() => loss.backward()).toThrow(`${part} failed`);
    loss.dispose();
    for (const p of [x, w]) p.grad?.dispose();
    expect(memoryUsage()).toMatchObject({ tensors: before.tensors, bytes: before.bytes });
  },
);

test('the rest of a step of backward() that is given up goes, and a parameter that changes before it is noticed', async () => {
  const [x, w] = [leaf(...new Float32Array(1000)), leaf(...new Float32Array(1000))];
  await collectGarbage(); // of other tests
  const before = memoryUsage();
  const until = (part: string) => {
    const loss = tidy(() => product(squared(x), w).sum());
    const steps = backwardSteps(loss);
    while (log.at(-1) !== part) steps.next();
    return { loss, steps };
  };
  const gone = (): void => {
    for (const p of [x, w]) {
      p.grad?.dispose();
      p.grad = null;
    }
    expect(memoryUsage()).toMatchObject({ tensors: before.tensors, bytes: before.bytes });
  };
  for (const part of ['product, input', 'square, asked for y', 'product, weights']) {
    const { loss, steps } = until(part);
    steps.return();
    loss.dispose();
    gone();
  }
  const { loss, steps } = until('square, asked for y');
  w.version++;
  expect(() => steps.next()).toThrow(/was changed by a step\(\) after this graph was recorded/);
  loss.dispose();
  gone();
});

test('a loss that goes while its op waits takes what the op kept with it', async () => {
  const [x, w] = [leaf(1, 2), leaf(4, 5)];
  await collectGarbage(); // of other tests
  const before = memoryUsage();
  const g = tensor([1, 1], { device });
  const z = tidy(() => product(squared(x), w));
  const steps = backwardSteps(z, g);
  steps.next();
  z.dispose();
  g.dispose();
  while (steps.next().done !== true);
  expect(log[0]).toBe('product, input');
  for (const p of [x, w]) p.grad?.dispose();
  expect(memoryUsage()).toMatchObject({ tensors: before.tensors, bytes: before.bytes });
});

describe('a LoRA layer that reads a norm, or a gated unit', () => {
  const [rows, inner, out, rank] = [37, 24, 20, 3];
  const dropout = { p: 0.3, seed: 1, layer: 2, forward: 3 };
  const of = (on: Device, dtype: DType, shape: number[], seed: number): Tensor =>
    seeded(shape, seed, { device: on, dtype });

  /** The gradients, with y given by the backward function of its op or, through a view, held; and how often y was computed. */
  async function observe(kind: 'norm' | 'gated', on: Device, dtype: DType, drops: boolean, held: boolean) {
    const [a, b] = [1, 2].map((seed) =>
      seeded([rows, inner], seed, { device: on, dtype, requiresGrad: true }),
    );
    const scale = of(on, 'f32', [inner], 3);
    const factors = [4, 5].map((seed) => {
      const up = parameter(of(on, 'f32', [out, rank], seed));
      return { up, down: parameter(of(on, 'f32', [rank, inner], seed + 10)) };
    });
    const weights = [6, 7, 8].map((seed) => FrozenWeight.pack(of(on, dtype, [out, inner], seed)));
    const bias = parameter(of(on, 'f32', [out], 9));
    const factor = of(on, 'f32', [out], 10);
    const computed = jest.spyOn(binding(), kind === 'norm' ? 'rmsNormForward' : 'gatedForward');
    const loss = tidy(() => {
      const [sum, y] =
        kind === 'norm' ? addRmsNorm(a!, b!, scale, 1e-5, dtype, 1) : [null, gated(a!, b!, 'gelu_tanh')];
      const x = held ? y.reshape(y.shape) : y;
      const layers = loraLinearGroup(x, [
        { weight: weights[0]!, ...factors[0]!, scale: 2, bias, ...(drops && { dropout }) },
        { weight: weights[1]! },
        { weight: weights[2]!, ...factors[1]!, factor },
      ]);
      const total = layers[0]!.mul(layers[1]!).add(layers[2]!.square()).sum();
      return sum === null ? total : total.add(sum.square().sum());
    });
    loss.backward();
    const times = computed.mock.calls.length;
    computed.mockRestore();
    const leaves = [a!, b!, bias, ...factors.flatMap(({ up, down }) => [up, down])];
    expect((await list(leaves.at(-1)!.grad)).every((g) => g !== 0)).toBe(true);
    return { times, gradients: bits(...leaves.map((t) => t.grad!)) };
  }

  // On the CPU the masks of dropout take longer than y, so that they are made once and y twice.
  test.each(
    (['norm', 'gated'] as const).flatMap((kind) =>
      (['cpu', 'reference'] as const).flatMap((on) =>
        [false, true].flatMap((drops) =>
          (['f32', 'bf16'] as const).map((dtype) => [kind, on, dtype, drops] as const),
        ),
      ),
    ),
  )('%s on %s in %s, with dropout: %s: gradients have the bits of a y that is held', async (...of) => {
    const [, on, , drops] = of;
    const given = await observe(...of, false);
    expect(given).toEqual({ ...(await observe(...of, true)), times: on === 'cpu' && drops ? 2 : 1 });
  });
});
