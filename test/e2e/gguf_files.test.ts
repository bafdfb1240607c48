/** GGUF files of models: which of them are one, and what is refused before weights are read. */
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertModel, type LoRAError } from '../../lib';
import { GgufFile } from '../../lib/formats/gguf';
import type { GgufField } from '../../lib/formats/gguf_write';
import { InputFile } from '../../lib/formats/input';
import { GgufModel } from '../../lib/models/files/gguf_model';
import { ggufParts, writeGguf, writeSplit } from '../support/gguf_bytes';
import { openFilesIn } from '../support/open_files';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
const unused = (ending = ''): string => join(root, `${count++}${ending}`);

async function converted(dir: string): Promise<string> {
  const out = unused('.gguf');
  await convertModel(dir, out, { format: 'f32' });
  return out;
}

async function logitsOf(source: string): Promise<Float32Array> {
  const model = await CausalLM.fromPretrained(source);
  const { logits } = model.forward([[256, 72, 101, 108, 108, 111, 0, 255]]);
  const values = await logits.data<Float32Array>();
  logits.dispose();
  await model.dispose();
  return values;
}

/** How often each byte before the tensors of files is read while `work` is done. */
async function headerReadings(paths: readonly string[], work: () => Promise<unknown>): Promise<number[]> {
  const headers = new Map<string, Uint8Array>();
  for (const path of paths) {
    const file = await GgufFile.open(path);
    let length = file.file.size;
    for (const { byteLength } of file.tensors.values()) length -= Math.ceil(byteLength / 32) * 32;
    headers.set(path, new Uint8Array(length));
    await file.close();
  }
  const spy = jest.spyOn(InputFile.prototype, 'readSome').mockImplementation(async function (
    this: InputFile,
    into,
    position,
  ) {
    const { bytesRead } = await this.handle.read(into, 0, into.length, position);
    const header = headers.get(this.path);
    for (let i = position; header && i < Math.min(header.length, position + bytesRead); i++) header[i]!++;
    return bytesRead;
  });
  await work().finally(() => spy.mockRestore());
  return [...new Set([...headers.values()].flatMap((header) => [...header]))].sort();
}

async function errorOf(loading: Promise<CausalLM>): Promise<LoRAError> {
  const model = await loading.catch((error: unknown) => error as LoRAError);
  if (!(model instanceof CausalLM)) return model;
  await model.dispose();
  throw new Error('it was loaded');
}

