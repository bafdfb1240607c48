import { mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { replaceDirectory, stageFile, writeFileAtomic, type Piece } from '../../lib/formats/atomic';
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

  test('keeps the old file and removes the temporary one when it fails', async () => {
    const dir = fresh();
    const path = join(dir, 'file');
    await writeFileAtomic(path, 'old');
    for (const length of [5, 300_000]) {
      const bytes = new Uint8Array(length);
      const writing = writeFileAtomic(path, whole(new Uint8Array(300_000), bytes));
      detach(bytes);
      await expect(writing).rejects.toMatchObject({
        code: 'ERR_ARGUMENT',
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

  test('follows a symbolic link', async () => {
    const dir = fresh();
    writeFileSync(join(dir, 'real'), 'old');
    symlinkSync('real', join(dir, 'link'));
    await writeFileAtomic(join(dir, 'link'), 'new');
    expect(readFileSync(join(dir, 'real'), 'utf8')).toBe('new');
    expect(readlinkSync(join(dir, 'link'))).toBe('real');
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

describe('replaceDirectory', () => {
  const fill = (text: string) => async (temporary: string) => writeFileSync(join(temporary, 'file'), text);

  test('makes a directory with its parents, and replaces one that is full', async () => {
    const dir = join(fresh(), 'deep', 'run');
    await replaceDirectory(dir, fill('one'));
    expect(readFileSync(join(dir, 'file'), 'utf8')).toBe('one');
    writeFileSync(join(dir, 'stale'), '');
    await replaceDirectory(dir, fill('two'));
    expect(readFileSync(join(dir, 'file'), 'utf8')).toBe('two');
    expect(readdirSync(dir)).toEqual(['file']);
    expect(readdirSync(join(dir, '..'))).toEqual(['run']);
  });

  test('keeps the old directory when the writer fails, and leaves nothing else', async () => {
    const parent = fresh();
    const dir = join(parent, 'run');
    await replaceDirectory(dir, fill('old'));
    const fail = async (temporary: string): Promise<void> => {
      await fill('new')(temporary);
      expect(readFileSync(join(dir, 'file'), 'utf8')).toBe('old');
      throw new Error('the writer failed');
    };
    await expect(replaceDirectory(dir, fail)).rejects.toThrow('the writer failed');
    expect(readFileSync(join(dir, 'file'), 'utf8')).toBe('old');
    expect(readdirSync(parent)).toEqual(['run']);
  });

  test('does not put a directory in the place of a file', async () => {
    const parent = fresh();
    writeFileSync(join(parent, 'run'), 'a file');
    await expect(replaceDirectory(join(parent, 'run'), fill('x'))).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${join(parent, 'run')}: it exists and is not a directory`,
    });
    expect(readdirSync(parent)).toEqual(['run']);
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
      message: expect.stringMatching(/x\.json is not valid JSON: /),
    });
    await expect(read(Uint8Array.of(0xff))).rejects.toThrow('is not UTF-8 text');
    await expect(read('version https://git-lfs.github.com/spec/v1')).rejects.toThrow('is a Git LFS pointer');
    await expect(read('<html></html>')).rejects.toThrow('is an HTML page');
  });
});
