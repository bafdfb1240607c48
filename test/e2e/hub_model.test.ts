/** From an empty folder to a fine-tuned model, by names of the hub alone; and the commands that download, list and remove. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertModel, loadDataset, Trainer, type LoadProgress } from '../../lib/index';
import { commandLine, jsonLines } from '../support/command_line';
import { expectReject } from '../support/errors';
import { hubHome } from '../support/hub_home';
import { folderFiles } from '../support/hub_server';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
const at = hubHome();
const base = join(__dirname, '../../examples/base-model');
const data = join(__dirname, '../../examples/data/train.jsonl');
const commit = 'c0ffee'.padEnd(40, '0');
const id = 'lora/tiny';
const snapshot = (): string => join(at.home, 'hub/models--lora--tiny/snapshots', commit);

beforeEach(() => {
  at.hub.repositories.set(id, { files: folderFiles(base), license: 'mit' });
});

test('a name is downloaded, fine-tuned and generates; its adapter comes back by name, and the model with it', async () => {
  const seen: LoadProgress[] = [];
  const model = await CausalLM.fromPretrained(id, { onProgress: (progress) => seen.push(progress) });
  expect(model.directory).toBe(snapshot());
  expect(readdirSync(snapshot()).sort()).toEqual([
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ]);
  expect([...new Set(seen.map(({ type }) => type))]).toEqual(['repository', 'download', 'weights']);

  model.addAdapter({ r: 4, targetModules: 'all-linear' });
  const dataset = await loadDataset(data, { tokenizer: model.tokenizer, maxLength: 64 });
  const outDir = join(root, 'run');
  const trainer = new Trainer({ model, data: dataset, outDir, maxSteps: 3, batchSize: 2, lr: 5e-3 });
  await trainer.run();
  const prompt = 'On Monday Danor sells three black eggs at the park. ->';
  const options = { maxNewTokens: 12, temperature: 0 };
  const { text } = await model.generate(prompt, options);
  const { base_model_name_or_path: named } = JSON.parse(
    readFileSync(join(outDir, 'adapter_config.json'), 'utf8'),
  ) as Record<string, string>;
  expect(named).toBe(id); // as PEFT has it, and no path of this machine
  expect(readFileSync(join(outDir, 'README.md'), 'utf8')).toContain('base_model: lora/tiny');
  await model.dispose();

  at.hub.repositories.set('lora/json', { files: folderFiles(outDir) });
  const again = await CausalLM.fromPretrained(`hf:${id}@main`, { offline: true });
  await again.loadAdapter('hf:lora/json', { name: 'json', activate: true });
  expect((await again.generate(prompt, options)).text).toBe(text);
  expect(readdirSync(join(at.home, 'hub/models--lora--json/snapshots', commit)).sort()).toEqual([
    'adapter_config.json',
    'adapter_model.safetensors',
  ]);
  await again.dispose();
});

test('a GGUF file of a repository is a model by its name, and what is trained on it names the repository', async () => {
  const file = join(root, 'tiny.gguf');
  await convertModel(await tinyModel(), file, { format: 'f16' });
  at.hub.repositories.set('lora/tiny-gguf', { files: { 'q/tiny.gguf': readFileSync(file) } });
  const model = await CausalLM.fromPretrained('hf:lora/tiny-gguf/q/tiny.gguf');
  expect(model.directory).toBe(join(at.home, 'hub/models--lora--tiny-gguf/snapshots', commit, 'q/tiny.gguf'));
  const adapter = model.addAdapter({ r: 2, targetModules: ['q_proj'] });
  const out = join(root, 'of-gguf');
  await adapter.save(out);
  await model.dispose();
  const config = JSON.parse(readFileSync(join(out, 'adapter_config.json'), 'utf8')) as object;
  expect(config).toMatchObject({ base_model_name_or_path: 'lora/tiny-gguf' });
  // The one model of the repository; nothing is asked of the hub.
  const again = await CausalLM.fromPretrained('hf:lora/tiny-gguf', { offline: true });
  await again.dispose();
  const { status, out: folder } = await commandLine(['download', 'lora/tiny-gguf/q/tiny.gguf']);
  expect([status, folder]).toEqual([0, `${model.directory}\n`]);
  const { status: refused, err } = await commandLine(['models', '--remove', 'lora/tiny-gguf/q/tiny.gguf']);
  expect([refused, err]).toEqual([2, expect.stringContaining('models needs --remove org/name') as unknown]);
});

test('a device that is not there is told before anything is downloaded', async () => {
  await expectReject(
    CausalLM.fromPretrained(`hf:${id}`, { device: 'cuda:77' }),
    'ERR_DEVICE_UNAVAILABLE',
    /./,
  );
  expect(at.hub.seen).toEqual([]);
});

test('the event loop goes on during a download: timers run in time', async () => {
  const files = { ...folderFiles(base), 'model.safetensors': Buffer.alloc(40 * 2 ** 20, 7) };
  at.hub.repositories.set(id, { files });
  let turns = 0;
  const timer = setInterval(() => turns++, 5);
  const { status } = await commandLine(['download', id]);
  clearInterval(timer);
  expect(status).toBe(0);
  expect(turns).toBeGreaterThan(10); // a hash in one piece would let hardly any of them run
});

describe('lora-native', () => {
  const hubName = `hf:${id}`;
  const env = (): void => {
    process.env['HF_TOKEN'] = 'hf_secret';
  };

  test('download says what it is, under which license, and where it is', async () => {
    env();
    at.hub.repositories.get(id)!.gated = 'auto';
    const { status, out, err } = await commandLine(['download', id, '--revision', 'main']);
    expect(status).toBe(0);
    expect(out).toBe(`${snapshot()}\n`);
    expect(err).toContain(
      `lora/tiny at c0ffee000000: license mit; its authors ask you to accept terms on ${at.hub.hub}/lora/tiny\n`,
    );
    expect(err).toMatch(/1\.6 MB of 1\.6 MB {2}\S+\n$/);
    expect(out + err).not.toContain('secret');
    const [json] = jsonLines(await commandLine(['download', hubName, '--json']));
    expect(json).toEqual({ name: hubName, folder: snapshot() });
  });

  test('download rewrites one line on a terminal', async () => {
    const { err } = await commandLine(['download', id], { columns: 60 });
    const bytes = err.slice(err.indexOf('downloading to'));
    expect(
      bytes
        .split('\n')
        .slice(1, -1)
        .every((line) => line.startsWith('\r\x1b[2K')),
    ).toBe(true);
  });

  test('generate, train, merge and inspect take names', async () => {
    const out = join(root, 'by-name');
    const train = [
      'train',
      '--model',
      id,
      '--data',
      data,
      '--out-dir',
      out,
      '--max-steps',
      '1',
      '--batch-size',
      '1',
    ];
    const trained = await commandLine([...train, '--device', 'cpu', '--r', '2']);
    expect([trained.status, trained.err]).toEqual([
      0,
      expect.stringContaining(`there is no folder ${id}: it is taken from the hub`),
    ]);
    at.hub.repositories.set('lora/json', { files: folderFiles(out) });
    const generate = [
      'generate',
      '--model',
      hubName,
      '--adapter',
      'lora/json',
      '--prompt',
      'a',
      '--max-new-tokens',
      '2',
    ];
    expect((await commandLine([...generate, '--device', 'cpu'])).status).toBe(0);
    const merge = [
      'merge',
      '--model',
      hubName,
      '--adapter',
      'hf:lora/json',
      '--out-dir',
      join(root, 'merged'),
    ];
    expect((await commandLine([...merge, '--device', 'cpu'])).status).toBe(0);
    const [model] = jsonLines(await commandLine(['inspect', hubName, '--json']));
    expect(model).toMatchObject({ kind: 'model', path: snapshot() });
    const [adapter] = jsonLines(await commandLine(['inspect', 'hf:lora/json', '--json']));
    expect(adapter).toMatchObject({ kind: 'adapter' });
    const [rows] = jsonLines(await commandLine(['inspect', data, '--model', id, '--json']));
    expect(rows).toMatchObject({ kind: 'data' });
  });

  const tag = 'd0d0'.padEnd(40, '0');
  const words: Record<string, string[]> = {
    download: ['download', id],
    inspect: ['inspect', id],
    'inspect of data': ['inspect', data, '--model', id],
    estimate: ['estimate', '--model', id],
    generate: ['generate', '--model', id, '--prompt', 'a', '--max-new-tokens', '1', '--device', 'cpu'],
  };

  test.each(Object.entries(words))('%s takes --revision, and --offline', async (_what, argv) => {
    at.hub.repositories.get(id)!.refs = { main: commit, v1: tag };
    const there = await commandLine([...argv, '--revision', 'v1']);
    expect([there.status, there.err]).toEqual([0, expect.stringContaining('lora/tiny at d0d000000000')]);
    expect(readdirSync(join(at.home, 'hub/models--lora--tiny/snapshots'))).toEqual([tag]);
    at.hub.reset();
    const again = await commandLine([...argv, '--revision', 'v1', '--offline']);
    expect([again.status, at.hub.seen]).toEqual([0, []]);
    const main = await commandLine([...argv, '--offline']);
    expect([main.status, main.err, at.hub.seen]).toEqual([1, expect.stringContaining('offline'), []]);
  });

  test('--offline holds for the adapter too, and --revision is for a name of the hub', async () => {
    const generate = ['generate', '--model', base, '--prompt', 'a', '--device', 'cpu'];
    const adapter = await commandLine([...generate, '--adapter', 'lora/none', '--offline']);
    expect([adapter.status, at.hub.seen]).toEqual([1, []]);
    expect(await commandLine([...generate, '--revision', 'v1'])).toMatchObject({
      status: 2,
      err: expect.stringContaining('expected no revision, which is for a name of the hub') as string,
    });
  });

  test('inspect of data downloads the tokenizer alone', async () => {
    expect((await commandLine(['inspect', data, '--model', hubName])).status).toBe(0);
    expect(readdirSync(snapshot())).not.toContain('model.safetensors');
    expect(at.hub.lines.filter((line) => line.startsWith('store'))).toEqual([]);
  });

  test('models lists what the cache holds, with what is not complete', async () => {
    const none = await commandLine(['models']);
    expect([none.status, none.out, none.err]).toEqual([0, '', `${join(at.home, 'hub')}: no models\n`]);
    await commandLine(['download', id]);
    writeFileSync(join(at.home, 'hub/models--lora--tiny/blobs/x.incomplete'), Buffer.alloc(5000));
    mkdirSync(join(at.home, 'hub/spaces--a--b'));
    const { out } = await commandLine(['models']);
    const today = new Date().toISOString().slice(0, 10);
    expect(out).toBe(
      `lora/tiny  1.6 MB  ${today}  (5.0 kB of files that are not complete)\n  c0ffee000000  5 files  main\n`,
    );
    const [json] = jsonLines(await commandLine(['models', '--json']));
    expect(json).toMatchObject({
      cache: join(at.home, 'hub'),
      models: [{ id, incompleteBytes: 5000, revisions: [{ commit, refs: ['main'], files: 5 }] }],
    });
  });

  test('models --remove takes one out, and no other', async () => {
    at.hub.repositories.set('lora/other', { files: folderFiles(base) });
    await commandLine(['download', id]);
    await commandLine(['download', 'lora/other']);
    const { status, err } = await commandLine(['models', '--remove', id]);
    expect([status, err]).toEqual([0, 'removed lora/tiny: 1.6 MB\n']);
    expect(readdirSync(join(at.home, 'hub')).sort()).toEqual(['.locks', 'models--lora--other']);
    expect(await commandLine(['models', '--remove', id])).toMatchObject({ status: 1 });
    expect(await commandLine(['models', '--remove', '../x'])).toMatchObject({ status: 2 });
  });

  test('models --remove takes no link to elsewhere', async () => {
    const outside = join(root, 'outside');
    mkdirSync(outside);
    writeFileSync(join(outside, 'mine'), 'x');
    mkdirSync(join(at.home, 'hub'));
    symlinkSync(outside, join(at.home, 'hub/models--lora--tiny'));
    expect(await commandLine(['models', '--remove', id])).toMatchObject({ status: 1 });
    expect(existsSync(join(outside, 'mine'))).toBe(true);
  });

  test('doctor tells the cache and where the token is, and never the token', async () => {
    env();
    const { out } = await commandLine(['doctor', '--json']);
    expect(JSON.parse(out)).toMatchObject({
      hub: at.hub.hub,
      'hub cache': join(at.home, 'hub'),
      'hub token': 'HF_TOKEN',
    });
    expect(out).not.toContain('secret');
    delete process.env['HF_TOKEN'];
    writeFileSync(join(at.home, 'token'), 'hf_secret');
    process.env['HF_HUB_OFFLINE'] = '1';
    const other = await commandLine(['doctor']);
    expect(other.out).toMatch(new RegExp(`hub token +${join(at.home, 'token')}\n`));
    expect(other.out).toMatch(/hub +\S+, of which nothing is asked: HF_HUB_OFFLINE\n/);
    expect(other.out).not.toContain('secret');
    process.env['HF_ENDPOINT'] = 'nonsense';
    expect((await commandLine(['doctor'])).out).toContain('[doctor] expected HF_ENDPOINT to be an address');
  });

  test.each([
    [
      'a path',
      ['download', './org/name'],
      2,
      'download needs a name of the hub, such as org/name or org/name/FILE.gguf, but received "./org/name"',
    ],
    ['no name', ['download'], 2, 'download needs a NAME'],
    [
      'an unknown model',
      ['download', 'org/none'],
      1,
      '[download] the hub has no model org/none, or it is private',
    ],
  ])('download of %s says so', async (_what, argv, status, message) => {
    const outcome = await commandLine(argv);
    expect([outcome.status, outcome.err]).toEqual([status, expect.stringContaining(message)]);
  });
});

test('names and messages of a server reach a terminal spelt out', async () => {
  at.hub.repositories.get(id)!.license = '\u001b[2J';
  expect((await commandLine(['download', id])).err).toContain('license \\u001b[2J');
});
