import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { loadDataset, type Dataset } from '../../lib/data/dataset';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
let made = 0;
/** Writes a file of its own folder-wide number, so that tests do not meet. */
function file(name: string, content: string | Uint8Array): string {
  const path = join(dir, `${made++}-${name}`);
  writeFileSync(path, content);
  return path;
}

/** One id for each UTF-8 byte; 0 ends a text. */
const tokenizer = { encode: (text: string) => [...Buffer.from(text)], eosTokenId: 0 };
const texts = (data: Dataset): string[] =>
  [...data].map(({ inputIds }) => Buffer.from(inputIds.filter((id) => id !== 0)).toString());
const rows = (data: Dataset): number[][] => [...data].map(({ inputIds }) => [...inputIds]);

describe('JSONL of { text }', () => {
  test('is encoded and ended with one EOS, and counts every token', async () => {
    const path = file('a.jsonl', '{"text":"ab"}\n\n{"text":"abc\\u0000"}\r\n');
    const data = await loadDataset(path, { tokenizer });
    expect([...data]).toEqual([
      { inputIds: [97, 98, 0], labels: [97, 98, 0] },
      { inputIds: [97, 98, 99, 0], labels: [97, 98, 99, 0] }, // has its EOS already
    ]);
    expect(data).toMatchObject({ length: 2, truncated: 0, path });
  });

  test('gets no EOS from a tokenizer that has none', async () => {
    const path = file('a.jsonl', '{"text":"ab"}\n');
    expect(rows(await loadDataset(path, { tokenizer: { ...tokenizer, eosTokenId: null } }))).toEqual([
      [97, 98],
    ]);
  });

  test('longer than maxLength is cut, and only that is counted', async () => {
    const path = file(
      'a.jsonl',
      ['abc', 'ab', 'abcd', 'abcde'].map((text) => JSON.stringify({ text })).join('\n'),
    );
    const data = await loadDataset(path, { tokenizer, maxLength: 4 });
    // With its EOS, abc has exactly 4 tokens.
    expect(rows(data)).toEqual([
      [97, 98, 99, 0],
      [97, 98, 0],
      [97, 98, 99, 100],
      [97, 98, 99, 100],
    ]);
    expect(data.truncated).toBe(2);
  });

  test('is cut to 512 tokens unless told otherwise', async () => {
    const long = (n: number) => JSON.stringify({ text: 'x'.repeat(n) });
    const data = await loadDataset(file('a.jsonl', `${long(511)}\n${long(512)}`), { tokenizer });
    expect(rows(data).map((row) => row.length)).toEqual([512, 512]);
    expect(data.truncated).toBe(1);
  });

  test('of a single token is left out: nothing is predicted in it', async () => {
    const path = file('a.jsonl', '{"text":""}\n{"text":"ab"}\n');
    expect(texts(await loadDataset(path, { tokenizer }))).toEqual(['ab']);
  });

  test('may hold any character of JSON strings, and byte order marks before it', async () => {
    const path = file('a.jsonl', '\uFEFF{"text":"a\u2028b"}\n{"text":"é🙂"}');
    expect(texts(await loadDataset(path, { tokenizer }))).toEqual(['a\u2028b', 'é🙂']);
  });
});

describe('JSONL of { inputIds }', () => {
  test('needs no tokenizer; labels are kept, or are the ids', async () => {
    const path = file('b.ndjson', '{"inputIds":[1,2],"labels":[-100,2]}\n{"inputIds":[3,4,5]}');
    expect([...(await loadDataset(path))]).toEqual([
      { inputIds: [1, 2], labels: [-100, 2] },
      { inputIds: [3, 4, 5], labels: [3, 4, 5] },
    ]);
  });

  test('is cut together with its labels', async () => {
    const path = file('b.jsonl', '{"inputIds":[1,2,3,4,5],"labels":[-100,-100,3,4,5]}\n{"inputIds":[6,7,8]}');
    const data = await loadDataset(path, { maxLength: 3 });
    expect([...data]).toEqual([
      { inputIds: [1, 2, 3], labels: [-100, -100, 3] },
      { inputIds: [6, 7, 8], labels: [6, 7, 8] },
    ]);
    expect(data.truncated).toBe(1);
  });

  test('with labels of another length is ERR_DATA at its line', async () => {
    const path = file('b.jsonl', '\n{"inputIds":[1,2]}\n{"inputIds":[1,2],"labels":[1]}');
    await expectReject(
      loadDataset(path),
      'ERR_DATA',
      `[loadDataset] ${path}:3: expected 2 labels, one per token, but received 1`,
    );
  });
});

