/** What a model makes of weights that are kept in another format than the activations, on any device. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  AdamW,
  CausalLM,
  memoryUsage,
  openSafetensors,
  tensor,
  tidy,
  type AdapterConfigInput,
  type Device,
  type SafetensorsTensor,
} from '../../lib/index';
import { codeTables } from '../../lib/models/quantized/stored_matrix';
import { fillAdapter } from './fill_adapter';
import { goldenFolders } from './golden';
import { collectGarbage } from './garbage';
import { list } from './numbers';
import { temporaryFolder } from './temporary';
import { tinyModel, type TinyModelOptions } from './tiny_model';

const ids = [256, 72, 101, 108, 108, 111, 44, 32, 119, 111, 114];
/** Two examples in a row. */
const segmentIds = [ids.map((_, at) => (at < 5 ? 1 : 2))];
let saves = 0;
const isLinear = (name: string): boolean => /_proj\.weight$/.test(name);
export const floatsOf = ({ bytes }: SafetensorsTensor): Float32Array =>
  new Float32Array(Uint8Array.from(bytes).buffer);
export const bytesOf = (array: Float32Array | Int8Array): Uint8Array => new Uint8Array(array.buffer);

const int8Weights = { num_bits: 8, type: 'int', strategy: 'channel', symmetric: true, dynamic: false };
export const quantized = (): Record<string, unknown> => ({
  quantization_config: {
    quant_method: 'compressed-tensors',
    format: 'int-quantized',
    config_groups: { group_0: { targets: ['Linear'], weights: int8Weights, input_activations: null } },
  },
});

