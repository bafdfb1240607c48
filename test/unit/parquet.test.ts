/** Data sets in Parquet: files of hyparquet-writer, whose codecs are those of zlib here. */
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import zlib from 'node:zlib';
import { parquetWriteBuffer, type ColumnSource } from 'hyparquet-writer';
import { parquetRows } from '../../lib/data/parquet';
import { loadDataset, type LoadDatasetOptions } from '../../lib/index';
import { expectReject } from '../support/errors';
import { openFilesIn } from '../support/open_files';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let made = 0;
function file(bytes: Uint8Array | ArrayBuffer, name = 'd.parquet'): string {
  const path = join(root, `f${made++}`, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, new Uint8Array(bytes));
  return path;
}
type WriteOptions = Omit<Parameters<typeof parquetWriteBuffer>[0], 'columnData'>;
const parquet = (columnData: ColumnSource[], options: WriteOptions = {}): string =>
  file(parquetWriteBuffer({ columnData, ...options }));
const strings = (name: string, data: readonly (string | null)[]): ColumnSource => ({
  name,
  data: [...data],
  type: 'STRING',
});
const json = (name: string, data: readonly unknown[]): ColumnSource => ({
  name,
  data: [...data],
  type: 'JSON',
});

const tokenizer = {
  encode: (text: string) => [...Buffer.from(text)],
  hasChatTemplate: true,
  turns: (messages: readonly { role: string; content?: unknown }[]) => ({
    text: messages.map(({ role, content }) => `<${role}>${JSON.stringify(content)}`).join(''),
    spans: messages.flatMap(({ role }) => (role === 'assistant' ? [[1, 2] as [number, number]] : [])),
  }),
};
const texts = async (path: string, options: LoadDatasetOptions = {}): Promise<string[]> =>
  [...(await loadDataset(path, { tokenizer, chatTemplate: null, ...options }))].map(({ inputIds }) =>
    Buffer.from(inputIds).toString(),
  );

const words = Array.from({ length: 10 }, (_, i) => `wörd ${i}`);

test.each<[string, WriteOptions]>([
  ['uncompressed', { codec: 'UNCOMPRESSED' }],
  ['with Snappy', { codec: 'SNAPPY' }],
  ['with gzip', { codec: 'GZIP', compressors: { GZIP: (bytes) => new Uint8Array(zlib.gzipSync(bytes)) } }],
  [
    'with Brotli',
    { codec: 'BROTLI', compressors: { BROTLI: (bytes) => new Uint8Array(zlib.brotliCompressSync(bytes)) } },
  ],
  ['in groups of three rows', { rowGroupSize: 3 }],
])('%s, the rows are read in their order', async (_, options) => {
  const path = parquet([strings('prompt', words), strings('completion', words)], options);
  expect(await texts(path)).toEqual(words.map((word) => word + word));
});

test('columns have other names, and only those that a row has are read', async () => {
  // A column that no reader can read: its bytes are damaged below.
  const path = parquet(
    [
      strings('q', words),
      strings('a', words),
      strings(
        'picture',
        words.map(() => 'xyzzy-xyzzy'),
      ),
    ],
    {
      codec: 'UNCOMPRESSED',
    },
  );
  const bytes = readFileSync(path);
  const at = bytes.indexOf('xyzzy');
  bytes.fill(0xff, at, at + 5);
  const damaged = file(bytes);
  const columns = { prompt: 'q', completion: 'a' };
  expect(await texts(damaged, { columns })).toEqual(words.map((word) => word + word));
  await expectReject(
    loadDataset(damaged, { tokenizer, columns: { prompt: 'q', completion: 'b' } }),
    'ERR_DATA',
    `[loadDataset] ${damaged}:1: expected the column "b", as columns.completion has it, but received the keys q, a, picture`,
  );
  await expectReject(
    loadDataset(damaged, { tokenizer }),
    'ERR_DATA',
    /:1: expected one of .* but received the keys q, a, picture$/,
  );
});