test('data is read anew by each loop over it, and URLs name files too', async () => {
  const path = file('a.jsonl', '{"text":"ab"}');
  const data = await loadDataset(pathToFileURL(path), { tokenizer });
  expect(data.path).toBe(path);
  expect(texts(data)).toEqual(['ab']);
  expect(texts(data)).toEqual(['ab']);
});

describe('plain text', () => {
  test('is encoded as a whole and split into pieces, without EOS', async () => {
    const data = await loadDataset(file('c.txt', 'ab\r\n\ncdé\n'), { tokenizer, maxLength: 4 });
    expect(rows(data).map((ids) => Buffer.from(ids).toString('latin1'))).toEqual([
      'ab\r\n',
      '\ncd\xC3',
      '\xA9\n',
    ]);
    expect(data.truncated).toBe(0);
    expect([...data].map(({ labels }) => labels)).toEqual(rows(data));
  });

  test('has whatever ending or none; a last piece of one token is left out', async () => {
    for (const name of ['notes', 'notes.md', 'x.jsonl.txt'])
      expect(texts(await loadDataset(file(name, '{"text":'), { tokenizer, maxLength: 7 }))).toEqual([
        '{"text"',
      ]);
  });

  test('that begins like another kind of file is text all the same', async () => {
    for (const start of ['PAR1', 'BZh9 ', '%PDF-', '7z'])
      expect(texts(await loadDataset(file('d.txt', `${start} is text`), { tokenizer }))).toEqual([
        `${start} is text`,
      ]);
  });
});

describe('gzip', () => {
  const jsonl = '{"text":"ab"}\n{"text":"é\u2028"}\n';

  test.each(['d.jsonl.gz', 'd.JSONL.GZ', 'd.jsonl'])('%s is unzipped, seen by its bytes', async (name) => {
    expect(texts(await loadDataset(file(name, gzipSync(jsonl)), { tokenizer }))).toEqual(['ab', 'é\u2028']);
  });

  test('text, and several gzip files in one, as cat makes them', async () => {
    const both = Buffer.concat([gzipSync('abc\n'), gzipSync('def')]);
    expect(texts(await loadDataset(file('d.txt.gz', both), { tokenizer }))).toEqual(['abc\ndef']);
  });

  test('may be padded with zeros, and what follows them is not passed over', async () => {
    const [one, other] = [gzipSync('{"text":"ab"}'), gzipSync('\n{"text":"cd"}')];
    const zeros = Buffer.alloc(100_000); // more than one read
    const padded = file('d.jsonl.gz', Buffer.concat([one, zeros]));
    expect(texts(await loadDataset(padded, { tokenizer }))).toEqual(['ab']);
    for (const rest of [other, Buffer.from('x')]) {
      const path = file('d.jsonl.gz', Buffer.concat([one, zeros, rest]));
      await expectReject(
        loadDataset(path, { tokenizer }),
        'ERR_DATA',
        `[loadDataset] ${path}: expected zeros alone behind the end of the gzip data at byte ${one.length} but received more data: unzip its parts one by one`,
      );
    }
  });

  test('more than one read of the file and more than one block of the unzipped', async () => {
    const lines = Array.from({ length: 4000 }, (_, i) => `line ${i} é ${(i * 2654435761) % 4294967296}`);
    const text = lines.map((line) => JSON.stringify({ text: line })).join('\n');
    const plain = texts(await loadDataset(file('e.jsonl', text), { tokenizer }));
    expect(plain).toEqual(lines);
    expect(texts(await loadDataset(file('e.jsonl.gz', gzipSync(text, { level: 0 })), { tokenizer }))).toEqual(
      lines,
    );
  });

  test('cut short or damaged is ERR_DATA', async () => {
    const whole = gzipSync(Buffer.from(jsonl.repeat(50)), { level: 0 });
    for (const length of [whole.length - 9, 700, 20, 3, 2]) {
      const path = file('d.jsonl.gz', whole.subarray(0, length));
      await expectReject(
        loadDataset(path, { tokenizer }),
        'ERR_DATA',
        /gz: the gzip data is damaged or cut short, after line \d+ \(unexpected end of file\)$/,
      );
    }
    const damaged = Buffer.from(whole);
    damaged[damaged.length - 6]! ^= 1; // of the checksum
    await expectReject(
      loadDataset(file('d.jsonl.gz', damaged), { tokenizer }),
      'ERR_DATA',
      /cut short, after line \d+ \(incorrect data check\)$/,
    );
  });

  test('in the name alone is ERR_DATA', async () => {
    for (const content of [jsonl, '']) {
      const path = file('d.jsonl.gz', content);
      await expectReject(
        loadDataset(path, { tokenizer }),
        'ERR_DATA',
        `[loadDataset] ${path}: expected gzip, as its name ends in .gz, but it is not`,
      );
    }
  });
});

