import { mkdtempSync, readFileSync, rmSync, writeFileSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import {
  AdamW,
  loadCheckpoint,
  LoRALinear,
  memoryUsage,
  parameter,
  saveCheckpoint,
  tensor,
  writeSafetensors,
  type DType,
  type SafetensorsTensor,
  type StateDict,
  type Tensor,
} from '../../lib/index';
import { InputFile } from '../../lib/formats/input';
import { expectReject, expectThrow } from '../support/errors';
import { pausesOf } from '../support/gaps';
import { bits, list, seeded } from '../support/numbers';

const device = 'reference';
let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'checkpoint-'))));
afterEach(() => rmSync(dir, { recursive: true }));

test("a parameter of one's own is filled from a checkpoint", async () => {
  const w = parameter(tensor([[1, 2, 3]], { device }), 'w');
  await saveCheckpoint(dir, { w });
  w.copyFrom(tensor([[4, 5, 6]], { device }));
  expect([...(await w.data())]).toEqual([4, 5, 6]);
  const loss = w.square().sum();
  const { w: saved } = await loadCheckpoint<{ w: Tensor }>(dir);
  w.copyFrom(saved); // a checkpoint lies on the CPU, w on another device
  expect([...(await w.data())]).toEqual([1, 2, 3]);
  expect(w.version).toBe(2);
  expect(() => loss.backward()).toThrow(); // it was recorded with other values
  for (const wrong of [tensor([1, 2, 3]), tensor([[1, 2, 3]], { dtype: 'i32' }), [[1, 2, 3]] as never])
    expectThrow(
      () => w.copyFrom(wrong),
      'ERR_ARGUMENT',
      /^\[copyFrom\] expected a tensor of shape \[1, 3\] but received/,
    );
  const before = w.version;
  w.dispose();
  expectThrow(() => w.copyFrom(saved), 'ERR_DISPOSED', /^\[copyFrom\] the parameter/);
  expect(w.version).toBe(before);
});

function setup(): { layer: LoRALinear; optimizer: AdamW; train: (steps: number) => void } {
  const layer = new LoRALinear({ inFeatures: 12, outFeatures: 5, r: 3, loraDropout: 0.25, device, seed: 4 });
  const optimizer = new AdamW(layer.parameters(), { lr: 0.01 });
  const x = seeded([6, 12], 1, { device });
  const target = seeded([6, 5], 2, { device });
  const train = (steps: number): void => {
    for (let i = 0; i < steps; i++) {
      layer.forward(x).sub(target).square().mean().backward();
      optimizer.step();
      optimizer.zeroGrad();
    }
  };
  return { layer, optimizer, train };
}
const weights = ({ layer }: { layer: LoRALinear }): string => bits(...layer.parameters());

test('a resumed run is bitwise the run without a stop, dropout and moments included', async () => {
  const whole = setup();
  whole.train(7);
  const first = setup();
  first.train(3);
  await saveCheckpoint(dir, { layer: first.layer, optimizer: first.optimizer, step: 3 });
  first.train(1); // the file does not follow
  const second = setup();
  const rest = await loadCheckpoint(dir, { layer: second.layer, optimizer: second.optimizer });
  expect(rest).toEqual({ step: 3 });
  second.train(4);
  expect(weights(second)).toBe(weights(whole));
  expect(weights(second)).not.toBe(weights(first));
  expect(readdirSync(dir)).toEqual(['checkpoint.safetensors']);
});

test('the state is that of the call, though the run goes on while it is written', async () => {
  const run = setup();
  run.train(2);
  const then = weights(run);
  const saving = saveCheckpoint(dir, { layer: run.layer });
  run.train(2);
  await saving;
  const other = setup();
  await loadCheckpoint(dir, { layer: other.layer });
  expect(weights(other)).toBe(then);
});

test('typed arrays are saved as they were at the call', async () => {
  const whole = new Float32Array([9, 1, 2, 9]);
  const state = { part: whole.subarray(1, 3), ids: new Int32Array([5]) };
  const saving = saveCheckpoint(dir, state);
  whole.fill(7);
  state.ids[0] = 7;
  await saving;
  expect(await loadCheckpoint(dir)).toEqual({ part: new Float32Array([1, 2]), ids: new Int32Array([5]) });
});

