import { mkdtempSync, readFileSync, rmSync, writeFileSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AdamW, loadCheckpoint, LoRALinear, saveCheckpoint, tensor, writeSafetensors } from '../../lib/index';
import { expectReject } from '../support/errors';
import { seeded } from '../support/numbers';

const device = 'reference';
let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'checkpoint-'))));
afterEach(() => rmSync(dir, { recursive: true }));

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
const weights = ({ layer }: { layer: LoRALinear }): string =>
  layer
    .parameters()
    .map((p) => Buffer.from(p.bytesSync()).toString('hex'))
    .join();

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
  await expectReject(
    saveCheckpoint('', {}),
    'ERR_ARGUMENT',
    "[saveCheckpoint] expected a directory but received ''",
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

test.each([
  ['null', { a: null }, "its state 'a' is null"],
  ['a number', { a: 3 }, "its state 'a' is 3"],
  ['an entry without a value', { a: {} }, "its state 'a' is an object"],
  ['a list', [], 'it has no states'],
  ['a bigint that is none', { a: { value: { $bigint: '1e5' } } }, "'1e5' is no bigint"],
])('a state that is %s is ERR_SAFETENSORS', async (_, states, why) => {
  const metadata = { 'lora-native.checkpoint': JSON.stringify({ version: '1', states }) };
  const path = join(dir, 'checkpoint.safetensors');
  await writeSafetensors(path, new Map(), metadata);
  await expectReject(
    loadCheckpoint(dir),
    'ERR_SAFETENSORS',
    `${path} is not a checkpoint of lora-native: ${why}`,
  );
});
