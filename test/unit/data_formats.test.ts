/** Data sets that are no JSONL: lists in JSON, tables, ShareGPT's conversations, columns of other names, folders. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { loadDataset, type LoadDatasetOptions } from '../../lib/index';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let made = 0;
/** Writes a file in a folder of its own. */
function file(name: string, content: string | Buffer): string {
  const path = join(root, `f${made++}`, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
}

const tokenizer = {
  encode: (text: string) => [...Buffer.from(text)],
  hasChatTemplate: true,
  turns: (messages: readonly { role: string; content?: unknown }[]) => {
    let text = '';
    const spans: [number, number][] = [];
    for (const { role, content } of messages) {
      text += `<${role}>`;
      if (role === 'assistant') spans.push([text.length, text.length + String(content).length]);
      text += String(content);
    }
    return { text, spans };
  },
};
/** The texts of the rows, with what counts in brackets. */
async function texts(path: string, options: LoadDatasetOptions = {}): Promise<string[]> {
  return [...(await loadDataset(path, { tokenizer, ...options }))].map(({ inputIds, labels }) =>
    Buffer.from(
      inputIds.flatMap((id, i) => {
        const [before, here, next] = [-1, 0, 1].map((step) => (labels[i + step] ?? -100) !== -100);
        return [...(here && !before ? [91] : []), id, ...(here && !next ? [93] : [])];
      }),
    ).toString(),
  );
}
const ids = async (path: string, options: LoadDatasetOptions = {}): Promise<readonly number[][]> =>
  [...(await loadDataset(path, options))].map(({ inputIds }) => [...inputIds]);

describe('JSON', () => {
  const list = '[{"inputIds":[1,2]},{"inputIds":[3,4],"x":"}]\\"{"}, {"inputIds":[5,6],"y":{"z":[{}]}}]';
  const wanted = [
    [1, 2],
    [3, 4],
    [5, 6],
  ];

  test.each<[string, string | Buffer]>([
    ['a list', list],
    [
      'with a byte order mark and line breaks',
      `\ufeff\n${JSON.stringify(JSON.parse(list), null, 2).replaceAll('\n', '\r\n')}\n`,
    ],
    ['gzipped', gzipSync(list)],
    ['objects on lines', '{"inputIds":[1,2]}\n{"inputIds":[3,4]}\n\n{"inputIds":[5,6]}\n'],
  ])('%s gives its objects in their order', async (_, content) => {
    expect(await ids(file('d.json', content))).toEqual(wanted);
  });

  test('an object that lies in many chunks of the file', async () => {
    const long = 'é"\\'.repeat(100_000);
    const path = file('d.json', JSON.stringify([{ text: long }, { text: 'bb' }]));
    const [first, second] = await texts(path, { maxLength: 10 ** 7, trainOn: 'all' });
    expect([first!.length, second]).toEqual([long.length + 2, '[bb]']);
  });

  test('objects have at most maxLineBytes bytes, and a list of them as many as it likes', async () => {
    const many = file('d.json', `[${Array.from({ length: 100 }, () => '{"inputIds":[1,2]}').join()}]`);
    expect((await ids(many, { maxLineBytes: 18 })).length).toBe(100);
    await expectReject(
      loadDataset(many, { maxLineBytes: 17 }),
      'ERR_DATA',
      `[loadDataset] ${many}:1: expected an object of at most 17 bytes: raise maxLineBytes where objects are so long`,
    );
    expect((await ids(many, { maxRows: 99 })).length).toBe(99);
  });

  test.each([
    ['[{"inputIds":[1,2]}\n,\n5]', 3, 'expected an object behind the comma but received "5"'],
    [
      '[{"inputIds":[1,2]} {"inputIds":[1,2]}]',
      1,
      'expected a comma or the end of the list but received "{"',
    ],
    ['[{"inputIds":[1,2]},]', 1, 'expected an object behind the comma but received "]"'],
    ['[{"inputIds":[1,2]}', 1, 'expected the list to end with ]'],
    ['[{"inputIds":[1,2]},\n{"inputIds":', 2, 'expected the object that begins here to end'],
    ['[{"inputIds":[1,2]}]\nx', 2, 'expected nothing behind the list but received "x"'],
    ['"a"', 1, 'expected a list of objects, or objects, but received "\\""'],
    ['[{"inputIds":[1,2]},\n{"inputIds" [1]}]', 2, 'expected a JSON object, but this is no JSON: '],
    ['[{"a":1}]', 1, 'expected one of { inputIds, labels? }'],
  ])('%j is refused at line %d', async (content, line, sentence) => {
    const path = file('d.json', content);
    const error = await loadDataset(path).catch((reason: Error) => reason);
    expect((error as Error).message).toContain(`[loadDataset] ${path}:${line}: ${sentence}`);
  });

  test('bytes that are not UTF-8, and gzip data that hold too much', async () => {
    const bad = Buffer.concat([Buffer.from('[{"text":"'), Buffer.from([0xff]), Buffer.from('"}]')]);
    await expectReject(
      loadDataset(file('d.json', bad), { tokenizer }),
      'ERR_DATA',
      /:1: expected UTF-8 text/,
    );
    const bomb = gzipSync(`[${' '.repeat(8 * 2 ** 20)}]`);
    await expectReject(loadDataset(file('d.json.gz', bomb)), 'ERR_DATA', /maxUnzippedRatio/);
  });
});

describe('tables', () => {
  const prompts = ['<user>a<assistant>[b]', '<user>c, "d"\n\ne<assistant>[f]'];

  test.each<[string, string, string | Buffer]>([
    ['CSV', 'd.csv', 'prompt,completion\na,b\n"c, ""d""\n\ne",f\n'],
    ['with the line breaks of Windows', 'd.csv', 'prompt,completion\r\n"a","b"\r\n\r\n"c, ""d""\n\ne",f'],
    ['with a byte order mark', 'd.csv', '\ufeffprompt,completion\na,b\n"c, ""d""\n\ne",f\n'],
    ['with other columns', 'd.csv', 'n,completion,prompt\n1,b,a\n2,f,"c, ""d""\n\ne"\n'],
    ['TSV', 'd.tsv', 'prompt\tcompletion\na\tb\n"c, ""d""\n\ne"\tf\n'],
    ['gzipped', 'd.csv.gz', gzipSync('prompt,completion\na,b\n"c, ""d""\n\ne",f\n')],
  ])('%s: the first line names the columns', async (_, name, content) => {
    expect(await texts(file(name, content))).toEqual(prompts);
  });

  test('the last field of a record may be empty', async () => {
    const table = file('d.csv', 'instruction,output,input\na,b,\nc,d,"e"\nf,g,""\n');
    expect(await texts(table)).toEqual([
      '<user>a<assistant>[b]',
      '<user>c\n\ne<assistant>[d]',
      '<user>f<assistant>[g]',
    ]);
  });

  test.each([
    ['prompt,completion\na\n', 2, 'expected 2 fields, as many as the first line names, but received 1'],
    [
      'prompt,completion\na,b\n\nc,d,e\n',
      4,
      'expected 2 fields, as many as the first line names, but received 3',
    ],
    ['prompt,completion\n"a"x,b\n', 2, 'expected a comma behind the quote that ends field 1'],
    ['prompt,completion\na"b"c,d\n', 2, 'expected field 1 to be in quotes, since it holds one'],
    ['prompt,completion\n"a,b\nc,d\n', 2, 'expected a quote that ends the field that one begins'],
    ['text,text\na,b\n', 1, 'expected columns of different names but received "text" twice'],
    ['a;b\n1;2\n', 2, 'expected one of { inputIds, labels? }'],
  ])('%j is refused at line %d', async (content, line, sentence) => {
    const path = file('d.csv', content);
    const error = await loadDataset(path, { tokenizer }).catch((reason: Error) => reason);
    expect((error as Error).message).toContain(`[loadDataset] ${path}:${line}: ${sentence}`);
  });

  test('a table has at most 10,000 columns, and names that differ are found in one pass', async () => {
    const table = (columns: number): string =>
      file('d.csv', `text${Array.from({ length: columns - 1 }, (_, i) => `,c${i}`).join('')}\n`);
    await expectReject(loadDataset(table(10_000), { tokenizer }), 'ERR_DATA', /it holds none$/);
    await expectReject(
      loadDataset(table(1_000_000), { tokenizer }),
      'ERR_DATA',
      /:1: expected at most 10000 columns$/,
    );
  });

  test('a record of many lines has at most maxLineBytes bytes', async () => {
    const path = file('d.csv', `text\n"${'a\n'.repeat(1000)}"\n`);
    expect((await loadDataset(path, { tokenizer, maxLineBytes: 2002 })).length).toBe(1);
    await expectReject(
      loadDataset(path, { tokenizer, maxLineBytes: 2001 }),
      'ERR_DATA',
      /:2: expected a record of at most 2001 bytes: a quote that does not end makes one of all that follows/,
    );
  });

  test('a table of names alone has no example, and no file of JSON or a table is read by places', async () => {
    await expectReject(loadDataset(file('d.csv', 'text\n'), { tokenizer }), 'ERR_DATA', /it holds none$/);
    for (const [name, what] of [
      ['d.csv', 'tables'],
      ['d.json', 'JSON that is no JSONL'],
    ] as const)
      await expectReject(
        loadDataset(file(name, '[]'), { inMemory: false }),
        'ERR_UNSUPPORTED',
        new RegExp(`inMemory: false is for plain JSONL files, not for ${what}$`),
      );
  });
});

describe('rows', () => {
  const load = (row: object, options: LoadDatasetOptions = {}): Promise<string[]> =>
    texts(file('d.jsonl', JSON.stringify(row)), options);
  const said = (...parts: [string, string][]): object => ({
    conversations: parts.map(([from, value]) => ({ from, value })),
  });

  test('conversations of ShareGPT are messages', async () => {
    const parts: [string, string][] = [
      ['human', 'a'],
      ['gpt', 'b'],
      ['user', 'c'],
      ['assistant', 'd'],
    ];
    expect(await load(said(...parts))).toEqual(['<user>a<assistant>[b]<user>c<assistant>[d]']);
    expect(await load({ ...said(...parts.slice(0, 2)), system: 's' })).toEqual([
      '<system>s<user>a<assistant>[b]',
    ]);
    // A table has an empty field where a row says nothing.
    for (const system of ['', null])
      expect(await load({ ...said(...parts.slice(0, 2)), system })).toEqual(['<user>a<assistant>[b]']);
    expect(await load(said(['system', 's'], ['human', 'a'], ['gpt', 'b']))).toEqual([
      '<system>s<user>a<assistant>[b]',
    ]);
    const mixed = {
      conversations: [
        { role: 'user', content: 'a' },
        { role: 'assistant', content: 'b' },
      ],
    };
    expect(await load(mixed)).toEqual(['<user>a<assistant>[b]']);
  });

  test.each([
    [{ conversations: [] }, 'expected "conversations" to be a list of { from, value } but received '],
    [
      { conversations: [{ from: 'human' }] },
      'expected message 1 of "conversations" to be { from, value } of two texts',
    ],
    [
      said(['human', 'a'], ['nobody', 'b']),
      'expected "from" of message 2 to be one of system, human, user, gpt',
    ],
    [said(['human', 'a']), 'expected a message of the assistant, of which the tokens count'],
  ])('%j is refused', async (row, sentence) => {
    const error = await load(row).catch((reason: Error) => reason);
    expect((error as Error).message).toContain(`:1: ${sentence}`);
  });

  test('a question and its answer are an exchange, with a template and without', async () => {
    const row = { question: 'a', answer: 'b' };
    expect(await load(row)).toEqual(['<user>a<assistant>[b]']);
    expect(await load(row, { chatTemplate: null })).toEqual(['a\n\n[b]']);
  });
});

describe('columns', () => {
  const load = (row: object, columns: Record<string, string>): Promise<string[]> =>
    texts(file('d.jsonl', JSON.stringify(row)), { columns });

  test('rows have what is read under other names', async () => {
    expect(await load({ q: 'a', a: 'b', text: 'x', messages: [] }, { prompt: 'q', completion: 'a' })).toEqual(
      ['<user>a<assistant>[b]'],
    );
    expect(await load({ q: 'a', completion: 'b' }, { prompt: 'q' })).toEqual(['<user>a<assistant>[b]']);
    expect(await load({ ask: 'a', input: 'i', output: 'b' }, { instruction: 'ask' })).toEqual([
      '<user>a\n\ni<assistant>[b]',
    ]);
    expect(await load({ ask: 'a', say: 'b' }, { instruction: 'ask', output: 'say', input: 'more' })).toEqual([
      '<user>a<assistant>[b]',
    ]);
    const table = file('d.csv', 'Frage,Antwort\na,b\n');
    expect(await texts(table, { columns: { question: 'Frage', answer: 'Antwort' } })).toEqual([
      '<user>a<assistant>[b]',
    ]);
  });

  test.each<[string, object, LoadDatasetOptions, string, string]>([
    [
      'of no kind',
      {},
      { columns: { Prompt: 'q' } },
      'ERR_ARGUMENT',
      "to name one of inputIds, messages, conversations, prompt, completion, instruction, output, question, answer, text, labels, tools, system, input but received 'Prompt'",
    ],
    [
      'that are no names',
      {},
      { columns: ['q'] as never },
      'ERR_ARGUMENT',
      'expected columns to be an object of names',
    ],
    [
      'that a row lacks',
      { q: 1 },
      { columns: { text: 'words' } },
      'ERR_DATA',
      ':1: expected the column "words", as columns.text has it, but received the keys q',
    ],
    [
      'of half a kind',
      { q: 'a' },
      { columns: { prompt: 'q' } },
      'ERR_DATA',
      ':1: expected one of { inputIds, labels? }',
    ],
  ])('%s are refused', async (_, row, options, code, sentence) => {
    const path = file('d.jsonl', JSON.stringify(row));
    await expect(loadDataset(path, { tokenizer, ...options })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(sentence) as string,
    });
  });

  test('plain text has none', async () => {
    await expectReject(
      loadDataset(file('d.txt', 'a'), { tokenizer, columns: { text: 'a' } }),
      'ERR_ARGUMENT',
      '[loadDataset] expected columns for rows, and plain text has none',
    );
  });
});