test('keys whose paths are the same text do not collide', async () => {
  const state = {
    a: { 'b.c': new Int32Array([1]), b: { c: new Int32Array([2]) } },
    'a.b': { c: new Int32Array([3]) },
    'a.b.c': new Int32Array([4]),
  };
  await saveCheckpoint(dir, state);
  expect(await loadCheckpoint(dir)).toEqual(state);
});

test('every kind of typed array and every dtype of tensor comes back', async () => {
  const arrays = {
    f32: new Float32Array([1.5]),
    f64: new Float64Array([0.1]),
    i8: new Int8Array([-1]),
    u8: new Uint8Array([255]),
    u8c: new Uint8ClampedArray([255]),
    i16: new Int16Array([-2]),
    u16: new Uint16Array([65535]),
    i32: new Int32Array([-3]),
    u32: new Uint32Array([2 ** 32 - 1]),
    i64: new BigInt64Array([-(2n ** 60n)]),
    u64: new BigUint64Array([2n ** 63n]),
  };
  const dtypes: DType[] = ['f32', 'bf16', 'f16', 'i32'];
  const tensors = dtypes.map((dtype) => tensor([[1], [2]], { dtype, device }));
  await saveCheckpoint(dir, { arrays, tensors });
  const loaded = await loadCheckpoint<{ arrays: typeof arrays; tensors: Tensor[] }>(dir);
  expect(loaded.arrays).toEqual(arrays);
  for (const [i, t] of loaded.tensors.entries())
    expect([t.dtype, t.shape, await list(t)]).toEqual([dtypes[i], [2, 1], [1, 2]]);
});

test('a disposed tensor is ERR_DISPOSED with its place, and the old file stays', async () => {
  await saveCheckpoint(dir, { step: 1 });
  const gone = tensor([1], { device });
  gone.dispose();
  await expectReject(
    saveCheckpoint(dir, { run: { list: [gone] } }),
    'ERR_DISPOSED',
    "[saveCheckpoint] 'run.list.0' has been disposed",
  );
  expect(await loadCheckpoint(dir)).toEqual({ step: 1 });
});

test('a name that is undefined is left out, at the top and below', async () => {
  await saveCheckpoint(dir, { step: 1, best: undefined, run: { a: undefined, b: 2 } });
  expect(await loadCheckpoint(dir)).toStrictEqual({ step: 1, run: { b: 2 } });
});

test('makes its folder, and takes URLs', async () => {
  const deep = join(dir, 'a/b');
  await saveCheckpoint(pathToFileURL(deep), { step: 1 });
  expect(await loadCheckpoint(pathToFileURL(deep))).toEqual({ step: 1 });
  writeFileSync(join(dir, 'file'), 'x');
  await expectReject(
    saveCheckpoint(join(dir, 'file/deep'), {}),
    'ERR_FILE',
    /cannot write .*file\/deep: a part of the path is not a directory/,
  );
});

test('what the states made is freed, after a save and a load', async () => {
  const run = setup();
  run.train(1);
  await saveCheckpoint(
    dir,
    run.optimizer === undefined ? {} : { layer: run.layer, optimizer: run.optimizer },
  );
  const before = memoryUsage();
  const { layer, optimizer } = run;
  await saveCheckpoint(dir, { layer, optimizer });
  await loadCheckpoint(dir, { layer, optimizer });
  expect(memoryUsage().tensors).toBeLessThanOrEqual(before.tensors); // less when garbage of other tests goes
  expect(memoryUsage().bytes).toBeLessThanOrEqual(before.bytes);
});

