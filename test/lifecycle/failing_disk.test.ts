/**
 * Saves by the built package on a disk that answers with errors: each call that changes a file fails once, or it and all that follow.
 * A library that is loaded before the system's gives the errors, so that they take the way of real ones.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runChild } from '../support/child';
import { smallDisk } from '../support/small_disk';
import { temporaryFolder } from '../support/temporary';

const scratch = realpathSync(temporaryFolder());
const compiler = process.env['CXX'] ?? 'g++';
const missing =
  process.platform !== 'linux'
    ? 'LD_PRELOAD is of Linux'
    : spawnSync(compiler, ['--version']).status !== 0
      ? `no ${compiler}`
      : undefined;
const testOnLinux: (name: string, body: () => void) => void = (name, body) =>
  missing === undefined ? test(name, body, 120_000) : test.skip(`${name} (skipped: ${missing})`, body);

/**
 * Statements of a program: `saves` has every kind of save as { before, save, load }, each of a folder; `fresh()` makes one with the
 * old state, and `state` says what a load of it gives.
 */
const program = `
  const fs = require('node:fs');
  const { join } = require('node:path');
  const { createHash } = require('node:crypto');
  const { isDeepStrictEqual } = require('node:util');
  const { DIR: root, BASE: base } = process.env;
  const adapter = (alpha) => ({
    config: { peft_type: 'LORA', r: 1, lora_alpha: alpha },
    tensors: new Map([['w', { dtype: 'U8', shape: [3], bytes: Uint8Array.of(alpha, alpha, alpha) }]]),
  });
  const digest = (path) => createHash('sha256').update(fs.readFileSync(path)).digest('hex').slice(0, 8);
  const model = await lora.CausalLM.fromPretrained(base);
  model.addAdapter({ r: 1, targetModules: ['q_proj'] }, { name: 'one' });
  const readAdapter = async (dir) => {
    const { config, tensors } = await lora.readAdapter(dir);
    return [config, [...tensors.get('w').bytes]];
  };
  const saves = {
    'an adapter over another': {
      before: (dir) => lora.writeAdapter(dir + '/a', adapter(1)),
      save: (dir) => lora.writeAdapter(dir + '/a', adapter(2)),
      load: (dir) => readAdapter(dir + '/a'),
    },
    'an adapter into a new folder': {
      before: () => undefined,
      save: (dir) => lora.writeAdapter(dir + '/deep/a', adapter(2)),
      load: async (dir) => fs.existsSync(dir + '/deep/a') && readAdapter(dir + '/deep/a'),
    },
    'a checkpoint over another': {
      before: (dir) => lora.saveCheckpoint(dir + '/c', { step: 1, values: new Float32Array(100) }),
      save: (dir) => lora.saveCheckpoint(dir + '/c', { step: 2, values: new Float32Array(100).fill(2) }),
      load: (dir) => lora.loadCheckpoint(dir + '/c'),
    },
    'a safetensors file over another': {
      before: (dir) => lora.writeSafetensors(dir + '/x', adapter(1).tensors),
      save: (dir) => lora.writeSafetensors(dir + '/x', adapter(2).tensors),
      load: async (dir) => digest(dir + '/x'),
    },
    'a model over another': {
      before: (dir) => {
        fs.mkdirSync(dir + '/m');
        for (const name of ['config.json', 'model.safetensors', 'vocab.txt'])
          fs.writeFileSync(dir + '/m/' + name, 'old');
      },
      save: (dir) => model.save(dir + '/m'),
      load: async (dir) => {
        const journal = dir + '/m/.lora-native-save/';
        const list = (at) => (fs.existsSync(at) ? fs.readdirSync(at).filter((name) => !name.startsWith('.')) : []);
        // As a reader of this package sees it.
        const gone = fs.existsSync(journal + '.removed') ? JSON.parse(fs.readFileSync(journal + '.removed', 'utf8')) : [];
        const moving = list(journal);
        const names = [...new Set([...list(dir + '/m').filter((name) => !gone.includes(name)), ...moving])].sort();
        return names.map((name) => name + ' ' + digest((moving.includes(name) ? journal : dir + '/m/') + name));
      },
    },
  };
  let count = 0;
  const fresh = async ({ before }) => {
    const dir = join(root, 'run-' + count++);
    fs.mkdirSync(dir);
    await before(dir);
    return dir;
  };
  /** What is hidden below a folder and of no save that is whole. */
  const hidden = (dir) =>
    fs.readdirSync(dir, { recursive: true }).filter((name) => /(^|\\/)\\.[^/]*\\.tmp/.test(name));
`;

