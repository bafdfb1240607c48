/** Data files that are large, endless, damaged or given up half-way. */
import { spawn, spawnSync } from 'node:child_process';
import { getEventListeners } from 'node:events';
import { createWriteStream, existsSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { loadDataset, type LoadDatasetOptions } from '../../lib/index';
import { expectReject } from '../support/errors';
import { pausesOf } from '../support/gaps';
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

describe('what gzip data may stand for', () => {
  const tokenizer = { encode: (text: string) => [...Buffer.from(text)] };
  const feeds = Buffer.alloc(5 * 2 ** 20, '\n');
  const ratio =
    'expected gzip data that hold at most 100 times their own bytes but received more: raise maxUnzippedRatio for a file that you trust, or unzip it';
  test.each<[name: string, content: string | Buffer, options: LoadDatasetOptions, sentence: string]>([
    ['feeds.txt.gz', feeds, {}, `: ${ratio}`],
    ['feeds.jsonl.gz', feeds, {}, `: ${ratio}`],
    ['rows.jsonl.gz', row.repeat(250_000), {}, `: ${ratio}`],
    [
      'bytes.jsonl.gz',
      row.repeat(1000),
      { maxUnzippedBytes: 10_000 },
      ': expected gzip data that hold at most 10000 bytes but received more: raise maxUnzippedBytes for a file that you trust, or unzip it',
    ],
  ])('%s', async (name, content, options, sentence) => {
    const path = join(root, name);
    writeFileSync(path, name.endsWith('.gz') ? gzipSync(content) : content);
    await expectReject(
      loadDataset(path, { tokenizer, ...options }),
      'ERR_DATA',
      `[loadDataset] ${path}${sentence}`,
    );
  });

  test.each([
    ['three.jsonl.gz', row.repeat(3), {}],
    ['three.jsonl', row.repeat(3), { inMemory: false }],
    ['three.txt', 'abcdef', { maxLength: 2 }],
  ] as const)('of %s the first two rows', async (name, content, options) => {
    const path = join(root, name);
    writeFileSync(path, name.endsWith('.gz') ? gzipSync(content) : content);
    const data = await loadDataset(path, { tokenizer, maxRows: 2, ...options } as LoadDatasetOptions);
    expect(data.length).toBe(2);
  });

  test('a program may say that it trusts the file', async () => {
    const path = join(root, 'trusted.jsonl.gz');
    writeFileSync(path, gzipSync(`{"inputIds":[1,2]}${' '.repeat(5 * 2 ** 20)}`));
    expect((await loadDataset(path, { maxUnzippedRatio: 2000 })).length).toBe(1);
    await expectReject(
      loadDataset(path, { maxUnzippedRatio: 0 }),
      'ERR_ARGUMENT',
      '[loadDataset] expected maxUnzippedRatio to be an integer of at least 1 but received 0',
    );
  });
});

test('rows for which there is no memory left are an error', async () => {
  const path = join(root, 'no-memory.jsonl');
  writeFileSync(path, row);
  jest.spyOn(process as { availableMemory?: () => number }, 'availableMemory').mockReturnValue(2 ** 20);
  try {
    await expectReject(
      loadDataset(path),
      'ERR_OUT_OF_MEMORY',
      `[loadDataset] ${path}: there is no memory left for its examples: read it with inMemory: false, or a part of it`,
    );
  } finally {
    jest.restoreAllMocks();
  }
});

test('a long text is encoded in parts, within the special tokens of the whole, and in any number of lines', async () => {
  const path = join(root, 'long.txt');
  const text = `${'ab cd\n'.repeat(200_000)}\n\n${'x'.repeat(2 ** 20)}\nend`;
  writeFileSync(path, text);
  const [before, after] = [[300, 301], [302]];
  const longest = { characters: 0 };
  const tokenizer = {
    encode(part: string, { addSpecialTokens = true } = {}) {
      longest.characters = Math.max(longest.characters, part.length);
      const ids = [...Buffer.from(part)];
      return addSpecialTokens ? [...before, ...ids, ...after] : ids;
    },
  };
  const data = await loadDataset(path, { tokenizer, maxLength: 1000 });
  // As bytes, since toEqual asks each of the 2.4 million numbers by itself.
  const bytes = (ids: number[]): Buffer => Buffer.from(Int32Array.from(ids).buffer);
  const ids = [...data].flatMap(({ inputIds }) => inputIds);
  expect(bytes(ids).equals(bytes([...before, ...Buffer.from(text), ...after]))).toBe(true);
  expect([...data].every(({ inputIds }, i) => i + 1 === data.length || inputIds.length === 1000)).toBe(true);
  expect(longest.characters).toBeLessThan(2 ** 21);
});

test.each(['\n', ' \n'])('lines of nothing let timers run: %j', async (line) => {
  const path = join(root, 'nothing.jsonl');
  writeFileSync(path, row + line.repeat(1_000_000 / line.length));
  const { pauses, result } = await pausesOf(() => loadDataset(path));
  expect(result.length).toBe(1);
  expect(pauses).toBeGreaterThan(10_000);
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

  test('is unzipped where its first piece has one byte', async () => {
    const path = fifo('pieces.jsonl');
    const zipped = join(root, 'pieces.gz');
    writeFileSync(zipped, gzipSync(row.repeat(3)));
    const reading = loadDataset(path, { stream: true });
    spawn('sh', ['-c', '{ head -c 1 "$1"; sleep 0.2; tail -c +2 "$1"; } > "$0"', path, zipped]);
    expect((await reading).length).toBe(3);
  });

  test('may be a file as well', async () => {
    const path = join(root, 'plain.jsonl');
    writeFileSync(path, row.repeat(3));
    expect((await loadDataset(path, { stream: true })).length).toBe(3);
  });

  // Linux gives no byte at address 0 of a process.
  (existsSync('/proc/self/mem') ? test : test.skip)('a failure while it is read is told', async () => {
    const path = join(root, 'unreadable.jsonl');
    symlinkSync('/proc/self/mem', path);
    await expectReject(
      loadDataset(path, { stream: true }),
      'ERR_FILE',
      `[loadDataset] cannot read ${path}: the device reports an input or output error`,
    );
  });

  test('leaves no listener at the signal, and neither does a file', async () => {
    const { signal } = new AbortController();
    const path = fifo('signal.jsonl');
    const plain = join(root, 'signal-plain.jsonl');
    writeFileSync(plain, row);
    const reading = loadDataset(path, { stream: true, signal });
    spawn('sh', ['-c', 'cat "$1" > "$0"', path, plain]);
    expect((await reading).length).toBe(1);
    await loadDataset(plain, { signal });
    expect(getEventListeners(signal, 'abort')).toEqual([]);
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
