/** Adapters and models in the formats of others, from files made by hand: what is read, what is refused, and what is kept. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { convertAdapter, type ConvertAdapterOptions } from '../../lib/convert/convert_adapter';
import { convertModel } from '../../lib/convert/convert_model';
import { writeFileAtomic } from '../../lib/formats/atomic';
import type { SafetensorsDType } from '../../lib/formats/dtypes';
import { bytesOfFloats } from '../../lib/formats/floats';
import { GgufFile } from '../../lib/formats/gguf';
import { serializeGguf, type GgufField, type LateGgufTensor } from '../../lib/formats/gguf_write';
import { writeSafetensors } from '../../lib/formats/safetensors';
import { readAdapter, writeAdapter } from '../../lib/peft/adapter_files';
import { changeOf } from '../support/adapter_change';
import { expectReject } from '../support/errors';
import { hubHome } from '../support/hub_home';
import { folderFiles } from '../support/hub_server';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const at = hubHome();
const root = temporaryFolder();
let count = 0;
const unused = (ending = ''): string => join(root, `${count++}${ending}`);

let base: string;
beforeAll(async () => {
  base = await tinyModel({ config: { hidden_size: 32, head_dim: 8 } });
});

const rank = 2;
const [rows, columns] = [40, 32] as const; // of up_proj
const path = 'model.layers.1.mlp.up_proj';
const values = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i + 1));

/** A PEFT directory that changes that layer. */
async function peftAdapter(more: object = {}): Promise<string> {
  const dir = unused();
  const tensor = (shape: number[]) =>
    ({ dtype: 'F32', shape, bytes: bytesOfFloats(values(shape[0]! * shape[1]!)) }) as const;
  const config = { peft_type: 'LORA', r: rank, lora_alpha: 3, target_modules: [path], ...more };
  const tensors = new Map([
    [`base_model.model.${path}.lora_A.weight`, tensor([rank, columns])],
    [`base_model.model.${path}.lora_B.weight`, tensor([rows, rank])],
  ]);
  await writeAdapter(dir, { config, tensors });
  return dir;
}

describe('an adapter of llama.cpp', () => {
  const name = 'blk.1.ffn_up.weight';
  const late = (shape: readonly number[], type: LateGgufTensor['type'] = 'F32'): LateGgufTensor => {
    const n = shape[0]! * shape[1]!;
    const bytes = type === 'F32' ? bytesOfFloats(values(n)) : new Uint8Array((n / 32) * 34);
    return {
      type,
      shape,
      async *parts() {
        yield await Promise.resolve(bytes);
      },
    };
  };
  type Fields = Record<string, GgufField | undefined>;
  async function written(fields: Fields = {}, tensors: Record<string, LateGgufTensor> = {}): Promise<string> {
    const file = unused('.gguf');
    const all: Fields = {
      'general.architecture': { text: 'llama' },
      'general.type': { text: 'adapter' },
      'adapter.type': { text: 'lora' },
      ...fields,
    };
    const metadata = Object.entries(all).filter((one): one is [string, GgufField] => one[1] !== undefined);
    const pair = { [`${name}.lora_a`]: late([rank, columns]), [`${name}.lora_b`]: late([rows, rank]) };
    const pieces = serializeGguf(new Map(metadata), new Map(Object.entries({ ...pair, ...tensors })), 'test');
    await writeFileAtomic(file, pieces);
    return file;
  }
  const read = async (file: string): Promise<number> => {
    const out = unused();
    await convertAdapter(file, out, { format: 'peft', base });
    const [change] = changeOf(await readAdapter(out)).values();
    return change![0]! / (values(1)[0]! ** 2 + values(2)[1]! * values(columns + 1)[columns]!);
  };

  test.each([
    [6, 3],
    [undefined, 1],
    [0, 1],
  ])('with the alpha %j has the factor %d', async (alpha, factor) => {
    const field = alpha === undefined ? undefined : { f32: alpha };
    expect(await read(await written({ 'adapter.lora.alpha': field }))).toBeCloseTo(factor, 5);
  });

  test.each<[string, Fields, Record<string, LateGgufTensor>, string]>([
    [
      'another kind of file',
      { 'general.type': { text: 'model' } },
      {},
      'has general.type "model": expected "adapter"',
    ],
    [
      'another kind of adapter',
      { 'adapter.type': { text: 'control' } },
      {},
      'has adapter.type "control": expected "lora"',
    ],
    [
      'one that a text switches on',
      { 'adapter.alora.invocation_tokens': { i32s: [1] } },
      {},
      'has adapter.alora.invocation_tokens: adapters that a text switches on are not supported',
    ],
    [
      'tensors of no linear layer',
      {},
      { 'token_embd.weight.lora_a': late([1, 4]), 'token_embd.weight.lora_b': late([4, 1]) },
      'holds token_embd.weight.lora_a, token_embd.weight.lora_b, which is no LoRA of a linear layer of the base',
    ],
    [
      'half of a pair',
      {},
      { 'blk.0.ffn_up.weight.lora_a': late([rank, columns]) },
      'holds only one of blk.0.ffn_up.weight.lora_a and blk.0.ffn_up.weight.lora_b, the change of model.layers.0.mlp.up_proj',
    ],
    [
      'blocks',
      {},
      { [`${name}.lora_a`]: late([rank, columns], 'Q8_0') },
      `holds ${name}.lora_a as Q8_0; supported are F32, F16 and BF16`,
    ],
  ])('%s: refused', async (_, fields, tensors, sentence) => {
    const file = await written(fields, tensors);
    await expectReject(
      convertAdapter(file, unused(), { format: 'peft', base }),
      'ERR_ADAPTER',
      `${file} ${sentence}`,
    );
  });
});

