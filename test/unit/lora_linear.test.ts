import { inspect } from 'node:util';
import { AdamW, LoRALinear, memoryUsage, tensor, tidy, type Tensor } from '../../lib/index';
import { expectThrow } from '../support/errors';
import { relativeError, seeded, values } from '../support/numbers';

const device = 'reference';
const hex = (t: Tensor): string => Buffer.from(t.bytesSync()).toString('hex');
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
    expect([layer.up.shape, layer.down.shape, layer.scale]).toEqual([[4, 2], [2, 6], 4]);
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
      return { weights: layer.parameters().map(hex).join(), losses };
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
      '[lora_linear] expected x of shape [..., 6] (in) but received [2, 5]',
    );
    expectThrow(
      () => layer.forward(seeded([2, 6], 1, { dtype: 'bf16', device })),
      'ERR_ARGUMENT',
      '[lora_linear] expected x of dtype f32, that of the weight, but received bf16',
    );
    expectThrow(
      () => layer.forward(seeded([2, 6], 1, { device: 'cpu' })),
      'ERR_ARGUMENT',
      '[lora_linear] expected weight on cpu but received it on reference',
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
