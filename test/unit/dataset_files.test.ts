/** Data files that are large, endless, damaged or given up half-way. */
import { spawn, spawnSync } from 'node:child_process';
import { createWriteStream, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { loadDataset } from '../../lib/index';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
const onLinux = process.platform === 'linux' ? test : test.skip;
const row = '{"inputIds":[1,2]}\n';
const descriptors = (): number => readdirSync('/proc/self/fd').length;

onLinux('a file that fails at its first line is closed', async () => {
  const bad = `{"inputIds":1}\n${row.repeat(100_000)}`;
  for (const [name, content] of [
    ['bad.jsonl', bad],
    ['bad.jsonl.gz', gzipSync(bad)],
  ] as const) {
    const path = join(root, name);
    writeFileSync(path, content);
    const before = descriptors();
    for (let i = 0; i < 50; i++) await expect(loadDataset(path)).rejects.toMatchObject({ code: 'ERR_DATA' });
    expect(descriptors()).toBeLessThanOrEqual(before); // less when a file of another test is closed meanwhile
  }
});

test('a line has at most maxLineBytes bytes', async () => {
  const path = join(root, 'long.jsonl');
  writeFileSync(path, `${row}{"inputIds":[1,2],"note":"${'x'.repeat(100)}"}\n${row}`);
  await expectReject(
    loadDataset(path, { maxLineBytes: 100 }),
    'ERR_DATA',
    `[loadDataset] ${path}:2: expected a line of at most 100 bytes: raise maxLineBytes where lines are so long`,
  );
  expect((await loadDataset(path, { maxLineBytes: 130 })).length).toBe(3);
});

test('the limit of a line holds for the last one, and for what gzip hides', async () => {
  const path = join(root, 'long.jsonl.gz');
  writeFileSync(path, gzipSync(`${row}${'x'.repeat(10_000_000)}`));
  await expectReject(
    loadDataset(path, { maxLineBytes: 1000 }),
    'ERR_DATA',
    /:2: expected a line of at most 1000 bytes/,
  );
});

test('a line over 512 MiB is an error with its number', async () => {
  const path = join(root, 'huge.jsonl');
  const out = createWriteStream(path);
  out.write(row);
  out.end();
  await new Promise<void>((resolve) => void out.on('close', () => resolve()));
  // Sparse: zero bytes that take no room.
  expect(spawnSync('truncate', ['-s', String(540 * 2 ** 20), path]).status).toBe(0);
  await expectReject(loadDataset(path), 'ERR_DATA', /huge\.jsonl:2: expected a line of at most \d+ bytes/);
  await expectReject(
    loadDataset(path, { maxLineBytes: 2 ** 30 }),
    'ERR_ARGUMENT',
    '[loadDataset] expected maxLineBytes to be a whole number from 1 to 536870888 but received 1073741824',
  );
});

const onPosix = process.platform === 'win32' ? describe.skip : describe;
onPosix('a FIFO that is said to be a stream', () => {
  const fifo = (name: string): string => {
    const path = join(root, name);
    expect(spawnSync('mkfifo', [path]).status).toBe(0);
    return path;
  };

  test('is read to its end, however late its writer comes', async () => {
    const path = fifo('late.jsonl');
    const reading = loadDataset(path, { stream: true });
    spawn('sh', [
      '-c',
      `sleep 0.2; { printf '${row.trim()}\\n'; sleep 0.2; printf '${row.trim()}'; } > "$0"`,
      path,
    ]);
    expect((await reading).length).toBe(2);
  });

  test('is given up when the signal says so, and so is a file', async () => {
    const path = fifo('never.jsonl');
    const stop = new AbortController();
    const reading = loadDataset(path, { stream: true, signal: stop.signal });
    setTimeout(() => stop.abort(new Error('enough')), 50);
    await expect(reading).rejects.toThrow('enough');
    const file = join(root, 'plain.jsonl');
    writeFileSync(file, row);
    await expect(loadDataset(file, { signal: stop.signal })).rejects.toThrow('enough');
  });

  test('does not stop other files meanwhile', async () => {
    const stop = new AbortController();
    const waiting = ['a', 'b', 'c', 'd', 'e'].map((name) =>
      loadDataset(fifo(`${name}.jsonl`), { stream: true, signal: stop.signal }).catch(() => undefined),
    );
    const file = join(root, 'other.jsonl');
    writeFileSync(file, row);
    expect((await loadDataset(file)).length).toBe(1);
    stop.abort();
    await Promise.all(waiting);
  });
});
