/** Models whose matrices are blocks of ggml's: they stay as they are in memory, and compute what their values do. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertModel, estimateMemory, openSafetensors } from '../../lib';
import { floatsOf } from '../../lib/formats/floats';
import { GgufFile } from '../../lib/formats/gguf';
import type { GgufField, LateGgufTensor } from '../../lib/formats/gguf_write';
import type { ModelTensors } from '../../lib/formats/sharded';
import { modelConfigOf, openModelFiles } from '../../lib/models/files/model_source';
import { dtypeOf } from '../../lib/models/core/weights';
import { blockFormats } from '../../lib/native/block_formats';
import { commandLine } from '../support/command_line';
import { fillAdapter } from '../support/fill_adapter';
import { ggufParts, writeGguf, type GgufParts } from '../support/gguf_bytes';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
const unused = (ending = ''): string => join(root, `${count++}${ending}`);

const tensorOf = (
  type: LateGgufTensor['type'],
  shape: readonly number[],
  bytes: Uint8Array,
): LateGgufTensor => ({
  ...{ type, shape },
  async *parts() {
    yield await Promise.resolve(bytes);
  },
});

async function logitsOf(model: CausalLM, ids: number[]): Promise<Float32Array> {
  const { logits } = model.forward([ids]);
  const values = await logits.data<Float32Array>();
  logits.dispose();
  return values;
}

async function logitsIn(path: string, dtype: 'f32' | 'bf16'): Promise<Float32Array> {
  const model = await CausalLM.fromPretrained(path, { dtype });
  const values = await logitsOf(model, [1, 5, 2, 60, 33, 7]);
  await model.dispose();
  return values;
}

const largestDifference = (a: Float32Array, b: Float32Array): number =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

describeWithData('a model of every block type', 'golden/quant-gguf', (dir) => {
  const formats = Object.keys(blockFormats) as (keyof typeof blockFormats)[];
  /** Two files of one model: its linear layers in all block types in turn, and the values of those in f32. */
  let mixed: string;
  let whole: string;

  /** Eight rows of 512 values, repeated, by their type; and what they dequantize to. */
  const rows = new Map<string, { blocks: Uint8Array; values: Uint8Array }>();
  const repeated = (bytes: Uint8Array): Uint8Array => Buffer.concat(new Array<Uint8Array>(64).fill(bytes));

  beforeAll(async () => {
    const opened = await openSafetensors(join(dir, 'dequantised.safetensors'));
    const file = await GgufFile.open(join(dir, 'blocks.gguf'));
    for (const format of formats) {
      const name = format.toUpperCase();
      const values = new Uint8Array(floatsOf(opened.tensors.get(name)!).slice().buffer);
      rows.set(name, { blocks: await file.tensors.get(name)!.read(), values });
    }
    opened.close();
    await file.close();
    const config = {
      ...{
        hidden_size: 512,
        intermediate_size: 512,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        head_dim: 64,
      },
      ...{ vocab_size: 262, tie_word_embeddings: true },
    };
    const plain = unused('.gguf');
    await convertModel(await tinyModel({ config }), plain, { format: 'f32' });
    const { metadata, tensors } = await ggufParts(plain);
    const [blocks, floats] = [new Map(tensors), new Map(tensors)];
    let next = 0;
    for (const [name, { shape }] of tensors) {
      if (shape.length !== 2 || shape[0] !== 512) continue;
      const type = formats[next++ % formats.length]!.toUpperCase() as Uppercase<keyof typeof blockFormats>;
      const found = rows.get(type)!;
      // Rows that differ in size, so that their order counts.
      blocks.set(name, tensorOf(type, shape, repeated(found.blocks)));
      floats.set(name, tensorOf('F32', shape, repeated(found.values)));
    }
    expect(next).toBe(21);
    mixed = await writeGguf(unused('.gguf'), { metadata, tensors: blocks });
    whole = await writeGguf(unused('.gguf'), { metadata, tensors: floats });
  });

  test('has the bits of its values', async () => {
    expect(await logitsIn(mixed, 'f32')).toEqual(await logitsIn(whole, 'f32'));
  });

  test('and is as large in memory as in the file', async () => {
    const model = await CausalLM.fromPretrained(mixed);
    expect(model.dtype).toBe('f32'); // that of the embedding
    expect(() => model.trainAll()).toThrow(/is kept in \w+ and cannot be trained: load whole weights/);
    const kept = model.core
      .linears()
      .filter(({ path }) => path !== 'lm_head')
      .map(({ base }) => base.format);
    expect(new Set(kept)).toEqual(new Set(formats));
    const { weights } = estimateMemory(model.config);
    const { weights: floats } = estimateMemory({ ...model.config, packed: undefined });
    const bytes = [...rows].slice(0, 3).reduce((sum, [, { blocks }]) => sum + 64 * blocks.length, 0);
    const all = [...rows].reduce((sum, [, { blocks }]) => sum + 64 * blocks.length, 0) + bytes;
    expect(floats - weights).toBe(21 * 512 * 512 * 4 - all);
    await model.dispose();
  });

  test('is trained on, merged and saved', async () => {
    const model = await CausalLM.fromPretrained(mixed);
    const adapter = model.addAdapter({ r: 2, targetModules: 'all-linear' });
    fillAdapter(adapter, 3, 0.02);
    const ids = [1, 5, 2, 60, 33, 7];
    const { loss } = model.forward([ids], { labels: [ids] });
    loss.backward();
    for (const { grad } of adapter.parameters())
      expect((await grad!.data<Float32Array>()).some((x) => x !== 0)).toBe(true);
    loss.dispose();
    const adapted = await logitsOf(model, ids);
    const out = unused();
    await model.save(out, { merge: 'default' });
    await model.dispose();
    const merged = await logitsIn(out, 'f32');
    const largest = Math.max(...adapted.map(Math.abs));
    expect(Math.max(...merged.map((x, i) => Math.abs(x - adapted[i]!)))).toBeLessThan(1e-3 * largest);
  });
});

