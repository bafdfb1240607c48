/** What a model directory may hold, and what save() makes of it. */
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CausalLM, memoryUsage, setThreads, type FromPretrainedOptions, type Tensor } from '../../lib/index';
import { openSafetensors, writeSafetensors } from '../../lib/formats/safetensors';
import { collectGarbage } from '../support/garbage';
import { rewrapped, wrappings } from '../support/rewrapped';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const scratch = mkdtempSync(join(tmpdir(), 'model-files-'));
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
async function load(options: TinyModelOptions = {}, how: FromPretrainedOptions = {}): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(await tinyModel(options), how);
  models.push(model);
  return model;
}
afterAll(async () => {
  for (const model of models) {
    await model.dispose();
    rmSync(model.directory, { recursive: true, force: true });
  }
  rmSync(scratch, { recursive: true });
});
const json = (dir: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>;

test('weights of another type are refused', async () => {
  const name = 'model.layers.1.mlp.up_proj.weight';
  const wide = (t: Parameters<NonNullable<TinyModelOptions['edit']>>[0]) =>
    void t.set(name, { dtype: 'F64', shape: [40, 24], bytes: new Uint8Array(40 * 24 * 8) });
  await expect(load({ edit: wide })).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED',
    message: `[from_pretrained] ${name} is stored as F64; supported are F32, BF16, F16`,
  });
});

test('vectors may be kept wider than matrices; the embedding decides the dtype', async () => {
  const norm = new Float32Array(24).fill(1);
  const model = await load({
    dtype: 'BF16',
    edit: (t) =>
      t.set('model.norm.weight', { dtype: 'F32', shape: [24], bytes: new Uint8Array(norm.buffer) }),
  });
  expect(model.dtype).toBe('bf16');
  const { logits } = model.forward([[1, 2]]);
  expect((await logits.data()).every(Number.isFinite)).toBe(true);
});

test('parameterCount counts every weight once', async () => {
  const perLayer = 2 * 24 + 24 * 24 + 2 * 12 * 24 + 24 * 24 + 3 * 24 * 40;
  const body = 262 * 24 + 3 * perLayer + 24;
  expect((await load()).parameterCount).toBe(body);
  expect((await load({ config: { tie_word_embeddings: false } })).parameterCount).toBe(body + 262 * 24);
});

test('a load that is aborted midway rejects with the reason and frees what it had', async () => {
  const dir = await tinyModel();
  await collectGarbage(); // of other tests
  const before = memoryUsage().bytes;
  const stop = new AbortController();
  const reason = new Error('enough');
  let steps = 0;
  const loading = CausalLM.fromPretrained(dir, {
    signal: stop.signal,
    onProgress: ({ loaded, total }) => {
      expect(loaded).toBeLessThan(total);
      if (++steps === 5) stop.abort(reason);
    },
  });
  await expect(loading).rejects.toBe(reason);
  expect(steps).toBe(5);
  expect(memoryUsage().bytes).toBe(before);
  rmSync(dir, { recursive: true });
});

test.each<[Record<string, unknown>, object, string[]]>([
  [{ torch_dtype: 'float32' }, { torch_dtype: 'bfloat16' }, ['dtype']],
  [{ torch_dtype: undefined, dtype: 'float32' }, { dtype: 'bfloat16' }, ['torch_dtype']],
  [{ torch_dtype: 'float32', dtype: 'float32' }, { torch_dtype: 'bfloat16', dtype: 'bfloat16' }, []],
  [{ torch_dtype: undefined }, { dtype: 'bfloat16' }, ['torch_dtype']],
])('config.json with %j is saved with %j', async (config, want, absent) => {
  const model = await load({ config }, { dtype: 'bf16' });
  const dir = mkdtempSync(join(scratch, 'dtype-'));
  await model.save(dir);
  expect(json(dir)).toMatchObject(want);
  for (const key of absent) expect(json(dir)).not.toHaveProperty(key);
  const file = await openSafetensors(join(dir, 'model.safetensors'));
  expect(new Set([...file.tensors.values()].map(({ dtype }) => dtype))).toEqual(new Set(['BF16']));
  expect({ ...file.metadata }).toEqual({ format: 'pt' });
  file.close();
});

