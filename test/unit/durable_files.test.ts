/** The order of the calls that make files durable, and what is left when one of them fails. */
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stageFile, writeFileAtomic } from '../../lib/formats/atomic';
import { saveTogether, SavedFolder } from '../../lib/formats/file_group';
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

afterEach(() => expect(disk.openHandles).toBe(0));

describe('a file', () => {
  test('is durable before it gets its name, and then so is the name', async () => {
    const dir = fresh();
    await writeFileAtomic(join(dir, 'a'), 'new');
    expect(disk.lines).toEqual(['create a.tmp', 'sync a.tmp', 'close a.tmp', 'rename a.tmp → a', 'sync .']);
  });

  test('in a folder that is named by a link is written into that folder', async () => {
    const dir = fresh();
    mkdirSync(join(dir, 'far'));
    symlinkSync('far', join(dir, 'link'));
    await writeFileAtomic(join(dir, 'link', 'a'), 'new');
    expect(disk.lines).toContain('rename far/a.tmp → far/a');
    expect(disk.lines.at(-1)).toBe('sync far');
    expect(content(dir, 'far', 'a')).toBe('new');
  });

  test.each([
    ['created', 'create a.tmp', 'EACCES', 'permission denied'],
    ['made durable', 'sync a.tmp', 'EIO', 'the device reports an input or output error'],
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
    disk.maxPerWrite = 3;
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

  test('stays written where no folder can be made durable, and the error of one that should is told', async () => {
    const dir = fresh();
    disk.failNext('sync .', systemError('EINVAL'));
    await writeFileAtomic(join(dir, 'a'), 'new');
    disk.failNext('sync .', systemError('EIO'));
    await expect(writeFileAtomic(join(dir, 'a'), 'newer')).rejects.toMatchObject({ code: 'ERR_FILE' });
    expect(content(dir, 'a')).toBe('newer');
    expect(readdirSync(dir)).toEqual(['a']);
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

describe('files that change together', () => {
  const fill = async (folder: string): Promise<void> => {
    for (const name of [one, two]) writeFileSync(join(folder, name), 'new');
  };
  const [one, two, three] = ['README.md', 'config.json', 'model.safetensors'] as const;
  const journal = 'run/.lora-native-save';
  /** A folder with the directory `run`, which holds the old files. */
  const withRun = (): string => {
    const dir = fresh();
    mkdirSync(join(dir, 'run'));
    for (const name of [one, two]) writeFileSync(join(dir, 'run', name), 'old');
    return dir;
  };
  const expectOld = (dir: string): void => {
    expect(readdirSync(dir)).toEqual(['run']);
    expect(readdirSync(join(dir, 'run'))).toEqual([one, two]);
    for (const name of [one, two]) expect(content(dir, 'run', name)).toBe('old');
  };

  test('in a new folder: they are durable before it gets its name, and then so is the name', async () => {
    const dir = fresh();
    await saveTogether(join(dir, 'run'), fill);
    expect(disk.lines).toEqual([
      'mkdir run.tmp',
      `sync run.tmp/${one}`,
      `sync run.tmp/${two}`,
      'sync run.tmp',
      'rename run.tmp → run',
      'sync .',
    ]);
  });

  test('in a folder that exists: they are durable before one rename puts them in the place of the others', async () => {
    const dir = withRun();
    await saveTogether(join(dir, 'run'), fill);
    expect(disk.lines).toEqual([
      'mkdir run/save.tmp',
      `sync run/save.tmp/${one}`,
      `sync run/save.tmp/${two}`,
      'sync run/save.tmp',
      `rename run/save.tmp → ${journal}`,
      'sync run',
      `rename ${journal}/${one} → run/${one}`,
      `rename ${journal}/${two} → run/${two}`,
      'sync run',
      `remove ${journal}/.removed`,
      `remove ${journal}`,
      'sync .',
    ]);
    expect(readdirSync(join(dir, 'run'))).toEqual([one, two]);
  });

  test.each([
    ['begun', 'mkdir run/save.tmp', 'EACCES', 'permission denied'],
    ['made durable', `sync run/save.tmp/${one}`, 'EIO', 'the device reports an input or output error'],
    ['put into place', `rename run/save.tmp → ${journal}`, 'EROFS', 'the file system is read-only'],
    ['given their names', `rename ${journal}/${one} → run/${one}`, 'EPERM', 'permission denied'],
  ])('leave everything as it was when they cannot be %s', async (_, line, code, reason) => {
    const dir = withRun();
    const cause = systemError(code);
    disk.failNext(line, cause);
    await expect(saveTogether(join(dir, 'run'), fill)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot write ${join(dir, 'run')}: ${reason}`,
      cause,
    });
    expectOld(dir);
  });

  test('are the new ones when the second cannot get its name, and the next save gives it', async () => {
    const dir = withRun();
    disk.failNext(`rename ${journal}/${two} → run/${two}`, systemError('EIO'));
    await expect(saveTogether(join(dir, 'run'), fill)).rejects.toMatchObject({ code: 'ERR_FILE' });
    const folder = await SavedFolder.open(join(dir, 'run'));
    for (const name of [one, two]) expect(content(folder.file(name).path)).toBe('new');
    await saveTogether(join(dir, 'run'), async (next) => writeFileSync(join(next, three), 'newer'));
    expect(readdirSync(join(dir, 'run'))).toEqual([one, two, three]);
    expect(content(dir, 'run', two)).toBe('new');
  });

  test('have a parent that is a file', async () => {
    const dir = fresh();
    writeFileSync(join(dir, 'file'), '');
    const run = join(dir, 'file', 'deep', 'run');
    await expect(saveTogether(run, fill)).rejects.toMatchObject({
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
  const withAdapter = (): string => {
    const dir = fresh();
    for (const name of [weights, config]) writeFileSync(join(dir, name), 'old');
    return dir;
  };

  test('in a folder that exists: both files are durable before the first rename', async () => {
    const dir = withAdapter();
    await writeAdapter(dir, files);
    const first = disk.lines.findIndex((line) => line.startsWith('rename'));
    for (const name of [weights, config]) {
      expect(disk.lines.slice(0, first)).toContain(`sync save.tmp/${name}`);
      expect(disk.lines.slice(0, first)).toContain(`close save.tmp/${name}`);
    }
    expect(readdirSync(dir)).toEqual([config, weights]);
  });

  test.each([
    ['the weights cannot be written', `sync save.tmp/${weights}`],
    ['the configuration cannot be written', `create save.tmp/${config}`],
    ['neither can get its name', `rename .lora-native-save/${config} → ${config}`],
  ])('stays as it was when %s', async (_, line) => {
    const dir = withAdapter();
    disk.failNext(line, systemError('EIO'));
    await expect(writeAdapter(dir, files)).rejects.toMatchObject({ code: 'ERR_FILE' });
    expect(readdirSync(dir)).toEqual([config, weights]);
    for (const name of [weights, config]) expect(content(dir, name)).toBe('old');
  });
});
