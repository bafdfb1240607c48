/** Models in GGUF files: loaded, trained, saved, quantized and converted as those of directories are. */
import { attentionLayers } from '../../lib/models/config/model_config';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertModel, quantizeModel, type FromPretrainedOptions } from '../../lib';
import type { GgufFormat } from '../../lib/convert/convert_model';
import { commandLine } from '../support/command_line';
import { fillAdapter } from '../support/fill_adapter';
import { ggufParts, writeGguf } from '../support/gguf_bytes';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
const unused = (ending = ''): string => join(root, `${count++}${ending}`);

async function converted(dir: string, format: GgufFormat = 'f32'): Promise<string> {
  const out = unused('.gguf');
  await convertModel(dir, out, { format });
  return out;
}

const prompt = [[256, 72, 101, 108, 108, 111, 0, 255]];

/** The bits of the logits of a model. */
async function logitsOf(
  source: string,
  options: FromPretrainedOptions = {},
  ids = prompt,
): Promise<Float32Array> {
  const model = await CausalLM.fromPretrained(source, options);
  const { logits } = model.forward(ids);
  const values = await logits.data<Float32Array>();
  logits.dispose();
  await model.dispose();
  return values;
}

const llama3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};

const graniteFactors = {
  ...{ embedding_multiplier: 3, attention_multiplier: 0.3, residual_multiplier: 0.7, logits_scaling: 2 },
};

const gemma3 = {
  ...{ model_type: 'gemma3_text', hidden_act: null, sliding_window: 5, query_pre_attn_scalar: 6 },
  ...{ head_dim: 6, rope_theta: 1e6 },
};

const families: readonly [name: string, config: Record<string, unknown>][] = [
  ['llama', {}],
  ['llama with biases', { attention_bias: true, mlp_bias: true }],
  ['llama with a head of its own', { tie_word_embeddings: false }],
  ['llama with linear rope', { rope_scaling: { rope_type: 'linear', factor: 2 } }],
  ['llama with Llama 3’s rope', { rope_theta: 500000, rope_scaling: llama3, head_dim: 32 }],
  ['mistral', { model_type: 'mistral', sliding_window: null }],
  ['qwen2', { model_type: 'qwen2' }],
  ['qwen3', { model_type: 'qwen3', head_dim: 10 }],
  ['smollm3', { model_type: 'smollm3', num_hidden_layers: 5 }],
  ['granite', { model_type: 'granite', attention_bias: true, ...graniteFactors }],
  // Their files have a head of its own always.
  ['olmo2', { model_type: 'olmo2', tie_word_embeddings: false }],
  ['gemma3', { ...gemma3, num_hidden_layers: 7, rope_scaling: { rope_type: 'linear', factor: 8 } }],
  ['olmo3', { model_type: 'olmo3', num_hidden_layers: 5, sliding_window: 5, tie_word_embeddings: false }],
];

