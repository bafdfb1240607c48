/** Folders that came from a stranger: nothing outside them is read, written, moved or removed, and no error tells what a file holds. */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { inspect } from 'node:util';
import { AdamW, CausalLM, loadCheckpoint, readAdapter, saveCheckpoint, writeAdapter } from '../../lib/index';
import { describePath } from '../../lib/cli/inspect';
import { writeFileAtomic } from '../../lib/formats/atomic';
import { readText } from '../../lib/formats/json';
import { openModelTensors } from '../../lib/formats/sharded';
import { writeSafetensors } from '../../lib/formats/safetensors';
import { Tokenizer } from '../../lib/text/tokenizer';
import { AdapterSubject } from '../../lib/train/adapter_subject';
import { OutputDirectory } from '../../lib/train/output';
import { mayWriteCard } from '../../lib/formats/card';
import { newestCheckpoint } from '../../lib/train/resume';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const onPosix = process.platform === 'win32' ? describe.skip : describe;
const root = temporaryFolder();
const journal = '.lora-native-save';
const secret = 'PRIVATE-KEY of the user';

const bytes = { dtype: 'U8' as const, shape: [1], bytes: Uint8Array.of(7) };
const files = { config: { peft_type: 'LORA', r: 1 }, tensors: new Map([['w', bytes]]) };

let fifo: string;
let received: { model: string; adapter: string; checkpoint: string };
/** A folder of the user's beside them. */
let outside: string;

beforeAll(async () => {
  const [adapter, checkpoint] = ['adapter', 'checkpoint'].map((name) => join(root, name)) as [string, string];
  await writeAdapter(adapter, files);
  await saveCheckpoint(checkpoint, { step: 1 });
  const model = join(root, 'model');
  const made = await tinyModel({ config: { num_hidden_layers: 1 }, generation: { eos_token_id: 9 } });
  cpSync(made, model, { recursive: true });
  rmSync(made, { recursive: true });
  writeFileSync(join(model, 'chat_template.jinja'), 'a template');
  received = { model, adapter, checkpoint };
  fifo = join(root, 'fifo');
  if (process.platform !== 'win32') expect(spawnSync('mkfifo', [fifo]).status).toBe(0);
});
beforeEach(() => {
  outside = mkdtempSync(join(root, 'outside-'));
  mkdirSync(join(outside, 'deep'));
  for (const name of ['id_rsa', 'adapter_config.json', 'deep/notes'])
    writeFileSync(join(outside, name), secret);
});

type Kind = keyof typeof received;
/** A copy of a folder, with `change` made to it. */
function copy(kind: Kind, change: (dir: string) => void): string {
  const dir = mkdtempSync(join(root, `${kind}-`));
  cpSync(received[kind], dir, { recursive: true });
  change(dir);
  return dir;
}

/** Everything below a folder: names, links, what files hold. */
function tree(dir: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort()) {
    const stats = lstatSync(join(dir, name));
    if (stats.isSymbolicLink()) found[name] = `→ ${readlinkSync(join(dir, name))}`;
    else if (stats.isFile()) found[name] = readFileSync(join(dir, name), 'latin1');
    else found[name] = stats.isDirectory() ? 'a folder' : 'something else';
  }
  return found;
}

/** What is read of each kind of folder. */
const readers: Record<Kind, Record<string, (dir: string) => Promise<unknown>>> = {
  adapter: { readAdapter, inspect: describePath },
  checkpoint: { loadCheckpoint, inspect: describePath },
  model: {
    fromPretrained: async (dir) => (await CausalLM.fromPretrained(dir)).dispose(),
    tokenizer: (dir) => Tokenizer.fromDirectory(dir),
    inspect: describePath,
  },
};