describe('which file it is', () => {
  test('a folder with one, and the parts of a split one', async () => {
    const dir = await tinyModel();
    const expected = await logitsOf(dir);
    const parts = await ggufParts(await converted(dir));
    const folder = unused();
    mkdirSync(folder);
    const paths = await writeSplit(join(folder, 'tiny'), parts, 8);
    expect(paths.length).toBe(4);
    for (const source of [folder, paths[0]!, paths[2]!]) expect(await logitsOf(source)).toEqual(expected);
    expect(openFilesIn(root)).toEqual([]);
    // Beside config.json, of a repository that has both.
    copyFileSync(join(dir, 'config.json'), join(folder, 'config.json'));
    expect(await logitsOf(folder)).toEqual(expected);
    copyFileSync(paths[0]!, join(folder, 'other.gguf'));
    expect(await errorOf(CausalLM.fromPretrained(folder))).toMatchObject({
      code: 'ERR_FILE',
      message: expect.stringContaining(
        'holds 2 GGUF models (other.gguf, tiny-00001-of-00004.gguf)',
      ) as unknown,
    });
    // With safetensors it is a directory of Hugging Face's.
    copyFileSync(join(dir, 'model.safetensors'), join(folder, 'model.safetensors'));
    expect(await logitsOf(folder)).toEqual(expected);
  });

  test('a load reads each byte of a header once, of parts too', async () => {
    const { metadata, tensors } = await ggufParts(await converted(await tinyModel()));
    const texts = Array.from({ length: 30_000 }, (_, i) => `text ${i}`);
    const parts = { metadata: new Map([...metadata, ['more', { texts }] as const]), tensors };
    const file = unused('.gguf');
    await writeGguf(file, parts);
    expect(await headerReadings([file], () => logitsOf(file))).toEqual([1]);
    const folder = unused();
    mkdirSync(folder);
    const paths = await writeSplit(join(folder, 'tiny'), parts, 8);
    expect(await headerReadings(paths, () => logitsOf(paths[1]!))).toEqual([1]);
    expect(openFilesIn(root)).toEqual([]);
  });

  test('a part that is written or missing meanwhile', async () => {
    const folder = unused();
    mkdirSync(folder);
    const parts = await ggufParts(await converted(await tinyModel()));
    const paths = await writeSplit(join(folder, 'tiny'), parts, 8);
    const model = await GgufModel.open(paths[2]!, {});
    await model.checkUnchanged();
    const bytes = readFileSync(paths[1]!);
    rmSync(paths[1]!);
    writeFileSync(paths[1]!, bytes);
    const changed = `${paths[1]} was changed while it was read`;
    await expect(model.tensors()).rejects.toThrow(changed);
    await expect(model.checkUnchanged()).rejects.toThrow(changed);
    rmSync(paths[0]!);
    await expect(GgufModel.open(paths[2]!, {})).rejects.toThrow(`cannot read ${paths[0]}`);
    expect(openFilesIn(root)).toEqual([]);
  });

  test.each<[string, (part: number) => Record<string, GgufField | undefined>, string]>([
    [
      'a number of another part',
      (part) => (part === 2 ? { 'split.no': { u32: 1 } } : {}),
      'split.no = 1 and split.count = 4: expected 2 and 4',
    ],
    [
      'a part of another file',
      (part) => (part === 1 ? { 'split.count': { u32: 3 } } : {}),
      'split.no = 1 and split.count = 3: expected 1 and 4',
    ],
    [
      'another number of tensors',
      (part) => (part === 0 ? { 'split.tensors.count': { u32: 99 } } : {}),
      'split.tensors.count = 99, and its 4 parts have 29',
    ],
    [
      'a count beyond its name',
      (part) => (part === 0 ? { 'split.count': { u32: 9 } } : {}),
      'one of 9 parts',
    ],
    [
      'a count of text',
      (part) => (part === 0 ? { 'split.count': { text: 'x' } } : {}),
      "split.count = 'x': expected a count",
    ],
  ])('parts that do not belong together: %s', async (_, values, sentence) => {
    const parts = await ggufParts(await converted(await tinyModel()));
    const [first] = await writeSplit(unused(), parts, 8, values);
    expect(await errorOf(CausalLM.fromPretrained(first!))).toMatchObject({
      code: 'ERR_FILE',
      message: expect.stringContaining(sentence) as unknown,
    });
  });

  test('parts that are missing, and tensors that two have', async () => {
    const parts = await ggufParts(await converted(await tinyModel()));
    const paths = await writeSplit(unused(), parts, 8);
    copyFileSync(paths[1]!, paths[1]!.replace('00002', '00003'));
    expect((await errorOf(CausalLM.fromPretrained(paths[0]!))).message).toContain(
      'split.no = 1 and split.count = 4: expected 2',
    );
    const some = new Map([...parts.tensors].slice(0, 3));
    const twice = await writeSplit(unused(), { ...parts, tensors: some }, 2);
    await writeGguf(
      twice[1]!,
      { metadata: new Map(), tensors: some },
      { 'split.no': { u32: 1 }, 'split.count': { u32: 2 } },
    );
    expect((await errorOf(CausalLM.fromPretrained(twice[0]!))).message).toContain('and so has another part');
    const lonely = await writeGguf(unused('.gguf'), parts, { 'split.count': { u32: 2 } });
    expect((await errorOf(CausalLM.fromPretrained(lonely))).message).toContain('-0000N-of-00002.gguf');
    const missing = await writeGguf(unused('-00001-of-00002.gguf'), parts, {
      'split.no': { u32: 0 },
      'split.count': { u32: 2 },
    });
    expect((await errorOf(CausalLM.fromPretrained(missing))).message).toContain('-00002-of-00002.gguf');
    expect(openFilesIn(root)).toEqual([]);
  });

  test('a path that is none', async () => {
    expect((await errorOf(CausalLM.fromPretrained('models/none.gguf'))).message).toContain(
      'models/none.gguf does not exist',
    );
    const text = unused('.gguf');
    writeFileSync(text, 'version https://git-lfs.github.com/spec/v1\n');
    expect((await errorOf(CausalLM.fromPretrained(text))).message).toContain('Git LFS pointer');
  });
});

