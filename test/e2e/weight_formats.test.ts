/** Weights that are kept in another format than the activations, on the devices of the CPU; cuda_emulated.test.ts has them on a GPU. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  memoryUsage,
  setThreads,
  type FromPretrainedOptions,
  type SafetensorsTensor,
} from '../../lib/index';
import { watchPeak } from '../../lib/native/device';
import { expectReject } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { list } from '../support/numbers';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';
import {
  bitsandbytes,
  bytesOf,
  floatsOf,
  goldenOnCodes,
  quantize,
  quantizeCodes,
  quantized,
  weightFormatCases,
} from '../support/weight_format_cases';

type Tensors = Map<string, SafetensorsTensor>;

beforeAll(() => setThreads(1)); // tiny matrices

/** Tensors before the tests of a group, when what others have left is gone. */
let held = 0;
const countTensors = async (): Promise<void> => {
  await collectGarbage();
  held = memoryUsage().tensors;
};

const formats = [
  'int8 rows for f32',
  'int8 rows for bf16',
  'nf4 for f32',
  'nf4 for bf16',
  'fp4 for f32',
  'fp4 for bf16',
  'bf16 for f32',
  'f16 for f32',
] as const;
const define = (title: string, body: () => Promise<void>): void => void test(title, body);
weightFormatCases('cpu', define, formats);
// The reference reads rows of each format in one place, whatever is computed from them: each way of storing them is enough there.
weightFormatCases('reference', define, formats, ['int8 rows for bf16', 'nf4 for f32', 'f16 for f32']);

goldenOnCodes('cpu', (title, body) => void test(title, body), ['stories260K-dora', 'tiny-qwen3']);

