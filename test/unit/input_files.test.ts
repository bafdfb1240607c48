/** Everything that reads a file by its name takes regular files only: a FIFO there holds nothing and nobody. */
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  loadCheckpoint,
  loadDataset,
  openSafetensors,
  readAdapter,
  saveCheckpoint,
} from '../../lib/index';
import { InputFile } from '../../lib/formats/input';
import { writeAdapter } from '../../lib/peft/adapter_files';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
const onPosix = process.platform === 'win32' ? describe.skip : describe;
/** A copy of a folder with a FIFO in the place of one of its files. */
function withFifo(from: string, name: string): string {
  const dir = mkdtempSync(join(root, 'fifo-'));
  for (const file of readdirSync(from)) if (file !== name) copyFileSync(join(from, file), join(dir, file));
  fifo(join(dir, name));
  return dir;
}
function fifo(path: string): string {
  rmSync(path, { force: true });
  expect(spawnSync('mkfifo', [path]).status).toBe(0);
  return path;
}
const sentence = (path: string): RegExp =>
  new RegExp(`cannot (read|open) ${path.replaceAll('.', '\\.')}: it is (a FIFO, )?not a regular file`);

onPosix('a FIFO', () => {
  let model: string;
  beforeAll(async () => {
    model = await tinyModel({ generation: { eos_token_id: 9 } });
    writeFileSync(join(model, 'chat_template.jinja'), 'x');
  });
  afterAll(() => rmSync(model, { recursive: true, force: true }));

  test.each([
    'config.json',
    'generation_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'chat_template.jinja',
    'model.safetensors',
  ])('as %s of a model is refused', async (name) => {
    const dir = withFifo(model, name);
    await expectReject(CausalLM.fromPretrained(dir), 'ERR_FILE', sentence(join(dir, name)));
  });

  test('as the index of shards, or as a shard, is refused', async () => {
    const index = withFifo(model, 'model.safetensors.index.json');
    rmSync(join(index, 'model.safetensors'));
    await expectReject(
      CausalLM.fromPretrained(index),
      'ERR_FILE',
      sentence(join(index, 'model.safetensors.index.json')),
    );
    const shards = withFifo(model, 'one.safetensors');
    rmSync(join(shards, 'model.safetensors'));
    writeFileSync(
      join(shards, 'model.safetensors.index.json'),
      JSON.stringify({ weight_map: { a: 'one.safetensors' } }),
    );
    await expectReject(
      CausalLM.fromPretrained(shards),
      'ERR_FILE',
      sentence(join(shards, 'one.safetensors')),
    );
  });

  test.each(['adapter_config.json', 'adapter_model.safetensors'])('as %s is refused', async (name) => {
    const whole = join(root, 'adapter');
    await writeAdapter(whole, {
      config: { peft_type: 'LORA', r: 1 },
      tensors: new Map([['w', { dtype: 'U8', shape: [1], bytes: Uint8Array.of(7) }]]),
    });
    const dir = withFifo(whole, name);
    await expectReject(readAdapter(dir), 'ERR_FILE', sentence(join(dir, name)));
  });

  test('as a safetensors file, a checkpoint or data is refused', async () => {
    const path = fifo(join(root, 'x.safetensors'));
    await expectReject(openSafetensors(path), 'ERR_FILE', sentence(path));
    await saveCheckpoint(join(root, 'state'), { step: 1 });
    const dir = withFifo(join(root, 'state'), 'checkpoint.safetensors');
    await expectReject(loadCheckpoint(dir), 'ERR_FILE', sentence(join(dir, 'checkpoint.safetensors')));
    for (const name of ['data.jsonl', 'data.txt', 'data.jsonl.gz']) {
      const data = fifo(join(root, name));
      await expectReject(loadDataset(data), 'ERR_FILE', sentence(data));
    }
  });
});

onPosix('what else is no regular file', () => {
  test('is refused by what it is', async () => {
    await expectReject(
      loadDataset('/dev/zero'),
      'ERR_FILE',
      /cannot read \/dev\/zero: it is a device, not a regular file/,
    );
    const dir = join(root, 'folder.jsonl');
    mkdirSync(dir);
    await expectReject(
      loadDataset(dir),
      'ERR_FILE',
      /: expected train\.jsonl \(or .*\) in it but received none$/,
    );
  });
});

type Change = (path: string) => void;
test.each<[string, Change, named: boolean, refused: boolean]>([
  ['nothing', () => undefined, true, false],
  ['more bytes', (path) => (appendFileSync(path, '!'), utimesSync(path, 1, 1)), false, true],
  ['others of the same number', (path) => (writeFileSync(path, 'def'), utimesSync(path, 2, 2)), false, true],
  ['another file of its name', (path) => renameSync(`${path}.new`, path), true, true],
  ['the same, where the name does not matter', (path) => renameSync(`${path}.new`, path), false, false],
])('a file that was written while it was read: %s', async (_, change, named, refused) => {
  const path = join(mkdtempSync(join(root, 'written-')), 'file');
  for (const name of [path, `${path}.new`]) {
    writeFileSync(name, 'abc');
    utimesSync(name, 1, 1);
  }
  const file = await InputFile.open(path);
  try {
    await file.checkUnchanged(named);
    change(path);
    const unchanged = file.checkUnchanged(named);
    if (!refused) await unchanged;
    else
      await expectReject(
        unchanged,
        'ERR_FILE',
        `${path} was changed while it was read: try again when it is written`,
      );
  } finally {
    await file.close();
  }
});
