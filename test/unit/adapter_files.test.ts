import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { openSafetensors, writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { readAdapter, writeAdapter } from '../../lib/peft/adapter_files';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let count = 0;
const unused = (): string => join(root, String(count++));
/** A folder with the given files. */
function folder(files: Record<string, string> = {}): string {
  const dir = unused();
  mkdirSync(dir);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
  return dir;
}

const config = { r: 1, peft_type: 'LORA', lora_alpha: 2, a_field_of_tomorrow: [0] };
const tensors = new Map<string, SafetensorsTensor>([
  [
    'base_model.model.lm_head.lora_A.weight',
    { dtype: 'F32', shape: [1, 1], bytes: Uint8Array.of(1, 2, 3, 4) },
  ],
]);
const json = JSON.stringify(config);

describe('writeAdapter', () => {
  test('makes a directory as PEFT does', async () => {
    const dir = join(unused(), 'deep');
    await writeAdapter(pathToFileURL(dir), { config, tensors });
    expect(readdirSync(dir).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    expect(readFileSync(join(dir, 'adapter_config.json'), 'utf8')).toBe(
      '{\n  "a_field_of_tomorrow": [\n    0\n  ],\n  "lora_alpha": 2,\n  "peft_type": "LORA",\n  "r": 1\n}',
    );
    const file = await openSafetensors(join(dir, 'adapter_model.safetensors'));
    const digest = createHash('sha256')
      .update(readFileSync(join(dir, 'adapter_config.json')))
      .digest('hex');
    expect({ ...file.metadata }).toEqual({ format: 'pt', 'lora-native.config': digest });
    file.close();
    const read = await readAdapter(dir);
    expect(read.config).toEqual(config);
    expect([...read.tensors]).toEqual([...tensors]);
  });

  test('leaves the other files of a directory that exists', async () => {
    const dir = folder({ 'README.md': 'mine', 'adapter_config.json': '{}' });
    await writeAdapter(dir, { config, tensors });
    expect(readdirSync(dir).sort()).toEqual([
      'README.md',
      'adapter_config.json',
      'adapter_model.safetensors',
    ]);
    expect((await readAdapter(dir)).config).toEqual(config);
  });

  test('leaves nothing of its own when one of the files cannot be written', async () => {
    const dir = folder({ 'adapter_model.safetensors': 'old' });
    mkdirSync(join(dir, 'adapter_config.json', 'full'), { recursive: true });
    await expect(writeAdapter(dir, { config, tensors })).rejects.toMatchObject({ code: 'ERR_FILE' });
    expect(readdirSync(dir).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);

    const bytes = new Uint8Array(4);
    const writing = writeAdapter(unused(), {
      config,
      tensors: new Map([['w', { dtype: 'F32', shape: [1], bytes }]]),
    });
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    await expect(writing).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(readdirSync(root)).not.toContain(String(count - 1));
    expect(readdirSync(root).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  test('refuses what is not an adapter', async () => {
    const dir = unused();
    const write = (what: object): Promise<void> =>
      writeAdapter(dir, what as Parameters<typeof writeAdapter>[1]);
    await expect(write(undefined as unknown as object)).rejects.toMatchObject({
      code: 'ERR_ARGUMENT',
      message: '[writeAdapter] expected { config, tensors } but received undefined',
    });
    await expect(write({ config: [], tensors })).rejects.toThrow(
      'expected config to be the content of adapter_config.json',
    );
    await expect(write({ config: { r: 8 }, tensors })).rejects.toThrow(
      `with peft_type 'LORA' or 'IA3' or 'BOTTLENECK' or 'PROMPT_TUNING' but received undefined`,
    );
    await expect(write({ config, tensors: {} })).rejects.toMatchObject({
      code: 'ERR_ARGUMENT',
      message: '[writeAdapter] expected a Map of tensors but received an object',
    });
  });
});

describe('readAdapter', () => {
  test('gives copies that no file backs', async () => {
    const dir = unused();
    await writeAdapter(dir, { config, tensors });
    const path = join(dir, 'adapter_model.safetensors');
    const { tensors: read } = await readAdapter(dir);
    writeFileSync(path, '');
    expect([...read.values()].map(({ bytes }) => [...bytes])).toEqual([[1, 2, 3, 4]]);
  });

  const lacking: [string, Record<string, string>, string, string][] = [
    ['the configuration', {}, 'ERR_FILE', 'has no adapter_config.json'],
    ['the weights', { 'adapter_config.json': json }, 'ERR_FILE', 'has no adapter_model.safetensors'],
    [
      'safe weights',
      { 'adapter_config.json': json, 'adapter_model.bin': 'pickle' },
      'ERR_ADAPTER',
      'has its weights only in adapter_model.bin, a Python pickle, which can run any code when it is loaded: ' +
        'convert it to adapter_model.safetensors (in PEFT: save_pretrained with safe_serialization=True)',
    ],
  ];
  test.each(lacking)('says that a directory lacks %s', async (_, files, code, sentence) => {
    const dir = folder(files);
    await expect(readAdapter(dir)).rejects.toMatchObject({ code, message: `${dir} ${sentence}` });
  });

  const bad: [string, string, string, string][] = [
    ['broken JSON', '{', 'ERR_FILE', 'is not valid JSON: '],
    ['a list', '[]', 'ERR_ADAPTER', 'is not a JSON object'],
    [
      'another method',
      '{"peft_type":"PREFIX_TUNING"}',
      'ERR_ADAPTER',
      'has peft_type "PREFIX_TUNING", and only "LORA", "IA3", "BOTTLENECK" and "PROMPT_TUNING" are supported',
    ],
    ['a Git LFS pointer', 'version https://git-lfs.github.com/spec/v1', 'ERR_FILE', 'is a Git LFS pointer'],
  ];
  test.each(bad)('refuses a configuration that is %s', async (_, text, code, sentence) => {
    const dir = folder({ 'adapter_config.json': text, 'adapter_model.safetensors': '' });
    await expect(readAdapter(dir)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(`${join(dir, 'adapter_config.json')} ${sentence}`) as string,
    });
  });

  test('names bad weights, a missing directory, and an adapter one level down', async () => {
    const dir = folder({
      'adapter_config.json': json,
      'adapter_model.safetensors': 'version https://git-lfs.github.com/spec/v1',
    });
    await expect(readAdapter(dir)).rejects.toMatchObject({
      code: 'ERR_SAFETENSORS',
      message: expect.stringContaining('is a Git LFS pointer') as string,
    });
    const missing = unused();
    await expect(readAdapter(missing)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot read the adapter directory ${missing}: no such directory`,
    });
    const outer = folder();
    await writeAdapter(join(outer, 'other'), { config, tensors });
    await expect(readAdapter(outer)).rejects.toThrow(
      `has no adapter_config.json; there is one in ${join(outer, 'other')}`,
    );
  });
});

describe('a configuration that is not the one of the weights', () => {
  const warnings = (): jest.SpyInstance =>
    jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
  afterEach(() => jest.restoreAllMocks());
  const saved = async (): Promise<string> => {
    const dir = unused();
    await writeAdapter(dir, { config, tensors });
    return dir;
  };

  test('was edited by hand: it is read, with a warning', async () => {
    const dir = await saved();
    const warn = warnings();
    expect((await readAdapter(dir)).config).toEqual(config);
    expect(warn).not.toHaveBeenCalled();
    const path = join(dir, 'adapter_config.json');
    writeFileSync(path, JSON.stringify({ ...config, lora_alpha: 8 }));
    expect((await readAdapter(dir)).config).toEqual({ ...config, lora_alpha: 8 });
    expect(warn.mock.calls).toEqual([
      [
        `${path} is not the configuration that the weights beside it were saved with: it was edited, or comes from another adapter`,
        { code: 'LORA_ADAPTER_EDITED' },
      ],
    ]);
  });

  test('is that of a save which was stopped between its two files: the staged one is taken, without a warning', async () => {
    const [dir, next] = [await saved(), unused()];
    await writeAdapter(next, { config: { ...config, lora_alpha: 200 }, tensors });
    copyFileSync(join(next, 'adapter_model.safetensors'), join(dir, 'adapter_model.safetensors'));
    mkdirSync(join(dir, '.lora-native-save'));
    copyFileSync(join(next, 'adapter_config.json'), join(dir, '.lora-native-save', 'adapter_config.json'));
    const warn = warnings();
    expect((await readAdapter(dir)).config).toEqual({ ...config, lora_alpha: 200 });
    expect(warn).not.toHaveBeenCalled();
  });

  test('never comes from saves beside the reader', async () => {
    const dir = await saved();
    const warn = warnings();
    const stop = new AbortController();
    const writer = (async () => {
      for (let i = 1; !stop.signal.aborted; i++) {
        const bytes = Uint8Array.of(i % 256, 0, 0, 0);
        const only = new Map([['w', { dtype: 'F32' as const, shape: [1], bytes }]]);
        await writeAdapter(dir, { config: { ...config, lora_alpha: i % 256 }, tensors: only });
      }
    })();
    for (let i = 0; i < 100; i++) {
      const read = await readAdapter(dir);
      if (read.tensors.has('w')) expect(read.tensors.get('w')!.bytes[0]).toBe(read.config['lora_alpha']);
    }
    stop.abort();
    await writer;
    expect(warn).not.toHaveBeenCalled();
  });
});

describeWithData('adapters of others', 'adapters', (data) => {
  test.each(readdirSync(data).filter((name) => !name.startsWith('mlx')))(
    '%s survives a round trip',
    async (name) => {
      const from = join(data, name);
      const to = unused();
      const adapter = await readAdapter(from);
      await writeAdapter(to, adapter);
      const was = JSON.parse(readFileSync(join(from, 'adapter_config.json'), 'utf8')) as object;
      expect(JSON.parse(readFileSync(join(to, 'adapter_config.json'), 'utf8'))).toEqual(was);
      // The same bytes behind the header, which has the digest of the configuration besides.
      const [a, b] = [from, to].map((dir) => {
        const bytes = readFileSync(join(dir, 'adapter_model.safetensors'));
        const length = Number(bytes.readBigUInt64LE(0));
        const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as { __metadata__: object };
        return { header, data: bytes.subarray(8 + length) };
      });
      expect(a!.data.equals(b!.data)).toBe(true);
      expect(b!.header).toEqual({
        ...a!.header,
        __metadata__: { ...a!.header.__metadata__, 'lora-native.config': expect.any(String) as string },
      });
    },
  );

  test('an MLX adapter is named', async () => {
    await expect(readAdapter(join(data, 'mlx-qwen2.5-0.5b'))).rejects.toMatchObject({
      code: 'ERR_ADAPTER',
      message: expect.stringContaining('is the configuration of an MLX adapter') as string,
    });
    const file = await openSafetensors(join(data, 'mlx-qwen2.5-0.5b', 'adapters.safetensors'));
    expect(file.tensors.size).toBeGreaterThan(0);
    file.close();
  });
});

test('a folder of safetensors alone is no adapter', async () => {
  const dir = folder();
  await writeSafetensors(join(dir, 'adapter_model.safetensors'), tensors);
  await expect(readAdapter(dir)).rejects.toMatchObject({ code: 'ERR_FILE' });
});