test('an int8 matrix without scales, and scales that are no numbers, are refused', async () => {
  const load = async (options: TinyModelOptions): Promise<unknown> =>
    CausalLM.fromPretrained(await tinyModel(options));
  const name = 'model.layers.1.mlp.up_proj.weight_scale';
  const edited = (edit: (tensors: Map<string, SafetensorsTensor>) => void): TinyModelOptions => ({
    config: quantized(),
    edit: (tensors) => {
      quantize(tensors, true);
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
    /model\.layers\.1\.mlp\.up_proj\.weight_scale has scale NaN at 3: expected finite scales$/,
  );
});

test('int8 scales of 16 bits are those of the same values in f32', async () => {
  const load = async (dtype: 'F32' | 'BF16' | 'F16'): Promise<number[]> => {
    const dir = await tinyModel({
      config: quantized(),
      edit: (tensors) => {
        quantize(tensors, true);
        for (const [name, { shape }] of [...tensors]) {
          if (!name.endsWith('_scale')) continue;
          // Powers of 2, whose bits all three have.
          const exponents = Array.from({ length: shape[0]! }, (_, i) => -6 - (i % 4));
          const bytes =
            dtype === 'F32'
              ? bytesOf(Float32Array.from(exponents, (e) => 2 ** e))
              : new Uint8Array(
                  Uint16Array.from(exponents, (e) => (dtype === 'BF16' ? (127 + e) << 7 : (15 + e) << 10))
                    .buffer,
                );
          tensors.set(name, { dtype, shape, bytes });
        }
      },
    });
    const model = await CausalLM.fromPretrained(dir);
    try {
      return await list(model.forward([[256, 72, 101]]).logits);
    } finally {
      await model.dispose();
    }
  };
  const whole = await load('F32');
  expect(await load('BF16')).toEqual(whole);
  expect(await load('F16')).toEqual(whole);
});

describe('quantize, at load', () => {
  const ids = [256, 72, 101, 108, 108, 111];
  const logitsOf = async (dir: string, options: FromPretrainedOptions): Promise<number[]> => {
    const model = await CausalLM.fromPretrained(dir, options);
    try {
      return await list(model.forward([ids]).logits);
    } finally {
      await model.dispose();
    }
  };

  test.each(['nf4', 'fp4', 'int8'] as const)('%s is what a file of the same codes gives', async (format) => {
    const kept =
      format === 'int8'
        ? { config: quantized(), edit: (tensors: Tensors) => quantize(tensors, true) }
        : { config: bitsandbytes(format), edit: (tensors: Tensors) => quantizeCodes(tensors, format, true) };
    const [plain, coded] = [await tinyModel(), await tinyModel(kept)];
    for (const device of ['cpu', 'reference'] as const)
      for (const dtype of ['f32', 'bf16'] as const) {
        const made = await logitsOf(plain, { device, dtype, quantize: format });
        const read = await logitsOf(coded, { device, dtype });
        // An int8 scale is a magnitude over 127 here and a product with 1/127 there.
        if (format === 'int8')
          made.forEach((x, i) => expect(x).toBeCloseTo(read[i]!, dtype === 'f32' ? 4 : 1));
        else expect(made).toEqual(read);
      }
  });

  test('the embedding and a tied output embedding stay whole unless asked; skip names a module or all of a kind', async () => {
    const dir = await tinyModel();
    const bytes = async (quantize: FromPretrainedOptions['quantize']): Promise<number> => {
      await collectGarbage();
      const before = memoryUsage().bytes;
      const model = await CausalLM.fromPretrained(dir, { device: 'reference', quantize });
      const used = memoryUsage().bytes - before;
      await model.dispose();
      return used;
    };
    const linear = 3 * (2 * 24 * 24 + 2 * 12 * 24 + 3 * 24 * 40);
    const coded = (n: number): number => n / 2 + 4 * Math.ceil(n / 64);
    const down = 24 * 40;
    const whole = await bytes(undefined);
    // Each matrix has whole blocks of its own.
    const saved = (of: number): [low: number, high: number] => [
      4 * of - coded(of) - 30 * 8,
      4 * of - coded(of),
    ];
    const expectSaved = async (quantize: FromPretrainedOptions['quantize'], of: number): Promise<void> => {
      const [low, high] = saved(of);
      const difference = whole - (await bytes(quantize));
      expect(difference).toBeGreaterThanOrEqual(low);
      expect(difference).toBeLessThanOrEqual(high);
    };
    await expectSaved('nf4', linear);
    await expectSaved({ format: 'nf4', embedding: true }, linear + 262 * 24);
    await expectSaved({ format: 'nf4', skip: ['down_proj'] }, linear - 3 * down);
    await expectSaved({ format: 'nf4', skip: ['layers.1.mlp.down_proj'] }, linear - down);
  });

  test('besides the result no more than one tensor is held', async () => {
    const inner = 65_536;
    const largest = 2 * 64 * inner;
    const dir = await tinyModel({
      dtype: 'BF16',
      config: { hidden_size: 64, num_hidden_layers: 1 },
      edit: (tensors) => {
        for (const [name, { shape }] of [...tensors])
          if (name.includes('.mlp.'))
            tensors.set(name, {
              dtype: 'BF16',
              shape: shape.map((n) => (n === 64 ? n : inner)),
              bytes: new Uint8Array(largest).fill(0x3c),
            });
      },
    });
    const config = join(dir, 'config.json');
    const small = JSON.parse(readFileSync(config, 'utf8')) as object;
    writeFileSync(config, JSON.stringify({ ...small, intermediate_size: inner }));
    await collectGarbage();
    const peak = watchPeak();
    const model = await CausalLM.fromPretrained(dir, { quantize: 'int8' });
    expect((peak() - memoryUsage().bytes) / largest).toBeLessThan(1.05);
    await model.dispose();
  });

  test('a second quantization of the magnitudes changes the values by little', async () => {
    const dir = await tinyModel();
    const once = await logitsOf(dir, { quantize: 'nf4' });
    const twice = await logitsOf(dir, { quantize: { format: 'nf4', doubleQuant: true } });
    expect(twice).not.toEqual(once);
    const norm = (x: readonly number[]): number => Math.hypot(...x);
    expect(norm(once.map((x, i) => x - twice[i]!)) / norm(once)).toBeLessThan(0.02);
  });

  test('what cannot be is refused before weights are read, or by the name of the tensor', async () => {
    await countTensors();
    const plain = await tinyModel();
    const load = (dir: string, quantize: unknown, more: object = {}): Promise<unknown> =>
      CausalLM.fromPretrained(dir, { quantize, ...more } as FromPretrainedOptions);
    for (const [value, message] of [
      ['q8', /expected quantize\.format to be/],
      [4, /expected quantize to be a format or an object with one but received 4$/],
      [{ format: 'nf4', skipped: [] }, /unknown option 'skipped'; did you mean 'skip'\?$/],
      [
        { format: 'nf4', skip: ['c_proj'] },
        /quantize\.skip names c_proj, which no module is called: there are embed_tokens, q_proj/,
      ],
      [{ format: 'nf4', skip: [3] }, /expected quantize\.skip to be a list of module names/],
      [
        { format: 'int8', doubleQuant: true },
        /expected quantize\.doubleQuant with nf4 or fp4 but received int8/,
      ],
    ] as const)
      await expectReject(load(plain, value), 'ERR_ARGUMENT', message);
    const again = await tinyModel({
      config: bitsandbytes('nf4'),
      edit: (tensors) => quantizeCodes(tensors, 'nf4', true),
    });
    await expectReject(
      load(again, 'nf4'),
      'ERR_ARGUMENT',
      /is quantized already \(nf4\): leave quantize out$/,
    );
    const name = 'model.layers.1.mlp.up_proj.weight';
    for (const bad of [NaN, -Infinity]) {
      const broken = await tinyModel({
        edit: (tensors) => {
          const values = floatsOf(tensors.get(name)!);
          values[77] = bad;
          tensors.set(name, { dtype: 'F32', shape: [40, 24], bytes: bytesOf(values) });
        },
      });
      await expectReject(
        load(broken, 'nf4'),
        'ERR_FILE',
        /expected finite weights to quantize but received NaN or an infinity in model\.layers\.1\.mlp\.up_proj\.weight$/,
      );
    }
    expect(memoryUsage().tensors).toBeLessThanOrEqual(held);
  });
});

describe('what bitsandbytes writes', () => {
  beforeAll(countTensors);
  const name = 'model.layers.2.self_attn.q_proj.weight';
  const state = `${name}.quant_state.bitsandbytes__nf4`;
  const load = async (edit: (tensors: Tensors) => void): Promise<unknown> =>
    CausalLM.fromPretrained(
      await tinyModel({
        config: bitsandbytes('nf4'),
        edit: (tensors) => {
          quantizeCodes(tensors, 'nf4', true);
          edit(tensors);
        },
      }),
    );
  const json = (value: unknown): SafetensorsTensor => {
    const bytes = new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
    return { dtype: 'U8', shape: [bytes.length], bytes };
  };
  const good = { quant_type: 'nf4', blocksize: 64, dtype: 'float32', shape: [24, 24] };
  const cut = (tensors: Tensors, plane: string): void => {
    const { dtype, shape, bytes } = tensors.get(plane)!;
    const per = bytes.length / shape.reduce((all, n) => all * n, 1);
    tensors.set(plane, { dtype, shape: [shape[0]! - 1, ...shape.slice(1)], bytes: bytes.slice(0, -per) });
  };

  test.each<[string, (tensors: Tensors) => void, 'ERR_FILE' | 'ERR_UNSUPPORTED', RegExp]>([
    [
      'no state',
      (t) => t.delete(state),
      'ERR_UNSUPPORTED',
      /q_proj\.weight is stored as U8 without a quant_state/,
    ],
    ['a state that is no JSON', (t) => t.set(state, json('{')), 'ERR_FILE', /bitsandbytes__nf4/],
    ['a state that is no object', (t) => t.set(state, json('[]')), 'ERR_FILE', /lacks an object/],
    ['a huge state', (t) => t.set(state, json(' '.repeat(70_000))), 'ERR_FILE', /70000 bytes of U8/],
    [
      'another type',
      (t) => t.set(state, json({ ...good, quant_type: 'fp4' })),
      'ERR_FILE',
      /lacks quant_type "nf4"/,
    ],
    ['no blocksize', (t) => t.set(state, json({ ...good, blocksize: 0 })), 'ERR_FILE', /lacks a blocksize/],
    [
      'small blocks',
      (t) => t.set(state, json({ ...good, blocksize: 32 })),
      'ERR_UNSUPPORTED',
      /has blocks of 32 values; supported are multiples of 64$/,
    ],
    [
      'another shape',
      (t) => t.set(state, json({ ...good, shape: [12, 48] })),
      'ERR_FILE',
      /another shape than \[24, 24\]$/,
    ],
    [
      'no magnitudes',
      (t) => t.delete(`${name}.absmax`),
      'ERR_FILE',
      /lack model\.layers\.2\.self_attn\.q_proj\.weight\.absmax$/,
    ],
    [
      'too few magnitudes',
      (t) => cut(t, `${name}.absmax`),
      'ERR_FILE',
      /absmax of shape \[9\] but received \[8\]$/,
    ],
    [
      'too few codes',
      (t) => cut(t, name),
      'ERR_FILE',
      /q_proj\.weight of shape \[288, 1\] but received \[287, 1\]$/,
    ],
    [
      'an infinite magnitude',
      (t) =>
        t.set(`${name}.absmax`, {
          dtype: 'F32',
          shape: [9],
          bytes: bytesOf(new Float32Array(9).fill(Infinity)),
        }),
      'ERR_FILE',
      /absmax has scale Infinity at 0: expected finite scales$/,
    ],
    [
      'a table of other values',
      (t) => t.set(`${name}.quant_map`, { dtype: 'F32', shape: [16], bytes: bytesOf(new Float32Array(16)) }),
      'ERR_FILE',
      /quant_map has value 0 for code 0: nf4 has -1$/,
    ],
    [
      'magnitudes of 16 bits',
      (t) => t.set(`${name}.absmax`, { dtype: 'F16', shape: [9], bytes: new Uint8Array(18) }),
      'ERR_UNSUPPORTED',
      /absmax is stored as F16; supported is F32$/,
    ],
    [
      'nested magnitudes whose codes are floats',
      (t) => {
        const nested = { nested_blocksize: 256, nested_dtype: 'float32', nested_offset: 0.5 };
        t.set(state, json({ ...good, ...nested }));
        t.set(`${name}.nested_absmax`, { dtype: 'F32', shape: [1], bytes: new Uint8Array(4) });
        t.set(`${name}.nested_quant_map`, { dtype: 'F32', shape: [256], bytes: new Uint8Array(1024) });
      },
      'ERR_UNSUPPORTED',
      /absmax is stored as F32; supported is U8$/,
    ],
    [
      'nested magnitudes without their state',
      (t) => t.set(`${name}.nested_absmax`, { dtype: 'F32', shape: [1], bytes: new Uint8Array(4) }),
      'ERR_FILE',
      /lacks a nested_blocksize/,
    ],
  ])('%s is refused', async (_, edit, code, message) => {
    await expectReject(load(edit), code, message);
    expect(memoryUsage().tensors).toBeLessThanOrEqual(held);
  });

  test('blocks of 128 values have a magnitude each', async () => {
    const logits = async (blocksize: number): Promise<number[]> => {
      const dir = await tinyModel({
        config: bitsandbytes('nf4'),
        edit: (tensors) => {
          quantizeCodes(tensors, 'nf4', true);
          const count = Math.ceil((24 * 24) / blocksize);
          const magnitudes = Float32Array.from(
            { length: count },
            (_, i) => 1 + Math.floor((i * blocksize) / 128),
          );
          tensors.set(`${name}.absmax`, { dtype: 'F32', shape: [count], bytes: bytesOf(magnitudes) });
          tensors.set(state, json({ ...good, blocksize }));
        },
      });
      const model = await CausalLM.fromPretrained(dir);
      const all = await list(model.forward([[256, 72, 101]]).logits);
      await model.dispose();
      return all;
    };
    expect(await logits(128)).toEqual(await logits(64));
  });

  test('int8 rows with their magnitudes', async () => {
    const dir = (bnb: boolean): Promise<string> =>
      tinyModel({
        config: bnb
          ? { quantization_config: { quant_method: 'bitsandbytes', load_in_8bit: true, load_in_4bit: false } }
          : quantized(),
        edit: (tensors) => {
          quantize(tensors, true);
          if (!bnb) return;
          for (const [scale, { bytes, shape }] of [...tensors]) {
            if (!scale.endsWith('.weight_scale')) continue;
            tensors.delete(scale);
            const magnitudes = Float32Array.from(floatsOf({ dtype: 'F32', shape, bytes }), (s) => s * 127);
            const module = scale.slice(0, -'.weight_scale'.length);
            tensors.set(`${module}.SCB`, { dtype: 'F32', shape: [shape[0]!], bytes: bytesOf(magnitudes) });
            tensors.set(`${module}.weight_format`, { dtype: 'U8', shape: [], bytes: Uint8Array.of(0) });
          }
        },
      });
    const logits = async (from: string): Promise<number[]> => {
      const model = await CausalLM.fromPretrained(from);
      const all = await list(model.forward([[256, 72, 101]]).logits);
      await model.dispose();
      return all;
    };
    const [ours, theirs] = [await logits(await dir(false)), await logits(await dir(true))];
    theirs.forEach((x, i) => expect(x).toBeCloseTo(ours[i]!, 4));
  });
});