test('the files of the tokenizer and of generation go along, others do not', async () => {
  const model = await load({ generation: { eos_token_id: 9 } });
  const along = [
    'added_tokens.json',
    'chat_template.jinja',
    'chat_template.json',
    'generation_config.json',
    'merges.txt',
    'special_tokens_map.json',
    'tokenizer.json',
    'tokenizer.model',
    'tokenizer_config.json',
    'vocab.json',
    'vocab.txt',
  ];
  const others = [
    'README.md',
    'optimizer.pt',
    'model.safetensors.index.json',
    'my-merges.txt',
    'vocab.json.bak',
  ];
  for (const name of [...along, ...others])
    if (!readdirSync(model.directory).includes(name)) writeFileSync(join(model.directory, name), name);
  const dir = join(scratch, 'along');
  await model.save(dir);
  expect(readdirSync(dir).sort()).toEqual([...along, 'config.json', 'model.safetensors'].sort());
  expect(readFileSync(join(dir, 'merges.txt'), 'utf8')).toBe('merges.txt');
});

test('a model of each class has its own tensors in the file that it saves', async () => {
  for (const config of [
    { attention_bias: true, mlp_bias: true, tie_word_embeddings: false },
    { model_type: 'qwen2' },
    { model_type: 'qwen3', head_dim: 10 },
  ]) {
    const model = await load({ config });
    const dir = mkdtempSync(join(scratch, 'class-'));
    await model.save(dir);
    const [was, now] = [model.directory, dir].map((d) => readFileSync(join(d, 'model.safetensors')));
    expect(now!.equals(was!)).toBe(true);
    expect(json(dir)).toEqual(
      json(model.directory).dtype ? json(model.directory) : { ...json(model.directory) },
    );
  }
});

test('a target that is a file is refused', async () => {
  const model = await load();
  const path = join(scratch, 'file');
  writeFileSync(path, 'mine');
  await expect(model.save(path)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: `[save] ${path} is not a directory`,
  });
  expect(readFileSync(path, 'utf8')).toBe('mine');
  const full = join(scratch, 'full');
  for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) mkdirSync(join(full, name), { recursive: true });
  await expect(model.save(full)).rejects.toThrow(
    'holds other files (a, b, c, d, e and 1 more): save to a new or empty directory',
  );
});

test('a save over an earlier one takes away what is of a model, and no folder or file of the user', async () => {
  const model = await load({ generation: { eos_token_id: 9 } });
  const dir = join(scratch, 'again');
  writeFileSync(join(model.directory, 'vocab.txt'), 'x');
  await model.save(dir);
  mkdirSync(join(dir, 'tokenizer_experiments'));
  writeFileSync(join(dir, 'tokenizer_experiments', 'notes.txt'), 'mine');
  rmSync(join(model.directory, 'vocab.txt'));
  await model.save(dir);
  expect(readFileSync(join(dir, 'tokenizer_experiments', 'notes.txt'), 'utf8')).toBe('mine');
  expect(readdirSync(dir)).not.toContain('vocab.txt');
  writeFileSync(join(dir, 'tokenizer_notes.md'), 'mine');
  await expect(model.save(dir)).rejects.toThrow('holds other files (tokenizer_notes.md)');
  expect(readFileSync(join(dir, 'tokenizer_notes.md'), 'utf8')).toBe('mine');
});

describe('a file that changes while a model is read is an error', () => {
  const appended = (path: string): void => appendFileSync(path, ' ');
  const replaced = (path: string): void => {
    copyFileSync(path, `${path}.new`);
    renameSync(`${path}.new`, path);
  };
  test.each<[string, string, (path: string) => void]>([
    ['weights that grow', 'model.safetensors', appended],
    ['weights that shrink', 'model.safetensors', (path) => truncateSync(path, 5000)],
    ['weights that are replaced', 'model.safetensors', replaced],
    ['a configuration that grows', 'config.json', appended],
    ['a configuration that is replaced', 'config.json', replaced],
    ['a tokenizer that goes', 'tokenizer.json', (path) => rmSync(path)],
    ['a chat template that comes', 'chat_template.jinja', (path) => writeFileSync(path, 'x')],
  ])('%s', async (_, name, change) => {
    const dir = await tinyModel();
    await collectGarbage();
    const before = memoryUsage().bytes;
    let steps = 0;
    const loading = CausalLM.fromPretrained(dir, {
      onProgress: () => void (++steps === 1 && change(join(dir, name))),
    });
    await expect(loading).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: expect.stringMatching(
        `${name} was changed while .* was read: try again when it is written`,
      ) as string,
    });
    expect(memoryUsage().bytes).toBe(before);
    rmSync(dir, { recursive: true });
  });
});

