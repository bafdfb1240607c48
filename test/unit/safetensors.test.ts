import { constants } from 'node:buffer';
import {
  appendFileSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { LoRAError } from '../../lib/errors';
import { safetensorsBits, type SafetensorsDType } from '../../lib/formats/dtypes';
import { openSafetensors, writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { fileOf } from '../support/safetensors_bytes';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
let count = 0;
const fresh = (): string => join(dir, `${count++}.safetensors`);

function saved(content: Uint8Array): string {
  const path = fresh();
  writeFileSync(path, content);
  return path;
}

/** "CODE reason" of what opening the content throws, without the path; "valid" when nothing. */
async function verdict(content: Uint8Array): Promise<string> {
  const path = saved(content);
  try {
    (await openSafetensors(path)).close();
    return 'valid';
  } catch (error) {
    if (!(error instanceof LoRAError)) throw error;
    expect(error.message.startsWith(`${path} `)).toBe(true);
    return `${error.code} ${error.message.slice(path.length + 1)}`;
  }
}

const one = (entry: object): Buffer => fileOf({ w: entry }, new Uint8Array(8));
const w = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };

describe('what is accepted', () => {
  const cases: [string, Buffer][] = [
    ['no tensors', fileOf('{}')],
    ['spaces behind the header', fileOf('{}   ')],
    ['white space before and behind', fileOf('\n\t {} \r\n')],
    ['a scalar', fileOf({ s: { dtype: 'F64', shape: [], data_offsets: [0, 8] } }, new Uint8Array(8))],
    ['metadata null', fileOf('{"__metadata__":null}')],
    ['an unknown field', one({ ...w, note: [{ deep: [1.5e3, null, true] }] })],
    ['an empty name', fileOf({ '': w }, new Uint8Array(8))],
    [
      'empty tensors that share an offset',
      fileOf({
        a: { dtype: 'F32', shape: [0, 3], data_offsets: [0, 0] },
        b: { dtype: 'U8', shape: [0], data_offsets: [0, 0] },
      }),
    ],
    [
      'an empty tensor at the offset of one that comes before it in the header',
      fileOf(
        {
          w,
          last: { dtype: 'U8', shape: [0], data_offsets: [8, 8] },
          first: { dtype: 'F32', shape: [3, 0], data_offsets: [0, 0] },
        },
        new Uint8Array(8),
      ),
    ],
    [
      'halves of bytes',
      fileOf({ f: { dtype: 'F4', shape: [3, 2], data_offsets: [0, 3] } }, new Uint8Array(3)),
    ],
    [
      'a name that is escaped',
      fileOf('{"\\u00e9\\ud83d\\ude00\\/":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    ],
  ];
  test.each(cases)('%s', async (_, content) => {
    expect(await verdict(content)).toBe('valid');
  });

  test('unaligned tensors, in the order of the data, whatever the order of the names', async () => {
    const header = {
      late: { dtype: 'F32', shape: [1], data_offsets: [1, 5] },
      early: { dtype: 'U8', shape: [1], data_offsets: [0, 1] },
    };
    const file = await openSafetensors(saved(fileOf(header, Uint8Array.of(7, 1, 2, 3, 4))));
    expect([...file.tensors.keys()]).toEqual(['early', 'late']);
    expect([...file.tensors.get('late')!.bytes]).toEqual([1, 2, 3, 4]);
    expect(file.tensors.get('late')).toMatchObject({ dtype: 'F32', shape: [1] });
    file.close();
  });

  test('names and metadata that an object would not keep', async () => {
    const text =
      '{"__metadata__":{"__proto__":"p","a":"b"},"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    const file = await openSafetensors(saved(fileOf(text, Uint8Array.of(9))));
    expect([...file.tensors.get('__proto__')!.bytes]).toEqual([9]);
    expect(Object.keys(file.metadata)).toEqual(['__proto__', 'a']);
    expect(file.metadata['__proto__']).toBe('p');
    file.close();
  });

  test.each([640, 1152, 896])('a header of %i bytes, which is spelt like a pickle', async (length) => {
    expect(await verdict(fileOf('{}'.padEnd(length)))).toBe('valid');
  });
});

describe('what is refused', () => {
  const entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
  const huge = Buffer.alloc(16);
  huge.writeBigUInt64LE(2n ** 63n);
  const cases: [string, Buffer, RegExp][] = [
    ['an empty file', Buffer.alloc(0), /^is 0 bytes long; a safetensors file has at least 8$/],
    ['a length beyond 2^53', huge, /its header would be longer than 100000000 bytes$/],
    [
      'a length beyond the file',
      Buffer.from([50, 0, 0, 0, 0, 0, 0, 0, 123, 125]),
      /^is cut off: the header alone needs 58 bytes and the file has 10$/,
    ],
    ...[9, 15, 16].map((length): [string, Buffer, RegExp] => [
      `a length of ${length} in a file of 16 bytes, 8 of which are the length itself`,
      Buffer.concat([Buffer.from([length, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{}      ')]),
      new RegExp(`^is cut off: the header alone needs ${8 + length} bytes and the file has 16$`),
    ]),
    ['a header of no bytes', fileOf(''), /^has a header that is not JSON: expected a value at character 0$/],
    ['a byte order mark', fileOf('\ufeff{}'), /^has a header that is not JSON/],
    [
      'NUL padding',
      fileOf('{}\0\0'),
      /^has a header that is not JSON: unexpected text after the value at character 2$/,
    ],
    [
      'broken UTF-8',
      Buffer.from([3, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0x22]),
      /^has a header that is not UTF-8$/,
    ],
    ['an array', fileOf('[]'), /^has a header that is not a JSON object$/],
    ['deep nesting', fileOf(`{"w":${'['.repeat(200)}${']'.repeat(200)}}`), /nesting too deep/],
    ['half a surrogate pair', fileOf(`{"\\ud800":${entry}}`), /half of a surrogate pair/],
    ['a tensor twice', fileOf(`{"w":${entry},"w":${entry}}`), /^names the tensor "w" twice$/],
    ['a tensor twice, escaped', fileOf(`{"w":${entry},"\\u0077":${entry}}`), /^names the tensor "w" twice$/],
    ['metadata twice', fileOf('{"__metadata__":{},"__metadata__":{}}'), /^has __metadata__ twice$/],
    [
      'a key of the metadata twice',
      fileOf('{"__metadata__":{"a":"1","a":"2"}}'),
      /^has "a" twice in __metadata__$/,
    ],
    [
      'metadata that is no text',
      fileOf('{"__metadata__":{"a":1}}'),
      /^has a value that is not text in __metadata__, at "a"$/,
    ],
    ['metadata that is a list', fileOf('{"__metadata__":[]}'), /^has a __metadata__ that is not an object$/],
    [
      'a field twice',
      fileOf('{"w":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
      /^gives the tensor "w" two fields dtype$/,
    ],
    ['no dtype', one({ shape: [2], data_offsets: [0, 8] }), /^gives the tensor "w" no dtype$/],
    ['a dtype in lower case', one({ ...w, dtype: 'f32' }), /^gives the tensor "w" the unknown dtype "f32"$/],
    ['a dtype of Object.prototype', one({ ...w, dtype: 'toString' }), /unknown dtype "toString"$/],
    [
      'a tensor that is a number',
      fileOf('{"w":1}'),
      /^describes the tensor "w" by something that is not an object$/,
    ],
    [
      'a shape that is a number',
      one({ ...w, shape: 2 }),
      /^gives the tensor "w" a shape that is not a list$/,
    ],
    [
      'three offsets',
      one({ ...w, data_offsets: [0, 8, 8] }),
      /^gives the tensor "w" data_offsets that are not two numbers$/,
    ],
    [
      'a hole at the start',
      one({ ...w, shape: [1], data_offsets: [4, 8] }),
      /^has a hole of 4 bytes before the tensor "w"$/,
    ],
    [
      'offsets that run backwards',
      fileOf({ w, x: { dtype: 'U8', shape: [0], data_offsets: [8, 4] } }, new Uint8Array(8)),
      /^gives the tensor "x" data_offsets that end before they begin$/,
    ],
    [
      'an entry too short',
      one({ ...w, data_offsets: [0, 7] }),
      /^gives the tensor "w" 7 bytes, but F32 \[2\] has 8$/,
    ],
    [
      'an overlap',
      fileOf(
        {
          a: { dtype: 'U8', shape: [5], data_offsets: [0, 5] },
          b: { dtype: 'U8', shape: [4], data_offsets: [4, 8] },
        },
        new Uint8Array(8),
      ),
      /^has overlapping tensors: the tensor "b" begins at byte 4, before byte 5$/,
    ],
    [
      'bytes that do not fit the shape',
      one({ ...w, shape: [3] }),
      /^gives the tensor "w" 8 bytes, but F32 \[3\] has 12$/,
    ],
    [
      'part of a byte',
      one({ dtype: 'F4', shape: [15], data_offsets: [0, 8] }),
      /15 elements of F4 do not fill whole bytes$/,
    ],
    ['too many elements', one({ ...w, shape: [2 ** 40, 2 ** 40] }), /too many elements$/],
    [
      'data that is cut off',
      fileOf({ w }, new Uint8Array(7)),
      /^is cut off: the tensors need 8 bytes and the file has 7$/,
    ],
    ['data that goes on', fileOf({ w }, new Uint8Array(9)), /^has 1 bytes after the last tensor$/],
  ];
  for (const number of [
    '1e0',
    '-0',
    '2.0',
    '-1',
    '9007199254740993',
    '18446744073709551616',
    '01',
    'null',
    '"2"',
    'true',
  ]) {
    const text = `{"w":{"dtype":"F32","shape":[${number}],"data_offsets":[0,8]}}`;
    cases.push([
      `the size ${number}`,
      fileOf(text, new Uint8Array(8)),
      /not an integer from 0 to 2\^53 − 1$|not JSON/,
    ]);
  }
  test.each(cases)('%s', async (_, content, reason) => {
    const found = await verdict(content);
    expect(found.slice(0, 16)).toBe('ERR_SAFETENSORS ');
    expect(found.slice(16)).toMatch(reason);
  });

  const foreign: [string, string | Buffer, RegExp][] = [
    [
      'a Git LFS pointer',
      'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
      /^is a Git LFS pointer, .*git lfs pull/,
    ],
    ['an HTML page', '\n<!DOCTYPE html><html><body>404</body></html>', /^is an HTML page/],
    ['a zip archive', Buffer.from('PK\x03\x04\x14\x00\x08\x08\x00', 'latin1'), /^is a zip archive/],
    ['a pickle', Buffer.from('\x80\x02}q\x00(X\x01\x00\x00', 'latin1'), /^is a Python pickle/],
    ['a GGUF file', Buffer.from('GGUF\x03\x00\x00\x00\x01', 'latin1'), /^is a GGUF file$/],
  ];
  test.each(foreign)('%s, by name', async (_, content, reason) => {
    const found = await verdict(Buffer.from(content as string));
    expect(found.slice(0, 16)).toBe('ERR_SAFETENSORS ');
    expect(found.slice(16)).toMatch(reason);
  });

  test('a missing file, a directory, and what is not a path', async () => {
    const missing = join(dir, 'missing.safetensors');
    await expect(openSafetensors(missing)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot open ${missing}: No such file or directory`,
    });
    await expect(openSafetensors(dir)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `cannot open ${dir}: it is a directory`,
    });
    await expect(openSafetensors(3 as unknown as string)).rejects.toMatchObject({
      code: 'ERR_ARGUMENT',
      message: '[openSafetensors] expected a path but received 3',
    });
    await expect(openSafetensors('a\0b')).rejects.toMatchObject({ code: 'ERR_ARGUMENT' });
    await expect(openSafetensors(new URL('https://example.org/x'))).rejects.toMatchObject({
      code: 'ERR_ARGUMENT',
    });
  });
});

describe('an open file', () => {
  test('files that nobody closes do not pile up in a loop that only awaits', async () => {
    const path = saved(fileOf({ w }, new Uint8Array(8)));
    let read = 0;
    for (let i = 0; i < 40_000; i++) read += (await openSafetensors(path)).tensors.get('w')!.bytes.length;
    expect(read).toBe(8 * 40_000);
  });

  test('gives one view per tensor, and detaches them all when it is closed', async () => {
    const path = saved(
      fileOf({ w, x: { dtype: 'U8', shape: [1], data_offsets: [8, 9] } }, new Uint8Array(9).fill(5)),
    );
    const file = await openSafetensors(pathToFileURL(path));
    const tensor = file.tensors.get('w')!;
    const { bytes } = tensor;
    expect(tensor.bytes).toBe(bytes);
    expect([...bytes]).toEqual([5, 5, 5, 5, 5, 5, 5, 5]);
    expect(file.disposed).toBe(false);
    file.close();
    file.dispose();
    expect(file.disposed).toBe(true);
    expect(bytes.length).toBe(0);
    expect(tensor.bytes.length).toBe(0);
    expect(() => file.tensors.get('x')!.bytes).toThrow(
      expect.objectContaining({
        code: 'ERR_DISPOSED',
        message: `${path} is closed: the bytes of x can no longer be read`,
      }),
    );
  });

  test('keeps its content when the file is replaced, and keeps the file when a view is written', async () => {
    const path = saved(fileOf({ w }, new Uint8Array(8).fill(1)));
    const file = await openSafetensors(path);
    const { bytes } = file.tensors.get('w')!;
    bytes[0] = 9;
    expect(readFileSync(path).at(-8)).toBe(1);
    renameSync(saved(fileOf('{}')), path);
    expect([...bytes]).toEqual([9, 1, 1, 1, 1, 1, 1, 1]);
    file.close();
  });
});

describe('more than 4 GiB', () => {
  const large = 5 * 2 ** 30;
  const path = fresh();

  // A sparse file: the hole takes no space on disk.
  beforeAll(() => {
    const header = fileOf({
      large: { dtype: 'U8', shape: [5, 2 ** 30], data_offsets: [0, large] },
      tail: { dtype: 'U8', shape: [3], data_offsets: [large, large + 3] },
    });
    writeFileSync(path, header);
    truncateSync(path, header.length + large);
    appendFileSync(path, Uint8Array.of(1, 2, 3));
  });
  afterAll(() => rmSync(path));

  test('a tensor behind it is read', async () => {
    const file = await openSafetensors(path);
    expect([...file.tensors.get('tail')!.bytes]).toEqual([1, 2, 3]);
    file.close();
  });

  test('one view of it needs Node.js 22', async () => {
    const file = await openSafetensors(path);
    const { shape } = file.tensors.get('large')!;
    expect(shape).toEqual([5, 2 ** 30]);
    const view = (): number => file.tensors.get('large')!.bytes.length;
    if (constants.MAX_LENGTH >= large) {
      expect(view()).toBe(large);
    } else {
      expect(view).toThrow(
        expect.objectContaining({
          code: 'ERR_UNSUPPORTED',
          message: `${path}: the tensor large has ${large} bytes, and one view of Node.js ${process.versions.node} holds at most ${constants.MAX_LENGTH}: use Node.js 22 or newer`,
        }),
      );
    }
    file.close();
  });
});

describe('writeSafetensors', () => {
  const u8 = (...bytes: number[]): SafetensorsTensor => ({
    dtype: 'U8',
    shape: [bytes.length],
    bytes: Uint8Array.from(bytes),
  });

  test('lays a file out as the official writer does', async () => {
    const path = fresh();
    const tensors = new Map<string, SafetensorsTensor>([
      ['b', u8(1, 2)],
      ['é', { dtype: 'F32', shape: [], bytes: new Uint8Array(4) }],
      ['a', u8(3)],
      ['\u{1f600}', { dtype: 'F32', shape: [1], bytes: Uint8Array.of(1, 2, 3, 4) }],
      ['\uff5e', { dtype: 'F32', shape: [0], bytes: new Uint8Array(0) }],
      ['10', { dtype: 'BF16', shape: [1], bytes: Uint8Array.of(8, 9) }],
      ['i', { dtype: 'I64', shape: [1], bytes: new Uint8Array(8) }],
    ]);
    await writeSafetensors(path, tensors, { format: 'pt' });
    const content = readFileSync(path);
    const length = Number(content.readBigUInt64LE());
    expect(length % 8).toBe(0);
    const json =
      '{"__metadata__":{"format":"pt"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},' +
      '"é":{"dtype":"F32","shape":[],"data_offsets":[8,12]},"\uff5e":{"dtype":"F32","shape":[0],"data_offsets":[12,12]},' +
      '"\u{1f600}":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},"10":{"dtype":"BF16","shape":[1],"data_offsets":[16,18]},' +
      '"a":{"dtype":"U8","shape":[1],"data_offsets":[18,19]},"b":{"dtype":"U8","shape":[2],"data_offsets":[19,21]}}';
    expect(
      content
        .subarray(8, 8 + length)
        .toString()
        .trimEnd(),
    ).toBe(json);
    expect([...content.subarray(8 + length)]).toEqual([
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 8, 9, 3, 1, 2,
    ]);
  });

  test('writes a file onto itself', async () => {
    const path = fresh();
    await writeSafetensors(path, new Map([['a', u8(1, 2, 3)]]));
    const file = await openSafetensors(path);
    await writeSafetensors(path, new Map([...file.tensors, ['b', u8(4)]]));
    file.close();
    const again = await openSafetensors(path);
    expect([...again.tensors].map(([name, { bytes }]) => [name, ...bytes])).toEqual([
      ['a', 1, 2, 3],
      ['b', 4],
    ]);
    again.close();
  });

  const bad: [string, unknown, string][] = [
    [
      'bytes that do not fit',
      { dtype: 'BF16', shape: [2, 2], bytes: new Uint8Array(6) },
      'expected 8 bytes for "w" (BF16 [2, 2]) but received 6',
    ],
    [
      'an unknown dtype',
      { dtype: 'f32', shape: [], bytes: new Uint8Array(4) },
      `expected a safetensors dtype for "w" but received 'f32'`,
    ],
    [
      'a bad shape',
      { dtype: 'U8', shape: [-1], bytes: new Uint8Array(0) },
      'expected a shape of non-negative integers for "w" but received [-1]',
    ],
    [
      'words instead of bytes',
      { dtype: 'F32', shape: [1], bytes: new Float32Array(1) },
      'expected a Uint8Array as bytes of "w" but received a Float32Array of 1',
    ],
    ['no tensor', null, 'expected a tensor for "w" but received null'],
  ];
  test.each(bad)('refuses %s', async (_, tensor, message) => {
    const path = fresh();
    await expect(writeSafetensors(path, new Map([['w', tensor as SafetensorsTensor]]))).rejects.toMatchObject(
      {
        code: 'ERR_ARGUMENT',
        message: `[writeSafetensors] ${message}`,
      },
    );
    expect(readdirSync(dir)).not.toContain(path);
  });

  test('refuses the bytes of a closed file, a reserved name, and what is not a Map', async () => {
    const path = fresh();
    await writeSafetensors(path, new Map([['a', u8(1, 2, 3)]]));
    const file = await openSafetensors(path);
    const bytes = file.tensors.get('a')!.bytes;
    file.close();
    const write = (tensors: unknown, metadata?: unknown): Promise<void> =>
      writeSafetensors(path, tensors as Map<string, SafetensorsTensor>, metadata as Record<string, string>);
    await expect(write(new Map([['a', { dtype: 'U8', shape: [3], bytes }]]))).rejects.toThrow(
      '(was the file that they came from closed?)',
    );
    await expect(write(new Map([['__metadata__', u8()]]))).rejects.toThrow(
      'expected a tensor name other than __metadata__',
    );
    await expect(write({ a: u8() })).rejects.toThrow('expected a Map of tensors but received an object');
    await expect(write(new Map(), { epoch: 3 })).rejects.toThrow(
      'expected text for metadata epoch but received 3',
    );
  });
});

describe('properties', () => {
  const dtypes = Object.keys(safetensorsBits) as SafetensorsDType[];
  const tensor = fc
    .record({
      dtype: fc.constantFrom(...dtypes),
      dims: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }),
    })
    .map(({ dtype, dims }) => ({ dtype, shape: safetensorsBits[dtype] < 8 ? [...dims, 4] : dims }))
    .chain(({ dtype, shape }) => {
      const length = (shape.reduce((a, b) => a * b, 1) * safetensorsBits[dtype]) / 8;
      return fc
        .uint8Array({ minLength: length, maxLength: length })
        .map((bytes) => ({ dtype, shape, bytes }));
    });
  const tensors = fc
    .array(fc.tuple(fc.string({ unit: 'grapheme', maxLength: 12 }), tensor), { maxLength: 6 })
    .map((list) => new Map(list));

  test('what is written is read', async () => {
    await fc.assert(
      fc.asyncProperty(
        tensors,
        fc.dictionary(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' })),
        async (written, metadata) => {
          const path = join(dir, 'round.safetensors');
          await writeSafetensors(path, written, metadata);
          const file = await openSafetensors(path);
          expect(Object.entries(file.metadata).sort()).toEqual(Object.entries(metadata).sort());
          expect(file.tensors.size).toBe(written.size);
          for (const [name, { dtype, shape, bytes }] of written) {
            const found = file.tensors.get(name)!;
            expect([found.dtype, found.shape]).toEqual([dtype, shape]);
            expect(Buffer.compare(found.bytes, bytes)).toBe(0);
          }
          file.close();
        },
      ),
      { numRuns: 60 },
    );
  });

  test('a damaged file is read or refused with a reason, whatever was damaged', async () => {
    const path = join(dir, 'good.safetensors');
    await writeSafetensors(
      path,
      new Map([
        ['a', { dtype: 'F32', shape: [2], bytes: new Uint8Array(8) }],
        ['b', { dtype: 'U8', shape: [3], bytes: new Uint8Array(3) }],
      ]),
      { format: 'pt' },
    );
    const good = readFileSync(path);
    const edit = fc.record({
      at: fc.nat({ max: good.length - 1 }),
      byte: fc.oneof(fc.nat({ max: 255 }), fc.constantFrom(...Buffer.from('0123456789[]{}":,.-eE\\u '))),
    });
    const outcomes = { valid: 0, refused: 0 };
    await fc.assert(
      fc.asyncProperty(
        fc.array(edit, { minLength: 1, maxLength: 3 }),
        fc.oneof(fc.constant(0), fc.integer({ min: -9, max: 9 })),
        async (edits, longer) => {
          const bad = Buffer.alloc(good.length + longer);
          good.copy(bad);
          for (const { at, byte } of edits) if (at < bad.length) bad[at] = byte;
          const damaged = join(dir, 'damaged.safetensors');
          writeFileSync(damaged, bad);
          try {
            const file = await openSafetensors(damaged);
            for (const [, { bytes }] of file.tensors) expect(bytes.length).toBeLessThanOrEqual(11);
            file.close();
            outcomes.valid++;
          } catch (error) {
            if (!(error instanceof LoRAError)) throw error;
            expect(error.code).toBe('ERR_SAFETENSORS');
            outcomes.refused++;
          }
        },
      ),
      { numRuns: 400 },
    );
    expect(outcomes.valid).toBeGreaterThan(0);
    expect(outcomes.refused).toBeGreaterThan(100);
  });
});

describeWithData('files of others', 'safetensors', (data) => {
  for (const kind of ['valid', 'invalid']) {
    test.each(readdirSync(join(data, kind)))(`${kind} %s`, async (name) => {
      const found = await verdict(readFileSync(join(data, kind, name)));
      if (kind === 'valid') expect(found).toBe('valid');
      else expect(found).toMatch(/^ERR_SAFETENSORS ./);
    });
  }
});