onPosix('a journal that is not of a save', () => {
  const folder =
    (fill: (dir: string) => void) =>
    (path: string): void => {
      mkdirSync(path);
      fill(path);
    };
  const removed = (text: string) => folder((dir) => writeFileSync(join(dir, '.removed'), text));
  /** How a stranger makes it, and what is said of it. */
  const journals: [string, make: (path: string) => void, says: string][] = [
    ['a link to a folder elsewhere', (path) => symlinkSync(outside, path), 'it is a link'],
    ['a link to a folder beside', (path) => symlinkSync('deep', path), 'it is a link'],
    ['a file', (path) => writeFileSync(path, secret), 'it is not a directory'],
    ['a FIFO', (path) => linkSync(fifo, path), 'it is not a directory'],
    [
      'a folder with a file of another name',
      folder((dir) => writeFileSync(join(dir, 'id_rsa'), secret)),
      'it holds id_rsa',
    ],
    [
      'a folder with a link',
      folder((dir) => symlinkSync(join(outside, 'id_rsa'), join(dir, 'README.md'))),
      'README.md in it is not a regular file',
    ],
    [
      'a folder with a folder',
      folder((dir) => mkdirSync(join(dir, 'adapter_config.json'))),
      'adapter_config.json in it is not a regular file',
    ],
    [
      '.removed is a FIFO',
      folder((dir) => linkSync(fifo, join(dir, '.removed'))),
      '.removed in it is not a regular file',
    ],
    [
      '.removed is a folder',
      folder((dir) => mkdirSync(join(dir, '.removed'))),
      '.removed in it is not a regular file',
    ],
    ['.removed is null', removed('null'), '.removed in it is not a list of names that a save takes away'],
    ['.removed is an object', removed('{}'), '.removed in it is not a list of names that a save takes away'],
    [
      '.removed names other files',
      removed('["id_rsa"]'),
      '.removed in it is not a list of names that a save takes away',
    ],
    ['.removed is no JSON', removed(secret), '.removed is not valid JSON'],
    ['.removed is nested', removed('['.repeat(200) + ']'.repeat(200)), '.removed is nested 128 levels deep'],
  ];

  const acts: [Kind, name: string, act: (dir: string) => Promise<unknown>][] = [
    ['adapter', 'save', (dir) => writeAdapter(dir, files)],
    ['adapter', 'open for a run', (dir) => new OutputDirectory(dir).open(true)],
    ['adapter', 'find a checkpoint', newestCheckpoint],
    ...(['adapter', 'checkpoint', 'model'] as const).flatMap((kind) =>
      Object.entries(readers[kind]).map(([name, act]): (typeof acts)[number] => [kind, name, act]),
    ),
  ];
  // Of each kind of journal one that reads and one that writes, of two all.
  const cases = journals.flatMap(([title, make, says], i) =>
    acts
      .filter(([, name]) => i === 0 || title.endsWith('FIFO') || ['save', 'readAdapter'].includes(name))
      .map(([kind, name, act]) => ({ title, name: `${name} of ${kind}`, make, says, kind, act })),
  );

  test.each(cases)('$title: $name', async ({ make, says, kind, act }) => {
    const dir = copy(kind, (dir) => {
      mkdirSync(join(dir, 'deep'));
      make(join(dir, journal));
    });
    const before = [tree(dir), tree(outside)];
    const error = await expectRefused(act(dir));
    expect(error.message).toContain(join(dir, journal));
    expect(error.message).toContain(says);
    expect([tree(dir), tree(outside)]).toEqual(before);
  });
});

/** The call rejects with ERR_FILE, and neither the error nor its causes hold what the user's file does. */
async function expectRefused(promise: Promise<unknown>): Promise<{ message: string }> {
  const error = await expectReject(promise, 'ERR_FILE', /./);
  expect(inspect(error, { depth: 10 })).not.toContain(secret.slice(0, 7));
  return error as { message: string };
}

