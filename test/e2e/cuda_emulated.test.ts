/**
 * The CUDA backend's kernels on the emulated GPU, through the public API: a whole training step, and generation.
 * With LORA_TEST_DEVICE=cuda on a real one (scripts/gpu-check).
 */
import { rmSync } from 'node:fs';
import {
  AdamW,
  AdamW8bit,
  CausalLM,
  clipGradNorm,
  Lion,
  noGrad,
  setThreads,
  SGD,
  Trainer,
  type Device,
  type Parameter,
} from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { nativeDevice } from '../../lib/native/device';
import { values } from '../support/numbers';
import { seededParameter, setGrad } from '../support/optimizers';
import { programCases } from '../support/program_cases';
import { fillAdapter } from '../support/fill_adapter';
import { runChild } from '../support/child';
import { gpu as device, onGpu as emulated } from '../support/emulated';
import { tinyModel } from '../support/tiny_model';
import { blockFormatCases } from '../support/block_format_cases';
import { describeWithData } from '../support/shared_data';
import { goldenOnCodes, weightFormatCases } from '../support/weight_format_cases';

const rows = [
  [256, 72, 101, 108, 108, 111, 32, 119],
  [97, 98, 99],
];

interface Step {
  loss: number;
  norm: number;
  /** Of every LoRA matrix: the gradient, then the value after the update. */
  grads: Float32Array[];
  values: Float32Array[];
  ids: number[];
}

async function trainOnce(dir: string, dtype: 'f32' | 'bf16', device: Device): Promise<Step> {
  const model = await CausalLM.fromPretrained(dir, { dtype, device });
  const adapter = model.addAdapter(
    { r: 4, loraAlpha: 8, loraDropout: 0.1, targetModules: 'all-linear' },
    { seed: 3 },
  );
  fillAdapter(adapter, 5, 0.1); // with up = 0 every gradient of down would be zero
  const { loss } = model.forward(rows, { labels: rows });
  loss.backward();
  const parameters = adapter.parameters();
  const norm = clipGradNorm(parameters, 1);
  const read = (tensors: readonly { data(): Promise<unknown> }[]) =>
    Promise.all(tensors.map(async (t) => Float32Array.from((await t.data()) as Float32Array)));
  const grads = await read(parameters.map((p) => p.grad!));
  new AdamW(parameters, { lr: 0.01, weightDecay: 0.1 }).step();
  const result = {
    loss: await loss.item(),
    norm: await norm.item(),
    grads,
    values: await read(parameters),
    ids: (await model.generate([256, 72], { maxNewTokens: 6, temperature: 0, ignoreEos: true })).ids,
  };
  await model.dispose();
  return result;
}

/** ‖a − b‖ / ‖b‖ over all tensors together. */
function distance(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  let [error, size] = [0, 0];
  b.forEach((tensor, i) =>
    tensor.forEach((value, j) => {
      error += (a[i]![j]! - value) ** 2;
      size += value ** 2;
    }),
  );
  return Math.sqrt(error / size);
}
const relative = (a: number, b: number): number => Math.abs(a - b) / Math.abs(b);

let dir: string;
beforeAll(async () => {
  dir = await tinyModel();
});
afterAll(() => rmSync(dir, { recursive: true }));

emulated('a training step in f32 is that of the reference', async () => {
  const cuda = await trainOnce(dir, 'f32', device);
  const exact = await trainOnce(dir, 'f32', 'reference');
  expect(relative(cuda.loss, exact.loss)).toBeLessThan(1e-6);
  expect(relative(cuda.norm, exact.norm)).toBeLessThan(3e-6);
  expect(distance(cuda.grads, exact.grads)).toBeLessThan(3e-6);
  expect(distance(cuda.values, exact.values)).toBeLessThan(1e-6);
  expect(cuda.ids).toEqual(exact.ids);
});

emulated('blocks of GGUF are written on the CPU, and a GPU refuses to', async () => {
  const native = binding();
  const values = native.fromBytes(nativeDevice(device), 'f32', [32], new Uint8Array(128));
  expect(() => native.quantizeBlocks(values, 'q8_0')).toThrow(
    expect.objectContaining({
      code: 'ERR_UNSUPPORTED',
      message: '[quantize_blocks] blocks are written on the CPU, not on a GPU',
    }),
  );
  expect((await native.read(values)).byteLength).toBe(128); // it stays usable
  native.release(values);
});

emulated('a training step in bf16 is as near to the reference as that of the CPU', async () => {
  const cuda = await trainOnce(dir, 'bf16', device);
  setThreads(1);
  const cpu = await trainOnce(dir, 'bf16', 'cpu');
  const exact = await trainOnce(dir, 'f32', 'reference');
  expect(relative(cuda.loss, exact.loss)).toBeLessThan(1e-3);
  // Both round the same values to bf16, after sums in other orders.
  const error = distance(cpu.grads, exact.grads);
  expect(error).toBeLessThan(0.03);
  expect(distance(cuda.grads, exact.grads)).toBeLessThan(1.5 * error);
  expect(distance(cuda.values, exact.values)).toBeLessThan(1.5 * distance(cpu.values, exact.values));
});

