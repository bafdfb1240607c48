/** Adapters in the formats of llama.cpp and mlx_lm, held against files that those made. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM } from '../../lib';
import { convertAdapter } from '../../lib/convert/convert_adapter';
import { GgufFile } from '../../lib/formats/gguf';
import { openSafetensors, writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { readAdapter, writeAdapter } from '../../lib/peft/adapter_files';
import { changeOf, distance } from '../support/adapter_change';
import { openFilesIn } from '../support/open_files';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let count = 0;
const unused = (ending = ''): string => join(root, `${count++}${ending}`);

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
/** Tensors by name, with a digest of their bytes. */
const digests = (tensors: ReadonlyMap<string, SafetensorsTensor>): unknown[] =>
  [...tensors].map(([name, { dtype, shape, bytes }]) => [name, dtype, shape, digest(bytes)]).sort();

/** The tensors of a GGUF file, in their order. */
async function ggufTensors(path: string): Promise<[string, string, readonly number[], string][]> {
  const file = await GgufFile.open(path);
  try {
    const all: [string, string, readonly number[], string][] = [];
    for (const [name, tensor] of file.tensors)
      all.push([name, tensor.block.type, tensor.shape, digest(await tensor.read())]);
    return all;
  } finally {
    await file.close();
  }
}

describeWithData('llama.cpp’s adapters', 'golden/gguf-adapter', (golden) => {
  const base = join(sharedData, 'models/smollm2-135m');
  const peft = join(golden, 'peft');
  const theirs = join(golden, 'adapter.gguf');

  test('a PEFT directory becomes its tensors, byte for byte', async () => {
    const out = unused('.gguf');
    await convertAdapter(peft, out, { format: 'gguf', base });
    expect(await ggufTensors(out)).toEqual(await ggufTensors(theirs));
    const file = await GgufFile.open(out);
    expect(file.metadata.get('adapter.lora.alpha')).toBe(3);
    expect(file.metadata.get('general.architecture')).toBe('llama');
    await file.close();
  });

  test('its file becomes the PEFT directory', async () => {
    const out = unused();
    await convertAdapter(theirs, out, { format: 'peft', base });
    const [ours, original] = [await readAdapter(out), await readAdapter(peft)];
    expect(digests(ours.tensors)).toEqual(digests(original.tensors));
    const { r, lora_alpha, target_modules, layers_to_transform, base_model_name_or_path } = ours.config;
    expect({ r, lora_alpha, target_modules, layers_to_transform }).toEqual({
      r: 2,
      lora_alpha: 3,
      target_modules: ['down_proj', 'k_proj', 'q_proj'],
      layers_to_transform: original.config['layers_to_transform'],
    });
    expect(base_model_name_or_path).toBe(base);
  });

  test('a base of another family and one of another shape are refused', async () => {
    const qwen = join(sharedData, 'golden/tiny-qwen2/model');
    await expect(convertAdapter(theirs, unused(), { format: 'peft', base: qwen })).rejects.toThrow(
      'has general.architecture "llama", and the base, a qwen2, has "qwen2"',
    );
    const small = join(sharedData, 'models/stories260K');
    await expect(convertAdapter(theirs, unused(), { format: 'peft', base: small })).rejects.toThrow(
      'expected [r, 64] and [64, r]',
    );
  });
});