describe('what is not UTF-8 text', () => {
  const latin1 = Buffer.from('{"text":"caf\xE9"}\n', 'latin1');

  test('is ERR_DATA with its line, in JSONL, text and gzip', async () => {
    const good = Buffer.from('{"text":"ab"}\n\n');
    for (const [name, content] of [
      ['f.jsonl', Buffer.concat([good, latin1, good])],
      ['f.txt', Buffer.concat([good, latin1])],
      ['f.jsonl.gz', gzipSync(Buffer.concat([good, latin1]))],
      ['f.txt', Buffer.concat([good, Buffer.from([0xe2, 0x80])])], // a character that the end cuts
    ] as const) {
      const path = file(name, content);
      await expectReject(
        loadDataset(path, { tokenizer }),
        'ERR_DATA',
        `[loadDataset] ${path}:3: expected UTF-8 text but received bytes that are not`,
      );
    }
  });

  test('bytes that are not UTF-8 on the first line are no UTF-16', async () => {
    const path = file('h.jsonl', latin1);
    await expectReject(
      loadDataset(path, { tokenizer }),
      'ERR_DATA',
      `[loadDataset] ${path}:1: expected UTF-8 text but received bytes that are not`,
    );
  });

  test('UTF-16 is named, with a byte order mark or by its zero bytes', async () => {
    const little = Buffer.from('\uFEFF{"text":"a"}\n', 'utf16le');
    const big = Buffer.from(little).swap16();
    for (const content of [little, big])
      await expectReject(
        loadDataset(file('g.jsonl', content)),
        'ERR_DATA',
        /:1: .* UTF-16: save it as UTF-8$/,
      );
    await expectReject(
      loadDataset(file('g.txt', Buffer.from('ab', 'utf16le'))),
      'ERR_DATA',
      /:1: expected UTF-8 text but received a zero byte$/,
    );
  });

  test.each<[string, string]>([
    ['a.xlsx', 'a spreadsheet: save it as .csv, or write each row as an object on a line of its own'],
    ['a.arrow', 'an Arrow file: save it as .csv'],
    ['a.db', 'a database: save it as .csv'],
    ['a.DB.gz', 'a database: save it as .csv'],
    ['a.zip', 'a zip archive: unpack it first'],
    ['a.tgz', 'a tar archive: unpack it first'],
    ['a.tar.gz', 'a tar archive: unpack it first'],
    ['a.jsonl.bz2', 'a bzip2 file: unpack it first'],
    ['a.jsonl.xz', 'an xz file: unpack it first'],
    ['a.pdf', 'a PDF: extract its text'],
    ['a.docx', 'a Word document: save it as text'],
  ])('%s is refused by its name, with what helps: %s', async (name, sentence) => {
    const path = file(name, '{"text":"ab"}\n');
    await expect(loadDataset(path, { tokenizer })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringContaining(
        `[loadDataset] ${path}: expected JSONL (.jsonl or .ndjson, one object per line), JSON (.json), ` +
          `a table (.csv or .tsv) or UTF-8 text, any of them also compressed (.gz or .zst), or Parquet (.parquet), but received ${sentence}`,
      ) as string,
    });
  });

  test.each<[string, Buffer]>([
    ['a Parquet file', Buffer.from('PAR1\x15\x00\x15\xFF', 'latin1')],
    ['an Arrow file', Buffer.from('ARROW1\0\0\xFF', 'latin1')],
    ['a database', Buffer.from('SQLite format 3\0\x10', 'latin1')],
    ['a zip archive', Buffer.from('PK\x03\x04\x14\0', 'latin1')],
    ['a tar archive', Buffer.from(`data.jsonl${'\0'.repeat(247)}ustar\0`)],
    ['a 7z archive', Buffer.from('7z\xBC\xAF\x27\x1C\0', 'latin1')],
    ['a bzip2 file', Buffer.from('BZh91AY&SY\xFF', 'latin1')],
    ['an xz file', Buffer.from('\xFD7zXZ\0', 'latin1')],
    ['a PDF', Buffer.from('%PDF-1.7\n%\xE2\xE3\n', 'latin1')],
  ])('%s under a wrong name is known by its bytes, in gzip too', async (what, content) => {
    // Zstandard by itself is read, or names the version of Node.js that does.
    const alone = what === 'a Zstandard file' ? [] : [file('h.jsonl', content)];
    for (const path of [...alone, file('h.txt.gz', gzipSync(content))]) {
      const loading = loadDataset(path, { tokenizer: { encode: () => [1, 2] } });
      // A line that is text comes first in a PDF: as JSONL that is what is wrong with it.
      if (what === 'a PDF' && path.endsWith('.jsonl'))
        await expectReject(loading, 'ERR_DATA', /:1: expected one JSON/);
      else await expectReject(loading, 'ERR_UNSUPPORTED', new RegExp(`but received ${what}: `));
    }
  });
});

