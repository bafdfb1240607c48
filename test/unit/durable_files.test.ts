/** The order of the calls that make files durable, and what is left when one of them fails. */
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { replaceDirectory, stageFile, writeFileAtomic } from '../../lib/formats/atomic';
import { writeAdapter } from '../../lib/peft/adapter_files';
import { systemError, watchFileSystem } from '../support/file_system';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
const disk = watchFileSystem();
let count = 0;
/** An empty folder of its own, to which the recorded paths are relative. */
function fresh(): string {
  const dir = join(root, String(count++));
  mkdirSync(dir);
  disk.root = dir;
  return dir;
}
const content = (...path: string[]): string => readFileSync(join(...path), 'utf8');
const before = (first: string, second: string): boolean =>
  disk.lines.includes(first) && disk.lines.indexOf(first) < disk.lines.indexOf(second);

afterEach(() => expect(disk.openHandles).toBe(0));

describe('a file', () => {
  test('is durable before it gets its name, and then so is the name', async () => {
    const dir = fresh();
    await writeFileAtomic(join(dir, 'a'), 'new');
    expect(disk.lines).toEqual(['create a.tmp', 'sync a.tmp', 'close a.tmp', 'rename a.tmp → a', 'sync .']);
  });

  test('that replaces the target of a link is written beside that target', async () => {
    const dir = fresh();
    mkdirSync(join(dir, 'far'));
    writeFileSync(join(dir, 'far', 'a'), 'old');
    symlinkSync(join('far', 'a'), join(dir, 'link'));
    await writeFileAtomic(join(dir, 'link'), 'new');
    expect(disk.lines).toContain('rename far/a.tmp → far/a');
    expect(disk.lines.at(-1)).toBe('sync far');
    expect(content(dir, 'far', 'a')).toBe('new');
  });

  test.each([
    ['created', 'create a.tmp', 'EACCES', 'permission denied'],
    ['made durable', 'sync a.tmp', 'EIO', 'EIO: made by the test'],
    ['closed', 'close a.tmp', 'ENOSPC', 'no space left on the device'],
    ['renamed', 'rename a.tmp → a', 'EROFS', 'the file system is read-only'],
  ])('that cannot be %s leaves the old one and nothing else', async (_, line, code, reason) => {
    const dir = fresh();
    writeFileSync(join(dir, 'a'), 'old');
    const cause = systemError(code);
    disk.failNext(line, cause);
    await expect(writeFileAtomic(join(dir, 'a'), 'new')).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${join(dir, 'a')}: ${reason}`,
      cause,
    });
    expect(readdirSync(dir)).toEqual(['a']);
    expect(content(dir, 'a')).toBe('old');
  });

  test('is written whole when the system takes only a part of each call', async () => {
    const dir = fresh();
    disk.mostPerWrite = 3;
    const bytes = Uint8Array.from({ length: 10 }, (_, i) => i);
    await writeFileAtomic(join(dir, 'a'), bytes);
    expect([...readFileSync(join(dir, 'a'))]).toEqual([...bytes]);
    expect(disk.asked.slice(-4)).toEqual([10, 7, 4, 1]);
  });

  test('is written in calls of at most 1 GiB', async () => {
    const dir = fresh();
    disk.pretendToWrite = true;
    await writeFileAtomic(join(dir, 'a'), new Uint8Array(2 ** 31 + 5)); // pages that nobody touches cost nothing
    expect(disk.asked).toEqual([2 ** 30, 2 ** 30, 5]);
  });

  test('stays written when its folder cannot be made durable', async () => {
    const dir = fresh();
    disk.failNext('sync .', systemError('EINVAL'));
    await writeFileAtomic(join(dir, 'a'), 'new');
    expect(content(dir, 'a')).toBe('new');
  });

  test('that is staged can be discarded after it was committed', async () => {
    const dir = fresh();
    const staged = await stageFile(join(dir, 'a'), 'new');
    expect(disk.lines).toEqual(['create a.tmp', 'sync a.tmp', 'close a.tmp']);
    await staged.commit();
    await staged.discard();
    expect(readdirSync(dir)).toEqual(['a']);
    expect(content(dir, 'a')).toBe('new');
  });
});

describe('a directory', () => {
  const fill = async (temporary: string): Promise<void> => {
    mkdirSync(join(temporary, 'inner'));
    writeFileSync(join(temporary, 'file'), 'new');
    writeFileSync(join(temporary, 'inner', 'file'), 'new');
  };
  /** A folder with the directory `run`, which holds one old file. */
  const withRun = (): string => {
    const dir = fresh();
    mkdirSync(join(dir, 'run'));
    writeFileSync(join(dir, 'run', 'file'), 'old');
    return dir;
  };

  test('is durable with all that it holds before it gets its name, and then so is the name', async () => {
    const dir = fresh();
    await replaceDirectory(join(dir, 'run'), fill);
    const named = 'rename run.tmp → run';
    expect(before('sync run.tmp/file', named)).toBe(true);
    expect(before('sync run.tmp/inner/file', 'sync run.tmp/inner')).toBe(true);
    expect(before('sync run.tmp/inner', 'sync run.tmp')).toBe(true);
    expect(before('sync run.tmp', named)).toBe(true);
    expect(disk.lines.slice(-2)).toEqual([named, 'sync .']);
  });

  test('steps aside for its successor, and is removed after that', async () => {
    const dir = withRun();
    await replaceDirectory(join(dir, 'run'), fill);
    expect(disk.lines.slice(-4)).toEqual([
      'rename run → run.old',
      'rename run.tmp → run',
      'remove run.old',
      'sync .',
    ]);
    expect(readdirSync(dir)).toEqual(['run']);
  });

  test('is put back when its successor cannot get the name', async () => {
    const dir = withRun();
    const cause = systemError('EXDEV', 'another device');
    disk.failNext('rename run.tmp → run', cause);
    await expect(replaceDirectory(join(dir, 'run'), fill)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${join(dir, 'run')}: another device`,
      cause,
    });
    expect(disk.lines).toContain('rename run.old → run');
    expect(readdirSync(dir)).toEqual(['run']);
    expect(readdirSync(join(dir, 'run'))).toEqual(['file']);
    expect(content(dir, 'run', 'file')).toBe('old');
  });

  test.each([
    ['step aside', 'rename run → run.old', 'EPERM', 'permission denied'],
    ['be made durable', 'sync run.tmp/file', 'EIO', 'EIO: made by the test'],
    ['be begun', 'mkdir run.tmp', 'EACCES', 'permission denied'],
  ])('stays as it was when one cannot %s', async (_, line, code, reason) => {
    const dir = withRun();
    disk.failNext(line, systemError(code));
    await expect(replaceDirectory(join(dir, 'run'), fill)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${join(dir, 'run')}: ${reason}`,
    });
    expect(readdirSync(dir)).toEqual(['run']);
    expect(content(dir, 'run', 'file')).toBe('old');
  });

  test('has a parent that is a file', async () => {
    const dir = fresh();
    writeFileSync(join(dir, 'file'), '');
    const run = join(dir, 'file', 'deep', 'run');
    await expect(replaceDirectory(run, fill)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${run}: a part of the path is not a directory`,
    });
  });
});