test('lists, structures and 64-bit numbers become what JSON has', async () => {
  const path = parquet([
    json('messages', [
      [
        { role: 'user', content: 'hi', name: null },
        { role: 'assistant', content: 'ho', weight: null },
      ],
    ]),
  ]);
  const [row] = await texts(path, { chatTemplate: undefined });
  expect(row).toBe('<user>"hi"<assistant>"ho"');
  const ids = parquet([{ name: 'inputIds', data: [[1n, 2n, 3n]] }], {
    schema: [
      { name: 'root', num_children: 1 },
      { name: 'inputIds', repetition_type: 'OPTIONAL', num_children: 1, converted_type: 'LIST' },
      { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
      { name: 'element', repetition_type: 'OPTIONAL', type: 'INT64' },
    ],
  });
  expect([...(await loadDataset(ids))]).toEqual([{ inputIds: [1, 2, 3], labels: [1, 2, 3] }]);
});

test('prompts of grpo keep all of their columns', async () => {
  const path = parquet([strings('prompt', ['a', 'b']), { name: 'answer', data: [1n, 2n], type: 'INT64' }]);
  const rows = [...(await loadDataset(path, { tokenizer, objective: 'grpo' }))];
  expect(rows.map(({ prompt, answer }) => [prompt, answer])).toEqual([
    ['a', 1],
    ['b', 2],
  ]);
});

test('maxRows reads the first rows, and numbers of rows are in errors', async () => {
  const path = parquet([strings('text', ['aa', 'bb', 'cc', null, 'ee'])], { rowGroupSize: 2 });
  expect(await texts(path, { maxRows: 3 })).toEqual(['aa', 'bb', 'cc']);
  await expectReject(
    loadDataset(path, { tokenizer }),
    'ERR_DATA',
    new RegExp(`${path}:4: expected "text" to be a string`),
  );
});

test('bounds on what is decompressed hold for each group of rows', async () => {
  const zeros = strings('text', ['0'.repeat(5 * 2 ** 20), 'b']);
  const path = parquet([zeros], {
    codec: 'GZIP',
    compressors: { GZIP: (bytes) => new Uint8Array(zlib.gzipSync(bytes)) },
  });
  const sentence = (bytes: number, ratio: number): string =>
    `[loadDataset] ${path}: expected groups of rows of at most ${bytes} bytes, and of ${ratio} times their bytes in the file: raise maxUnzippedBytes or maxUnzippedRatio for a file that you trust`;
  const how = { tokenizer, maxLength: 2 ** 24 };
  await expectReject(loadDataset(path, how), 'ERR_DATA', sentence(2 ** 31, 100));
  await expectReject(
    loadDataset(path, { ...how, maxUnzippedRatio: 10 ** 6, maxUnzippedBytes: 2 ** 22 }),
    'ERR_DATA',
    sentence(2 ** 22, 10 ** 6),
  );
  expect((await loadDataset(path, { ...how, maxUnzippedRatio: 10 ** 6 })).length).toBe(1);
  // What one group took, the next one has again.
  const two = parquet([strings('text', [zeros.data[0] as string, zeros.data[0] as string])], {
    codec: 'GZIP',
    compressors: { GZIP: (bytes) => new Uint8Array(zlib.gzipSync(bytes)) },
    rowGroupSize: 1,
  });
  const each = { ...how, maxUnzippedRatio: 10 ** 6, maxUnzippedBytes: 6 * 2 ** 20 };
  expect((await loadDataset(two, each)).length).toBe(2);
});

describe('between two groups of rows', () => {
  const bounds = { columns: undefined, maxUnzippedBytes: 2 ** 20, maxUnzippedRatio: 100 };
  const groups = (path: string, signal?: AbortSignal) => parquetRows(path, { ...bounds, signal });
  const write = (): string => parquet([strings('text', words)], { rowGroupSize: 4 });

  test('rows have their numbers, and a reader that leaves, or fails, closes the file', async () => {
    const path = write();
    const numbers: number[] = [];
    for await (const rows of groups(path)) numbers.push(...rows.map(({ number }) => number));
    expect(numbers).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for await (const rows of groups(path)) {
      expect(rows).toHaveLength(4);
      break;
    }
    await expect(groups(file(Buffer.from('PAR1'))).next()).rejects.toThrow(/expected Parquet/);
    expect(openFilesIn(root)).toEqual([]);
  });

  test('an abort ends the reading', async () => {
    const controller = new AbortController();
    const reading = groups(write(), controller.signal);
    await reading.next();
    const reason = new Error('enough');
    controller.abort(reason);
    await expect(reading.next()).rejects.toBe(reason);
  });

  test('a change of the file is an error', async () => {
    const path = write();
    const reading = groups(path);
    await reading.next();
    appendFileSync(path, 'more');
    const rest = async (): Promise<void> => {
      for await (const rows of reading) expect(rows.length).toBeGreaterThan(0);
    };
    await expectReject(rest(), 'ERR_FILE', /was changed|changed while/);
  });
});

describe('refused, by name:', () => {
  test('what is no Parquet, and what is damaged', async () => {
    for (const bytes of [Buffer.from('PAR1'), Buffer.from('{"text":"a"}\n'), Buffer.alloc(0)])
      await expectReject(
        loadDataset(file(bytes), { tokenizer }),
        'ERR_DATA',
        /expected Parquet, but it is none, or damaged \(/,
      );
    const whole = readFileSync(parquet([strings('text', words)]));
    for (let at = 4; at < whole.length; at += 3) {
      const bytes = Buffer.from(whole);
      bytes[at] = bytes[at]! ^ 0xff;
      const error: unknown = await loadDataset(file(bytes), { tokenizer, maxLength: 4096 }).catch(
        (reason: unknown) => reason,
      );
      if (error instanceof Error) expect(error).toHaveProperty('op', 'loadDataset');
    }
  });

  test('bytes that are not UTF-8', async () => {
    const path = parquet([strings('text', ['abcabcabc'])], { codec: 'UNCOMPRESSED' });
    const bytes = readFileSync(path);
    bytes[bytes.indexOf('abcabcabc')] = 0xff;
    await expectReject(loadDataset(file(bytes), { tokenizer }), 'ERR_DATA', /The encoded data was not valid/);
  });

  test('a codec that is not read', async () => {
    const path = parquet([strings('text', words)], { codec: 'LZ4', compressors: { LZ4: (bytes) => bytes } });
    await expectReject(
      loadDataset(path, { tokenizer }),
      'ERR_UNSUPPORTED',
      new RegExp(
        `^\\[loadDataset\\] ${path}: expected the column text in BROTLI, GZIP, SNAPPY(, ZSTD)?, or uncompressed, but received LZ4$`,
      ),
    );
  });

  test('a stream, and places in the file', async () => {
    const path = parquet([strings('text', words)]);
    await expectReject(
      loadDataset(path, { tokenizer, stream: true }),
      'ERR_UNSUPPORTED',
      `[loadDataset] ${path}: expected JSONL, JSON, a table or text as a stream, and Parquet is read from its end`,
    );
    await expectReject(
      loadDataset(path, { tokenizer, inMemory: false }),
      'ERR_UNSUPPORTED',
      /not for Parquet$/,
    );
    const named = file(readFileSync(path), 'd.jsonl');
    await expectReject(
      loadDataset(named, { tokenizer }),
      'ERR_UNSUPPORTED',
      /received a Parquet file: give it a name that ends in \.parquet$/,
    );
  });

  test('an abort', async () => {
    const path = parquet([strings('text', words)], { rowGroupSize: 1 });
    const reason = new Error('enough');
    await expect(loadDataset(path, { tokenizer, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
