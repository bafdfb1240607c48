import { inspect } from 'node:util';
import { AdamW, LoRALinear, memoryUsage, noGrad, tensor, tidy, type Tensor } from '../../lib/index';
import { expectThrow } from '../support/errors';
import { bits as hex, list, relativeError, roundToBf16, seeded, values } from '../support/numbers';

const device = 'reference';
const small = { inFeatures: 6, outFeatures: 4, r: 2, device } as const;

describe('LoRALinear', () => {
  test('starts as the frozen layer', async () => {
    const weight = Float32Array.from(values(24, 1));
    const layer = new LoRALinear({ ...small, weight });
    const x = seeded([2, 3, 6], 2, { device });
    const y = layer.forward(x);
    expect(y.shape).toEqual([2, 3, 4]);
    const want = x.matmul(tensor(weight, { shape: [4, 6], device }).transpose());
    expect(relativeError(await y.data(), await want.data())).toBeLessThan(1e-6);
    expect([layer.up.shape, layer.down.shape, layer.scale]).toEqual([[4, 2], [2, 6], 2]);
    expect([...layer.up.dataSync()].every((v) => v === 0)).toBe(true);
    const bound = 1 / Math.sqrt(6);
    const down = [...layer.down.dataSync()];
    expect(down.every((v) => Math.abs(v) <= bound)).toBe(true);
    expect(new Set(down).size).toBe(12);
    expect(layer.parameters().map((p) => [p.name, p.requiresGrad])).toEqual([
      ['up', true],
      ['down', true],
    ]);
  });

  test('scale is α/r, or α/√r', () => {
    expect(new LoRALinear({ ...small, loraAlpha: 32 }).scale).toBe(16);
    expect(new LoRALinear({ ...small, r: 4, loraAlpha: 32, useRslora: true }).scale).toBe(16);
  });

  test('one seed, one layer; another seed, another', () => {
    const x = seeded([2, 6], 2, { device });
    const y = [0, 0, 1].map((seed) => hex(new LoRALinear({ ...small, seed }).forward(x)));
    expect(y[1]).toBe(y[0]);
    expect(y[2]).not.toBe(y[0]);
  });

  test('weights: tensors are retained, bits of bf16, no bias unless given or seeded', async () => {
    const weight = seeded([4, 6], 1, { device });
    const bias = tensor([1, 2, 3, 4], { device });
    const layer = new LoRALinear({ ...small, weight, bias });
    weight.dispose();
    bias.dispose();
    const zero = tensor(new Float32Array(6), { shape: [1, 6], device });
    expect([...(await layer.forward(zero).data())]).toEqual([1, 2, 3, 4]);
    const plain = new LoRALinear({ ...small, weight: Float32Array.from(values(24)) });
    expect([...(await plain.forward(zero).data())]).toEqual([0, 0, 0, 0]);
    const seededLayer = new LoRALinear({ ...small });
    expect(new Set(await seededLayer.forward(zero).data()).size).toBe(4);
    const none = new LoRALinear({ ...small, bias: false });
    expect([...(await none.forward(zero).data())]).toEqual([0, 0, 0, 0]);

    const bits = new Uint16Array(24).fill(0x3f80);
    const half = new LoRALinear({ ...small, weight: bits, dtype: 'bf16' });
    const ones = tensor([1, 1, 1, 1, 1, 1], { dtype: 'bf16', device });
    const y = half.forward(ones);
    expect([y.dtype, ...(await y.data())]).toEqual(['bf16', 6, 6, 6, 6]);
    const narrow = tensor(new Uint16Array(24).fill(0x3c00), { shape: [4, 6], dtype: 'f16', device });
    const wide = new LoRALinear({ ...small, weight: narrow });
    expect([wide.dtype, ...(await wide.forward(ones).data())]).toEqual(['bf16', 6, 6, 6, 6]);
  });

  test.each(['f32', 'bf16'] as const)('merge and unmerge are exact inverses, %s', async (dtype) => {
    const layer = new LoRALinear({ ...small, dtype, loraAlpha: 3 });
    layer.loadStateDict({ ...layer.stateDict(), up: seeded([4, 2], 7, { device }) });
    const x = seeded([5, 6], 2, { dtype, device });
    const before = hex(layer.forward(x));
    const apart = await layer.forward(x).data();
    expect(layer.merge().merged).toBe(true);
    const merged = layer.forward(x);
    expect(relativeError(await merged.data(), apart)).toBeLessThan(dtype === 'f32' ? 1e-6 : 2 ** -6);
    expect(merged.requiresGrad).toBe(false);
    layer.merge();
    expectThrow(
      () => layer.loadStateDict(layer.stateDict()),
      'ERR_BUSY',
      '[LoRALinear] the layer is merged; unmerge() it before loading a state',
    );
    expect(layer.unmerge().unmerge().merged).toBe(false);
    expect(hex(layer.forward(x))).toBe(before);
  });

  test.each(['reference', 'cpu'] as const)(
    'merged weights on %s are W + s·up·down, rounded once',
    async (device) => {
      // Multiples of 1/64 below 1: products, sums and the scale of 1.5 are exact in f32, so only one rounding is left.
      const exact = (n: number, seed: number): number[] =>
        values(n, seed).map((v) => Math.round(v * 63) / 64);
      const [out, rank, width] = [7, 2, 9];
      const [a, b] = [exact(out * rank, 2), exact(rank * width, 3)];
      const w = exact(out * width, 1).map((v) => v / 8); // small, so that the delta decides how the sum is rounded
      const sums = w.map((v, i) => {
        const [row, column] = [Math.floor(i / width), i % width];
        let delta = 0;
        for (let k = 0; k < rank; k++) delta += a[row * rank + k]! * b[k * width + column]!;
        return { weight: v, delta: 1.5 * delta };
      });
      const identity = Float32Array.from({ length: width * width }, (_, i) =>
        i % (width + 1) === 0 ? 1 : 0,
      );
      for (const dtype of ['f32', 'bf16'] as const) {
        const layer = new LoRALinear({
          inFeatures: width,
          outFeatures: out,
          r: rank,
          loraAlpha: 3,
          weight: Float32Array.from(w),
          dtype,
          device,
        });
        layer.loadStateDict({
          ...layer.stateDict(),
          up: tensor(a, { shape: [out, rank], device }),
          down: tensor(b, { shape: [rank, width], device }),
          forwards: 0,
        });
        // The rows of the identity give the columns of the merged weight as they are.
        const columns = layer.merge().forward(tensor(identity, { shape: [width, width], dtype, device }));
        const merged = await list(columns.transpose());
        const round = dtype === 'bf16' ? roundToBf16 : Math.fround;
        expect(merged).toEqual(sums.map(({ weight, delta }) => round(round(weight) + delta)));
        if (dtype === 'bf16') {
          const twice = sums.map(({ weight, delta }) =>
            roundToBf16(roundToBf16(weight) + roundToBf16(delta)),
          );
          expect(merged).not.toEqual(twice); // the comparison tells one rounding from two
        }
      }
    },
  );

  describe('quantize', () => {
    const formats = ['nf4', 'fp4', 'int8'] as const;
    const [rows, cols] = [10, 13]; // blocks of 64 values straddle rows
    const sizes = { inFeatures: cols, outFeatures: rows, r: 2 };
    const weight = Float32Array.from(values(rows * cols, 1));

    test.each(
      formats.flatMap((quantize) => (['cpu', 'reference'] as const).map((on) => [quantize, on] as const)),
    )('%s on %s gives the bits of a layer of its values, merged too', async (quantize, on) => {
      for (const dtype of ['f32', 'bf16'] as const) {
        const layer = new LoRALinear({ ...sizes, weight, quantize, dtype, device: on });
        const identity = Array.from({ length: cols }, (_, i) =>
          Array.from({ length: cols }, (_, j) => +(i === j)),
        );
        const columns = tidy(() =>
          layer
            .forward(tensor(identity, { dtype, device: on }))
            .transpose()
            .dataSync(),
        );
        expect(relativeError(columns, weight)).toBeLessThan(quantize === 'int8' ? 0.02 : 0.2);
        expect(new Set(columns).size).toBeLessThan(quantize === 'int8' ? 131 : 49);
        const same = new LoRALinear({ ...sizes, weight: Float32Array.from(columns), dtype, device: on });
        const x = seeded([3, cols], 2, { device: on, dtype });
        const uses = [layer, same].map((one) => {
          const optimizer = new AdamW(one.parameters(), { lr: 0.1 });
          for (let step = 0; step < 2; step++) {
            one.forward(x).square().mean().backward();
            optimizer.step();
            optimizer.zeroGrad();
          }
          const apart = hex(one.forward(x));
          const merged = hex(one.merge().forward(x));
          const again = hex(one.unmerge().forward(x));
          expect(again).toBe(apart);
          const { frozen, up, down } = one.stateDict() as Record<string, Tensor>;
          return { apart, merged, frozen: hex(frozen!), up: hex(up!), down: hex(down!) };
        });
        expect(uses[0]).toEqual(uses[1]);
        layer.loadStateDict(same.stateDict());
      }
    });

    test('what cannot be is refused', () => {
      const make = (options: object): LoRALinear => new LoRALinear({ ...sizes, weight, ...options });
      expectThrow(() => make({ quantize: 'q8' }), 'ERR_ARGUMENT', /^\[LoRALinear\] expected quantize to be/);
      const broken = Float32Array.from(weight);
      broken[77] = Infinity;
      expectThrow(
        () => make({ quantize: 'nf4', weight: broken }),
        'ERR_ARGUMENT',
        '[LoRALinear] expected finite weights to quantize but received NaN or an infinity',
      );
      expectThrow(
        () => make({ quantize: 'nf4', dtype: 'f16', device: 'reference' }),
        'ERR_UNSUPPORTED',
        '[LoRALinear] reference does not read nf4 weights for f16 activations',
      );
      const other = make({ quantize: 'nf4', weight: weight.map((x) => -x) });
      expectThrow(
        () => other.loadStateDict(make({ quantize: 'nf4' }).stateDict()),
        'ERR_ARGUMENT',
        /with this frozen weight/,
      );
    });
  });

  test('a merged layer keeps its bias, needs no rank and has no dropout', async () => {
    const bias = new Float32Array([1, 2, 3, 4]);
    const weight = Float32Array.from(values(24, 1));
    const layer = new LoRALinear({ ...small, weight, bias, loraDropout: 0.5 }).merge();
    const x = seeded([3, 6], 2, { device, requiresGrad: true });
    const first = layer.forward(x);
    expect(hex(layer.forward(x))).toBe(hex(first));
    expect(layer.stateDict().forwards).toBe(0);
    const zero = tensor(new Float32Array(6), { shape: [1, 6], device });
    expect(await list(layer.forward(zero))).toEqual([1, 2, 3, 4]);
    first.sum().backward(); // a gradient still flows through it, to what came before
    expect(x.grad!.shape).toEqual([3, 6]);
    expect([layer.up.grad, layer.down.grad]).toEqual([null, null]);
  });

  test('merging again after training takes the new weights', () => {
    const layer = new LoRALinear({ ...small, loraAlpha: 3 });
    const x = seeded([5, 6], 2, { device });
    const load = (seed: number): void =>
      layer.loadStateDict({ ...layer.stateDict(), up: seeded([4, 2], seed, { device }) });
    load(7);
    const first = hex(layer.merge().forward(x));
    layer.unmerge();
    load(8);
    const second = hex(layer.merge().forward(x));
    expect(second).not.toBe(first);
    layer.unmerge();
    load(7);
    expect(hex(layer.merge().forward(x))).toBe(first);
  });

  test('merge and unmerge free what they put aside', () => {
    const layer = new LoRALinear(small);
    layer.merge().unmerge();
    const { bytes, tensors } = memoryUsage();
    for (let i = 0; i < 3; i++) layer.merge().unmerge();
    expect(memoryUsage().bytes).toBeLessThanOrEqual(bytes); // less when garbage of other tests goes
    expect(memoryUsage().tensors).toBeLessThanOrEqual(tensors);
  });

  test('loading a state makes graphs of before invalid, as a step does', () => {
    const layer = new LoRALinear(small);
    const loss = layer.forward(seeded([2, 6], 1, { device })).sum();
    layer.loadStateDict(layer.stateDict());
    expect(layer.parameters().map((p) => p.version)).toEqual([1, 1]);
    expectThrow(
      () => loss.backward(),
      'ERR_ARGUMENT',
      "[backward] the parameter 'up' was changed by a step() after this graph was recorded; compute the loss again",
    );
    layer
      .forward(seeded([2, 6], 1, { device }))
      .sum()
      .backward();
    expect(layer.up.grad).not.toBeNull();
  });

  test('a state restores the weights and the count of masks, of another device and dtype too', async () => {
    const options = { ...small, loraDropout: 0.5, seed: 3 };
    const [first, second] = [new LoRALinear(options), new LoRALinear({ ...options, device: 'cpu' })];
    first.loadStateDict({ ...first.stateDict(), up: seeded([4, 2], 7, { device }) });
    const x = seeded([8, 6], 1, { device });
    first.forward(x);
    first.forward(x);
    second.loadStateDict(first.stateDict());
    expect(second.stateDict().forwards).toBe(2);
    expect(hex(...second.parameters())).toBe(hex(...first.parameters()));
    const [mask, same] = [first.forward(x), second.forward(x.to({ device: 'cpu' }))];
    expect(relativeError(await same.data(), await mask.data())).toBeLessThan(1e-6);
    second.loadStateDict({
      ...second.stateDict(),
      up: tensor(new Uint16Array(8).fill(0x3f80), { shape: [4, 2], dtype: 'bf16' }),
    });
    expect(await list(second.up)).toEqual(Array(8).fill(1));
  });

  test('a state of a layer with another frozen weight or bias is refused', () => {
    const weight = Float32Array.from(values(24, 1));
    const bias = Float32Array.from(values(4, 2));
    const layer = new LoRALinear({ ...small, weight, bias, seed: 1 });
    const state = layer.stateDict();
    for (const dtype of ['f32', 'bf16'] as const) {
      const same = new LoRALinear({ ...small, weight, bias, dtype, seed: 2 });
      same.loadStateDict(state); // rounded weights are those weights
      expect(hex(...same.parameters())).toBe(hex(...layer.parameters()));
    }
    const nearly = weight.slice();
    nearly[17]! += 0.1;
    for (const other of [
      { weight: nearly, bias },
      { weight, bias: Float32Array.from(values(4, 3)) },
      { weight, bias: false as const },
    ]) {
      const wrong = new LoRALinear({ ...small, ...other });
      const before = hex(...wrong.parameters());
      expectThrow(
        () => wrong.loadStateDict(state),
        'ERR_ARGUMENT',
        /a layer with this frozen weight but received/,
      );
      expect(hex(...wrong.parameters())).toBe(before);
    }
  });

  test('a state that does not fit changes nothing', () => {
    const layer = new LoRALinear(small);
    const before = hex(...layer.parameters());
    const { frozen } = layer.stateDict();
    const state = {
      up: seeded([4, 2], 7, { device }),
      down: seeded([2, 6], 8, { device }),
      forwards: 5,
      frozen,
    };
    const cases: [object, string | RegExp][] = [
      [
        { ...state, down: undefined },
        /expected down of the state to be a tensor of shape \[2, 6\] but received undefined/,
      ],
      [
        { ...state, down: seeded([6, 2], 1, { device }) },
        /expected down of the state to be a tensor of shape \[2, 6\]/,
      ],
      [
        { ...state, up: seeded([2, 4], 1, { device }) },
        /expected up of the state to be a tensor of shape \[4, 2\]/,
      ],
      [
        { ...state, forwards: -1 },
        '[LoRALinear] expected forwards of the state to be an integer of at least 0 but received -1',
      ],
      [
        { ...state, forwards: 2 ** 32 },
        '[LoRALinear] expected forwards of the state to be below 2^32 but received 4294967296',
      ],
      [
        { ...state, down: tensor(new Int32Array(12), { shape: [2, 6], device }) },
        /expected down of the state to be a tensor of shape \[2, 6\] but received a tensor i32/,
      ],
      [{ ...state, weight: 1 }, /unknown option 'weight'/],
      [{ ...state, frozen: 1 }, /expected frozen of the state to be a tensor of shape \[2, 2\]/],
    ];
    for (const [bad, sentence] of cases) {
      expectThrow(() => layer.loadStateDict(bad as never), 'ERR_ARGUMENT', sentence);
      expect(hex(...layer.parameters())).toBe(before);
      expect(layer.stateDict().forwards).toBe(0);
      expect(layer.up.version).toBe(0);
    }
  });

  test('dropout is on while gradients are recorded, unless train says otherwise', () => {
    const layer = new LoRALinear({ ...small, loraDropout: 0.5, seed: 3 });
    layer.loadStateDict({ ...layer.stateDict(), up: seeded([4, 2], 7, { device }) });
    const x = seeded([8, 6], 1, { device });
    const count = (): unknown => layer.stateDict().forwards;
    const plain = hex(layer.forward(x, { train: false }));
    expect([hex(noGrad(() => layer.forward(x))), count()]).toEqual([plain, 0]);
    expect(hex(layer.forward(x))).not.toBe(plain);
    expect(count()).toBe(1);
    expect(hex(noGrad(() => layer.forward(x, { train: true })))).not.toBe(plain);
    expect(count()).toBe(2);
    const none = new LoRALinear(small);
    none.forward(x, { train: true });
    expect(none.stateDict().forwards).toBe(0); // without dropout no mask is drawn
    expectThrow(
      () => layer.forward(x, { train: 1 as never }),
      'ERR_ARGUMENT',
      /expected train to be true or false/,
    );
  });

  test('every method of a disposed layer is ERR_DISPOSED', () => {
    const layer = new LoRALinear(small);
    const state = layer.stateDict();
    layer.dispose();
    const calls = {
      forward: () => layer.forward(seeded([2, 6], 1, { device })),
      merge: () => layer.merge(),
      unmerge: () => layer.unmerge(),
      stateDict: () => layer.stateDict(),
      loadStateDict: () => layer.loadStateDict(state),
    };
    for (const [name, call] of Object.entries(calls))
      expectThrow(call, 'ERR_DISPOSED', `[LoRALinear] ${name}: the layer has been disposed`);
  });

  test('learns, and the same seed twice is bitwise the same', async () => {
    const run = (): { weights: string; losses: number[] } => {
      const layer = new LoRALinear({ ...small, loraDropout: 0.1, seed: 5 });
      const optimizer = new AdamW(layer.parameters(), { lr: 0.05 });
      const x = seeded([16, 6], 1, { device });
      const target = seeded([16, 4], 2, { device });
      const losses: number[] = [];
      for (let i = 0; i < 60; i++) {
        tidy(() => {
          const loss = layer.forward(x).sub(target).square().mean();
          loss.backward();
          optimizer.step();
          optimizer.zeroGrad();
          losses.push(loss.itemSync());
        });
      }
      return { weights: hex(...layer.parameters()), losses };
    };
    const [a, b] = [run(), run()];
    expect(b).toEqual(a);
    expect(a.losses.at(-1)!).toBeLessThan(0.85 * a.losses[0]!);
  });

  const bad: [string, Record<string, unknown>, RegExp | string][] = [
    ['rank', { rank: 3 }, "[LoRALinear] unknown option 'rank'; did you mean 'r'?"],
    ['alpha', { alpha: 3 }, "[LoRALinear] unknown option 'alpha'; did you mean 'loraAlpha'?"],
    ['r', { r: 0 }, '[LoRALinear] expected r to be an integer of at least 1 but received 0'],
    ['size', { inFeatures: 1.5 }, /expected inFeatures to be an integer of at least 1 but received 1.5/],
    ['dropout', { loraDropout: 1 }, '[LoRALinear] expected loraDropout to be below 1 but received 1'],
    [
      'weight',
      { weight: new Float32Array(25) },
      '[LoRALinear] expected weight of shape [4, 6] (out, in), 24 numbers, but received 25',
    ],
    [
      'list',
      { weight: [1, 2] },
      '[LoRALinear] expected weight to be a tensor or a typed array but received [1, 2]',
    ],
    ['seed', { seed: -1 }, '[LoRALinear] expected seed to be an integer of at least 0 but received -1'],
    ['loraAlpha', { loraAlpha: NaN }, /expected loraAlpha to be a finite number but received NaN/],
    ['outFeatures', { outFeatures: 0 }, /expected outFeatures to be an integer of at least 1 but received 0/],
    ['negative dropout', { loraDropout: -0.1 }, /expected loraDropout to be a finite number of at least 0/],
    ['useRslora', { useRslora: 1 }, /expected useRslora to be true or false but received 1/],
    ['device', { device: 'gpu' }, /^\[LoRALinear\] expected device to be/],
    [
      'bias',
      { bias: new Float32Array(5) },
      '[LoRALinear] expected bias of shape [4] (out), 4 numbers, but received 5',
    ],
    [
      'weight tensor',
      { weight: seeded([6, 4], 1, { device }) },
      '[LoRALinear] expected weight of shape [4, 6] (out, in) but received [6, 4]',
    ],
    [
      'integers',
      { weight: tensor(new Int32Array(24), { shape: [4, 6], device }), dtype: 'f32' },
      '[LoRALinear] expected weight to hold floats but received i32',
    ],
    ['dtype', { dtype: 'i32' }, "[LoRALinear] expected a float dtype but received 'i32'"],
  ];
  test.each(bad)('%s is checked', (_, options, sentence) => {
    expectThrow(() => new LoRALinear({ ...small, ...options }), 'ERR_ARGUMENT', sentence);
  });

  test('inputs are checked at the call', () => {
    const layer = new LoRALinear(small);
    expectThrow(
      () => layer.forward(seeded([2, 5], 1, { device })),
      'ERR_ARGUMENT',
      '[lora_linear] expected x with a last dimension of 6 (the columns of weight) but received one of 5',
    );
    expectThrow(
      () => layer.forward(seeded([2, 6], 1, { dtype: 'bf16', device })),
      'ERR_ARGUMENT',
      '[lora_linear] expected x of dtype f32 (that of weight) but received bf16',
    );
    expectThrow(
      () => layer.forward(seeded([2, 6], 1, { device: 'cpu' })),
      'ERR_ARGUMENT',
      '[lora_linear] expected weight on cpu (the device of the other operands) but received one on reference',
    );
    expectThrow(
      () => layer.forward(seeded([2, 6], 1, { device }), { training: true } as never),
      'ERR_ARGUMENT',
      "[LoRALinear] unknown option 'training'; did you mean 'train'?",
    );
    expectThrow(
      () => layer.forward([1, 2] as never),
      'ERR_ARGUMENT',
      '[lora_linear] expected x to be a tensor',
    );
    expectThrow(
      () => new LoRALinear({ ...small, dtype: 'f16', device: 'cpu' }),
      'ERR_UNSUPPORTED',
      '[LoRALinear] f16 activations are for inference on GPUs; use bf16 on cpu',
    );
  });

  test('dispose frees all, and a recorded graph survives it', async () => {
    const x = seeded([2, 6], 1, { device, requiresGrad: true });
    const before = memoryUsage().bytes;
    const layer = new LoRALinear(small);
    const loss = tidy(() => layer.forward(x).square().sum());
    layer.dispose();
    layer.dispose();
    expect(layer.disposed).toBe(true);
    expectThrow(() => layer.forward(x), 'ERR_DISPOSED', '[LoRALinear] forward: the layer has been disposed');
    loss.backward();
    expect(Number.isFinite((await x.grad!.data())[0]!)).toBe(true);
    loss.dispose();
    x.grad!.dispose();
    expect(memoryUsage().bytes).toBeLessThanOrEqual(before); // less when garbage of other tests goes
  });

  test('short texts', () => {
    const layer = new LoRALinear(small);
    expect(inspect(layer)).toBe('LoRALinear(6 → 4, r 2, f32 on reference)');
    expect(JSON.stringify({ layer })).toBe('{"layer":"LoRALinear(6 → 4, r 2, f32 on reference)"}');
  });
});