describe('an adapter', () => {
  const [weights, config] = ['adapter_model.safetensors', 'adapter_config.json'] as const;
  const files = {
    config: { peft_type: 'LORA', r: 1 },
    tensors: new Map([['w', { dtype: 'U8' as const, shape: [1], bytes: Uint8Array.of(7) }]]),
  };
  /** A folder that holds an adapter of old content. */
  const withAdapter = (): string => {
    const dir = fresh();
    for (const name of [weights, config]) writeFileSync(join(dir, name), 'old');
    return dir;
  };

  test('in a folder that exists: both files are durable before the weights and then the configuration get their names', async () => {
    const dir = withAdapter();
    await writeAdapter(dir, files);
    expect(disk.lines.filter((line) => !line.startsWith('remove'))).toEqual([
      ...['create', 'sync', 'close'].map((call) => `${call} ${weights}.tmp`),
      ...['create', 'sync', 'close'].map((call) => `${call} ${config}.tmp`),
      `rename ${weights}.tmp → ${weights}`,
      'sync .',
      `rename ${config}.tmp → ${config}`,
      'sync .',
    ]);
    expect(readdirSync(dir)).toEqual([config, weights]);
  });

  test('in a new folder: the folder gets its name when both files are in it', async () => {
    const dir = fresh();
    await writeAdapter(join(dir, 'run'), files);
    const named = 'rename run.tmp → run';
    for (const name of [weights, config])
      expect(before(`rename run.tmp/${name}.tmp → run.tmp/${name}`, named)).toBe(true);
    expect(disk.lines.slice(-2)).toEqual([named, 'sync .']);
  });

  test.each([
    ['the weights cannot be staged', `sync ${weights}.tmp`],
    ['the configuration cannot be staged', `create ${config}.tmp`],
    ['the weights cannot get their name', `rename ${weights}.tmp → ${weights}`],
  ])('stays as it was when %s', async (_, line) => {
    const dir = withAdapter();
    disk.failNext(line, systemError('EIO'));
    await expect(writeAdapter(dir, files)).rejects.toMatchObject({ code: 'ERR_FILE' });
    expect(readdirSync(dir)).toEqual([config, weights]);
    for (const name of [weights, config]) expect(content(dir, name)).toBe('old');
  });

  test('leaves no hidden file when the configuration cannot get its name', async () => {
    const dir = withAdapter();
    disk.failNext(`rename ${config}.tmp → ${config}`, systemError('EIO'));
    await expect(writeAdapter(dir, files)).rejects.toMatchObject({ code: 'ERR_FILE' });
    expect(readdirSync(dir)).toEqual([config, weights]);
    expect(content(dir, config)).toBe('old');
  });
});
