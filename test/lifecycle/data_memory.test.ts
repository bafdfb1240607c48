/** Data sets that would fill the heap of the process: in processes of their own, on dist/. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createGzip } from 'node:zlib';
import { once } from 'node:events';
import { childReport } from '../support/child';

const dir = mkdtempSync(join(tmpdir(), 'data-memory-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** What loadDataset gives of a file in a process with so many megabytes of heap: a count, or a code and a sentence. */
const loaded = (path: string, heap: number): unknown =>
  childReport(
    `const tokenizer = { encode: (text) => [...Buffer.from(text)] };
     report(await lora.loadDataset(${JSON.stringify(path)}, { tokenizer, maxLength: 64 }).then(
       (data) => data.length,
       (error) => error.code + ' ' + error.message,
     ));`,
    { nodeArgs: [`--max-old-space-size=${heap}`], timeout: 300_000 },
  );

async function zipped(name: string, block: Buffer, blocks: number): Promise<{ path: string; bytes: number }> {
  const path = join(dir, name);
  const zip = createGzip({ level: 9 });
  const parts: Buffer[] = [];
  zip.on('data', (part: Buffer) => parts.push(part));
  for (let i = 0; i < blocks; i++) if (!zip.write(block)) await once(zip, 'drain');
  zip.end();
  await once(zip, 'end');
  const content = Buffer.concat(parts);
  writeFileSync(path, content);
  return { path, bytes: content.length };
}

test.each([
  ['60 million line feeds', 'feeds.txt.gz', Buffer.alloc(10 ** 6, '\n'), 60],
  [
    '200,000 long rows',
    'rows.jsonl.gz',
    Buffer.from(`{"inputIds":[${Array.from({ length: 512 }, (_, i) => i % 10).join()}]}\n`.repeat(1000)),
    200,
  ],
])(
  '%s in gzip are refused, and the process goes on',
  async (_, name, block, blocks) => {
    const { path, bytes } = await zipped(name, block, blocks);
    expect(bytes).toBeLessThan(1_000_000);
    expect(loaded(path, 256)).toMatch(
      /^ERR_DATA .*expected gzip data that hold at most 100 times their own bytes/,
    );
  },
  400_000,
);

test('300,000 examples of 64 tokens take no heap', () => {
  const path = join(dir, 'rows.jsonl');
  writeFileSync(path, `{"inputIds":[${'7,'.repeat(63)}7]}\n`.repeat(300_000));
  expect(loaded(path, 64)).toBe(300_000);
}, 400_000);

test('a row with a text of 2 MB is encoded in a heap of 64 MB', () => {
  const path = join(dir, 'text.jsonl');
  writeFileSync(path, JSON.stringify({ text: 'the first of all, then 12 more; '.repeat(2 ** 16) }));
  const program = `
    const tokenizer = await lora.Tokenizer.fromDirectory(${JSON.stringify(resolve('examples/base-model'))});
    const data = await lora.loadDataset(${JSON.stringify(path)}, { tokenizer, maxLength: 64 });
    report(data.length);`;
  expect(childReport(program, { nodeArgs: ['--max-old-space-size=64'], timeout: 300_000 })).toBe(1);
}, 400_000);