describe('an adapter of mlx_lm', () => {
  interface Pair {
    dtype?: SafetensorsDType;
    r?: number;
    layer?: string;
    shape?: readonly [out: number, inside: number];
  }
  async function written(parameters: object, pair: Pair = {}): Promise<string> {
    const { dtype = 'F32', r = rank, layer = path, shape: [outside, inside] = [rows, columns] } = pair;
    const dir = unused();
    mkdirSync(dir);
    const config = { fine_tune_type: 'lora', lora_parameters: { rank: r, scale: 1, ...parameters } };
    writeFileSync(join(dir, 'adapter_config.json'), JSON.stringify(config));
    const tensor = (shape: number[]) => ({ dtype, shape, bytes: new Uint8Array(4 * shape[0]! * shape[1]!) });
    const tensors = [
      [`${layer}.lora_a`, tensor([inside, r])],
      [`${layer}.lora_b`, tensor([r, outside])],
    ] as const;
    await writeSafetensors(join(dir, 'adapters.safetensors'), new Map(tensors));
    return dir;
  }

  test('keeps its dropout, both ways', async () => {
    const peft = unused();
    await convertAdapter(await written({ dropout: 0.25 }), peft, { format: 'peft' });
    expect((await readAdapter(peft)).config).toMatchObject({ lora_dropout: 0.25 });
    const mlx = unused();
    await convertAdapter(peft, mlx, { format: 'mlx', base });
    expect(JSON.parse(readFileSync(join(mlx, 'adapter_config.json'), 'utf8'))).toMatchObject({
      lora_parameters: { dropout: 0.25 },
    });
  });

  test.each<[object, Pair, string]>([
    [{ dropout: 1 }, {}, 'has dropout 1: expected a number from 0 up to, but not, 1'],
    [{}, { dtype: 'I32' }, `holds ${path}.lora_a as I32 [32, 2]: expected a matrix of F32, F16 or BF16`],
    [{}, { r: 0 }, `holds ${path}.lora_a of [32, 0] and lora_b of [0, 40]: expected [in, r] and [r, out]`],
  ])('%j, %j: refused', async (parameters, pair, sentence) => {
    const dir = await written(parameters, pair);
    const error = await convertAdapter(dir, unused(), { format: 'peft' }).catch((reason: Error) => reason);
    expect((error as Error).message).toContain(sentence);
  });

  test('changes linear layers of the base, or without one layers of blocks', async () => {
    const said = async (pair: Pair, options: Partial<ConvertAdapterOptions> = {}): Promise<string> =>
      convertAdapter(await written({}, pair), unused(), { format: 'peft', ...options }).then(
        () => 'converted',
        (error: Error) => error.message,
      );
    const gpt2 = { layer: 'transformer.h.0.attn.c_attn' };
    expect(await said(gpt2)).toBe('converted');
    expect(await said(gpt2, { base })).toContain(
      'holds transformer.h.0.attn.c_attn.lora_a, and transformer.h.0.attn.c_attn is no linear layer of the base',
    );
    const head: Pair = { layer: 'lm_head', shape: [262, columns] };
    expect(await said(head, { base })).toBe('converted');
    expect(await said(head)).toContain('lm_head is no linear layer inside of a block; for others give base');
    const norm: Pair = { layer: 'model.layers.0.input_layernorm' };
    expect(await said(norm, { base })).toContain('is no linear layer of the base');
  });
});