emulated('two training steps in bf16 give the same bits', async () => {
  const [one, two] = [await trainOnce(dir, 'bf16', device), await trainOnce(dir, 'bf16', device)];
  expect(one).toEqual(two);
});

const optimizers: [string, (p: Parameter[]) => AdamW | AdamW8bit | SGD | Lion][] = [
  ['AdamW', (p) => new AdamW(p, { lr: 0.01 })],
  ['AdamW8bit', (p) => new AdamW8bit(p, { lr: 0.01 })],
  ['SGD', (p) => new SGD(p, { lr: 0.01, weightDecay: 0.1 })],
  ['SGD with nesterov', (p) => new SGD(p, { lr: 0.01, momentum: 0.9, nesterov: true })],
  ['Lion', (p) => new Lion(p, { lr: 0.01, weightDecay: 0.1 })],
];
for (const [name, make] of optimizers)
  emulated(`steps of ${name} are those of the reference`, async () => {
    const run = async (device: Device): Promise<Float32Array[]> => {
      const parameters = [300, 7, 1024].map((n, i) => seededParameter(i + 1, n, { device }));
      const optimizer = make(parameters);
      for (let step = 0; step < 3; step++) {
        parameters.forEach((p, i) => setGrad(p, values(p.numel, 10 * step + i)));
        optimizer.step();
      }
      return Promise.all(parameters.map(async (p) => Float32Array.from(await p.data())));
    };
    // A moment of 8 bits at the boundary of two values may become either.
    const bound = name === 'AdamW8bit' ? 1e-4 : 1e-6;
    expect(distance(await run(device), await run('reference'))).toBeLessThan(bound);
  });

async function infer(dir: string, dtype: 'f32' | 'bf16' | 'f16', device: Device) {
  const model = await CausalLM.fromPretrained(dir, { dtype, device });
  const adapter = model.addAdapter({ r: 4, loraAlpha: 8, targetModules: 'all-linear' }, { seed: 3 });
  fillAdapter(adapter, 5, 0.1);
  const logits = await noGrad(() => model.forward(rows).logits).data();
  const greedy = { maxNewTokens: 6, temperature: 0, ignoreEos: true };
  const { ids } = await model.generate([256, 72], greedy);
  // Drawn from the logits, with as many of them as the top takes.
  const drawn = await model.generate([256, 72], { ...greedy, temperature: 0.8, topP: 0.9, seed: 4 });
  return { model, logits: Float32Array.from(logits), ids, drawn: drawn.ids };
}

emulated('inference in f16 is nearer to the reference than in bf16; training in it is refused', async () => {
  const exact = await infer(dir, 'f32', 'reference');
  const bf16 = await infer(dir, 'bf16', device);
  const f16 = await infer(dir, 'f16', device);
  const slow = await infer(dir, 'f16', 'reference');
  const error = distance([f16.logits], [exact.logits]);
  expect(error).toBeLessThan(0.25 * distance([bf16.logits], [exact.logits])); // 3 bits more
  expect(error).toBeLessThan(1.5 * distance([slow.logits], [exact.logits]));
  expect(f16.ids).toEqual(exact.ids);
  expect(f16.drawn).toEqual(slow.drawn);
  const refused = { code: 'ERR_UNSUPPORTED', message: expect.stringContaining('training with f16') };
  expect(() => f16.model.forward(rows, { labels: rows })).toThrow(expect.objectContaining(refused));
  const data = [{ inputIds: [97, 98], labels: [97, 98] }];
  expect(() => new Trainer({ model: f16.model, data, maxSteps: 1 })).toThrow(
    expect.objectContaining(refused),
  );
  for (const { model } of [exact, bf16, f16, slow]) await model.dispose();
});

// process.exit() runs the destructors of statics while the queue's thread is at work.
emulated('process.exit while kernels run ends the process quietly', async () => {
  for (const order of ['late', 'eager', 'eager', 'eager', 'eager', 'eager']) {
    const { status, signal, stdout } = runChild(
      `
      const device = ${JSON.stringify(device)};
      const layer = new lora.LoRALinear({ inFeatures: 64, outFeatures: 64, r: 4, loraAlpha: 4, seed: 0, device });
      let x = lora.tensor(new Float32Array(64 * 64), { shape: [64, 64], device });
      lora.noGrad(() => {
        for (let i = 0; i < 40; i++) x = layer.forward(x);
      });
      setTimeout(() => process.exit(7), 5);`,
      { env: { LORA_SIMT: order } },
    );
    expect({ status, signal, stdout }).toEqual({ status: 7, signal: null, stdout: '' });
  }
});

programCases(device, emulated, ['bf16']);

weightFormatCases(
  device,
  emulated,
  [
    'bf16 for f32',
    'f16 for f32',
    'int8 rows for f32',
    'int8 rows for bf16',
    'nf4 for f32',
    'nf4 for bf16',
    'fp4 for bf16',
  ],
  ['nf4 for f32', 'nf4 for bf16'],
);
// A step of a whole batch takes minutes on the emulator.
const little = { steps: 1, tokens: 1, rows: 1, length: 12 };
goldenOnCodes(device, emulated, ['stories260K-dora', 'tiny-qwen3'], little);

describeWithData('quant-gguf', 'golden/quant-gguf', (dir) => blockFormatCases(dir, device, emulated, [2]));