describeWithData('stories260K in blocks', 'models/stories260K', (dir) => {
  /** The values of blocks of Q8_0 or Q4_0. */
  function expanded(type: string, bytes: Uint8Array): Uint8Array {
    const size = type === 'Q8_0' ? 34 : 18;
    const values = new Float32Array((bytes.length / size) * 32);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0, to = 0; at < bytes.length; at += size, to += 32) {
      const [scale] = floatsOf({ dtype: 'F16', bytes: Uint8Array.from(bytes.subarray(at, at + 2)) });
      for (let i = 0; i < 32; i++) {
        const code =
          type === 'Q8_0'
            ? view.getInt8(at + 2 + i)
            : ((bytes[at + 2 + (i % 16)]! >> (i < 16 ? 0 : 4)) & 15) - 8;
        values[to + i] = Math.fround(scale! * code);
      }
    }
    return new Uint8Array(values.buffer);
  }

  async function withoutBlocks({ metadata, tensors }: GgufParts): Promise<string> {
    const floats = new Map<string, LateGgufTensor>();
    for (const [name, tensor] of tensors) {
      const parts: Uint8Array[] = [];
      for await (const part of tensor.parts()) parts.push(part);
      const isBlocks = tensor.type === 'Q8_0' || tensor.type === 'Q4_0';
      floats.set(
        name,
        isBlocks ? tensorOf('F32', tensor.shape, expanded(tensor.type, Buffer.concat(parts))) : tensor,
      );
    }
    return writeGguf(unused('.gguf'), { metadata, tensors: floats });
  }

  test.each(['q8_0', 'q4_0'] as const)('%s, its embedding and tied head too', async (format) => {
    const file = unused('.gguf');
    await convertModel(dir, file, { format });
    const floats = await withoutBlocks(await ggufParts(file));
    expect(largestDifference(await logitsIn(file, 'f32'), await logitsIn(floats, 'f32'))).toBe(0);
    const model = await CausalLM.fromPretrained(file);
    expect(model.dtype).toBe('bf16');
    await model.dispose();
  });

  test('what is not done with blocks says so', async () => {
    const file = unused('.gguf');
    await convertModel(dir, file, { format: 'q8_0' });
    const said = async (work: Promise<unknown>): Promise<string> =>
      work.then(
        () => 'done',
        (error: { code: string; message: string }) => `${error.code} ${error.message}`,
      );
    expect(await said(CausalLM.fromPretrained(file, { quantize: 'nf4' }))).toContain(
      'is quantized already (q8_0): leave quantize out',
    );
    expect(await said(convertModel(file, unused('.gguf'), { format: 'q4_0' }))).toContain('is quantized');
    const { status, err } = await commandLine(['quantize', file, unused(), '--format', 'nf4']);
    expect([status, err]).toEqual([2, expect.stringContaining('is quantized already') as unknown]);
    const parts = await ggufParts(file);
    const norm = new Map(parts.tensors).set('output_norm.weight', tensorOf('Q8_0', [64], new Uint8Array(68)));
    expect(
      await said(CausalLM.fromPretrained(await writeGguf(unused('.gguf'), { ...parts, tensors: norm }))),
    ).toMatch(/^ERR_UNSUPPORTED .*output_norm.weight is stored as Q8_0; supported are F32, BF16, F16$/);
    const other = { dtype: 'IQ2_XXS', shape: [4, 256] };
    const tensors = { get: () => other, nameInFile: () => 'blk.0.ffn_up.weight' } as unknown as ModelTensors;
    expect(() => dtypeOf(tensors, 'x')).toThrow(
      'blk.0.ffn_up.weight is stored as IQ2_XXS; supported are F32, BF16, F16, Q4_0, Q4_1',
    );
    const version: Record<string, GgufField> = { 'general.quantization_version': { u32: 1 } };
    expect(await said(CausalLM.fromPretrained(await writeGguf(unused('.gguf'), parts, version)))).toContain(
      'general.quantization_version = "1"; supported is 2',
    );
  });
});

