/** Weights that are kept in another format than the activations: the model computes what their values say. */
import {
  AdamW,
  CausalLM,
  memoryUsage,
  openSafetensors,
  setThreads,
  type SafetensorsTensor,
} from '../../lib/index';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fillAdapter } from '../support/fill_adapter';
import { expectReject } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { list, roundToBf16 } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

beforeAll(() => setThreads(1)); // tiny matrices

const ids = [256, 72, 101, 108, 108, 111, 44, 32, 119, 111, 114];
const scratch = temporaryFolder();
let saves = 0;
const isLinear = (name: string): boolean => /_proj\.weight$/.test(name);
const floatsOf = ({ bytes }: SafetensorsTensor): Float32Array =>
  new Float32Array(Uint8Array.from(bytes).buffer);
const bytesOf = (array: Float32Array | Int8Array): Uint8Array => new Uint8Array(array.buffer);

const int8Weights = { num_bits: 8, type: 'int', strategy: 'channel', symmetric: true, dynamic: false };
const quantised = (): Record<string, unknown> => ({
  quantization_config: {
    quant_method: 'compressed-tensors',
    format: 'int-quantized',
    config_groups: { group_0: { targets: ['Linear'], weights: int8Weights, input_activations: null } },
  },
});

/** Puts int8 rows in the place of the linear layers, or the f32 values of those rows. */
function quantise(tensors: Map<string, SafetensorsTensor>, kept: boolean): void {
  for (const [name, tensor] of [...tensors]) {
    if (!isLinear(name)) continue;
    const [out, inside] = tensor.shape as [number, number];
    const values = floatsOf(tensor);
    const scales = new Float32Array(out);
    const q = new Int8Array(values.length);
    for (let i = 0; i < out; i++) {
      const row = values.subarray(i * inside, (i + 1) * inside);
      scales[i] = row.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127;
      row.forEach((x, j) => (q[i * inside + j] = Math.round(x / scales[i]!)));
    }
    if (kept) {
      tensors.set(name, { dtype: 'I8', shape: tensor.shape, bytes: bytesOf(q) });
      tensors.set(`${name}_scale`, { dtype: 'F32', shape: [out, 1], bytes: bytesOf(scales) });
    } else {
      const back = Float32Array.from(q, (x, at) => x * scales[Math.floor(at / inside)]!);
      tensors.set(name, { dtype: 'F32', shape: tensor.shape, bytes: bytesOf(back) });
    }
  }
}
const int8: TinyModelOptions = { config: quantised(), edit: (tensors) => quantise(tensors, true) };
const int8Values: TinyModelOptions = { edit: (tensors) => quantise(tensors, false) };

/** Rounds every tensor to bf16, which f32 holds exactly, and keeps it so or in f32. */
function roundAll(tensors: Map<string, SafetensorsTensor>, kept: boolean): void {
  for (const [name, tensor] of [...tensors]) {
    const values = floatsOf(tensor).map(roundToBf16);
    const halves = Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
    tensors.set(
      name,
      kept
        ? { dtype: 'BF16', shape: tensor.shape, bytes: new Uint8Array(halves.buffer) }
        : { dtype: 'F32', shape: tensor.shape, bytes: bytesOf(values) },
    );
  }
}
const bf16: TinyModelOptions = { edit: (tensors) => roundAll(tensors, true) };
const bf16Values: TinyModelOptions = { edit: (tensors) => roundAll(tensors, false) };

/** All that weights take part in: logits, a step of training, merged logits, what is written. */
async function observe(
  options: TinyModelOptions,
  device: string,
  dtype: 'f32' | 'bf16',
): Promise<Record<string, number[] | string>> {
  const model = await CausalLM.fromPretrained(await tinyModel(options), { device, dtype });
  try {
    const adapter = model.addAdapter({ r: 4 });
    fillAdapter(adapter);
    const logits = await list(model.forward([ids]).logits!);
    const optimizer = new AdamW(adapter.parameters(), { lr: 0.01 });
    const { loss } = model.forward([ids], { labels: [ids] });
    loss.backward();
    optimizer.step();
    const trained = await list(adapter.parameters()[0]!);
    await model.merge('default');
    const merged = await list(model.forward([ids]).logits!);
    const dir = join(scratch, `saved-${saves++}`);
    await model.save(dir);
    const config = await readFile(join(dir, 'config.json'), 'utf8');
    const saved = await openSafetensors(join(dir, 'model.safetensors'));
    const written: string[] = [];
    for (const [name, { dtype: stored, bytes }] of saved.tensors)
      written.push(`${name} ${stored} ${createHash('sha256').update(bytes).digest('hex')}`);
    saved.close();
    expect(config).not.toContain('quantization_config');
    return { logits, loss: [await loss.item()], trained, merged, written: written.join('\n') };
  } finally {
    await model.dispose();
  }
}

describe.each(['cpu', 'reference'])('on %s', (device) => {
  test.each([
    ['int8 rows for f32', int8, int8Values, 'f32'],
    ['int8 rows for bf16', int8, int8Values, 'bf16'],
    ['bf16 for f32', bf16, bf16Values, 'f32'],
  ] as const)('%s give the bits of their values in every use', async (_, kept, values, dtype) => {
    expect(await observe(kept, device, dtype)).toEqual(await observe(values, device, dtype));
  });
});

test('f32 activations keep the bf16 matrices of a file in half the memory', async () => {
  const bytes = async (options: TinyModelOptions): Promise<number> => {
    const dir = await tinyModel({
      ...options,
      config: { hidden_size: 64, head_dim: 16, intermediate_size: 256 },
    });
    await collectGarbage(); // of other tests
    const before = memoryUsage().bytes;
    const model = await CausalLM.fromPretrained(dir, { device: 'reference', dtype: 'f32' });
    const used = memoryUsage().bytes - before;
    await model.dispose();
    return used;
  };
  expect((await bytes(bf16)) / (await bytes({}))).toBeLessThan(0.52);
});

test('an int8 matrix without scales, and scales that are no numbers, are refused', async () => {
  const load = async (options: TinyModelOptions): Promise<unknown> =>
    CausalLM.fromPretrained(await tinyModel(options));
  const name = 'model.layers.1.mlp.up_proj.weight_scale';
  const edited = (edit: (tensors: Map<string, SafetensorsTensor>) => void): TinyModelOptions => ({
    config: quantised(),
    edit: (tensors) => {
      quantise(tensors, true);
      edit(tensors);
    },
  });
  await expectReject(
    load(edited((tensors) => tensors.delete(name))),
    'ERR_FILE',
    /the weights lack model\.layers\.1\.mlp\.up_proj\.weight_scale$/,
  );
  await expectReject(
    load(
      edited((tensors) => {
        const scales = floatsOf(tensors.get(name)!);
        scales[3] = NaN;
        tensors.set(name, { dtype: 'F32', shape: [40, 1], bytes: bytesOf(scales) });
      }),
    ),
    'ERR_FILE',
    /expected finite scales in model\.layers\.1\.mlp\.up_proj\.weight_scale but received NaN at row 3$/,
  );
});