describeWithData('mlx_lm’s adapters', 'golden/mlx-adapter', (golden) => {
  const base = join(sharedData, 'models/stories260K');

  test('one becomes a PEFT directory, with MLX’s logits', async () => {
    const out = unused();
    await convertAdapter(golden, out, { format: 'peft' });
    const { config } = await readAdapter(out);
    expect(config).toMatchObject({ r: 6, lora_alpha: 15, layers_to_transform: [2, 3, 4] });
    const file = await openSafetensors(join(golden, 'logits.safetensors'));
    const tensor = (name: string): SafetensorsTensor => file.tensors.get(name)!;
    const [batch, length] = tensor('ids').shape as [number, number];
    const flat = [...new BigInt64Array(tensor('ids').bytes.slice().buffer)].map(Number);
    const ids = Array.from({ length: batch }, (_, i) => flat.slice(i * length, (i + 1) * length));
    const logits = new Float32Array(tensor('logits').bytes.slice().buffer);
    file.close();
    const model = await CausalLM.fromPretrained(base, { dtype: 'f32' });
    try {
      await model.loadAdapter(out);
      const ours = await model.forward(ids).logits.data();
      const most = logits.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
      const off = logits.reduce((max, value, i) => Math.max(max, Math.abs(value - Number(ours[i]))), 0);
      expect(ours.length).toBe(logits.length);
      expect(off / most).toBeLessThan(1e-5);
    } finally {
      await model.dispose();
    }
  });

  test('PEFT → MLX gives its tensors and its configuration back', async () => {
    const [peft, mlx] = [unused(), unused()];
    await convertAdapter(golden, peft, { format: 'peft', base });
    mkdirSync(mlx); // an empty directory is as good as none
    await convertAdapter(peft, mlx, { format: 'mlx', base });
    const read = (dir: string): unknown => JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8'));
    expect(read(mlx)).toEqual({
      fine_tune_type: 'lora',
      num_layers: 3,
      lora_parameters: {
        rank: 6,
        dropout: 0,
        scale: 2.5,
        keys: ['self_attn.q_proj', 'self_attn.v_proj', 'mlp.down_proj'],
      },
      model: 'stories260K',
    });
    const tensors = async (dir: string): Promise<unknown> => {
      const file = await openSafetensors(join(dir, 'adapters.safetensors'));
      const all = digests(file.tensors);
      file.close();
      return all;
    };
    expect(await tensors(mlx)).toEqual(await tensors(golden));
  });
});

describeWithData('round trips', 'golden/stories260K-patterns', (golden) => {
  const base = join(sharedData, 'models/stories260K');
  const cases = {
    'patterns of rank and alpha': join(golden, 'adapter_final'),
    rslora: join(golden, '../stories260K-rslora-accumulate/adapter_final'),
    'one rank': join(golden, '../stories260K-all-linear-r8/adapter_final'),
  };
  for (const [name, dir] of Object.entries(cases))
    for (const format of ['gguf', 'mlx'] as const)
      test(`PEFT → ${format} → PEFT changes nothing: ${name}`, async () => {
        const [between, back] = [unused(), unused()];
        await convertAdapter(dir, between, { format, base });
        await convertAdapter(between, back, { format: 'peft', base });
        const [before, after] = [await readAdapter(dir), await readAdapter(back)];
        expect(distance(changeOf(after), changeOf(before))).toBeLessThan(2 ** -23);
        if (name === 'one rank') expect(digests(after.tensors)).toEqual(digests(before.tensors));
      });
});