describeWithData('SmolLM2’s own GGUF file, of Q4_1', 'models/smollm2-135m', (dir) => {
  interface Golden {
    prompts: {
      ids: number[];
      top_ids: number[];
      top_logits: number[];
      logsumexp: number;
      greedy: number[];
      margin: number[];
    }[];
  }
  const file = join(dir, 'SmolLM2-135M-Instruct.Q4_1.gguf');

  test('computes the logits of its blocks, and writes their texts', async () => {
    const { prompts } = JSON.parse(readFileSync(join(dir, 'golden_gguf.json'), 'utf8')) as Golden;
    const model = await CausalLM.fromPretrained(file, { dtype: 'f32' });
    for (const { ids, top_ids, top_logits, logsumexp, greedy } of prompts) {
      const last = (await logitsOf(model, ids)).slice(-model.config.vocabSize);
      for (const [i, id] of top_ids.entries())
        expect(Math.abs(last[id]! - top_logits[i]!)).toBeLessThan(2e-3);
      const largest = top_logits[0]!;
      const sum = last.reduce((all, x) => all + Math.exp(x - largest), 0);
      expect(Math.abs(largest + Math.log(sum) - logsumexp)).toBeLessThan(2e-3);
      const { ids: written } = await model.generate(ids, {
        maxNewTokens: greedy.length,
        temperature: 0,
        ignoreEos: true,
      });
      expect(written).toEqual(greedy);
    }
    await model.dispose();
  }, 300_000);

  test('is estimated by its blocks', async () => {
    const config = await modelConfigOf(await openModelFiles('test', file));
    const { weights } = estimateMemory(config);
    const gguf = await GgufFile.open(file);
    let bytes = 0;
    for (const { shape, byteLength } of gguf.tensors.values())
      bytes += shape.length === 2 ? byteLength : byteLength / 2;
    await gguf.close();
    expect(weights).toBe(bytes); // vectors are bf16 in memory
  });
});