test('plain values come back as they were', async () => {
  const state = {
    step: 10,
    name: 'run',
    flags: [true, false, null],
    odd: [NaN, Infinity, -Infinity, -0, 1e-320],
    big: 2n ** 70n,
    nested: { a: { b: [1, { c: 'd' }] }, 'x.y': 1, $tensor: 'mine', $$: 2 },
    floats: new Float64Array([0.1, NaN]),
    ids: new Int32Array([1, 2, 3]),
    longs: new BigInt64Array([-1n]),
    none: new Uint8Array(0),
  };
  await saveCheckpoint(dir, state);
  expect(await loadCheckpoint(dir)).toEqual(state);
  expect(Object.is(((await loadCheckpoint(dir)).odd as number[])[3], -0)).toBe(true);
});

test('tensors, and objects with an asynchronous state', async () => {
  let loaded: unknown;
  const custom = {
    stateDict: async () => ({ x: tensor([1, 2], { dtype: 'bf16', device }), n: 5 }),
    loadStateDict: async (state: Record<string, unknown>) => {
      const x = state.x as ReturnType<typeof tensor>;
      loaded = { dtype: x.dtype, values: [...(await x.data())], n: state.n };
    },
  };
  await saveCheckpoint(dir, { custom, t: tensor([[1.5]], { device }) });
  const { t } = await loadCheckpoint(dir, { custom });
  expect(loaded).toEqual({ dtype: 'bf16', values: [1, 2], n: 5 });
  expect((t as ReturnType<typeof tensor>).shape).toEqual([1, 1]);
});

test('a failed save leaves the old file', async () => {
  await saveCheckpoint(dir, { step: 1 });
  await expectReject(
    saveCheckpoint(dir, { step: 2, run: { deep: [() => 1] } }),
    'ERR_ARGUMENT',
    /^\[saveCheckpoint\] 'run\.deep\.0' cannot be saved: expected plain values.* but received a? ?function/,
  );
  expect(await loadCheckpoint(dir)).toEqual({ step: 1 });
});

test('errors', async () => {
  const { layer, optimizer } = setup();
  await expectReject(loadCheckpoint(dir, {}), 'ERR_FILE', /checkpoint\.safetensors/);
  await saveCheckpoint(dir, { layer, step: 1 });
  await expectReject(
    loadCheckpoint(dir, { optimizer }),
    'ERR_ARGUMENT',
    /holds no state of 'optimizer'; it holds layer, step$/,
  );
  await expectReject(
    loadCheckpoint(dir, { layr: layer }),
    'ERR_ARGUMENT',
    /holds no state of 'layr'; did you mean 'layer'\?$/,
  );
  const wide = new LoRALinear({ inFeatures: 12, outFeatures: 5, r: 4, device });
  await expectReject(
    loadCheckpoint(dir, { layer: wide }),
    'ERR_ARGUMENT',
    '[LoRALinear] expected up of the state to be a tensor of shape [5, 4] but received a tensor f32 [5, 3]',
  );
  await expectReject(
    loadCheckpoint(dir, { step: 1 as never }),
    'ERR_ARGUMENT',
    '[loadCheckpoint] expected step to have loadStateDict() but received 1',
  );
  for (const [given, shown] of [
    ['', "''"],
    [5, '5'],
  ] as const)
    await expectReject(
      saveCheckpoint(given as string, {}),
      'ERR_ARGUMENT',
      `[saveCheckpoint] expected a directory but received ${shown}`,
    );
  const file = join(dir, 'checkpoint.safetensors');
  writeFileSync(file, readFileSync(file).subarray(0, 100));
  await expectReject(loadCheckpoint(dir, {}), 'ERR_SAFETENSORS', /checkpoint\.safetensors/);
});

test("a key '__proto__' is a key like any other", async () => {
  const hostile = JSON.parse('{ "run": { "__proto__": { "polluted": 1 }, "b": 2 } }') as Record<
    string,
    unknown
  >;
  await saveCheckpoint(dir, hostile);
  const loaded = await loadCheckpoint(dir);
  expect(JSON.stringify(loaded)).toBe('{"run":{"__proto__":{"polluted":1},"b":2}}');
  expect(({} as { polluted?: number }).polluted).toBeUndefined();
});