describeWithData('what is refused', 'golden/stories260K-dora', (golden) => {
  const base = join(sharedData, 'models/stories260K');
  const dora = join(golden, 'adapter_final');
  const plain = join(golden, '../stories260K-all-linear-r8/adapter_final');
  const code = async (promise: Promise<unknown>): Promise<unknown> =>
    promise.then(
      () => undefined,
      (error: unknown) => (error as { code?: string }).code,
    );

  test('changes that the other formats have not, and missing or useless options', async () => {
    for (const format of ['gguf', 'mlx'] as const) {
      expect(await code(convertAdapter(dora, unused(), { format, base }))).toBe('ERR_UNSUPPORTED');
      await expect(convertAdapter(plain, unused(), { format })).rejects.toThrow('expected base, the model');
    }
    await expect(convertAdapter(plain, unused(), { format: 'peft' })).rejects.toThrow('another format');
    await expect(convertAdapter(plain, plain, { format: 'mlx', base })).rejects.toThrow(
      'holds files already',
    );
    // @ts-expect-error there is no such format
    expect(await code(convertAdapter(plain, unused(), { format: 'ggml', base }))).toBe('ERR_ARGUMENT');
    expect(await code(convertAdapter(plain, unused(), { format: 'gguf', base: __dirname }))).toBe('ERR_FILE');
    expect(await code(convertAdapter(join(root, 'none'), unused(), { format: 'gguf', base }))).toBe(
      'ERR_FILE',
    );
  });

  test('an alpha of 0, which llama.cpp takes for none, still changes nothing', async () => {
    const { config, tensors } = await readAdapter(plain);
    const nothing = unused();
    await writeAdapter(nothing, { config: { ...config, lora_alpha: 0 }, tensors });
    for (const format of ['gguf', 'mlx'] as const) {
      const [between, back] = [unused(), unused()];
      await convertAdapter(nothing, between, { format, base });
      await convertAdapter(between, back, { format: 'peft', base });
      for (const change of changeOf(await readAdapter(back)).values())
        expect(change.every((value) => value === 0)).toBe(true);
    }
  });

  test('an adapter of the head for mlx_lm, and numbers that are not finite', async () => {
    const head = unused();
    const tensor = (shape: number[], value: number): SafetensorsTensor => {
      const floats = new Float32Array(shape[0]! * shape[1]!).fill(value);
      return { dtype: 'F32', shape, bytes: new Uint8Array(floats.buffer) };
    };
    const files = (value: number) => ({
      config: { peft_type: 'LORA', r: 1, lora_alpha: 1, target_modules: ['lm_head'] },
      tensors: new Map([
        ['base_model.model.lm_head.lora_A.weight', tensor([1, 64], value)],
        ['base_model.model.lm_head.lora_B.weight', tensor([512, 1], 1)],
      ]),
    });
    await writeAdapter(head, files(1));
    await expect(convertAdapter(head, unused(), { format: 'mlx', base })).rejects.toThrow(
      'changes lm_head, and mlx_lm adapts layers inside the blocks only',
    );
    const gguf = unused('.gguf');
    await convertAdapter(head, gguf, { format: 'gguf', base });
    expect((await ggufTensors(gguf)).map(([name]) => name)).toEqual([
      'output.weight.lora_a',
      'output.weight.lora_b',
    ]);
    const broken = unused();
    await writeAdapter(broken, files(NaN));
    await expect(convertAdapter(broken, unused(), { format: 'gguf', base })).rejects.toThrow('not finite');
  });

  test('directories of mlx_lm that hold something else, and keep no file open', async () => {
    const make = async (
      config: object,
      names: readonly string[],
      shapes: readonly (readonly [number, number])[] = [],
    ): Promise<string> => {
      const dir = unused();
      mkdirSync(dir);
      writeFileSync(join(dir, 'adapter_config.json'), JSON.stringify(config));
      const tensors = names.map((name, i): [string, SafetensorsTensor] => {
        const [rows, cols] = shapes[i] ?? [1, 1];
        return [name, { dtype: 'F32', shape: [rows, cols], bytes: new Uint8Array(4 * rows * cols) }];
      });
      await writeSafetensors(join(dir, 'adapters.safetensors'), new Map(tensors));
      return dir;
    };
    const lora = { fine_tune_type: 'lora', lora_parameters: { rank: 1, scale: 1, dropout: 0 } };
    const layer = 'model.layers.0.self_attn.q_proj';
    const pair = [`${layer}.lora_a`, `${layer}.lora_b`];
    const said = async (dir: string): Promise<string> =>
      convertAdapter(dir, unused(), { format: 'peft' }).then(
        () => 'converted',
        (error: Error) => error.message,
      );
    expect(await said(await make(lora, pair))).toBe('converted');
    // The shapes are those of the base, where it is given.
    const matching = await make(lora, pair, [
      [64, 1],
      [1, 64],
    ]);
    const base = join(sharedData, 'models/stories260K');
    await convertAdapter(matching, unused(), { format: 'peft', base });
    await expect(
      convertAdapter(await make(lora, pair), unused(), { format: 'peft', base }),
    ).rejects.toMatchObject({ code: 'ERR_ADAPTER', message: expect.stringContaining('[1, 1]') as string });
    expect(await said(await make({ ...lora, fine_tune_type: 'dora' }, pair))).toContain(
      'fine_tune_type "dora"',
    );
    expect(await said(await make({ fine_tune_type: 'lora', lora_parameters: {} }, pair))).toContain('scale');
    expect(await said(await make(lora, [...pair, `${layer}.m`]))).toContain(`holds ${layer}.m`);
    expect(await said(await make(lora, [`${layer}.lora_a`]))).toContain('without');
    expect(await said(await make(lora, ['model.norm.lora_a', 'model.norm.lora_b']))).toContain(
      'no linear layer',
    );
    expect(await said(await make(lora, []))).toContain('holds no tensors');
    const factors = [
      [3, 2],
      [1, 3],
    ] as const;
    expect(await said(await make(lora, pair, factors))).toContain(
      `holds ${layer}.lora_a of [3, 2] and lora_b of [1, 3]: expected [in, r] and [r, out]`,
    );
    expect(openFilesIn(root)).toEqual([]);
  });
});
