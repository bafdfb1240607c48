/** quantizeModel(): what it writes, against loading with `quantize` and against bitsandbytes 0.50. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  memoryUsage,
  openSafetensors,
  quantizeModel,
  tensor,
  tidy,
  writeSafetensors,
  type Adapter,
  type FromPretrainedOptions,
  type QuantizeModelOptions,
  type QuantizeOptions,
  type SafetensorsTensor,
} from '../../lib/index';
import { commandLine } from '../support/command_line';
import { expectReject } from '../support/errors';
import { list } from '../support/numbers';
import { fillAdapter } from '../support/fill_adapter';
import { collectGarbage } from '../support/garbage';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';
import { bitsandbytes, bytesOf, floatsOf, quantizeCodes } from '../support/weight_format_cases';

/** Tensors before a test. */
let held = 0;
beforeEach(async () => {
  await collectGarbage(); // of other tests
  held = memoryUsage().tensors;
});

const scratch = temporaryFolder();
let count = 0;
const fresh = (): string => join(scratch, `out-${count++}`);
const untied: TinyModelOptions = { config: { tie_word_embeddings: false } };

async function logitsOf(dir: string, options: FromPretrainedOptions = {}): Promise<number[]> {
  const model = await CausalLM.fromPretrained(dir, options);
  try {
    const { logits } = model.forward([[256, 72, 101, 108]]);
    const numbers = await list(logits);
    logits.dispose();
    return numbers;
  } finally {
    await model.dispose();
  }
}

const weights = 'model.safetensors';
async function read(path: string): Promise<Map<string, SafetensorsTensor>> {
  const file = await openSafetensors(path);
  const all = new Map(
    [...file.tensors].map(([name, { dtype, shape, bytes }]) => [
      name,
      { dtype, shape, bytes: Uint8Array.from(bytes) },
    ]),
  );
  file.close();
  return all;
}