onPosix('a link out of the folder', () => {
  const names: [Kind, reader: string, name: string][] = [
    ['adapter', 'readAdapter', 'adapter_config.json'],
    ['adapter', 'readAdapter', 'adapter_model.safetensors'],
    ['adapter', 'inspect', 'adapter_config.json'],
    ['checkpoint', 'loadCheckpoint', 'checkpoint.safetensors'],
    ['checkpoint', 'inspect', 'checkpoint.safetensors'],
    ['model', 'fromPretrained', 'config.json'],
    ['model', 'fromPretrained', 'generation_config.json'],
    ['model', 'fromPretrained', 'model.safetensors'],
    ['model', 'inspect', 'config.json'],
    ['model', 'inspect', 'model.safetensors'],
    ['model', 'tokenizer', 'tokenizer.json'],
    ['model', 'tokenizer', 'tokenizer_config.json'],
    ['model', 'tokenizer', 'chat_template.jinja'],
  ];
  const replace =
    (name: string, target: string) =>
    (dir: string): void => {
      rmSync(join(dir, name));
      symlinkSync(target, join(dir, name));
    };

  test.each(names)('of %s is not read by %s: %s', async (kind, reader, name) => {
    for (const real of [true, false]) {
      const target = join(outside, real ? 'right' : 'id_rsa');
      if (real) cpSync(join(received[kind], name), target);
      const dir = copy(kind, replace(name, target));
      const { message } = await expectRefused(readers[kind][reader]!(dir));
      expect(message).toBe(`${join(dir, name)} is a link to a file outside its directory: ${target}`);
    }
  });

  test.each(names)(
    'that stays in it, or in the cache of the hub, is read: %s %s %s',
    async (kind, reader, name) => {
      const beside = copy(kind, (dir) => cpSync(join(dir, name), join(dir, 'other')));
      replace(name, 'other')(beside);
      await readers[kind][reader]!(beside);

      const cache = join(mkdtempSync(join(root, 'cache-')), 'models--org--name');
      const snapshot = join(cache, 'snapshots', 'abc');
      mkdirSync(join(cache, 'blobs'), { recursive: true });
      cpSync(received[kind], snapshot, { recursive: true });
      cpSync(join(snapshot, name), join(cache, 'blobs', 'f00'));
      replace(name, '../../blobs/f00')(snapshot);
      await readers[kind][reader]!(snapshot);
      // The user's own link to the folder is followed.
      const link = join(cache, 'latest');
      symlinkSync(snapshot, link);
      await readers[kind][reader]!(link);
      // Another repository's blobs are outside.
      const other = join(cache, '..', 'models--org--other', 'blobs', 'f00');
      mkdirSync(dirname(other), { recursive: true });
      cpSync(join(cache, 'blobs', 'f00'), other);
      replace(name, other)(snapshot);
      await expectRefused(readers[kind][reader]!(snapshot));
    },
  );

  test('to an index, a shard, or through a folder', async () => {
    const index = 'model.safetensors.index.json';
    for (const [shard, linked] of [
      ['one.safetensors', index],
      ['one.safetensors', 'one.safetensors'],
      ['deep/one.safetensors', 'deep'],
    ] as const) {
      const dir = mkdtempSync(join(root, 'shards-'));
      mkdirSync(join(dir, 'deep'));
      await writeSafetensors(join(dir, shard), new Map([['a', bytes]]));
      writeFileSync(join(dir, index), JSON.stringify({ weight_map: { a: shard } }));
      await (await openModelTensors(dir)).close();
      const moved = join(mkdtempSync(join(root, 'moved-')), 'moved');
      cpSync(join(dir, linked), moved, { recursive: true });
      rmSync(join(dir, linked), { recursive: true });
      symlinkSync(moved, join(dir, linked));
      await expectReject(openModelTensors(dir), 'ERR_FILE', /is a link to a file outside its directory/);
    }
  });

  test('to a model card is not read, and the card is left alone', async () => {
    const dir = copy('adapter', (dir) => symlinkSync(join(outside, 'id_rsa'), join(dir, 'README.md')));
    expect(await mayWriteCard(dir)).toBe(false);
  });

  test('by a checkpoint of a run is neither gone on from nor written through', async () => {
    const model = await CausalLM.fromPretrained(received.model);
    const adapter = model.addAdapter({ r: 1, targetModules: ['q_proj'] });
    const state = { step: 3, settings: {}, data: '', evaluations: { best: null, waited: 0, at: 0 } };
    const optimizer = new AdamW(adapter.parameters(), { lr: 1 });
    const run = mkdtempSync(join(root, 'run-'));
    symlinkSync(outside, join(run, 'checkpoint-3'));
    const before = tree(outside);
    await expectRefused(
      new OutputDirectory(run).saveCheckpoint(state, new AdapterSubject(model, adapter), optimizer),
    );
    await expectRefused(newestCheckpoint(run));
    expect(tree(outside)).toEqual(before);
    await model.dispose();
  });
});