/** Puts int8 rows in the place of the linear layers, or the f32 values of those rows. */
export function quantize(tensors: Map<string, SafetensorsTensor>, kept: boolean): void {
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
type Coded = 'nf4' | 'fp4';
const blockSize = 64;

/** The config.json of what bitsandbytes writes. */
export const bitsandbytes = (format: Coded): Record<string, unknown> => ({
  quantization_config: {
    quant_method: 'bitsandbytes',
    load_in_4bit: true,
    load_in_8bit: false,
    bnb_4bit_quant_type: format,
    bnb_4bit_use_double_quant: false,
    bnb_4bit_quant_storage: 'uint8',
  },
});

/** Puts 4-bit codes as bitsandbytes writes them in the place of the linear layers, or the f32 values of those codes. */
export function quantizeCodes(tensors: Map<string, SafetensorsTensor>, format: Coded, kept: boolean): void {
  const table = codeTables[format];
  for (const [name, tensor] of [...tensors]) {
    if (!isLinear(name)) continue;
    const values = floatsOf(tensor);
    const absmax = new Float32Array(Math.ceil(values.length / blockSize));
    values.forEach((x, i) => {
      const block = Math.floor(i / blockSize);
      absmax[block] = Math.max(absmax[block]!, Math.abs(x));
    });
    const codes = Array.from(values, (x, i) => {
      const u = x / absmax[Math.floor(i / blockSize)]!;
      let nearest = 0;
      for (let code = 1; code < table.length; code++)
        if (Math.abs(table[code]! - u) < Math.abs(table[nearest]! - u)) nearest = code;
      return nearest;
    });
    if (kept) {
      const bytes = new Uint8Array(Math.ceil(codes.length / 2));
      codes.forEach((code, i) => (bytes[i >> 1]! |= i % 2 === 0 ? code << 4 : code));
      const state = { quant_type: format, blocksize: blockSize, dtype: 'float32', shape: tensor.shape };
      const json = new TextEncoder().encode(JSON.stringify(state));
      tensors.set(name, { dtype: 'U8', shape: [bytes.length, 1], bytes });
      tensors.set(`${name}.absmax`, { dtype: 'F32', shape: [absmax.length], bytes: bytesOf(absmax) });
      tensors.set(`${name}.quant_map`, { dtype: 'F32', shape: [16], bytes: bytesOf(table) });
      tensors.set(`${name}.quant_state.bitsandbytes__${format}`, {
        dtype: 'U8',
        shape: [json.length],
        bytes: json,
      });
    } else {
      const back = Float32Array.from(codes, (code, i) => table[code]! * absmax[Math.floor(i / blockSize)]!);
      tensors.set(name, { dtype: 'F32', shape: tensor.shape, bytes: bytesOf(back) });
    }
  }
}
const coded = (format: Coded): TinyModelOptions => ({
  config: bitsandbytes(format),
  edit: (tensors) => quantizeCodes(tensors, format, true),
});
const codedValues = (format: Coded): TinyModelOptions => ({
  edit: (tensors) => quantizeCodes(tensors, format, false),
});
const int8: TinyModelOptions = { config: quantized(), edit: (tensors) => quantize(tensors, true) };
const int8Values: TinyModelOptions = { edit: (tensors) => quantize(tensors, false) };

/** Rounds every tensor to 16 bits on a device, which f32 holds exactly, and keeps it so or in f32. */
const rounded = (device: Device, to: 'bf16' | 'f16', kept: boolean): TinyModelOptions => ({
  edit(tensors) {
    const dtype = kept ? (to === 'bf16' ? 'BF16' : 'F16') : 'F32';
    for (const [name, stored] of [...tensors]) {
      const bytes = tidy(() => {
        const x = tensor(floatsOf(stored), { shape: stored.shape, dtype: to, device });
        return (kept ? x : x.to({ dtype: 'f32' })).bytesSync();
      });
      tensors.set(name, { dtype, shape: stored.shape, bytes });
    }
  },
});

type Format = `${'int8 rows' | Coded} for ${'f32' | 'bf16'}` | 'bf16 for f32' | 'f16 for f32';
/** How weights are kept, the values of the same weights in f32, and the activations. */
function pairOf(
  format: Format,
  device: Device,
): [kept: TinyModelOptions, values: TinyModelOptions, dtype: 'f32' | 'bf16'] {
  if (format === 'int8 rows for f32') return [int8, int8Values, 'f32'];
  if (format === 'int8 rows for bf16') return [int8, int8Values, 'bf16'];
  const [kind, , dtype] = format.split(' ') as [string, string, 'f32' | 'bf16'];
  if (kind === 'nf4' || kind === 'fp4') return [coded(kind), codedValues(kind), dtype];
  const to = format === 'bf16 for f32' ? 'bf16' : 'f16';
  return [rounded(device, to, true), rounded(device, to, false), 'f32'];
}

/** Adapters of each kind: a step of training, packed rows, merged logits, and a batch in which rows have adapters of their own. */
async function observeKinds(
  options: TinyModelOptions,
  device: Device,
  dtype: 'f32' | 'bf16',
): Promise<Record<string, number[]>> {
  const seen: Record<string, number[]> = {};
  const kinds: Record<string, AdapterConfigInput> = {
    lora: { r: 4 },
    dora: { r: 2, useDora: true },
    whole: { r: 2, targetModules: ['v_proj'], modulesToSave: ['lm_head'] },
    ia3: { method: 'ia3' },
    bottleneck: { method: 'bottleneck', bottleneckSize: 4 },
  };
  const model = await CausalLM.fromPretrained(await tinyModel(options), { device, dtype });
  try {
    for (const [name, config] of Object.entries(kinds)) {
      const adapter = model.addAdapter(config, { name });
      fillAdapter(adapter);
      const { loss } = model.forward([ids], { labels: [ids], adapter: name, segmentIds });
      loss.backward();
      new AdamW(adapter.parameters(), { lr: 0.01 }).step();
      seen[`${name} trained`] = (await Promise.all(adapter.parameters().map((p) => list(p)))).flat();
      seen[`${name} packed`] = await list(model.forward([ids], { segmentIds, adapter: name }).logits);
    }
    // At most 16 rows, since a GPU sums the products of more in another order than those of other weights.
    const few = ids.slice(0, 5);
    const rows = model.forward([few, few, few], { adapter: ['dora', null, 'lora'] });
    seen['a batch with an adapter for each row'] = await list(rows.logits);
    for (const name of ['dora', 'ia3']) {
      model.setAdapter(name);
      await model.merge(name);
      seen[`${name} merged`] = await list(model.forward([few]).logits);
      await model.unmerge();
    }
    return seen;
  } finally {
    await model.dispose();
  }
}

/** All that weights take part in: logits, generation, a step of training, merged logits, what is written. */
async function observe(
  options: TinyModelOptions,
  device: Device,
  dtype: 'f32' | 'bf16',
  scratch: string,
): Promise<Record<string, number[] | string>> {
  const model = await CausalLM.fromPretrained(await tinyModel(options), { device, dtype });
  try {
    const adapter = model.addAdapter({ r: 4 });
    fillAdapter(adapter);
    const logits = await list(model.forward([ids]).logits);
    const greedy = { maxNewTokens: 4, temperature: 0, ignoreEos: true };
    const { ids: generated } = await model.generate(ids, greedy);
    const optimizer = new AdamW(adapter.parameters(), { lr: 0.01 });
    const { loss } = model.forward([ids], { labels: [ids] });
    loss.backward();
    optimizer.step();
    const trained = await list(adapter.parameters()[0]!);
    await model.merge('default');
    const merged = await list(model.forward([ids]).logits);
    const dir = join(scratch, `saved-${saves++}`);
    await model.save(dir);
    const config = await readFile(join(dir, 'config.json'), 'utf8');
    const saved = await openSafetensors(join(dir, 'model.safetensors'));
    const written: string[] = [];
    for (const [name, { dtype: stored, bytes }] of saved.tensors)
      written.push(`${name} ${stored} ${createHash('sha256').update(bytes).digest('hex')}`);
    saved.close();
    expect(config).not.toContain('quantization_config');
    return {
      logits,
      generated: [...generated],
      loss: [await loss.item()],
      trained,
      merged,
      written: written.join('\n'),
    };
  } finally {
    await model.dispose();
  }
}

/** Bytes of a model whose weights are almost all of its matrices. */
async function bytesOfModel(options: TinyModelOptions, device: Device): Promise<number> {
  const config = { hidden_size: 64, head_dim: 16, intermediate_size: 256, num_hidden_layers: 1 };
  const dir = await tinyModel({ ...options, config });
  await collectGarbage(); // of other tests
  const before = memoryUsage().bytes;
  const model = await CausalLM.fromPretrained(dir, { device, dtype: 'f32' });
  const used = memoryUsage().bytes - before;
  await model.dispose();
  return used;
}

/** `define` is test(), or what skips it; `kinds` are the formats that are tried under adapters of each kind. */
export function weightFormatCases(
  device: Device,
  define: (title: string, body: () => Promise<void>) => void,
  formats: readonly Format[],
  kinds: readonly Format[] = formats,
): void {
  const scratch = temporaryFolder();
  for (const format of formats)
    define(`${device}: ${format} give the bits of their values in every use`, async () => {
      const [kept, values, dtype] = pairOf(format, device);
      expect(await observe(kept, device, dtype, scratch)).toEqual(
        await observe(values, device, dtype, scratch),
      );
    });

  for (const format of kinds)
    define(`${device}: ${format} give the bits of their values under adapters of each kind`, async () => {
      const [kept, values, dtype] = pairOf(format, device);
      expect(await observeKinds(kept, device, dtype)).toEqual(await observeKinds(values, device, dtype));
    });

  define(`${device}: f32 activations keep the matrices of a file of 16 bits in half the memory`, async () => {
    const whole = await bytesOfModel({}, device);
    for (const dtype of ['bf16', 'f16'] as const)
      expect((await bytesOfModel(rounded(device, dtype, true), device)) / whole).toBeLessThan(0.52);
  });
}

/** PEFT's recorded adapters on an NF4 base train and write as on a base with its values, bit for bit. */
export function goldenOnCodes(
  device: Device,
  define: (title: string, body: () => Promise<void>) => void,
  names: readonly string[],
  { steps = 3, tokens = 6, rows = Infinity, length = Infinity } = {},
): void {
  const scratch = temporaryFolder();
  for (const { name, dir, model: base } of goldenFolders().filter((folder) => names.includes(folder.name)))
    define(`${device}: the adapter of ${name} on an nf4 base`, async () => {
      const { ids: batches, labels } = JSON.parse(readFileSync(join(dir, 'batches.json'), 'utf8')) as {
        ids: number[][][];
        labels: number[][][];
      };
      const cut = (batch: number[][]): number[][] => batch.slice(0, rows).map((row) => row.slice(0, length));
      const observed = async (model: CausalLM): Promise<unknown> => {
        const adapter = await model.loadAdapter(join(dir, 'adapter_init'), { trainable: true });
        const optimizer = new AdamW(adapter.parameters(), { lr: 0.01 });
        const losses: number[] = [];
        for (let step = 0; step < steps; step++) {
          const { loss } = model.forward(cut(batches[step]!), { labels: cut(labels[step]!) });
          loss.backward();
          optimizer.step();
          optimizer.zeroGrad();
          losses.push(await loss.item());
        }
        const prompt = batches[0]![0]!.slice(0, 5);
        const { ids: generated } = await model.generate(prompt, {
          maxNewTokens: tokens,
          temperature: 0,
          ignoreEos: true,
        });
        const values = await list(adapter.parameters()[0]!);
        return { losses, generated: [...generated], values };
      };
      const saved = join(scratch, `${name}-${device}`);
      const quantized = await CausalLM.fromPretrained(base, { device, dtype: 'f32', quantize: 'nf4' });
      await quantized.save(saved);
      const ours = await observed(quantized);
      await quantized.dispose();
      const values = await CausalLM.fromPretrained(saved, { device, dtype: 'f32' });
      expect(ours).toEqual(await observed(values));
      await values.dispose();
    });
}
