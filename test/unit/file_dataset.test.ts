/** Data sets that stay in their file. */
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { batches, FileDataset, loadDataset, type Batch } from '../../lib/index';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
let made = 0;
const file = (content: string | Uint8Array, name = 'd.jsonl'): string => {
  const path = join(dir, `${made++}-${name}`);
  writeFileSync(path, content);
  return path;
};
/** One id for each UTF-8 byte; 0 ends a text. */
const tokenizer = { encode: (text: string) => [...Buffer.from(text)], eosTokenId: 0 };
const options = { tokenizer, maxLength: 8 } as const;

// A byte order mark, line feeds of Windows, an empty line, several bytes per character, a row that is cut, one that is left out.
const texts = ['ä', 'bc', '€ and more', 'x', 'last'];
const content = `\uFEFF${JSON.stringify({ text: texts[0] })}\r\n\n${texts
  .slice(1)
  .map((text) => JSON.stringify({ text }))
  .join('\n')}\n{"text":""}`;

async function all(
  source: Parameters<typeof batches>[0],
  how: Parameters<typeof batches>[1],
): Promise<Batch[]> {
  const found: Batch[] = [];
  for await (const batch of batches(source, how)) found.push(batch);
  return found;
}

test('has the counts and the examples of the same file in memory, in any order', async () => {
  const path = file(content);
  const memory = await loadDataset(path, options);
  const data = await loadDataset(path, { ...options, inMemory: false });
  expect(data).toBeInstanceOf(FileDataset);
  const { length, maxLength, truncated, dropped, tokens } = memory;
  expect(data).toMatchObject({ length, maxLength, truncated, dropped, tokens, path });
  expect({ length, truncated, dropped }).toEqual({ length: 5, truncated: 1, dropped: 1 });
  const examples = [...memory];
  expect(await Promise.all(examples.map((_, i) => data.at(i)))).toEqual(examples);
  expect(await data.at(2)).toEqual(examples[2]);
  for (const how of [
    { batchSize: 2 },
    { batchSize: 2, shuffle: true, seed: 5 },
    { batchSize: 1, shuffle: true, seed: 6, packing: true },
  ])
    expect(await all(data, how)).toEqual(await all(memory, how));
});

test.each([
  ['{"inputIds":[1,4294967297]}', 4294967297],
  ['{"inputIds":[1,2],"labels":[1,4294967298]}', 4294967298],
])('%s is beyond what is kept of an id and a label', async (row, value) => {
  const path = file(`{"inputIds":[1,2]}\n${row}\n`);
  for (const inMemory of [true, false])
    await expectReject(
      loadDataset(path, { inMemory }),
      'ERR_DATA',
      `[loadDataset] ${path}:2: expected ids and labels of 32 bits but received ${value}`,
    );
});

test('what is wrong with any row is said before anything is used', async () => {
  const path = file('{"text":"ab"}\n{"text":5}\n');
  await expectReject(
    loadDataset(path, { ...options, inMemory: false }),
    'ERR_DATA',
    `[loadDataset] ${path}:2: expected "text" to be a string but received 5`,
  );
});

test('a file that changes is an error, and an index that is none', async () => {
  const path = file(content);
  const data = await loadDataset(path, { ...options, inMemory: false });
  for (const index of [-1, 5, 0.5])
    await expectReject(
      data.at(index),
      'ERR_ARGUMENT',
      `[loadDataset] expected an index from 0 to 4 but received ${index}`,
    );
  appendFileSync(path, '\n{"text":"new"}');
  await expectReject(data.at(0), 'ERR_FILE', `[loadDataset] ${path} has changed since it was loaded`);
});

test.each([
  ['plain text', 'd.txt', 'ab\ncd', {}, 'plain text'],
  ['gzip', 'd.jsonl.gz', gzipSync('{"text":"ab"}'), {}, 'gzip'],
  ['a stream', 'd.jsonl', '{"text":"ab"}', { stream: true }, 'what is read as a stream'],
])('%s is refused', async (_, name, bytes, more, what) => {
  const path = file(bytes, name);
  await expectReject(
    loadDataset(path, { ...options, ...more, inMemory: false }),
    'ERR_UNSUPPORTED',
    `[loadDataset] ${path}: inMemory: false is for plain JSONL files, not for ${what}`,
  );
});

test('an abort ends a pass', async () => {
  const data = await loadDataset(file(content), { ...options, inMemory: false });
  const stop = new AbortController();
  const run = async (): Promise<void> => {
    for await (const batch of batches(data, { batchSize: 1, shuffle: true, signal: stop.signal }))
      if (batch) stop.abort(new Error('enough'));
  };
  await expect(run()).rejects.toThrow('enough');
});
