import { inspect } from 'node:util';
import { memoryUsage, parameter, tensor, type Tensor } from '../../lib/index';
import { expectReject, expectThrow } from '../support/errors';

const device = 'reference';

describe('tensor', () => {
  test('nested lists, numbers and typed arrays', async () => {
    const x = tensor(
      [
        [1, 2],
        [3, 4.5],
      ],
      { device },
    );
    expect([x.shape, x.dtype, x.device, x.numel]).toEqual([[2, 2], 'f32', device, 4]);
    expect([...(await x.data())]).toEqual([1, 2, 3, 4.5]);
    expect([...x.dataSync()]).toEqual([1, 2, 3, 4.5]);
    const y = tensor(new Float64Array([1, 2, 3, 4, 5, 6]), { shape: [2, 3], device });
    expect([y.dtype, y.shape]).toEqual(['f32', [2, 3]]);
    const ids = tensor(new Int32Array([1, -2]), { device });
    expect([ids.dtype, ids.shape, ...(await ids.data())]).toEqual(['i32', [2], 1, -2]);
    expect(tensor(3, { device }).shape).toEqual([]);
    expect(await tensor(3, { device }).item()).toBe(3);
    expect(tensor([[7]], { device }).itemSync()).toBe(7);
    expect(tensor([], { device }).shape).toEqual([0]);
    expect((await tensor([[], []], { device }).data()).length).toBe(0);
  });

  test('the numbers are copied at the call', async () => {
    const source = new Float32Array([1, 2]);
    const x = tensor(source, { device });
    source[0] = 9;
    expect([...(await x.data())]).toEqual([1, 2]);
  });

  test('shared memory is read like any other', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(12), 4);
    shared.set([1, 2]);
    expect([...(await tensor(shared, { device }).data())]).toEqual([1, 2]);
  });

  test('bf16 and f16 are rounded to nearest even and widened on reading', async () => {
    const x = tensor([1, 1.00390625, 1.01171875, -65536.5], { dtype: 'bf16', device });
    expect([...(await x.data())]).toEqual([1, 1, 1.015625, -65536]);
    expect([...(await x.bytes())].slice(0, 2)).toEqual([0x80, 0x3f]);
    const h = tensor([1, 1.00048828125, 65504], { dtype: 'f16', device });
    expect([...(await h.data())]).toEqual([1, 1, 65504]);
    const raw = tensor(new Uint16Array([0x3f80, 0xc000]), { dtype: 'bf16', device });
    expect([...raw.dataSync()]).toEqual([1, -2]);
    expect(raw.bytesSync()).toHaveLength(4);
  });

  const bad: [string, () => unknown, RegExp | string][] = [
    ['ragged', () => tensor([[1, 2], [3]]), '[tensor] expected a list of 2 at [1] but received one of 1'],
    ['depth', () => tensor([[1, 2], 3]), '[tensor] expected a list of 2 at [1] but received 3'],
    ['words', () => tensor([1, 'a' as never]), "[tensor] expected a number at [1] but received 'a'"],
    ['nothing', () => tensor(undefined as never), '[tensor] expected a number but received undefined'],
    ['hole', () => tensor(new Array<number>(3)), '[tensor] expected a number at [0] but received undefined'],
    [
      'cycle',
      () => {
        const endless: unknown[] = [];
        endless.push(endless);
        return tensor(endless as never);
      },
      '[tensor] expected at most 8 dimensions but received lists that are deeper',
    ],
    [
      'count',
      () => tensor(new Float32Array(5), { shape: [2, 3] }),
      '[tensor] expected 6 numbers for shape [2, 3] but received 5',
    ],
    ['bigint', () => tensor(new BigInt64Array(1) as never), /received a BigInt64Array of 1/],
    ['fraction', () => tensor([1.5], { dtype: 'i32' }), /expected 32-bit integers/],
    ['dtype', () => tensor([1], { dtype: 'float32' as never }), /expected dtype to be 'f32', 'bf16'/],
    [
      'device',
      () => tensor([1], { device: 'gpu' as never }),
      "[tensor] expected device to be 'cpu', 'cuda', 'cuda:N' or 'reference' but received 'gpu'",
    ],
    ['option', () => tensor([1], { type: 'f32' } as never), /unknown option 'type'; did you mean 'dtype'/],
    ['integers', () => tensor([1], { dtype: 'i32', requiresGrad: true }), /integers have no gradient/],
  ];
  test.each(bad)('%s is ERR_ARGUMENT', (_, fn, sentence) => {
    expectThrow(fn, 'ERR_ARGUMENT', sentence);
  });

  test('f16 training is ERR_UNSUPPORTED', () => {
    expectThrow(
      () => tensor([1], { dtype: 'f16', requiresGrad: true }),
      'ERR_UNSUPPORTED',
      '[tensor] training in f16 is not supported; use bf16',
    );
    const w = parameter(tensor([1, 2], { device }));
    expectThrow(
      () => w.mul(tensor([1, 2], { dtype: 'f16', device })).to({ dtype: 'f16' }),
      'ERR_UNSUPPORTED',
      /f16 activations is not supported; use bf16/,
    );
  });

  test('item of several elements', async () => {
    await expectReject(
      tensor([1, 2], { device }).item(),
      'ERR_ARGUMENT',
      '[item] expected a tensor of one element but received [2]',
    );
  });

  test('a missing device says why', () => {
    expectThrow(
      () => tensor([1], { device: 'cuda:99' }),
      'ERR_DEVICE_UNAVAILABLE',
      /^\[device\] cannot open cuda:99: .*(CUDA|NVIDIA)/,
    );
  });
});

