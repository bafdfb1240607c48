/** Several processes and one cache: downloads that happen once, locks that others hold, processes that are killed. */
import { spawn, spawnSync, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sourceFolder } from '../../lib/hub/source';
import { native } from '../../lib/native/binding';
import { hubHome } from '../support/hub_home';
import { folderFiles, sha256, type Fault } from '../support/hub_server';

const root = join(__dirname, '../..');
const base = join(root, 'examples/base-model');
const at = hubHome();
const id = 'lora/tiny';
const weights = readFileSync(join(base, 'model.safetensors'));
const digest = sha256(weights);
const lockPath = (): string => join(at.home, 'hub/.locks/models--lora--tiny', `${digest}.lock`);
const blob = (end = ''): string => join(at.home, 'hub/models--lora--tiny/blobs', `${digest}${end}`);

beforeEach(() => {
  at.hub.repositories.set(id, { files: folderFiles(base) });
});

const children: ChildProcessWithoutNullStreams[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});
function start(command: string, args: string[]): ChildProcessWithoutNullStreams {
  const child = spawn(command, args, { env: process.env });
  children.push(child);
  return child;
}
const download = (): ChildProcessWithoutNullStreams => {
  if (!existsSync(join(root, 'dist/cli.js'))) throw new Error('dist/cli.js is missing: npm run build:js');
  return start(process.execPath, [join(root, 'dist/cli.js'), 'download', id]);
};
async function ended(child: ChildProcessWithoutNullStreams): Promise<[status: number | null, err: string]> {
  let err = '';
  child.stderr.on('data', (text: Buffer) => (err += text.toString()));
  const [status] = (await once(child, 'close')) as [number | null];
  return [status, err];
}
/** Sends the first bytes, and the others when `more` resolves. */
const halt =
  (more: Promise<void>): Fault =>
  (_request, response) => {
    response.writeHead(200, { 'content-length': weights.length });
    response.write(weights.subarray(0, 100_000));
    void more.then(() => response.end(weights.subarray(100_000)));
  };
const until = async (holds: () => boolean): Promise<void> => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 10));
};
const partBytes = (): number => (existsSync(blob('.incomplete')) ? lstatSync(blob('.incomplete')).size : 0);

test('two processes that want the same files download each of them once', async () => {
  const ends = await Promise.all([ended(download()), ended(download())]);
  expect(ends.map(([status]) => status)).toEqual([0, 0]);
  expect(at.hub.lines.filter((line) => line.startsWith('store GET'))).toHaveLength(1);
  expect(sha256(readFileSync(blob()))).toBe(digest);
});

test('a process that is killed leaves its part and no lock: the next one goes on', async () => {
  at.hub.fail(/store GET/, halt(new Promise(() => undefined)));
  const first = download();
  await until(() => partBytes() === 100_000);
  first.kill('SIGKILL');
  await once(first, 'close');
  await sourceFolder(id, 'test', 'model');
  const ranges = at.hub.seen.filter(({ at: place }) => place === 'store').map(({ headers }) => headers.range);
  expect(ranges).toEqual([undefined, 'bytes=100000-']);
  expect(sha256(readFileSync(blob()))).toBe(digest);
});

test('Ctrl-C stops a download with 130 and leaves its part', async () => {
  at.hub.fail(/store GET/, halt(new Promise(() => undefined)));
  const child = download();
  const end = ended(child);
  await until(() => partBytes() === 100_000);
  child.kill('SIGINT');
  const [status, err] = await end;
  expect([status, err]).toEqual([130, expect.stringContaining('stopping; Ctrl-C again ends at once')]);
  expect(partBytes()).toBe(100_000);
});

/** Programs that lock as Python's filelock does, by flock; each holds the lock of argument 1 until its input ends. */
const holders: [name: string, command: string, args: string[]][] = [
  [
    'Python (fcntl.flock)',
    'python3',
    [
      '-c',
      'import fcntl,os,sys\nfd=os.open(sys.argv[1],os.O_RDWR)\nfcntl.flock(fd,fcntl.LOCK_EX|fcntl.LOCK_NB)\nprint("held",flush=True)\nsys.stdin.read()',
    ],
  ],
  ['flock(1)', 'flock', ['--nonblock', 'PATH', 'sh', '-c', 'echo held; cat']],
];
describe.each(holders)('a lock of %s', (_name, command, args) => {
  const there = spawnSync(command, ['--version']).status === 0;
  const withIt = (title: string, body: () => Promise<void>): void =>
    there ? test(title, body) : test.skip(`${title} (skipped: there is no ${command} here)`, body);

  withIt('keeps a download waiting, which says so, and goes on after it', async () => {
    mkdirSync(join(lockPath(), '..'), { recursive: true });
    writeFileSync(lockPath(), '');
    const holder = start(
      command,
      args.includes('PATH')
        ? args.map((word) => (word === 'PATH' ? lockPath() : word))
        : [...args, lockPath()],
    );
    await once(holder.stdout, 'data');
    const notices: string[] = [];
    const running = sourceFolder(id, 'test', 'model', {
      onProgress: (event) => event.type === 'notice' && notices.push(event.message),
    });
    await until(() => notices.length > 0);
    expect(notices).toEqual(['model.safetensors is being downloaded already: waiting for it']);
    expect(at.hub.lines.filter((line) => line.startsWith('store GET'))).toEqual([]);
    holder.stdin.end();
    await running;
    expect(sha256(readFileSync(blob()))).toBe(digest);
  });

  withIt('is not to be had while a download holds it', async () => {
    let go = (): void => undefined;
    at.hub.fail(/store GET/, halt(new Promise((resolve) => (go = resolve))));
    const running = sourceFolder(id, 'test', 'model');
    await until(() => partBytes() === 100_000);
    const holder = start(
      command,
      args.includes('PATH')
        ? args.map((word) => (word === 'PATH' ? lockPath() : word))
        : [...args, lockPath()],
    );
    expect((await ended(holder))[0]).not.toBe(0);
    go();
    await running;
  });
});

describe('the native lock', () => {
  test('ends when it is unlocked, once or twice, and is of one holder at a time', () => {
    const path = join(at.home, 'file');
    writeFileSync(path, '');
    const lock = native().lockFile(path)!;
    expect(native().lockFile(path)).toBeNull();
    native().unlockFile(lock);
    native().unlockFile(lock);
    const again = native().lockFile(path)!;
    expect(again).not.toBeNull();
    native().unlockFile(again);
  });

  test('is null for a file that is gone, and an error for what cannot be locked', () => {
    expect(native().lockFile(join(at.home, 'gone'))).toBeNull();
    expect(() => native().lockFile(at.home)).toThrow(`cannot lock ${at.home}: Is a directory`);
  });
});