/** A file with this text as its states. */
async function writeText(text: string, tensors = new Map<string, SafetensorsTensor>()): Promise<string> {
  const path = join(dir, 'checkpoint.safetensors');
  await writeSafetensors(path, tensors, { 'lora-native.checkpoint': text });
  return path;
}
const damaged = (path: string, why: string | RegExp): Promise<unknown> =>
  expectReject(
    loadCheckpoint(dir),
    'ERR_SAFETENSORS',
    typeof why === 'string' ? `${path} is not a checkpoint of lora-native: ${why}` : why,
  );

test.each([
  ['null', { a: null }, "its state 'a' is null"],
  ['a number', { a: 3 }, "its state 'a' is 3"],
  ['an entry without a value', { a: {} }, "its state 'a' is an object"],
  ['a list', [], 'it has no states'],
  ['missing', undefined, 'it has no states'],
  ['a bigint that is none', { a: { value: { $bigint: '1e5' } } }, "'1e5' is no bigint"],
  ['a tensor that is not there', { a: { value: { $tensor: 'x' } } }, "it has no tensor 'x'"],
  [
    'an array that is not there',
    { a: { value: [{ $array: 'x', kind: 'Int8Array' }] } },
    "it has no tensor 'x'",
  ],
  ['a tensor of bytes', { a: { value: { $tensor: 'bytes' } } }, 'a tensor has the dtype U8'],
  [
    'an array of another kind',
    { a: { value: { $array: 'bytes', kind: 'Int8Array' } } },
    'a Int8Array has the dtype U8',
  ],
  [
    'an array whose kind is no name',
    { a: { value: { $array: 'bytes', kind: { toString: [] } } } },
    'the kind of an array is an object',
  ],
  ['an array of no kind', { a: { value: { $array: 'bytes', kind: 'Array' } } }, 'a Array has the dtype U8'],
])('a state that is %s is ERR_SAFETENSORS', async (_, states, why) => {
  const bytes = new Map([['bytes', { dtype: 'U8', shape: [1], bytes: new Uint8Array(1) } as const]]);
  await damaged(await writeText(JSON.stringify({ version: '1', states }), bytes), why);
});

test.each([
  ["'2'", '2'],
  ['1', 1],
  ['undefined', undefined],
])('a file of version %s is refused', async (text, version) => {
  const states = { step: { value: 1 } };
  await damaged(await writeText(JSON.stringify({ version, states })), `its version is ${text}`);
  await writeText(JSON.stringify({ version: '1', states }));
  expect(await loadCheckpoint(dir)).toEqual({ step: 1 });
});

test('another safetensors file is no checkpoint', async () => {
  const path = await writeText('{');
  await damaged(path, /is not a checkpoint of lora-native: .*JSON/);
  await writeSafetensors(path, new Map(), { format: 'pt' });
  await damaged(path, "it has no 'lora-native.checkpoint' in its metadata");
});

describe('what cannot be saved is named', () => {
  const cyclic: Record<string, unknown> = { a: 1 };
  cyclic['self'] = cyclic;
  const list: unknown[] = [];
  list.push(list);
  const deep = (levels: number): unknown => (levels === 0 ? 1 : [deep(levels - 1)]);
  const detached = new Float32Array(4);
  structuredClone(detached.buffer, { transfer: [detached.buffer] });
  test.each<[string, unknown, RegExp]>([
    [
      'an object that contains itself',
      cyclic,
      /'x\.self\.self.*…' is nested more than 120 levels deep: does it contain itself\?/,
    ],
    ['a list that contains itself', list, /is nested more than 120 levels deep/],
    [
      'a value 100,000 levels deep',
      Array.from({ length: 100_000 }).reduce((inner) => [inner], 1),
      /is nested more than 120/,
    ],
    [
      'a typed array without its memory',
      [detached],
      /'x\.0' has no memory any more: it was transferred, or its file was closed/,
    ],
  ])('%s', async (_, x, sentence) => {
    await expectReject(saveCheckpoint(dir, { x }), 'ERR_ARGUMENT', sentence);
  });

  test('what can be saved can be loaded: 120 levels', async () => {
    await saveCheckpoint(dir, { x: deep(120) });
    expect(await loadCheckpoint(dir)).toEqual({ x: deep(120) });
  });

  test('a URL that names no file', async () => {
    const sentence = '[saveCheckpoint] expected a path or a file: URL but received http://host/x';
    await expectReject(saveCheckpoint(new URL('http://host/x'), {}), 'ERR_ARGUMENT', sentence);
  });
});