describe('a line that is wrong', () => {
  test.each([
    [
      'no JSON',
      '{"text":"a b"}\n{"text"',
      'ERR_DATA',
      ':2: expected one JSON object per line, but this is no JSON: expected ":" at character 7',
    ],
    [
      'no JSON after blank lines',
      '\n{"text":"ab"}\n  \n\r\n{',
      'ERR_DATA',
      ':5: expected one JSON object per line',
    ],
    ['no object', '["text"]', 'ERR_DATA', ":1: expected a JSON object but received ['text']"],
    ['null', '\nnull', 'ERR_DATA', ':2: expected a JSON object but received null'],
    ['a number', '7', 'ERR_DATA', ':1: expected a JSON object but received 7'],
    [
      'another key',
      '{"txt":"a","id":1}',
      'ERR_DATA',
      ':1: expected one of { inputIds, labels? }, { messages }, { conversations }, { prompt, completion }, { instruction, input?, output }, { question, answer }, { text } but received the keys txt, id',
    ],
    ['no keys', '{}', 'ERR_DATA', 'but received the keys (none)'],
    [
      'another kind later',
      '{"text":"ab"}\n{"inputIds":[1]}',
      'ERR_DATA',
      ':2: expected { text }, as the first row is, but received { inputIds, labels? }',
    ],
    ['text that is none', '{"text":5}', 'ERR_DATA', ':1: expected "text" to be a string but received 5'],
    [
      'no messages',
      '{"messages":[]}',
      'ERR_DATA',
      ':1: expected "messages" to be messages of { role, content } but received []',
    ],
    [
      'messages without a template',
      '{"messages":[{"role":"user","content":"a"}]}',
      'ERR_UNSUPPORTED',
      ':1: conversations need a chat template, and the model has none: pass chatTemplate',
    ],
    [
      'a completion that is none',
      '{"prompt":"a","completion":5}',
      'ERR_DATA',
      ':1: expected "completion" to be a string',
    ],
    ['nothing', '\n', 'ERR_DATA', ': expected at least one example but it holds none'],
  ])('%s', async (_, text, code, sentence) => {
    const path = file('w.jsonl', text);
    await expect(loadDataset(path, { tokenizer })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(
        `[loadDataset] ${path}${sentence.startsWith(':') ? sentence : ''}`,
      ) as string,
    });
    await expect(loadDataset(path, { tokenizer })).rejects.toThrow(sentence);
  });
});