describe('a model of each family', () => {
  test.each(families)('computes what its directory does: %s', async (_, config) => {
    const dir = await tinyModel({ config });
    const file = await converted(dir);
    expect(await logitsOf(file)).toEqual(await logitsOf(dir));
    expect(await logitsOf(file, { dtype: 'bf16' })).toEqual(await logitsOf(dir, { dtype: 'bf16' }));
    const [ours, theirs] = [await CausalLM.fromPretrained(file), await CausalLM.fromPretrained(dir)];
    const { raw: _own, modelType, ...rest } = ours.config;
    const { raw: _other, modelType: kind, ...expected } = theirs.config;
    // llama.cpp has Mistral as a Llama.
    expect(modelType).toBe(kind === 'mistral' ? 'llama' : kind);
    expect(rest).toEqual(expected);
    expect(ours.directory).toBe(file);
    expect(ours.tokenizer.encode('a <s>')).toEqual(theirs.tokenizer.encode('a <s>'));
    await ours.dispose();
    await theirs.dispose();
  });

  test.each(['bf16', 'f16'] as const)('of matrices in %s', async (format) => {
    const dir = await tinyModel({
      dtype: format === 'bf16' ? 'BF16' : 'F16',
      config: { torch_dtype: format === 'bf16' ? 'bfloat16' : 'float16' },
    });
    const file = await converted(dir, format);
    for (const dtype of ['auto', 'f32', 'bf16'] as const)
      expect(await logitsOf(file, { dtype })).toEqual(await logitsOf(dir, { dtype }));
  });

  test('windows are those that the file says', async () => {
    const dir = await tinyModel({ config: { model_type: 'mistral', sliding_window: 5 } });
    const plain = await tinyModel({ config: { model_type: 'mistral', sliding_window: null } });
    const parts = await ggufParts(await converted(plain));
    const file = await writeGguf(unused('.gguf'), parts, { 'llama.attention.sliding_window': { u32: 5 } });
    const ids = [Array.from({ length: 20 }, (_, i) => 7 * i)];
    expect(await logitsOf(file, {}, ids)).toEqual(await logitsOf(dir, {}, ids));
    expect(await logitsOf(file, {}, ids)).not.toEqual(await logitsOf(plain, {}, ids));
  });

  test('texts end with the tokens that end a text, a turn or a message', async () => {
    const parts = await ggufParts(await converted(await tinyModel()));
    const file = await writeGguf(unused('.gguf'), parts, {
      'tokenizer.ggml.eot_token_id': { u32: 258 },
      'tokenizer.ggml.eom_token_id': { u32: 259 },
    });
    const model = await CausalLM.fromPretrained(file);
    expect(model.config.eosTokenIds).toEqual([257, 258, 259]);
    await model.dispose();
  });

  test('yarn, and frequencies as the file says', async () => {
    const rope = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
    const dir = await tinyModel({ config: { rope_scaling: rope, rope_theta: 20000 } });
    const parts = await ggufParts(await converted(await tinyModel()));
    const file = await writeGguf(unused('.gguf'), parts, {
      'llama.rope.freq_base': { f32: 20000 },
      'llama.rope.scaling.type': { text: 'yarn' },
      'llama.rope.scaling.factor': { f32: 4 },
      'llama.rope.scaling.original_context_length': { u32: 32 },
    });
    expect(await logitsOf(file)).toEqual(await logitsOf(dir));
    const [ours, theirs] = [await CausalLM.fromPretrained(file), await CausalLM.fromPretrained(dir)];
    expect(ours.config.layers).toEqual(theirs.config.layers);
    await ours.dispose();
    await theirs.dispose();
    const betas = await CausalLM.fromPretrained(
      await writeGguf(unused('.gguf'), await ggufParts(file), {
        'llama.rope.scaling.yarn_beta_fast': { f32: 16 },
        'llama.rope.scaling.yarn_beta_slow': { f32: 2 },
      }),
    );
    expect(attentionLayers(betas.config)[0]!.rope).toMatchObject({
      scaling: { type: 'yarn', betaFast: 16, betaSlow: 2 },
    });
    await betas.dispose();
  });
});

