import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  mkdirSync,
  promises as fs,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { saveCheckpoint } from '../../lib/formats/checkpoint';
import { makeDirectory, stageFile, writeFileAtomic, type Piece } from '../../lib/formats/atomic';
import { saveTogether, SavedFolder } from '../../lib/formats/file_group';
import { readJson } from '../../lib/formats/json';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let count = 0;
/** An empty folder of its own for each test. */
function fresh(): string {
  const dir = join(root, String(count++));
  mkdirSync(dir);
  return dir;
}
const detach = ({ buffer }: Uint8Array): void =>
  void structuredClone(buffer, { transfer: [buffer as ArrayBuffer] });

const whole = (...list: Uint8Array[]): Piece[] => list.map((bytes) => ({ bytes, length: bytes.length }));

describe('writeFileAtomic', () => {
  test('writes text, bytes and pieces of any size, and leaves nothing else', async () => {
    const dir = fresh();
    await writeFileAtomic(join(dir, 'text'), 'é');
    await writeFileAtomic(join(dir, 'bytes'), Uint8Array.of(1, 2));
    const pieces = [1, 300_000, 0, 5, 262_145, 262_144, 262_143, 2].map((n, i) =>
      new Uint8Array(n).fill(i + 1),
    );
    await writeFileAtomic(join(dir, 'pieces'), whole(...pieces));
    expect(readFileSync(join(dir, 'text'), 'utf8')).toBe('é');
    expect([...readFileSync(join(dir, 'bytes'))]).toEqual([1, 2]);
    expect(readFileSync(join(dir, 'pieces')).equals(Buffer.concat(pieces))).toBe(true);
    expect(readdirSync(dir).sort()).toEqual(['bytes', 'pieces', 'text']);
  });

  test.each([300_000, 200_000])('bytes that go while those before them are written: %i', async (length) => {
    const dir = fresh();
    const bytes = new Uint8Array(length);
    const { open } = fs;
    jest.spyOn(fs, 'open').mockImplementation(async (...args) => {
      const handle = await open(...args);
      const write = handle.write.bind(handle) as (...args: unknown[]) => Promise<{ bytesWritten: number }>;
      handle.write = (async (...args: unknown[]) => {
        const written = await write(...args);
        if (bytes.length > 0) detach(bytes);
        return written;
      }) as typeof handle.write;
      return handle;
    });
    const pieces = whole(new Uint8Array(100_000), bytes);
    const error: unknown = await writeFileAtomic(join(dir, 'file'), pieces).catch((e: unknown) => e);
    jest.restoreAllMocks();
    expect(error).toMatchObject({ code: 'ERR_DISPOSED' });
    expect(readdirSync(dir)).toEqual([]);
  });

  test('keeps the old file and removes the temporary one when it fails', async () => {
    const dir = fresh();
    const path = join(dir, 'file');
    await writeFileAtomic(path, 'old');
    for (const length of [5, 300_000]) {
      const bytes = new Uint8Array(length);
      const writing = writeFileAtomic(path, whole(new Uint8Array(300_000), bytes));
      detach(bytes);
      await expect(writing).rejects.toMatchObject({
        code: 'ERR_DISPOSED',
        message: `the bytes for ${path} were released while it was written`,
      });
    }
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(dir)).toEqual(['file']);
  });

  test('says what is wrong with the path', async () => {
    const dir = fresh();
    const below = join(dir, 'missing', 'file');
    await expect(writeFileAtomic(below, '')).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${below}: the directory ${join(dir, 'missing')} does not exist`,
    });
    mkdirSync(join(dir, 'folder', 'full'), { recursive: true });
    await expect(writeFileAtomic(join(dir, 'folder'), '')).rejects.toMatchObject({ code: 'ERR_FILE' });
    expect(readdirSync(dir)).toEqual(['folder']);
  });

  test('a staged file has no name until it is committed', async () => {
    const dir = fresh();
    const staged = await stageFile(join(dir, 'a'), 'x');
    expect(readdirSync(dir)).toHaveLength(1);
    expect(readdirSync(dir)).not.toContain('a');
    await staged.discard();
    expect(readdirSync(dir)).toEqual([]);
  });
});

test('a system that takes no more bytes, and says no error, is one', async () => {
  const dir = fresh();
  const open = fs.open;
  const opened = jest.spyOn(fs, 'open').mockImplementation(async (...args) => {
    const handle = await open(...args);
    let calls = 0;
    handle.write = (() => {
      if (++calls > 100) throw new Error('an endless loop');
      return Promise.resolve({ bytesWritten: 0 });
    }) as never;
    return handle;
  });
  await expect(writeFileAtomic(join(dir, 'file'), new Uint8Array(9))).rejects.toMatchObject({
    code: 'ERR_DISPOSED',
  });
  opened.mockRestore();
  expect(readdirSync(dir)).toEqual([]);
});

test('bytes that are released while a piece is written are an error, not an endless loop', async () => {
  const dir = fresh();
  const path = join(dir, 'file');
  const bytes = new Uint8Array(64 * 2 ** 20);
  const write = fs.open;
  const opened = jest.spyOn(fs, 'open').mockImplementation(async (...args) => {
    const handle = await write(...args);
    const inner = handle.write.bind(handle) as (...all: unknown[]) => Promise<{ bytesWritten: number }>;
    // A part of what was asked, and then the view is gone.
    handle.write = (async (from: Uint8Array, at: number) => {
      const result = await inner(from, at, Math.min(from.length - at, 1000));
      if (bytes.length > 0) detach(bytes);
      return result;
    }) as never;
    return handle;
  });
  await expect(writeFileAtomic(path, bytes)).rejects.toMatchObject({
    code: 'ERR_DISPOSED',
    message: `the bytes for ${path} were released while it was written`,
  });
  opened.mockRestore();
  expect(readdirSync(dir)).toEqual([]);
});

test('a program that may not ask for the name of the machine writes, and what it left stays for a day', async () => {
  jest.resetModules();
  jest.doMock('node:os', () => ({
    hostname: () => {
      throw new Error('Requires sys access to "hostname"'); // as Deno has it
    },
  }));
  try {
    const { sweep, temporaryBeside } = await import('../../lib/formats/temporary');
    const dir = fresh();
    const left = temporaryBeside(join(dir, 'a.txt'));
    writeFileSync(left, 'half');
    const other = join(dir, `.b.txt.${process.pid}-${'0'.repeat(16)}.tmp`);
    writeFileSync(other, 'half');
    await sweep(dir, () => true);
    expect(
      readdirSync(dir)
        .map((name) => join(dir, name))
        .sort(),
    ).toEqual([left, other].sort());
  } finally {
    jest.dontMock('node:os');
    jest.resetModules();
  }
});

test('a file keeps its mode when it is replaced', async () => {
  const dir = fresh();
  const path = join(dir, 'config.json');
  writeFileSync(path, 'old', { mode: 0o600 });
  await writeFileAtomic(path, 'new');
  expect(statSync(path).mode & 0o777).toBe(0o600);
  await saveTogether(dir, async (folder) => writeFileSync(join(folder, 'config.json'), 'newer'));
  expect([readFileSync(path, 'utf8'), statSync(path).mode & 0o777]).toEqual(['newer', 0o600]);
});

describe('makeDirectory', () => {
  test('makes parents, and says why it cannot', async () => {
    const dir = fresh();
    await makeDirectory(join(dir, 'a', 'b', 'c'));
    expect(readdirSync(join(dir, 'a', 'b'))).toEqual(['c']);
    await makeDirectory(join(dir, 'a', 'b', 'c'));
    writeFileSync(join(dir, 'file'), '');
    await expect(makeDirectory(join(dir, 'file'))).rejects.toThrow(`${join(dir, 'file')} is not a directory`);
    await expect(makeDirectory(join(dir, 'file', 'deep'))).rejects.toMatchObject({ code: 'ENOTDIR' });
  });

  test('says that a file system is read-only, not that there is no such file', async () => {
    const dir = fresh();
    // As a file system that is read-only answers: Node's recursive mkdir then says ENOENT.
    const mkdir = jest.spyOn(fs, 'mkdir').mockImplementation(async (_, options) => {
      const code = (options as { recursive?: boolean } | undefined)?.recursive ? 'ENOENT' : 'EROFS';
      throw Object.assign(new Error(code), { code, syscall: 'mkdir' });
    });
    await expect(saveTogether(join(dir, 'a', 'b'), async () => {})).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${join(dir, 'a', 'b')}: the file system is read-only`,
    });
    await expect(saveCheckpoint(join(dir, 'c', 'd'), { step: 1 })).rejects.toThrow(
      'the file system is read-only',
    );
    mkdir.mockRestore();
  });
});