const configOf = (dir: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>;

describe('a written model gives the bits of one that is quantized while it is loaded', () => {
  test.each<[QuantizeModelOptions, TinyModelOptions]>([
    [{ format: 'nf4' }, {}],
    [{ format: 'nf4', doubleQuant: true }, { dtype: 'BF16' }],
    [{ format: 'fp4', skip: ['down_proj', 'layers.1.self_attn.q_proj'] }, { dtype: 'F16' }],
    [{ format: 'fp4', doubleQuant: true, embedding: true }, {}],
    [{ format: 'int8' }, { dtype: 'BF16' }],
    [{ format: 'int8', embedding: true }, untied],
    [{ format: 'nf4', doubleQuant: true }, untied],
    [{ format: 'nf4', skip: ['lm_head'] }, untied],
  ])('%j of a model %j', async (options, model) => {
    const dir = await tinyModel(model);
    const out = fresh();
    const progress: [number, number][] = [];
    const { tensors } = memoryUsage();
    await quantizeModel(dir, out, {
      ...options,
      onProgress: ({ loaded, total }) => progress.push([loaded, total]),
    });
    expect(memoryUsage().tensors).toBe(tensors);
    expect(await logitsOf(out)).toEqual(await logitsOf(dir, { quantize: options }));
    const [last, total] = progress.at(-1)!;
    expect(last).toBe(total);
    progress.reduce(([before], now) => {
      expect(now[0]).toBeGreaterThan(before);
      return now;
    });
  });

  test('config.json says what transformers writes, and other files are copied', async () => {
    const dir = await tinyModel({ generation: { eos_token_id: 257 } });
    const out = fresh();
    await quantizeModel(dir, out, { format: 'nf4', skip: ['layers.2.mlp.up_proj'], doubleQuant: true });
    const { quantization_config, ...rest } = configOf(out);
    expect(rest).toEqual(configOf(dir));
    expect(quantization_config).toEqual({
      _load_in_4bit: true,
      _load_in_8bit: false,
      bnb_4bit_compute_dtype: 'float32',
      bnb_4bit_quant_storage: 'uint8',
      bnb_4bit_quant_type: 'nf4',
      bnb_4bit_use_double_quant: true,
      llm_int8_enable_fp32_cpu_offload: false,
      llm_int8_has_fp16_weight: false,
      llm_int8_skip_modules: ['model.layers.2.mlp.up_proj', 'lm_head'],
      llm_int8_threshold: 6,
      load_in_4bit: true,
      load_in_8bit: false,
      quant_method: 'bitsandbytes',
    });
    expect(readdirSync(out).sort()).toEqual(readdirSync(dir).sort());
    // A tied head is the embedding, and quantized where that is.
    const tied = fresh();
    await quantizeModel(dir, tied, { format: 'nf4', embedding: true });
    expect(configOf(tied)).toMatchObject({ quantization_config: { llm_int8_skip_modules: [] } });
    for (const name of ['tokenizer.json', 'generation_config.json'])
      expect(readFileSync(join(out, name))).toEqual(readFileSync(join(dir, name)));
  });
});

describeWithData('quant-bnb', 'golden/quant-bnb', (golden) => {
  const names = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const;
  const matrix = 'model.layers.0.mlp.down_proj.weight';

  const theirs = (): Promise<Map<string, SafetensorsTensor>> =>
    read(join(golden, 'bitsandbytes.safetensors'));

  /** A model with bitsandbytes' source for one of its matrices. */
  async function modelOf(dtype: 'f32' | 'bf16' | 'f16', source: SafetensorsTensor): Promise<string> {
    const stored = { f32: 'F32', bf16: 'BF16', f16: 'F16' } as const;
    const bytes = tidy(() => {
      const x = tensor(floatsOf(source), { shape: [96, 256] });
      return x.to({ dtype: dtype }).bytesSync();
    });
    return tinyModel({
      dtype: stored[dtype],
      config: { hidden_size: 96, intermediate_size: 256, num_hidden_layers: 1 },
      edit: (tensors) => tensors.set(matrix, { dtype: stored[dtype], shape: [96, 256], bytes }),
    });
  }

  test.each(['f32', 'bf16', 'f16'] as const)('its planes of %s, bit for bit', async (dtype) => {
    const golden = await theirs();
    const dir = await modelOf(dtype, golden.get('source')!);
    for (const format of ['nf4', 'fp4'] as const)
      for (const doubleQuant of [false, true]) {
        const out = fresh();
        await quantizeModel(dir, out, { format, doubleQuant });
        const ours = await read(join(out, weights));
        const of = (key: string): SafetensorsTensor =>
          golden.get(`${format}-b64-${names[dtype]}-${doubleQuant ? 'double' : 'single'}.${key}`)!;
        const expectPlane = (name: string, key: string): void => {
          const { dtype: type, shape, bytes } = ours.get(name)!;
          expect([name, type, key === 'packed' ? [shape[0]] : shape]).toEqual([
            name,
            of(key).dtype,
            of(key).shape,
          ]);
          expect(Buffer.from(bytes).equals(of(key).bytes)).toBe(true);
        };
        expectPlane(matrix, 'packed');
        expect(ours.get(matrix)!.shape).toEqual([12_288, 1]);
        expectPlane(`${matrix}.quant_map`, 'code');
        const state = `${matrix}.quant_state.bitsandbytes__${format}`;
        const textOf = ({ bytes }: SafetensorsTensor): string => Buffer.from(bytes).toString();
        if (doubleQuant) {
          expectPlane(`${matrix}.nested_quant_map`, 'state2_code');
          const offset = (text: string): number =>
            (JSON.parse(text) as { nested_offset: number }).nested_offset;
          const [mean, own] = [offset(textOf(of('quant_state'))), offset(textOf(ours.get(state)!))];
          expect(Math.abs(own - mean)).toBeLessThanOrEqual(2 ** -25);
          if (own !== mean) continue; // a mean in f32 depends on the order of its sum
          expectPlane(`${matrix}.nested_absmax`, 'state2_absmax');
        }
        expectPlane(`${matrix}.absmax`, 'absmax');
        expectPlane(state, 'quant_state');
      }
  });

  test('int8 rows', async () => {
    const golden = await theirs();
    const out = fresh();
    await quantizeModel(await modelOf('f16', golden.get('source')!), out, { format: 'int8' });
    const ours = await read(join(out, weights));
    const module = matrix.slice(0, -'.weight'.length);
    for (const [name, key] of [
      [matrix, 'int8.q'],
      [`${module}.SCB`, 'int8.row_absmax'],
    ] as const)
      expect(ours.get(name)).toEqual(golden.get(key));
    expect(ours.get(`${module}.weight_format`)).toEqual({ dtype: 'U8', shape: [], bytes: Uint8Array.of(0) });
    expect(configOf(out)['quantization_config']).toMatchObject({
      load_in_8bit: true,
      load_in_4bit: false,
      llm_int8_skip_modules: ['lm_head'],
    });
  });
});

test('numbers of the description are written as Python writes them', async () => {
  const tiny = async (size: number): Promise<string> => {
    const out = fresh();
    const dir = await tinyModel({
      edit(tensors) {
        for (const { dtype, bytes } of tensors.values())
          if (dtype === 'F32') new Float32Array(bytes.buffer).fill(size);
      },
    });
    await quantizeModel(dir, out, { format: 'nf4', doubleQuant: true });
    const state = (await read(join(out, weights))).get(
      'model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4',
    )!;
    return /"nested_offset": ([^}]+)}$/.exec(Buffer.from(state.bytes).toString())![1]!;
  };
  expect(await tiny(0)).toBe('0.0');
  expect(await tiny(1)).toBe('1.0');
  expect(await tiny(2 ** -14)).toBe('6.103515625e-05');
  expect(await tiny(2 ** -40)).toBe('9.094947017729282e-13');
});