describe('an error does not tell what a file holds', () => {
  const json: [Kind, reader: string, name: string][] = [
    ['adapter', 'readAdapter', 'adapter_config.json'],
    ['model', 'fromPretrained', 'config.json'],
    ['model', 'fromPretrained', 'generation_config.json'],
    ['model', 'tokenizer', 'tokenizer.json'],
    ['model', 'tokenizer', 'tokenizer_config.json'],
    ['model', 'inspect', 'config.json'],
  ];
  test.each(json)('%s %s %s', async (kind, reader, name) => {
    for (const text of [secret, `"${secret}`, `{"a": ${secret}}`, `{"a": 1} ${secret}`]) {
      const dir = copy(kind, (dir) => writeFileSync(join(dir, name), text));
      const { message } = await expectRefused(readers[kind][reader]!(dir));
      expect(message).toContain(`${join(dir, name)} is not valid JSON`);
    }
  });
});

onPosix('a link at the name of a file that is written', () => {
  const writers: [string, name: string, write: (dir: string) => Promise<unknown>][] = [
    ['saveCheckpoint', 'checkpoint.safetensors', (dir) => saveCheckpoint(dir, { step: 2 })],
    ['writeSafetensors', 'x', (dir) => writeSafetensors(join(dir, 'x'), files.tensors)],
    ['writeFileAtomic', 'x', (dir) => writeFileAtomic(join(dir, 'x'), 'new')],
    ['the configuration of an adapter', 'adapter_config.json', (dir) => writeAdapter(dir, files)],
    ['the weights of an adapter', 'adapter_model.safetensors', (dir) => writeAdapter(dir, files)],
  ];
  test.each(writers)('is replaced: %s', async (_, name, write) => {
    const targets: [string, string][] = [
      ['a file', join(outside, 'id_rsa')],
      ['a folder', outside],
      ['nothing', join(outside, 'new')],
    ];
    for (const [, target] of targets) {
      const dir = mkdtempSync(join(root, 'written-'));
      symlinkSync(target, join(dir, name));
      const before = tree(outside);
      await write(dir);
      expect(lstatSync(join(dir, name)).isFile()).toBe(true);
      expect(tree(outside)).toEqual(before);
    }
  });

  test('goes when it is left of a writer that was killed, and what it leads to stays', async () => {
    const dir = mkdtempSync(join(root, 'swept-'));
    const dead = spawnSync('true').pid;
    const left = `.x.${dead}-01234567.tmp`;
    symlinkSync(outside, join(dir, left));
    const before = tree(outside);
    const user = jest.spyOn(process, 'getuid').mockReturnValue(process.getuid!() + 1);
    await writeFileAtomic(join(dir, 'x'), 'new');
    user.mockRestore();
    expect(readdirSync(dir)).toEqual([left, 'x']); // of another user
    await writeFileAtomic(join(dir, 'x'), 'newer');
    expect(readdirSync(dir)).toEqual(['x']);
    expect(tree(outside)).toEqual(before);
  });

  test('a path that the user names is followed: a file that is read, a folder that is written', async () => {
    const dir = mkdtempSync(join(root, 'named-'));
    symlinkSync(join(outside, 'id_rsa'), join(dir, 'data'));
    expect(await readText(join(dir, 'data'))).toBe(secret);
    symlinkSync(outside, join(dir, 'run'));
    await writeAdapter(join(dir, 'run'), files);
    expect(readlinkSync(join(dir, 'run'))).toBe(outside);
    expect((await readAdapter(outside)).config).toEqual(files.config);
  });
});