test('side files that are links to elsewhere are not copied', async () => {
  const model = await load();
  const secret = join(scratch, 'secret');
  writeFileSync(secret, 'secret');
  const link = join(model.directory, 'special_tokens_map.json');
  symlinkSync(secret, link);
  const dir = join(scratch, 'no-secret');
  await expect(model.save(dir)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: `${link} is a link to a file outside its directory: ${secret}`,
  });
  expect(existsSync(dir)).toBe(false);
});

describe('the text model of a model that sees images', () => {
  const ids = [[3, 9, 27, 81, 5]];
  const logitsOf = (model: CausalLM, adapter?: string): ReturnType<Tensor['data']> =>
    model.forward(ids, adapter === undefined ? {} : { adapter }).logits.data();
  const kinds = Object.keys(wrappings) as (keyof typeof wrappings)[];
  const config = { model_type: 'mistral', sliding_window: null, tie_word_embeddings: false };

  test.each(kinds)('names with %s: the same logits, and save writes the text model', async (wrapping) => {
    const plain = await load({ config });
    const dir = await rewrapped(plain.directory, 'mistral3', wrapping, { tie_word_embeddings: false });
    const wrapped = await CausalLM.fromPretrained(dir);
    models.push(wrapped);
    const want = await logitsOf(plain);
    expect(await logitsOf(wrapped)).toEqual(want);
    const out = join(scratch, `text-of-${wrapping}`);
    await wrapped.save(out);
    expect(json(out)).toMatchObject({ model_type: 'mistral', architectures: ['MistralForCausalLM'] });
    const saved = await CausalLM.fromPretrained(out);
    models.push(saved);
    expect(await logitsOf(saved)).toEqual(want);
    expect(wrapped.config.textOf).toBe('mistral3');
    expect(saved.config.textOf).toBeUndefined();
  });

  test('an adapter that was trained in the whole model fits its text model', async () => {
    const model = await load({ config });
    const adapter = model.addAdapter({ r: 2, initLoraWeights: false }, { name: 'own' });
    const dir = join(scratch, 'adapter-of-text');
    await adapter.save(dir);
    const want = await logitsOf(model, 'own');
    const file = join(dir, 'adapter_model.safetensors');
    const { tensors, close } = await openSafetensors(file).then((open) => ({
      tensors: new Map([...open.tensors].map(([name, one]) => [name, { ...one, bytes: one.bytes.slice() }])),
      close: () => open.close(),
    }));
    close();
    for (const prefix of ['model.language_model', 'language_model.model']) {
      const renamed = [...tensors].map(
        ([name, tensor]) =>
          [name.replace('base_model.model.model', `base_model.model.${prefix}`), tensor] as const,
      );
      await writeSafetensors(file, new Map(renamed), { format: 'pt' });
      await model.loadAdapter(dir, { name: prefix });
      expect(await logitsOf(model, prefix)).toEqual(want);
    }
  });

  test('a tensor that is neither of the text model nor of an encoder is named as the file has it', async () => {
    const plain = await load({ config });
    const dir = await rewrapped(plain.directory, 'mistral3', 'language_model.model', {
      tie_word_embeddings: true,
    });
    await expect(CausalLM.fromPretrained(dir)).resolves.toHaveProperty('config.tieWordEmbeddings', true);
    await expect(
      CausalLM.fromPretrained(
        await rewrapped(
          (await load({ config: { ...config, model_type: 'qwen3', head_dim: 6 } })).directory,
          'mistral3',
          'language_model.model',
          { model_type: 'mistral3', tie_word_embeddings: false, text_config: { ...json(plain.directory) } },
        ),
      ),
    ).rejects.toThrow('unexpected language_model.model.layers.0.self_attn.k_norm.weight');
  });
});