describe('a folder', () => {
  const folder = (...names: string[]): string => {
    const path = join(root, `d${made++}`);
    mkdirSync(path);
    for (const [i, name] of names.entries())
      writeFileSync(
        join(path, name),
        name.includes('csv') ? `text\nt${i}\n` : JSON.stringify({ text: `t${i}` }),
      );
    return path;
  };

  test('has a file for training, and others that measure', async () => {
    const path = folder('train.jsonl', 'Validation.csv', 'test.json', 'README.md', 'notes.jsonl');
    const all = { trainOn: 'all' as const };
    expect(await texts(path, all)).toEqual(['[t0]']);
    expect((await loadDataset(path, { tokenizer })).path).toBe(join(path, 'train.jsonl'));
    expect(await texts(path, { ...all, split: 'train' })).toEqual(['[t0]']);
    expect(await texts(path, { ...all, split: 'valid' })).toEqual(['[t1]']);
    expect(await texts(path, { ...all, split: 'test' })).toEqual(['[t2]']);
  });

  test.each([
    ['train', ['train', 'training']],
    ['valid', ['valid', 'validation', 'val', 'dev', 'eval']],
    ['test', ['test']],
  ] as const)('the file of %s is called %s', async (split, names) => {
    for (const name of names)
      expect(await texts(folder('notes.jsonl', `${name}.jsonl`), { split, trainOn: 'all' })).toEqual([
        '[t1]',
      ]);
  });

  test('without a file, with two, or with a link: refused', async () => {
    const none = folder('data.jsonl');
    symlinkSync(join(none, 'data.jsonl'), join(none, 'train.jsonl'));
    await expectReject(
      loadDataset(none),
      'ERR_FILE',
      `[loadDataset] ${none}: expected train.jsonl (or .json, .csv, .tsv, .parquet, .txt, each also .gz or .zst) in it but received none`,
    );
    const two = folder('train.csv', 'train.jsonl');
    await expectReject(
      loadDataset(two),
      'ERR_FILE',
      `[loadDataset] ${two}: expected one file for train but received train.csv, train.jsonl`,
    );
    const path = file('d.jsonl', '{"inputIds":[1,2]}');
    await expectReject(
      loadDataset(path, { split: 'valid' }),
      'ERR_ARGUMENT',
      `[loadDataset] expected a folder or a name of the hub beside split but received ${path}`,
    );
    await expectReject(loadDataset(two, { split: '../train' }), 'ERR_ARGUMENT', /split/);
  });
});