test('a missing file, a folder, a missing tokenizer, wrong options', async () => {
  const none = join(dir, 'none.jsonl');
  await expectReject(loadDataset(none), 'ERR_FILE', `[loadDataset] cannot read ${none}: no such file`);
  await expectReject(
    loadDataset(dir),
    'ERR_FILE',
    /: expected train\.jsonl \(or .*\) in it but received none$/,
  );
  const path = file('d.jsonl', '{"text":"a"}');
  await expectReject(
    loadDataset(path),
    'ERR_ARGUMENT',
    `[loadDataset] ${path}:1: expected a tokenizer, since it holds text: pass { tokenizer: model.tokenizer }`,
  );
  await expectReject(
    loadDataset(path, { trainOn: 'completion', tokenizer }),
    'ERR_ARGUMENT',
    `[loadDataset] ${path}:1: { text } has no completion: use trainOn 'all'`,
  );
  await expectReject(
    loadDataset(path, { chatTemplate: 5 as unknown as string }),
    'ERR_ARGUMENT',
    '[loadDataset] expected chatTemplate to be Jinja text or null but received 5',
  );
  await expectReject(
    loadDataset('x', { trainOn: 'answers' as 'all' }),
    'ERR_ARGUMENT',
    "[loadDataset] expected trainOn to be 'all', 'completion' but received 'answers'",
  );
  for (const [wrong, words] of [
    [undefined, 'undefined'],
    ['', "''"],
    [5, '5'],
  ])
    await expectReject(
      loadDataset(wrong as string),
      'ERR_ARGUMENT',
      `[loadDataset] expected a path but received ${words as string}`,
    );
  await expectReject(
    loadDataset('x', { maxSeqLength: 2 } as never),
    'ERR_ARGUMENT',
    "[loadDataset] unknown option 'maxSeqLength'; did you mean 'maxLength'?",
  );
  await expectReject(
    loadDataset(new URL('https://example.org/x.jsonl')),
    'ERR_ARGUMENT',
    '[loadDataset] expected a path or a file: URL but received https://example.org/x.jsonl',
  );
  await expectReject(
    loadDataset(path, { tokenizer: { hasTokenizer: true } as never }),
    'ERR_ARGUMENT',
    '[loadDataset] expected tokenizer to have encode(text) but received an object: pass model.tokenizer',
  );
  await expectReject(
    loadDataset(path, { tokenizer: null as never }),
    'ERR_ARGUMENT',
    '[loadDataset] expected tokenizer to have encode(text) but received null',
  );
  for (const maxLength of [1, 2.5, -3])
    await expectReject(
      loadDataset(path, { tokenizer, maxLength }),
      'ERR_ARGUMENT',
      `[loadDataset] expected maxLength to be a whole number above 1 but received ${maxLength}`,
    );
  expect((await loadDataset(path, { tokenizer, maxLength: 2 })).length).toBe(1);
});