describe('what is not computed so is refused, by its key', () => {
  const refused: readonly [name: string, values: Record<string, GgufField | undefined>, sentence: string][] =
    [
      [
        'architecture',
        { 'general.architecture': { text: 'lama' } },
        'general.architecture = "lama"; supported are ',
      ],
      ['no architecture', { 'general.architecture': undefined }, 'has no general.architecture'],
      ['an adapter', { 'general.type': { text: 'adapter' } }, 'general.type = "adapter": expected a model'],
      ['experts', { 'llama.expert_count': { u32: 8 } }, 'llama.expert_count = "8", which is not supported'],
      [
        'rope',
        { 'llama.rope.scaling.type': { text: 'longrope' } },
        'llama.rope.scaling.type = "longrope"; supported are none, linear and yarn',
      ],
      [
        'rope without its factor',
        { 'llama.rope.scaling.type': { text: 'linear' } },
        'no llama.rope.scaling.factor',
      ],
      [
        'a part of a head that is turned',
        { 'llama.rope.dimension_count': { u32: 4 } },
        'heads of 6 numbers and llama.rope.dimension_count = 4',
      ],
      [
        'values of another width',
        { 'llama.attention.value_length': { u32: 8 } },
        'llama.attention.value_length = 8',
      ],
      ['no layers', { 'llama.block_count': undefined }, 'has no llama.block_count'],
      [
        'a count of text',
        { 'llama.embedding_length': { text: 'many' } },
        "llama.embedding_length = 'many': expected a count",
      ],
      [
        'heads that differ',
        { 'llama.attention.head_count_kv': { i32s: [2, 2, 1] } },
        'other values of llama.attention.head_count_kv in other layers',
      ],
      [
        'too many layers',
        { 'llama.block_count': { u32: 4e8 } },
        'num_hidden_layers = 400000000: the limit is 1024',
      ],
      [
        'more tokens than rows',
        { 'llama.vocab_size': { u32: 100 } },
        '262 tokens and llama.vocab_size = 100',
      ],
      [
        'another width than the tensors',
        { 'llama.feed_forward_length': { u32: 41 } },
        'blk.0.ffn_gate.weight of shape [41, 24] but received [40, 24]',
      ],
      [
        'more layers than tensors',
        { 'llama.block_count': { u32: 4 } },
        'the weights lack blk.3.attn_norm.weight',
      ],
      [
        'fewer layers than tensors',
        { 'llama.block_count': { u32: 2 } },
        'the weights hold unexpected blk.2.',
      ],
      [
        'an epsilon that is none',
        { 'llama.attention.layer_norm_rms_epsilon': { f32: NaN } },
        'llama.attention.layer_norm_rms_epsilon = NaN: expected a finite number',
      ],
    ];
  let parts: Awaited<ReturnType<typeof ggufParts>>;
  beforeAll(async () => {
    parts = await ggufParts(await converted(await tinyModel()));
  });

  test.each(refused)('%s', async (_, values, sentence) => {
    const file = await writeGguf(unused('.gguf'), parts, values);
    const error = await errorOf(CausalLM.fromPretrained(file));
    expect(error.message).toContain(sentence);
    expect(error.message).toContain(file);
  });

  test.each<[key: string, wrong: GgufField, right: GgufField | undefined]>([
    ['attention.causal', { flag: false }, { flag: true }],
    ['attention.clamp_kqv', { f32: 8 }, { f32: 0 }],
    ['attention.max_alibi_bias', { f32: 8 }, { f32: 0 }],
    ['attention.scale', { f32: 0.5 }, undefined],
    ['attention.sliding_window_pattern', { u32: 6 }, undefined],
    ['attention.temperature_scale', { f32: 0.1 }, undefined],
    ['attn_logit_softcapping', { f32: 50 }, undefined],
    ['embedding_scale', { f32: 12 }, { f32: 1 }],
    ['expert_count', { u32: 8 }, { u32: 0 }],
    ['final_logit_softcapping', { f32: 30 }, undefined],
    ['logit_scale', { f32: 0.5 }, { f32: 1 }],
    ['nextn_predict_layers', { u32: 1 }, { u32: 0 }],
    ['residual_scale', { f32: 0.2 }, { f32: 1 }],
    ['rope.dimension_sections', { i32s: [1, 2] }, undefined],
    ['rope.scale_linear', { f32: 2 }, { f32: 1 }],
    ['rope.scaling.attn_factor', { f32: 2 }, { f32: 1 }],
    ['rope.scaling.yarn_attn_factor', { f32: 2 }, { f32: 1 }],
    ['rope.scaling.yarn_ext_factor', { f32: 0 }, { f32: 1 }],
    ['rope.scaling.yarn_log_multiplier', { f32: 0.1 }, { f32: 0 }],
    ['use_parallel_residual', { flag: true }, { flag: false }],
  ])('%s, unless its value changes nothing', async (key, wrong, right) => {
    const of = (field: GgufField): Promise<string> =>
      writeGguf(unused('.gguf'), parts, { [`llama.${key}`]: field });
    expect(await errorOf(CausalLM.fromPretrained(await of(wrong)))).toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringContaining(`llama.${key} = `) as unknown,
    });
    if (right) await (await CausalLM.fromPretrained(await of(right))).dispose();
  });

  test('factors of rope that are none of Llama 3', async () => {
    const { metadata, tensors } = await ggufParts(await converted(await tinyModel()));
    const factors = (values: number[]): typeof tensors =>
      new Map([
        ...tensors,
        [
          'rope_freqs.weight',
          {
            type: 'F32',
            shape: [values.length],
            async *parts() {
              yield await Promise.resolve(new Uint8Array(Float32Array.from(values).buffer));
            },
          },
        ],
      ]);
    const write = (values: number[], type = 'none'): Promise<string> =>
      writeGguf(
        unused('.gguf'),
        { metadata, tensors: factors(values) },
        { 'llama.rope.scaling.type': { text: type } },
      );
    expect((await errorOf(CausalLM.fromPretrained(await write([8, 1, 8])))).message).toContain(
      'rope_freqs.weight that are not those of Llama 3',
    );
    expect((await errorOf(CausalLM.fromPretrained(await write([1, 8])))).message).toContain(
      'rope_freqs.weight',
    );
    const plain = await logitsOf(await converted(await tinyModel()));
    expect(await logitsOf(await write([1, 1, 1]))).toEqual(plain);
    expect(await logitsOf(await write([1, 1, 1], 'llama3'))).toEqual(plain);
    expect((await errorOf(CausalLM.fromPretrained(await write([1, 1, 1], 'yarn')))).message).toContain(
      'llama.rope.scaling.type = yarn beside rope_freqs.weight, which is not supported',
    );
  });
});