test('an array and a tensor that a file names two thousand times are read once', async () => {
  const times = (value: object): object[] => Array.from({ length: 2000 }, () => value);
  const states = {
    arrays: { value: times({ $array: 'a', kind: 'Float32Array' }) },
    tensors: { value: times({ $tensor: 'a' }) },
  };
  const array = { dtype: 'F32', shape: [256], bytes: new Uint8Array(1024).fill(1) } as const;
  await writeText(JSON.stringify({ version: '1', states }), new Map([['a', array]]));
  const reads = jest.spyOn(InputFile.prototype, 'read');
  try {
    const { arrays, tensors } = await loadCheckpoint<{ arrays: Float32Array[]; tensors: Tensor[] }>(dir);
    expect([arrays.length, tensors.length]).toEqual([2000, 2000]);
    expect(arrays[1999]).toEqual(new Float32Array(new Uint8Array(1024).fill(1).buffer));
    expect(await list(tensors[1999]!)).toEqual([...arrays[0]!]);
    expect(reads.mock.calls.length).toBeLessThan(6); // the header takes two
  } finally {
    reads.mockRestore();
  }
});

test('a tensor that a state and a value name stays when the state is taken', async () => {
  const states = { layer: { state: { w: { $tensor: 'a' } } }, w: { value: { $tensor: 'a' } } };
  const one = { dtype: 'F32', shape: [1], bytes: new Uint8Array(4) } as const;
  await writeText(JSON.stringify({ version: '1', states }), new Map([['a', one]]));
  const { w } = await loadCheckpoint<{ w: Tensor }>(dir, { layer: { loadStateDict: () => undefined } });
  expect(await list(w)).toEqual([0]);
});

test('of several states all are taken or none, and a loadStateDict() of a subclass is called', async () => {
  const { layer, optimizer } = setup();
  await saveCheckpoint(dir, { layer, optimizer });
  class Counting extends LoRALinear {
    loaded = 0;
    override loadStateDict(state: StateDict): void {
      this.loaded++;
      super.loadStateDict(state);
    }
  }
  const options = { inFeatures: 12, outFeatures: 5, r: 3, device, seed: 4 } as const;
  const counting = new Counting(options);
  await loadCheckpoint(dir, { layer: counting });
  expect(counting.loaded).toBe(1);
  const other = new LoRALinear({ ...options, loraDropout: 0.25 });
  other.up.version = 7;
  await expectReject(
    loadCheckpoint(dir, { layer: other, optimizer: new AdamW(other.parameters().slice(1)) }),
    'ERR_ARGUMENT',
    /^\[AdamW\] expected steps of 1 parameters/,
  );
  expect(other.up.version).toBe(7);
});

test('the holes of a list cannot be saved', async () => {
  const sentence =
    /^\[saveCheckpoint\] 'x\.1' cannot be saved: expected plain values.* but received undefined$/;
  await expectReject(saveCheckpoint(dir, { x: Object.assign(Array(2), { 0: 1 }) }), 'ERR_ARGUMENT', sentence);
});

test('many values are written and read in slices', async () => {
  const state = {
    run: {
      numbers: Array.from({ length: 200_000 }, (_, i) => i),
      pairs: Array.from({ length: 30_000 }, (_, i) => ({ i })),
    },
  };
  const saved = await pausesOf(() => saveCheckpoint(dir, state));
  const loaded = await pausesOf(() => loadCheckpoint(dir));
  expect(isDeepStrictEqual(loaded.result, state)).toBe(true);
  expect(saved.pauses).toBeGreaterThan(20);
  expect(loaded.pauses).toBeGreaterThan(20);
});
