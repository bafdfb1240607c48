import { inspect } from 'node:util';
import {
  devices,
  memoryUsage,
  parameter,
  setThreads,
  synchronize,
  tensor,
  type Tensor,
} from '../../lib/index';
import { fromBytes } from '../../lib/tensor/create';
import { expectReject, expectThrow } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { bits, list } from '../support/numbers';

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

  test('a Uint16Array holds bits only of bf16 and f16, values otherwise; any array keeps its values', async () => {
    const raw = new Uint16Array([0x3c00, 0x4000]);
    expect(await list(tensor(raw, { dtype: 'f16', device }))).toEqual([1, 2]);
    expect(await list(tensor(raw, { device }))).toEqual([0x3c00, 0x4000]);
    expect(tensor(raw, { device }).dtype).toBe('f32');
    const bytes = [new Int8Array([-1, 2]), new Uint8Array([255, 2]), new Int16Array([-1, 2])];
    const wanted = [
      [-1, 2],
      [255, 2],
      [-1, 2],
    ];
    for (const [i, array] of bytes.entries()) {
      expect(await list(tensor(array, { device }))).toEqual(wanted[i]);
      expect(await list(tensor(array, { dtype: 'i32', device }))).toEqual(wanted[i]);
      expect(await list(tensor(array, { dtype: 'bf16', device }))).toEqual(wanted[i]);
    }
    const ints = tensor(new Int32Array([1, 2]), { dtype: 'f32', device });
    expect([ints.dtype, ...(await list(ints))]).toEqual(['f32', 1, 2]);
    const part = new Float32Array([9, 1, 2, 9]).subarray(1, 3);
    expect(await list(tensor(part, { device }))).toEqual([1, 2]);
  });

  test('integers are those of 32 bits', async () => {
    const ends = [-(2 ** 31), 2 ** 31 - 1];
    expect(await list(tensor(ends, { dtype: 'i32', device }))).toEqual(ends);
    for (const v of [2 ** 31, -(2 ** 31) - 1, NaN, 0.5])
      expectThrow(
        () => tensor([v], { dtype: 'i32', device }),
        'ERR_ARGUMENT',
        `[tensor] expected 32-bit integers for dtype i32 but received ${v}`,
      );
  });

  test('lists take a shape of as many numbers, and up to 8 dimensions', async () => {
    const x = tensor(
      [
        [1, 2],
        [3, 4],
      ],
      { shape: [4, 1], device },
    );
    expect([x.shape, await list(x)]).toEqual([
      [4, 1],
      [1, 2, 3, 4],
    ]);
    expectThrow(
      () => tensor([1, 2, 3], { shape: [2], device }),
      'ERR_ARGUMENT',
      '[tensor] expected 2 numbers for shape [2] but received 3',
    );
    const nested = (depth: number): never => (depth === 0 ? 5 : [nested(depth - 1)]) as never;
    expect(tensor(nested(8), { device }).shape).toEqual(Array(8).fill(1));
    expectThrow(() => tensor(nested(9), { device }), 'ERR_ARGUMENT', /at most 8 dimensions/);
    expect(tensor([[[]], [[]]] as never, { device }).shape).toEqual([2, 1, 0]);
  });

  test('requiresGrad marks a leaf', () => {
    const [x, plain] = [tensor([1], { device, requiresGrad: true }), tensor([1], { device })];
    expect([x.requiresGrad, x.grad, plain.requiresGrad]).toEqual([true, null, false]);
    expect([x.mul(2).requiresGrad, plain.mul(2).requiresGrad]).toEqual([true, false]);
  });

  const bad: [string, () => unknown, RegExp | string][] = [
    [
      'bytes',
      () => fromBytes(new Uint8Array(7), 'bf16', [4], device),
      '[tensor] expected 8 bytes for bf16 [4] but received 7',
    ],
    ['view', () => tensor(new DataView(new ArrayBuffer(4)) as never), /received a DataView of 4/],
    [
      'shape',
      () => tensor(new Float32Array(2), { shape: [-2] }),
      /expected shape to be a list of integers of at least 0/,
    ],
    [
      'gradient',
      () => tensor([1], { requiresGrad: 1 as never }),
      /expected requiresGrad to be true or false/,
    ],
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

  test('item and itemSync want one element, of any number of dimensions', async () => {
    const one = tensor([[[2.5]]], { dtype: 'bf16', device });
    expect([await one.item(), one.itemSync()]).toEqual([2.5, 2.5]);
    const none = tensor([], { device });
    expectThrow(
      () => none.itemSync(),
      'ERR_ARGUMENT',
      '[itemSync] expected a tensor of one element but received [0]',
    );
    none.dispose();
    expectThrow(() => none.itemSync(), 'ERR_DISPOSED', '[itemSync] the tensor has been disposed');
    expectThrow(() => none.bytesSync(), 'ERR_DISPOSED', '[bytesSync] the tensor has been disposed');
    await expectReject(none.bytes(), 'ERR_DISPOSED', '[bytes] the tensor has been disposed');
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
  test('gives the memory back', async () => {
    await collectGarbage(); // of other tests
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

describe('memory that several tensors look at', () => {
  test('goes with the last of them: views, views of views, detached ones', async () => {
    const size = 4 << 16;
    await collectGarbage(); // of other tests
    const before = memoryUsage().bytes;
    const x = tensor(new Float32Array(1 << 16).fill(3), { device });
    const view = x.reshape([1 << 8, 1 << 8]);
    const inner = view.reshape([1 << 16]);
    const detached = inner.detach();
    for (const t of [x, view, inner]) t.dispose();
    expect(memoryUsage().bytes).toBeGreaterThanOrEqual(before + size - (1 << 10));
    expect((await detached.data())[65535]).toBe(3);
    detached.dispose();
    expect(memoryUsage().bytes).toBeLessThan(before + (1 << 10));
  });

  test('is not held by reading, of whichever dtype', async () => {
    const x = tensor(new Uint16Array(1 << 14), { dtype: 'bf16', device });
    const before = memoryUsage();
    await x.data();
    x.dataSync();
    await x.bytes();
    expect(memoryUsage().bytes).toBeLessThanOrEqual(before.bytes);
    expect(memoryUsage().tensors).toBeLessThanOrEqual(before.tensors);
  });
});

describe('parameter', () => {
  test('is an f32 copy with a name, of a tensor or of numbers', async () => {
    const x = tensor([1, 2], { dtype: 'bf16', device });
    const w = parameter(x, 'w');
    expect([w.dtype, w.name, w.requiresGrad, w.version, await list(w)]).toEqual([
      'f32',
      'w',
      true,
      0,
      [1, 2],
    ]);
    expect(x.disposed).toBe(false);
    const same = tensor([1, 2], { device });
    const copy = parameter(same);
    same.dispose();
    expect([copy.name, await list(copy)]).toEqual(['', [1, 2]]);
    expect(parameter([[1, 2, 3]]).shape).toEqual([1, 3]);
    const before = bits(x);
    w.dispose();
    expect(bits(x)).toBe(before);
  });
  test('frees its gradient with itself', () => {
    const w = parameter(tensor([1], { device }));
    w.mul(2).backward();
    const { grad } = w;
    w.dispose();
    expect([grad!.disposed, w.grad, w.disposed]).toEqual([true, null, true]);
  });
  test('bad arguments', () => {
    expectThrow(
      () => parameter(tensor([1], { dtype: 'i32', device })),
      'ERR_ARGUMENT',
      '[parameter] expected a float tensor but received i32',
    );
    expectThrow(
      () => parameter([1], 3 as never),
      'ERR_ARGUMENT',
      '[parameter] expected name to be a string but received 3',
    );
    const gone = tensor([1], { device });
    gone.dispose();
    expectThrow(() => parameter(gone), 'ERR_DISPOSED', '[parameter] x has been disposed');
  });
});

describe('devices', () => {
  test('the CPU comes first; threads are at least one; waiting takes a name', async () => {
    expect(devices()[0]).toMatchObject({
      id: 'cpu',
      name: expect.any(String),
      memoryBytes: expect.any(Number),
    });
    expectThrow(
      () => setThreads(0),
      'ERR_ARGUMENT',
      '[setThreads] expected threads to be an integer of at least 1 but received 0',
    );
    await synchronize();
    await synchronize('reference');
    await expectReject(synchronize('gpu' as never), 'ERR_ARGUMENT', /^\[synchronize\] expected device to be/);
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
  test('bad options', () => {
    const x = tensor([1], { device });
    expectThrow(() => x.to({ device: 'gpu' as never }), 'ERR_ARGUMENT', /^\[to\] expected device to be/);
    expectThrow(() => x.to({ dtype: 'f64' as never }), 'ERR_ARGUMENT', /^\[to\] expected dtype to be/);
    expectThrow(() => x.to({ type: 'f32' } as never), 'ERR_ARGUMENT', /unknown option 'type'/);
    expectThrow(() => x.to(undefined as never), 'ERR_ARGUMENT', /expected an object of options/);
    expectThrow(
      () => tensor([1], { dtype: 'i32', device }).to({ dtype: 'f32' }),
      'ERR_ARGUMENT',
      /not from i32 to f32/,
    );
    x.dispose();
    expectThrow(() => x.to({ dtype: 'bf16' }), 'ERR_DISPOSED', '[to] the tensor has been disposed');
  });
  test('moves what it narrowed, and holds nothing in between', async () => {
    const x = tensor([1.001, 2], { device });
    const before = memoryUsage().tensors;
    const y = x.to({ dtype: 'bf16', device: 'cpu' });
    expect(memoryUsage().tensors).toBeLessThanOrEqual(before + 1);
    expect([y.dtype, y.device, await list(y)]).toEqual(['bf16', 'cpu', [1, 2]]);
  });
  test('without a change gives a second reference', async () => {
    const x = tensor([1], { device });
    const y = x.to({ dtype: 'f32' });
    x.dispose();
    expect(await y.item()).toBe(1);
  });
});

test('a typed array whose memory was transferred is named', () => {
  for (const Kind of [Float32Array, Uint16Array, Int32Array]) {
    const array = new Kind(6);
    structuredClone(array.buffer, { transfer: [array.buffer] });
    const sentence =
      '[tensor] the typed array has no memory any more: it was transferred, or its file was closed';
    expectThrow(() => tensor(array, { device }), 'ERR_ARGUMENT', sentence);
    expectThrow(() => tensor(array, { device, shape: [0], dtype: 'bf16' }), 'ERR_ARGUMENT', sentence);
    expectThrow(() => parameter(array), 'ERR_ARGUMENT', sentence);
  }
});