describe('what cannot be is refused, and leaves nothing', () => {
  test.each<[string, unknown, RegExp]>([
    ['no format', {}, /^\[quantizeModel\] expected format to be/],
    ['another format', { format: 'q4' }, /^\[quantizeModel\] expected format to be/],
    ['an unknown option', { format: 'nf4', skipped: [] }, /unknown option 'skipped'; did you mean 'skip'\?$/],
    [
      'an unknown module',
      { format: 'nf4', skip: ['c_proj'] },
      /^\[quantizeModel\] skip names c_proj, which no module is called/,
    ],
    [
      'int8 twice',
      { format: 'int8', doubleQuant: true },
      /^\[quantizeModel\] expected doubleQuant with nf4 or fp4 but received int8/,
    ],
  ])('%s', async (_, options, text) => {
    const out = fresh();
    await expectReject(
      quantizeModel(await tinyModel(), out, options as QuantizeModelOptions),
      'ERR_ARGUMENT',
      text,
    );
    expect(existsSync(out)).toBe(false);
  });

  test('int8 rows in another order than a matrix has are refused', async () => {
    const dir = fresh();
    await quantizeModel(await tinyModel(), dir, { format: 'int8' });
    const tensors = await read(join(dir, weights));
    const name = 'model.layers.1.mlp.up_proj.weight_format';
    tensors.set(name, { ...tensors.get(name)!, bytes: Uint8Array.of(1) });
    await writeSafetensors(join(dir, weights), tensors);
    await expectReject(
      CausalLM.fromPretrained(dir),
      'ERR_UNSUPPORTED',
      /mlp\.up_proj\.weight_format is 1; supported are rows \(0\), as bitsandbytes saves them$/,
    );
  });

  test('a model that is quantized, by its configuration or by its tensors', async () => {
    const edit = (tensors: Map<string, SafetensorsTensor>): void => quantizeCodes(tensors, 'nf4', true);
    for (const config of [bitsandbytes('nf4'), {}])
      await expectReject(
        quantizeModel(await tinyModel({ config, edit }), fresh(), { format: 'nf4' }),
        'ERR_ARGUMENT',
        /^\[quantizeModel\] .* is quantized already: expected a model of f32, bf16 or f16$/,
      );
  });

  test('a directory that holds something, and that of the model', async () => {
    const dir = await tinyModel();
    writeFileSync(join(scratch, 'taken'), '');
    await expectReject(
      quantizeModel(dir, scratch, { format: 'nf4' }),
      'ERR_FILE',
      /^\[quantizeModel\] .* holds files already \(\w/,
    );
    await expectReject(
      quantizeModel(dir, dir, { format: 'nf4' }),
      'ERR_FILE',
      /^\[quantizeModel\] .* holds /,
    );
    await expectReject(
      quantizeModel(dir, join(scratch, 'taken'), { format: 'nf4' }),
      'ERR_FILE',
      /^\[quantizeModel\] cannot write to .*taken: /,
    );
  });

  test.each([false, true])('weights that are not finite, doubleQuant %s', async (doubleQuant) => {
    const name = 'model.layers.1.mlp.up_proj.weight';
    const dir = await tinyModel({
      edit(tensors) {
        const values = floatsOf(tensors.get(name)!);
        values[77] = NaN;
        tensors.set(name, { dtype: 'F32', shape: [40, 24], bytes: bytesOf(values) });
      },
    });
    const out = fresh();
    await expectReject(
      quantizeModel(dir, out, { format: 'nf4', doubleQuant }),
      'ERR_FILE',
      /^\[quantizeModel\] expected finite weights to quantize but received NaN or an infinity in model\.layers\.1\.mlp\.up_proj\.weight$/,
    );
    expect(existsSync(out)).toBe(false);
    expect(memoryUsage().tensors).toBeLessThanOrEqual(held);
  });

  test.each([false, true])('an abort at any moment, doubleQuant %s', async (doubleQuant) => {
    const dir = await tinyModel();
    const all: number[] = [];
    await quantizeModel(dir, fresh(), {
      format: 'nf4',
      doubleQuant,
      onProgress: ({ loaded }) => all.push(loaded),
    });
    for (const at of [0, 1, Math.floor(all.length / 2), all.length - 1]) {
      const out = fresh();
      const controller = new AbortController();
      const reason = new Error('enough');
      const run = quantizeModel(dir, out, {
        ...{ format: 'nf4', doubleQuant, signal: controller.signal },
        onProgress: ({ loaded }) => {
          if (loaded === all[at]) controller.abort(reason);
        },
      });
      await expect(run).rejects.toBe(reason);
      expect(existsSync(out)).toBe(false);
      expect(memoryUsage().tensors).toBeLessThanOrEqual(held);
    }
    expect(readdirSync(scratch).filter((name) => name.startsWith('.'))).toEqual([]);
  });
});

test('never more than one matrix and its codes are in memory', async () => {
  const dir = await tinyModel({
    config: { ...untied.config, hidden_size: 48, intermediate_size: 2048 },
  });
  const largest = 48 * 2048 * 4;
  const before = memoryUsage();
  let peak = 0;
  await quantizeModel(dir, fresh(), {
    format: 'nf4',
    doubleQuant: true,
    onProgress: () => (peak = Math.max(peak, memoryUsage().bytes - before.bytes)),
  });
  expect(peak).toBeLessThan(1.3 * largest);
});

test('lora-native quantize', async () => {
  const dir = await tinyModel();
  const out = fresh();
  const words = [
    'quantize',
    dir,
    out,
    '--format',
    'nf4',
    '--skip',
    'k_proj, layers.0.mlp.up_proj',
    '--double-quant',
    '--json',
  ];
  const { status, out: printed, err } = await commandLine(words);
  expect(err).toMatch(/^wrote .*: \d+\.\d kB of weights\n$/);
  expect({ status, json: JSON.parse(printed) as unknown }).toEqual({
    status: 0,
    json: { out, model: dir, format: 'nf4', bytes: readFileSync(join(out, 'model.safetensors')).length },
  });
  expect(await logitsOf(out)).toEqual(
    await logitsOf(dir, {
      quantize: { format: 'nf4', skip: ['k_proj', 'layers.0.mlp.up_proj'], doubleQuant: true },
    }),
  );
  expect(await commandLine(words)).toMatchObject({
    status: 1,
    err: expect.stringContaining('holds files already') as string,
  });
  expect(await commandLine(['quantize', dir, fresh(), '--format', 'q8'])).toMatchObject({ status: 2 });
});

describe('saving a merged model quantized', () => {
  /** A model with an adapter that is not zero. */
  async function adapted(dir: string): Promise<{ model: CausalLM; adapter: Adapter }> {
    const model = await CausalLM.fromPretrained(dir);
    const adapter = model.addAdapter({ r: 2, targetModules: ['v_proj', 'up_proj'] });
    fillAdapter(adapter);
    return { model, adapter };
  }

  test.each<[QuantizeOptions, TinyModelOptions]>([
    [{ format: 'nf4', doubleQuant: true }, {}],
    [{ format: 'fp4', skip: ['down_proj'] }, { dtype: 'BF16' }],
    [{ format: 'int8', embedding: true }, untied],
  ])('%j gives what quantizeModel makes of the merged model %j', async (quantize, of) => {
    const [whole, once, twice] = [fresh(), fresh(), fresh()];
    const { model } = await adapted(await tinyModel(of));
    expect(await model.save(whole, { merge: 'default' })).toEqual({});
    const { quantizationError } = await model.save(twice, { merge: 'default', quantize });
    await model.dispose();
    await quantizeModel(whole, once, quantize);
    expect(await read(join(twice, weights))).toEqual(await read(join(once, weights)));
    expect(configOf(twice)).toEqual(configOf(once));

    // The error, from the values in the files.
    const [kept, exact] = [await valuesOf(twice), await valuesOf(whole)];
    let [errors, squares] = [0, 0];
    for (const [name, values] of exact) {
      const isQuantized = (await read(join(twice, weights))).get(name)!.dtype.endsWith('8');
      if (!isQuantized) continue;
      values.forEach((x, i) => {
        errors += (kept.get(name)![i]! - x) ** 2;
        squares += x ** 2;
      });
    }
    expect(quantizationError).toBeGreaterThan(0);
    expect(Math.abs(quantizationError! / Math.sqrt(errors / squares) - 1)).toBeLessThan(1e-5);
  });

  /** The values of every tensor as f32, dequantized. */
  async function valuesOf(dir: string): Promise<Map<string, number[]>> {
    const out = fresh();
    const model = await CausalLM.fromPretrained(dir, { dtype: 'f32' });
    await model.save(out);
    await model.dispose();
    return new Map(
      [...(await read(join(out, weights)))].map(([name, found]) => [name, [...floatsOf(found)]]),
    );
  }

  test('of a base in few bits, the matrices that are; those without a change keep their codes', async () => {
    const [base, out] = [fresh(), fresh()];
    await quantizeModel(await tinyModel(), base, { format: 'nf4', skip: ['o_proj'] });
    const { model } = await adapted(base);
    await model.save(out, { merge: 'default', quantize: 'nf4' });
    await model.dispose();
    const [before, after] = [await read(join(base, weights)), await read(join(out, weights))];
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    const same = (name: string): boolean =>
      Buffer.from(before.get(name)!.bytes).equals(after.get(name)!.bytes);
    for (const name of before.keys())
      expect([name, same(name)]).toEqual([name, !/(v|up)_proj\.weight(\.absmax)?$/.test(name)]);
    expect(configOf(out)).toEqual(configOf(base));
  });

  test('an unknown format, and weights that are not finite', async () => {
    const { model, adapter } = await adapted(await tinyModel());
    const save = (quantize: unknown): Promise<unknown> =>
      model.save(fresh(), { merge: 'default', quantize: quantize as 'nf4' });
    await expectReject(save('q4'), 'ERR_ARGUMENT', /^\[save\] expected quantize\.format to be/);
    fillAdapter(adapter, 1, Infinity);
    await expectReject(
      save('nf4'),
      'ERR_FILE',
      /^\[save\] expected finite weights to quantize .* in model\./,
    );
    await model.dispose();
  });

  test('lora-native merge --quantize', async () => {
    const [dir, saved, out] = [await tinyModel(), fresh(), fresh()];
    const { model, adapter } = await adapted(dir);
    await adapter.save(saved);
    const { quantizationError } = await model.save(fresh(), { merge: 'default', quantize: 'int8' });
    await model.dispose();
    const {
      status,
      err,
      out: printed,
    } = await commandLine([
      ...['merge', '--model', dir, '--adapter', saved, '--out-dir', out],
      ...['--quantize', 'int8', '--device', 'cpu', '--json'],
    ]);
    expect(status).toBe(0);
    expect(err).toMatch(/\nwrote .* in int8: the merged weights are off by 0\.\d\d% of their norm\n$/);
    expect(JSON.parse(printed)).toMatchObject({ outDir: out, quantizationError });
    expect(configOf(out)['quantization_config']).toMatchObject({ load_in_8bit: true });
    expect(
      await commandLine([
        'merge',
        '--model',
        dir,
        '--adapter',
        saved,
        '--out-dir',
        fresh(),
        '--quantize',
        'q4',
      ]),
    ).toMatchObject({ status: 2 });
  });
});

test('lora-native merge on a quantized base writes whole weights, and generate takes --quantize', async () => {
  const [dir, adapter, merged] = [fresh(), fresh(), fresh()];
  const source = await tinyModel();
  await quantizeModel(source, dir, { format: 'nf4' });
  const model = await CausalLM.fromPretrained(dir);
  const made = model.addAdapter({ r: 2, targetModules: ['v_proj', 'up_proj'] });
  fillAdapter(made);
  await made.save(adapter);
  await model.merge('default');
  const expected = await list(model.forward([[256, 72, 101, 108]]).logits);
  await model.dispose();
  const cpu = ['--device', 'cpu'];
  const words = ['merge', '--model', dir, '--adapter', adapter, '--out-dir', merged, ...cpu];
  expect(await commandLine(words)).toMatchObject({ status: 0 });
  expect(configOf(merged)).not.toHaveProperty('quantization_config');
  expect(new Set([...(await read(join(merged, weights))).values()].map(({ dtype }) => dtype))).toEqual(
    new Set(['F32']),
  );
  expect(await logitsOf(merged)).toEqual(expected);

  const generate = async (from: string, ...flags: string[]): Promise<string> => {
    const given = [
      'generate',
      '--model',
      from,
      '--prompt',
      'abc',
      '--temperature',
      '0',
      '--max-new-tokens',
      '6',
    ];
    const { status, out } = await commandLine([...given, ...cpu, ...flags]);
    expect(status).toBe(0);
    return out;
  };
  expect(await generate(source, '--quantize', 'nf4')).toBe(await generate(dir));
});