describe('a GGUF file is taken where a directory is', () => {
  test('to save: it is read again within the bounds of the model, and no others', async () => {
    const parts = await ggufParts(await converted(await tinyModel()));
    const file = unused('.gguf');
    const write = (length: number): Promise<string> =>
      writeGguf(file, parts, { 'general.description': { text: 'x'.repeat(length) } });
    await write(17 * 2 ** 20);
    const model = await CausalLM.fromPretrained(file, { limits: { headerBytes: 18 * 2 ** 20 } });
    const out = unused();
    await model.save(out);
    expect(readdirSync(out)).toContain('tokenizer.json');
    await write(19 * 2 ** 20);
    await expect(model.save(unused())).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: expect.stringContaining('has a header of more than 18874368 bytes') as unknown,
    });
    await model.dispose();
  });

  test('to save, and to merge an adapter into', async () => {
    const dir = await tinyModel({ generation: { max_new_tokens: 3 } });
    const model = await CausalLM.fromPretrained(await converted(dir));
    const adapter = model.addAdapter({ r: 2, targetModules: 'all-linear' });
    fillAdapter(adapter, 3, 0.1);
    const { logits } = model.forward(prompt);
    const adapted = await logits.data<Float32Array>();
    const [run, merged] = [unused(), unused()];
    await adapter.save(run);
    const { base_model_name_or_path: base } = JSON.parse(
      readFileSync(join(run, 'adapter_config.json'), 'utf8'),
    ) as Record<string, unknown>;
    expect(base).toBe(model.directory);
    await model.save(merged, { merge: 'default' });
    await model.dispose();
    const back = await CausalLM.fromPretrained(merged);
    const all = back.forward(prompt).logits;
    const values = await all.data<Float32Array>();
    expect(Math.max(...values.map((x, i) => Math.abs(x - adapted[i]!)))).toBeLessThan(1e-3);
    expect(back.config.raw).toMatchObject({
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      rms_norm_eps: 1e-5,
      eos_token_id: 257,
    });
    expect(back.tokenizer.encode('a')).toEqual([256, 97]);
    expect(back.tokenizer.hasChatTemplate).toBe(true);
    const { ids } = await back.generate('a', { maxNewTokens: 4 });
    expect(ids.length).toBeGreaterThan(0);
    await back.dispose();
  });

  test('to quantize, to convert, and as the base of an adapter', async () => {
    const dir = await tinyModel();
    const file = await converted(dir);
    const [ours, theirs] = [unused(), unused()];
    await quantizeModel(file, ours, { format: 'int8' });
    await quantizeModel(dir, theirs, { format: 'int8' });
    const weights = (folder: string): Buffer => readFileSync(join(folder, 'model.safetensors'));
    expect(Buffer.compare(weights(ours), weights(theirs))).toBe(0);
    expect(await logitsOf(file, { quantize: 'int8' })).toEqual(await logitsOf(theirs));
    const again = unused('.gguf');
    await convertModel(file, again, { format: 'f32' });
    const [a, b] = [await ggufParts(file), await ggufParts(again)];
    expect(new Set(b.metadata.keys())).toEqual(new Set(a.metadata.keys()));
    for (const key of ['tokenizer.ggml.tokens', 'tokenizer.ggml.token_type', 'llama.rope.freq_base'])
      expect(b.metadata.get(key)).toEqual(a.metadata.get(key));
    expect(await logitsOf(again)).toEqual(await logitsOf(dir));
  });

  test('on the command line', async () => {
    const file = await converted(await tinyModel());
    const run = async (...args: string[]): Promise<string> => {
      const { status, out, err } = await commandLine(args);
      expect([status, err]).toEqual([0, expect.anything()]);
      return out;
    };
    expect(JSON.parse(await run('inspect', file, '--json'))).toMatchObject({
      kind: 'gguf',
      path: file,
      tensors: expect.arrayContaining([
        { name: 'token_embd.weight', dtype: 'F32', shape: [262, 24] },
      ]) as unknown,
    });
    expect(JSON.parse(await run('estimate', '--model', file, '--json'))).toHaveProperty('weights');
    const text = await run('generate', '--model', file, '--prompt', 'a', '--max-new-tokens', '3', '--json');
    expect(text).toContain('"text"');
    const data = unused('.jsonl');
    writeFileSync(data, '{"text":"abc"}\n');
    expect(JSON.parse(await run('inspect', data, '--model', file, '--json'))).toMatchObject({
      kind: 'data',
      examples: 1,
    });
    const out = unused();
    await run(
      'train',
      '--model',
      file,
      '--data',
      data,
      '--out-dir',
      out,
      '--max-steps',
      '1',
      '--batch-size',
      '1',
    );
    await run('merge', '--model', file, '--adapter', out, '--out-dir', unused());
  });
});

describeWithData('stories260K as a GGUF file', 'models/stories260K', (dir) => {
  test.each(['f32', 'f16', 'bf16'] as const)('%s writes the text of the model', async (format) => {
    const golden = JSON.parse(readFileSync(join(dir, 'golden_greedy.json'), 'utf8')) as {
      greedy_ids: number[];
    };
    const model = await CausalLM.fromPretrained(await converted(dir, format), { dtype: 'f32' });
    const { ids } = await model.generate('Once upon a time', { maxNewTokens: 40, temperature: 0 });
    await model.dispose();
    expect(ids).toEqual(golden.greedy_ids.slice(5, 45));
  });
});

describeWithData('SmolLM2’s own GGUF file', 'models/smollm2-135m', (dir) => {
  test('has the configuration of its directory', async () => {
    const { modelConfigOf, openModelFiles } = await import('../../lib/models/files/model_source');
    const files = await openModelFiles('test', dir);
    const { raw: own, packed, ...ours } = await modelConfigOf(files);
    const { raw: _other, ...theirs } = await modelConfigOf(
      await openModelFiles('test', await folderOf(join(sharedData, 'models/smollm2-135m/config.json'))),
    );
    expect(ours).toEqual({ ...theirs, fileDType: null });
    expect(packed?.size).toBe(1 + 30 * 7); // the embedding, and the matrices of each block
    expect(own).toMatchObject({ pad_token_id: 2, rope_theta: 100000 });
  });

  async function folderOf(config: string): Promise<string> {
    const folder = unused();
    mkdirSync(folder);
    copyFileSync(config, join(folder, 'config.json'));
    return Promise.resolve(folder);
  }
});