describe('saveTogether', () => {
  const fill = (text: string) => async (folder: string) => writeFileSync(join(folder, 'README.md'), text);

  test('makes a directory with its parents, and leaves what else there is in one that exists', async () => {
    const dir = join(fresh(), 'deep', 'run');
    await saveTogether(dir, fill('one'));
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('one');
    writeFileSync(join(dir, 'mine'), '');
    mkdirSync(join(dir, 'folder'));
    await saveTogether(dir, fill('two'));
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('two');
    expect(readdirSync(dir).sort()).toEqual(['README.md', 'folder', 'mine']);
    expect(readdirSync(join(dir, '..'))).toEqual(['run']);
  });

  test('keeps everything when the writer fails, and leaves nothing else', async () => {
    const parent = fresh();
    const dir = join(parent, 'run');
    await saveTogether(dir, fill('old'));
    const fail = async (folder: string): Promise<void> => {
      await fill('new')(folder);
      expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('old');
      throw new Error('the writer failed');
    };
    await expect(saveTogether(dir, fail)).rejects.toThrow('the writer failed');
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('old');
    expect([readdirSync(parent), readdirSync(dir)]).toEqual([['run'], ['README.md']]);
  });

  test('does not put a directory in the place of a file', async () => {
    const parent = fresh();
    writeFileSync(join(parent, 'run'), 'a file');
    await expect(saveTogether(join(parent, 'run'), fill('x'))).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${join(parent, 'run')}: it exists and is not a directory`,
    });
    expect(readdirSync(parent)).toEqual(['run']);
  });

  test('takes away what is obsolete, of the files of a model alone', async () => {
    const dir = fresh();
    for (const name of ['vocab.txt', 'merges.txt', 'notes.txt']) writeFileSync(join(dir, name), name);
    mkdirSync(join(dir, 'tokenizer.json'));
    await saveTogether(dir, fill('x'), ['vocab.txt', 'notes.txt', 'tokenizer.json']);
    expect(readdirSync(dir).sort()).toEqual(['README.md', 'merges.txt', 'notes.txt', 'tokenizer.json']);
  });

  test('many saves to one new path: each succeeds, and the last is there', async () => {
    const dir = join(fresh(), 'deep', 'run');
    await Promise.all(Array.from({ length: 20 }, (_, i) => saveTogether(dir, fill(String(i)))));
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('19');
    expect([readdirSync(dir), readdirSync(join(dir, '..'))]).toEqual([['README.md'], ['run']]);
  });

  test('a folder that another process makes meanwhile is filled, not an error', async () => {
    const dir = join(fresh(), 'run');
    await saveTogether(dir, async (folder) => {
      mkdirSync(dir);
      writeFileSync(join(dir, 'README.md'), 'of another');
      await fill('mine')(folder);
    });
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('mine');
    expect([readdirSync(dir), readdirSync(join(dir, '..'))]).toEqual([['README.md'], ['run']]);
  });

  test('what killed processes left goes with the next save; what living ones write stays', async () => {
    const dir = fresh();
    const host = createHash('sha256').update(hostname()).digest('hex').slice(0, 8);
    const dead = spawnSync('true').pid;
    const name = (pid: number, from = host): string => `.save.${pid}-${from}00000000.tmp`;
    const others = '0'.repeat(8);
    for (const entry of [name(dead), name(process.ppid), name(dead, others)]) {
      mkdirSync(join(dir, entry));
      writeFileSync(join(dir, entry, 'README.md'), 'half');
    }
    for (const rest of [`${host}00000000`, '01234567'])
      // the second as the first versions wrote it
      writeFileSync(join(dir, `.README.md.${dead}-${rest}.tmp`), 'half');
    await saveTogether(dir, fill('x'));
    await writeFileAtomic(join(dir, 'README.md'), 'y');
    // Of a process that runs, and of another machine.
    expect(readdirSync(dir).sort()).toEqual([name(process.ppid), name(dead, others), 'README.md'].sort());
    const old = new Date(Date.now() - 2 * 24 * 60 * 60 * 1000);
    utimesSync(join(dir, name(dead, others)), old, old);
    await saveTogether(dir, fill('x'));
    expect(readdirSync(dir).sort()).toEqual([name(process.ppid), 'README.md'].sort());
  });

  test('a checkpoint that was killed goes with the next one, and with the adapter of the run', async () => {
    const run = fresh();
    const host = createHash('sha256').update(hostname()).digest('hex').slice(0, 8);
    const half = join(run, `.checkpoint-3.${spawnSync('true').pid}-${host}00000000.tmp`);
    for (const next of [join(run, 'checkpoint-4'), run]) {
      mkdirSync(half);
      await saveTogether(next, fill('x'));
      expect(readdirSync(run).filter((name) => name.startsWith('.'))).toEqual([]);
    }
  });

  test('a save that was stopped half-way is read as if it were done, and the next one finishes it', async () => {
    const dir = fresh();
    for (const name of ['config.json', 'tokenizer.json', 'vocab.txt']) writeFileSync(join(dir, name), 'old');
    mkdirSync(join(dir, '.lora-native-save'));
    writeFileSync(join(dir, '.lora-native-save', 'tokenizer.json'), 'new');
    writeFileSync(join(dir, '.lora-native-save', '.removed'), '["vocab.txt"]');
    const folder = await SavedFolder.open(dir);
    const names = ['config.json', 'tokenizer.json'];
    expect([...folder.names].sort()).toEqual(names);
    expect(names.map((name) => readFileSync(folder.file(name).path, 'utf8'))).toEqual(['old', 'new']);
    await saveTogether(dir, fill('x'));
    expect(readdirSync(dir).sort()).toEqual(['README.md', ...names]);
    expect(readFileSync(join(dir, 'tokenizer.json'), 'utf8')).toBe('new');
  });

  test('what a stopped save brings and the next one does not have goes', async () => {
    const dir = fresh();
    mkdirSync(join(dir, '.lora-native-save'));
    for (const name of ['README.md', 'vocab.txt'])
      writeFileSync(join(dir, '.lora-native-save', name), 'stopped');
    await saveTogether(dir, fill('x'), ['vocab.txt']);
    expect(readdirSync(dir)).toEqual(['README.md']);
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('x');
  });
});

describe('readJson', () => {
  const read = (content: string | Uint8Array): Promise<unknown> => {
    const path = join(fresh(), 'x.json');
    writeFileSync(path, content);
    return readJson(path);
  };

  test('reads JSON, with or without a byte order mark', async () => {
    expect(await read('{"a": [1, null]}')).toEqual({ a: [1, null] });
    expect(await read('\ufeff[]')).toEqual([]);
  });

  test('says why a file cannot be read', async () => {
    await expect(readJson(join(root, 'none.json'))).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot read ${join(root, 'none.json')}: no such file`,
    });
    await expect(read('{')).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: expect.stringMatching(
        /x\.json is not valid JSON: expected a name in double quotes at character 1$/,
      ),
    });
    for (const [text, fault] of [
      ['{\n "é" 1}', 'expected ":" at line 2, character 5'],
      [`[1]${']'.repeat(2 ** 20)}`, 'it is too long to say where'],
    ])
      await expect(read(text!)).rejects.toThrow(`is not valid JSON: ${fault}`);
    await expect(read(Uint8Array.of(0xff))).rejects.toThrow('is not UTF-8 text');
    await expect(read('version https://git-lfs.github.com/spec/v1')).rejects.toThrow('is a Git LFS pointer');
    await expect(read('<html></html>')).rejects.toThrow('is an HTML page');
  });
});