describe('a tensor as a value', () => {
  const x = (): Tensor => tensor([1], { device });
  test('does not become a number or a text by accident', () => {
    expectThrow(() => `${x() as unknown as string}`, 'ERR_ARGUMENT', /await loss\.item\(\)/);
    expectThrow(() => 0 + (x() as unknown as number), 'ERR_ARGUMENT', /await loss\.item\(\)/);
  });
  test('has short texts', () => {
    const t = tensor([[1, 2]], { device });
    expect(JSON.stringify({ t })).toBe('{"t":"Tensor(f32 [1, 2] on reference)"}');
    expect(inspect(t)).toBe('Tensor { f32 [1, 2] on reference }');
    const w = parameter(t, 'w');
    expect(inspect(w)).toBe("Parameter 'w' { f32 [1, 2] on reference requiresGrad }");
    t.dispose();
    expect(inspect(t)).toContain('disposed');
  });
  test('has a handle of its own that cannot be cloned', () => {
    expect(Object.hasOwn(x(), 'handle')).toBe(true);
  });
  test('shapes cannot be changed', () => {
    expect(() => (x().shape as number[]).push(3)).toThrow();
  });
});

describe('dispose', () => {
  test('is idempotent, and later use is ERR_DISPOSED', async () => {
    const x = tensor([1, 2], { device });
    const y = x.add(1);
    x.dispose();
    x.dispose();
    expect(x.disposed).toBe(true);
    expect([...(await y.data())]).toEqual([2, 3]);
    expectThrow(() => x.add(1), 'ERR_DISPOSED', '[add] the left operand has been disposed');
    await expectReject(x.data(), 'ERR_DISPOSED', '[data] the tensor has been disposed');
    expectThrow(() => y.add(x), 'ERR_DISPOSED', '[add] the right operand has been disposed');
  });
  test('gives the memory back', () => {
    const before = memoryUsage().bytes;
    const x = tensor(new Float32Array(1 << 16), { device });
    const with256KiB = memoryUsage().bytes;
    expect(with256KiB).toBeGreaterThan(before);
    x.dispose();
    expect(memoryUsage().bytes).toBeLessThanOrEqual(with256KiB - (1 << 18));
  });
  test('is legal while the values are being read', async () => {
    const x = tensor([1, 2, 3], { device });
    const y = x.mul(2);
    const read = y.data();
    y.dispose();
    x.dispose();
    expect([...(await read)]).toEqual([2, 4, 6]);
  });
});

describe('to', () => {
  test('casts and moves', async () => {
    const x = tensor([1.001, 2], { device });
    const b = x.to({ dtype: 'bf16' });
    expect([b.dtype, ...(await b.data())]).toEqual(['bf16', 1, 2]);
    const c = x.to({ device: 'cpu' });
    expect([c.device, ...(await c.data())]).toEqual(['cpu', Math.fround(1.001), 2]);
    expectThrow(() => x.to({ dtype: 'i32' }), 'ERR_ARGUMENT', /not from f32 to i32/);
  });
  test('without a change gives a second reference', async () => {
    const x = tensor([1], { device });
    const y = x.to({ dtype: 'f32' });
    x.dispose();
    expect(await y.item()).toBe(1);
  });
});