testOnLinux('every call that changes a file fails: the old state or the new one is there, whole', () => {
  const library = join(scratch, 'failing_disk.so');
  const source = join(__dirname, 'native/failing_disk.cc');
  const built = spawnSync(compiler, ['-std=c++20', '-shared', '-fPIC', source, '-o', library, '-ldl'], {
    encoding: 'utf8',
  });
  expect(built.stderr).toBe('');
  const dir = join(scratch, 'disk');
  const control = join(scratch, 'control');
  mkdirSync(dir);
  writeFileSync(control, Buffer.alloc(32));
  const body = `${program}
  const { constants } = require('node:os');
  const file = fs.openSync(process.env.LORA_FAILING_CONTROL, 'r+');
  const words = new BigInt64Array(4);
  const set = (code, first = 0, lasts = 0) => {
    words.set([BigInt(code), BigInt(first), BigInt(lasts), 0n]);
    fs.writeSync(file, words, 0, 32, 0);
  };
  const counted = () => (fs.readSync(file, words, 0, 32, 0), Number(words[3]));
  const reasons = {
    EIO: 'the device reports an input or output error',
    EROFS: 'the file system is read-only',
    ENOSPC: 'no space left on the device',
  };
  const faults = [];
  const outcomes = {};
  for (const [name, save] of Object.entries(saves)) {
    const whole = await fresh(save);
    const old = await save.load(whole);
    set(0);
    await save.save(whole);
    const calls = counted();
    const now = await save.load(whole);
    const seen = (outcomes[name] = { calls, old: 0, new: 0 });
    for (const [code, lasts] of [['EIO', 0], ['EIO', 1], ['EROFS', 1], ['ENOSPC', 0]])
      for (let n = 0; n < calls; n += code === 'EIO' && !lasts ? 1 : 3) {
        set(0);
        const dir = await fresh(save);
        set(constants.errno[code], n, lasts);
        const error = await save.save(dir).then(() => undefined, (thrown) => thrown);
        set(0);
        const fail = (why) => faults.push([name, code, lasts, n, why].join(' '));
        if (error && error.code !== 'ERR_FILE') fail(String(error.stack));
        if (error && !error.message.includes(reasons[code])) fail(error.message);
        const found = await save.load(dir).catch((thrown) => thrown.message);
        const is = isDeepStrictEqual(found, now) ? 'new' : isDeepStrictEqual(found, old) && error ? 'old' : 'third';
        if (is === 'third') fail(JSON.stringify(found));
        seen[is]++;
        // What could not be removed has the name of this process, which is alive: it goes when that has ended.
        if (lasts === 0 && hidden(dir).length > 1) fail(hidden(dir).join());
        if (n % 4 === 0) {
          await save.save(dir);
          if (!isDeepStrictEqual(await save.load(dir), now)) fail('the next save');
          if (fs.existsSync(dir + '/m/.lora-native-save')) fail('a journal is left');
        }
        fs.rmSync(dir, { recursive: true });
      }
  }
  report({ faults, outcomes });`;
  const { status, stderr, report } = runChild(body, {
    env: {
      LD_PRELOAD: library,
      LORA_FAILING_DIR: dir,
      LORA_FAILING_CONTROL: control,
      DIR: dir,
      BASE: join(__dirname, '../../examples/base-model'),
    },
    timeout: 110_000,
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  const { faults, outcomes } = report as {
    faults: string[];
    outcomes: Record<string, { calls: number; old: number; new: number }>;
  };
  expect(faults).toEqual([]);
  for (const [name, seen] of Object.entries(outcomes)) {
    // The library has seen the calls.
    expect([name, seen.calls > 3, seen.old > 0, seen.new > 0]).toEqual([name, true, true, true]);
  }
  if (process.env['LORA_CRASH_COUNTS']) process.stdout.write(`${JSON.stringify(outcomes)}\n`);
});

const disk = smallDisk();
const onDisk = typeof disk === 'string' ? test.skip : test;
onDisk(
  `on a small disk${typeof disk === 'string' ? ` (skipped: none can be mounted: ${disk})` : ''}, read-only: every save says so, and changes nothing`,
  () => {
    if (typeof disk === 'string') return;
    const made = runChild(
      `${program}
  for (const save of Object.values(saves)) await fresh(save);`,
      { env: { DIR: disk.dir, BASE: join(__dirname, '../../examples/base-model') } },
    );
    expect(made.stderr).toBe('');
    disk.readOnly(true);
    try {
      const { stderr, report } = runChild(
        `${program}
  const found = [];
  for (const save of Object.values(saves)) {
    const dir = join(root, 'run-' + count++);
    const old = await save.load(dir);
    const error = await save.save(dir).then(() => ({ message: 'it was saved' }), (thrown) => thrown);
    const reason = /: the file system is read-only$/.test(error.message) || error.message;
    found.push([error.code, reason, isDeepStrictEqual(await save.load(dir), old)]);
  }
  report(found);`,
        { env: { DIR: disk.dir, BASE: join(__dirname, '../../examples/base-model') } },
      );
      expect(stderr).toBe('');
      expect(report).toEqual(Array.from({ length: 5 }, () => ['ERR_FILE', true, true]));
    } finally {
      disk.readOnly(false);
    }
  },
);
