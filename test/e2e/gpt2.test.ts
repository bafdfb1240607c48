/** GPT-2, whose block is not Llama's: matrices that files hold the other way, names without a prefix, learned positions. */
import { createHash } from 'node:crypto';
import { cpSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  convertModel,
  quantizeModel,
  setThreads,
  tensor,
  Trainer,
  type FromPretrainedOptions,
} from '../../lib/index';
import { openSafetensors, writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { GgufFile } from '../../lib/formats/gguf';
import type { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { expectReject } from '../support/errors';
import { relativeError } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';
import { collect, makeRows } from '../support/training';

const config = {
  model_type: 'gpt2',
  architectures: ['GPT2LMHeadModel'],
  ...{ n_embd: 24, n_head: 4, n_layer: 2, n_positions: 64, n_inner: null },
  ...{ activation_function: 'gelu_new', attn_pdrop: 0.1, embd_pdrop: 0.1, resid_pdrop: 0.1 },
};
const rows = [[256, 72, 101, 108, 3, 4, 72]];
const out = temporaryFolder();
const models: CausalLM[] = [];
let dir = '';

beforeAll(async () => {
  setThreads(1); // tiny matrices
  dir = await tinyModel({ config });
});
afterAll(async () => {
  for (const model of models) await model.dispose();
  rmSync(dir, { recursive: true, force: true });
});

async function load(from = dir, options: FromPretrainedOptions = {}): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(from, options);
  models.push(model);
  return model;
}
const logitsOf = (model: CausalLM, ids = rows, options = {}): Promise<Float32Array> =>
  model.forward(ids, options).logits.data<Float32Array>();

async function tensorsOf(folder: string): Promise<Map<string, SafetensorsTensor>> {
  const file = await openSafetensors(join(folder, 'model.safetensors'));
  const tensors = [...file.tensors].map(
    ([name, one]) => [name, { ...one, bytes: one.bytes.slice() }] as const,
  );
  file.close();
  return new Map(tensors);
}

/** Shapes and digests by name, of which a failing comparison is short. */
const digestsOf = async (folder: string): Promise<string[]> =>
  [...(await tensorsOf(folder))].map(
    ([name, { shape, bytes }]) =>
      `${name} ${shape.join('x')} ${createHash('sha256').update(bytes).digest('hex')}`,
  );

/** The model with its tensors changed. */
async function edited(
  name: string,
  change: (tensors: Map<string, SafetensorsTensor>) => Map<string, SafetensorsTensor>,
): Promise<string> {
  const folder = join(out, name);
  cpSync(dir, folder, { recursive: true });
  await writeSafetensors(join(folder, 'model.safetensors'), change(await tensorsOf(dir)), { format: 'pt' });
  return folder;
}

test('save writes the files that were read', async () => {
  const model = await load();
  const saved = join(out, 'saved');
  await model.save(saved);
  expect(await digestsOf(saved)).toEqual(await digestsOf(dir));
});

test('the names of GPT-2 itself, which has masks and no prefix', async () => {
  const mask: SafetensorsTensor = { dtype: 'F32', shape: [1], bytes: new Uint8Array(4) };
  const bare = await edited('bare', (tensors) => {
    const renamed = [...tensors].map(([name, one]) => [name.replace(/^transformer\./, ''), one] as const);
    return new Map([...renamed, ['h.0.attn.bias', mask], ['h.0.attn.masked_bias', mask]]);
  });
  expect(await logitsOf(await load(bare))).toEqual(await logitsOf(await load()));
});

test('a run of full fine-tuning that goes on has the matrices the right way, square ones too', async () => {
  const run = async (outDir: string, maxSteps: number, resume: boolean): Promise<Float32Array> => {
    const model = await load();
    model.trainAll();
    const options = {
      outDir,
      maxSteps,
      resume,
      saveEvery: 2,
      schedule: 'constant',
      lr: 1e-2,
      seed: 3,
    } as const;
    await collect(new Trainer({ model, data: makeRows(6), batchSize: 2, ...options }));
    return logitsOf(model);
  };
  const folder = join(out, 'run');
  await run(folder, 2, false);
  const resumed = await run(folder, 4, true);
  expect(resumed).toEqual(await run(join(out, 'whole'), 4, false));
});

test('an adapter says fan_in_fan_out, and files that say either are read', async () => {
  const model = await load();
  const adapter = model.addAdapter(
    { r: 2, targetModules: 'all-linear', initLoraWeights: false },
    { name: 'one' },
  );
  const folder = join(out, 'adapter');
  await adapter.save(folder);
  const json = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as object;
  expect(json).toMatchObject({
    fan_in_fan_out: true,
    target_modules: ['c_attn', 'c_fc', 'c_proj'],
  });
  const want = await logitsOf(model, rows, { adapter: 'one' });
  await model.loadAdapter(folder, { name: 'two' });
  expect(await logitsOf(model, rows, { adapter: 'two' })).toEqual(want);
});

test('texts of a batch have the positions that they have alone, with vectors before them too', async () => {
  const model = await load();
  const texts = [
    [256, 5, 6, 7, 8],
    [256, 90],
    [70, 71, 72],
  ];
  const generate = async (prompt: readonly number[], adapter: string | null): Promise<number[]> =>
    (await model.generate([...prompt], { maxNewTokens: 8, temperature: 0, adapter })).ids;
  const vectors = model.addAdapter({ method: 'prompt', numVirtualTokens: 1 }, { name: 'vectors' });
  const first = 65;
  const embeddings = (await tensorsOf(dir)).get('transformer.wte.weight')!;
  const row = new Float32Array(embeddings.bytes.buffer, first * 24 * 4, 24);
  vectors.parameters()[0]!.copyFrom(tensor(row, { shape: [1, 24] }));
  const alone: number[][] = [];
  for (const text of texts) alone.push(await generate(text, 'vectors'));
  expect(await Promise.all(texts.map((text) => generate(text, 'vectors')))).toEqual(alone);
  const spelled: number[][] = [];
  for (const text of texts) spelled.push(await generate([first, ...text], null));
  expect(alone).toEqual(spelled);
  const steps = spelled[0]!.map((_, i) => [first, ...texts[0]!, ...spelled[0]!.slice(0, i)]);
  for (const [i, ids] of steps.entries()) {
    const last = (await logitsOf(model, [ids], { adapter: null })).slice(-262);
    expect(last.indexOf(Math.max(...last))).toBe(spelled[0]![i]);
  }
});

test('a token that repeats is told from the one before by its position', async () => {
  const logits = await logitsOf(await load(), [[5, 5]]);
  expect(relativeError(logits.slice(262), logits.slice(0, 262))).toBeGreaterThan(0.01);
});

test('packed texts count from their own beginnings', async () => {
  const model = await load();
  const packed = await logitsOf(model, [[256, 5, 6, 70, 71]], { segmentIds: [[1, 1, 1, 2, 2]] });
  const [a, b] = [await logitsOf(model, [[256, 5, 6]]), await logitsOf(model, [[70, 71]])];
  expect(relativeError(packed, Float32Array.of(...a, ...b))).toBeLessThan(1e-6);
});

test('its matrices are quantized while it is loaded, and refused in files', async () => {
  const four = await load(dir, { quantize: 'nf4' });
  const { embedding, positions } = four.core.decoder.weights.stem as Record<string, FrozenWeight>;
  expect([embedding!.format, positions!.format]).toEqual(['f32', 'f32']);
  expect(relativeError(await logitsOf(four), await logitsOf(await load()))).toBeLessThan(0.5);
  const reason = /transformer.h.0.attn.c_attn.weight stands as \[in, out\] in files of gpt2 models/;
  await expectReject(quantizeModel(dir, join(out, 'nf4'), { format: 'nf4' }), 'ERR_UNSUPPORTED', reason);
  await expectReject(four.save(join(out, 'nf4'), { quantize: 'nf4' }), 'ERR_UNSUPPORTED', reason);
});

test('a GGUF file has its matrices as [out, in], and gives the model back', async () => {
  const path = join(out, 'gpt2.gguf');
  await convertModel(dir, path, { format: 'f32' });
  const file = await GgufFile.open(path);
  await file.close();
  expect(file.tensors.get('blk.1.attn_qkv.weight')!.shape).toEqual([72, 24]);
  expect(file.tensors.get('position_embd.weight')!.shape).toEqual([64, 24]);
  const model = await load(path);
  expect(await logitsOf(model)).toEqual(await logitsOf(await load()));
  const saved = join(out, 'from-gguf');
  await model.save(saved);
  expect(await digestsOf(saved)).toEqual(await digestsOf(dir));
  expect(await logitsOf(await load(saved))).toEqual(await logitsOf(model));
});

test('learned positions stay whole in a GGUF file of few bits', async () => {
  const path = join(out, 'blocks.gguf');
  const wide = await tinyModel({ config: { ...config, n_embd: 64 } });
  await convertModel(wide, path, { format: 'q8_0' });
  rmSync(wide, { recursive: true, force: true });
  const file = await GgufFile.open(path);
  await file.close();
  const typeOf = (name: string): string => file.tensors.get(`${name}.weight`)!.block.type;
  expect(['position_embd', 'blk.0.attn_qkv', 'token_embd'].map(typeOf)).toEqual(['F32', 'Q8_0', 'Q8_0']);
});