test('whole modules are PEFT’s alone', async () => {
  const adapter = await peftAdapter({ modules_to_save: ['lm_head'] });
  await expectReject(
    convertAdapter(adapter, unused(), { format: 'mlx', base }),
    'ERR_UNSUPPORTED',
    '[convertAdapter] the adapter has whole modules (modules_to_save ["lm_head"]), which only PEFT\'s format has',
  );
});

describe('names of the hub', () => {
  const convert = (source: string, more: Partial<ConvertAdapterOptions>): Promise<string> => {
    const out = unused(more.format === 'peft' ? '' : '.gguf');
    return convertAdapter(source, out, { format: 'gguf', base: 'hf:org/base', ...more }).then(() => out);
  };
  beforeEach(async () => {
    at.hub.repositories.set('org/base', { files: folderFiles(base) });
    at.hub.repositories.set('org/adapter', {
      files: folderFiles(await peftAdapter()),
      refs: { v2: 'beef'.padEnd(40, '0') },
    });
  });

  test('the revision is that of the adapter, and the base is named as on the hub', async () => {
    const file = await convert('hf:org/adapter', { revision: 'v2' });
    const again = await convert(file, { format: 'peft' });
    expect((await readAdapter(again)).config).toMatchObject({ base_model_name_or_path: 'org/base' });
  });

  test('what the adapter says of its base stands', async () => {
    const dir = unused();
    mkdirSync(dir);
    const mlx = await convertAdapter(
      await peftAdapter({ base_model_name_or_path: 'org/first' }),
      join(dir, 'mlx'),
      {
        format: 'mlx',
        base,
      },
    ).then(() => join(dir, 'mlx'));
    const again = await convert(mlx, { format: 'peft' });
    expect((await readAdapter(again)).config).toMatchObject({ base_model_name_or_path: 'org/first' });
  });

  test('offline holds for the base too', async () => {
    await expectReject(
      convert(await peftAdapter(), { offline: true }),
      'ERR_HUB',
      /the cache has no org\/base at main, and nothing is asked of the hub/,
    );
    expect(at.hub.seen).toEqual([]);
  });
});

describe('the metadata of a model', () => {
  const metadataOf = async (config: Record<string, unknown>): Promise<ReadonlyMap<string, unknown>> => {
    const out = unused('.gguf');
    await convertModel(await tinyModel({ config }), out, { format: 'f32' });
    const file = await GgufFile.open(out);
    const { metadata } = file;
    await file.close();
    return metadata;
  };

  test('ends of texts and of turns, and padding, where they are tokens', async () => {
    const ids = ['bos', 'eos', 'eot', 'padding'].map((key) => `tokenizer.ggml.${key}_token_id`);
    const all = await metadataOf({ eos_token_id: [257, 258], pad_token_id: 259 });
    expect(ids.map((id) => all.get(id))).toEqual([256, 257, 258, 259]);
    const few = await metadataOf({ pad_token_id: -1 });
    expect(ids.map((id) => few.get(id))).toEqual([256, 257, undefined, undefined]);
  });

  test('heads that are wider than their share', async () => {
    const wide = await metadataOf({ head_dim: 10 });
    const keys = ['attention.key_length', 'attention.value_length', 'rope.dimension_count'];
    expect(keys.map((key) => wide.get(`llama.${key}`))).toEqual([10, 10, 10]);
  });
});
