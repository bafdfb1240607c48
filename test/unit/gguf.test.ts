/** GGUF files: what is read of right ones, and what is said of wrong ones. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readGgufAdapter } from '../../lib/convert/gguf_adapter';
import { GgufFile, isGguf } from '../../lib/formats/gguf';
import type { GgufField, LateGgufTensor } from '../../lib/formats/gguf_write';
import { defaultLimits } from '../../lib/formats/limits';
import { parseModelConfig } from '../../lib/models/families';
import { describeWithData } from '../support/shared_data';
import { adapterMetadata, adapterTensors, counting, ggufBytes } from '../support/gguf_bytes';
import { temporaryFolder } from '../support/temporary';
import { tinyConfig } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
function written(bytes: Uint8Array): string {
  const path = join(root, `${count++}.gguf`);
  writeFileSync(path, bytes);
  return path;
}
/** What the reader says of a file. */
const said = async (bytes: Uint8Array, limits = defaultLimits): Promise<string> => {
  const path = written(bytes);
  return GgufFile.open(path, { limits }).then(
    async (file) => {
      await file.close();
      return 'read';
    },
    (error: { code?: string; message: string }) => `${error.code}: ${error.message.replace(path, 'FILE')}`,
  );
};
const none = new Map<string, never>();
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
};
const text = (value: string | Buffer): Buffer =>
  Buffer.concat([u64(BigInt(Buffer.from(value).length)), Buffer.from(value)]);
/** A file of version 3 with these parts behind its counts. */
const raw = (tensors: number, values: number, ...parts: Buffer[]): Buffer =>
  Buffer.concat([Buffer.from('GGUF'), u32(3), u64(BigInt(tensors)), u64(BigInt(values)), ...parts]);
const value = (key: string, type: number, bytes: Buffer): Buffer =>
  Buffer.concat([text(key), u32(type), bytes]);
const entry = (name: string, sizes: readonly bigint[], type: number, offset: bigint): Buffer =>
  Buffer.concat([text(name), u32(sizes.length), ...sizes.map(u64), u32(type), u64(offset)]);

describe('a right file', () => {
  test('gives the values and the tensors that were written', async () => {
    const metadata = new Map<string, GgufField>([
      ['a.text', { text: 'é🙂' }],
      ['a.u32', { u32: 7 }],
      ['a.f32', { f32: 0.5 }],
      ['a.flag', { flag: false }],
      ['texts', { texts: ['', 'b'] }],
      ['i32s', { i32s: [-1, 2] }],
      ['f32s', { f32s: [0.25] }],
    ]);
    const tensors = new Map<string, LateGgufTensor>([
      ['m', counting([2, 3])],
      ['none', counting([0, 4])],
      ['scalar', counting([])],
    ]);
    const path = written(await ggufBytes(metadata, tensors));
    expect(await isGguf(path)).toBe(true);
    const file = await GgufFile.open(path);
    expect(Object.fromEntries(file.metadata)).toEqual({
      'a.text': 'é🙂',
      'a.u32': 7,
      'a.f32': 0.5,
      'a.flag': false,
      texts: ['', 'b'],
      i32s: Int32Array.of(-1, 2),
      f32s: Float32Array.of(0.25),
    });
    const shapes = [...file.tensors].map(([name, { block, shape }]) => [name, block.type, shape]);
    expect(shapes).toEqual([
      ['m', 'F32', [2, 3]],
      ['none', 'F32', [0, 4]],
      ['scalar', 'F32', []],
    ]);
    const bytes = await file.tensors.get('m')!.read();
    expect([...new Float32Array(bytes.buffer)]).toEqual([0, 1, 2, 3, 4, 5]);
    await file.close();
  });

  test('of version 2 is read as one of version 3', async () => {
    const bytes = Buffer.from(
      await ggufBytes(new Map([['a', { u32: 7 }]]), new Map([['m', counting([2, 3])]])),
    );
    bytes.writeUInt32LE(2, 4);
    const file = await GgufFile.open(written(bytes));
    expect([file.metadata.get('a'), file.tensors.get('m')!.shape]).toEqual([7, [2, 3]]);
    await file.close();
  });

  test.each([
    ['I8', 24, 1],
    ['I16', 25, 2],
    ['I32', 26, 4],
    ['I64', 27, 8],
    ['F64', 28, 8],
  ])('values of %s have their bytes', async (name, type, bytes) => {
    const entries = [entry('a', [64n], type, 0n), entry('b', [64n], type, BigInt(64 * bytes))];
    const file = await GgufFile.open(written(Buffer.concat([raw(2, 0, ...entries), Buffer.alloc(2000)])));
    const tensor = file.tensors.get('b')!;
    expect([tensor.block.type, (await tensor.read()).length]).toEqual([name, 64 * bytes]);
    await file.close();
  });

  test('numbers of all widths', async () => {
    const path = written(
      raw(
        0,
        5,
        value('u8', 0, Buffer.of(255)),
        value('i8', 1, Buffer.of(255)),
        value('u16', 2, Buffer.of(1, 2)),
        value('u64', 10, u64(5n)),
        value('large', 10, u64(2n ** 60n)),
      ),
    );
    const { metadata, ...file } = await GgufFile.open(path);
    expect(Object.fromEntries(metadata)).toEqual({
      u8: 255,
      i8: -1,
      u16: 513,
      u64: 5,
      large: 2n ** 60n,
    });
    await file.file.close();
  });

  test('a header that is longer than the first reading', async () => {
    const texts = Array.from({ length: 6000 }, (_, i) => `token ${i}`);
    const file = await GgufFile.open(
      written(await ggufBytes(new Map([['texts', { texts }]]), adapterTensors)),
    );
    expect(file.metadata.get('texts')).toEqual(texts);
    expect(file.tensors.size).toBe(4);
    await file.close();
  });
});

describe('a wrong file', () => {
  const one = entry('w', [4n], 0, 0n);
  const padded = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(256)]);
  const cases: readonly [string, Buffer, string][] = [
    ['another format', Buffer.from('{"a": 1}'), 'FILE does not begin with GGUF'],
    ['a page', Buffer.from('<!doctype html><p>'), 'FILE is an HTML page'],
    ['nothing', Buffer.alloc(0), 'FILE is cut off'],
    ['version 1', Buffer.concat([Buffer.from('GGUF'), u32(1), Buffer.alloc(16)]), 'version 1 of GGUF'],
    [
      'big-endian',
      Buffer.concat([Buffer.from('GGUF'), Buffer.of(0, 0, 0, 3), Buffer.alloc(16)]),
      'big-endian',
    ],
    [
      'a count beyond numbers',
      Buffer.concat([Buffer.from('GGUF'), u32(3), u64(2n ** 64n - 1n), u64(0n)]),
      'the number of its tensors as 18446744073709551615',
    ],
    ['many tensors', raw(2 ** 40, 0), 'FILE is cut off: its header'],
    ['a long text', raw(0, 1, value('k', 8, u64(2n ** 50n))), 'FILE is cut off: its header'],
    [
      'a long list',
      raw(0, 1, value('k', 9, Buffer.concat([u32(0), u64(2n ** 52n)]))),
      'FILE is cut off: its header',
    ],
    ['a text that is none', raw(0, 1, value('k', 8, text(Buffer.of(0xff, 0xfe)))), 'not UTF-8'],
    [
      'a key twice',
      raw(0, 2, value('k', 0, Buffer.of(1)), value('k', 0, Buffer.of(2))),
      'two values for "k"',
    ],
    ['an unknown value', raw(0, 1, value('k', 13, Buffer.alloc(8))), 'unknown type 13'],
    [
      'an unknown list',
      raw(0, 1, value('k', 9, Buffer.concat([u32(77), u64(0n)]))),
      'list of the unknown type 77',
    ],
    ['a third truth', raw(0, 1, value('k', 7, Buffer.of(2))), 'truth value 2'],
    [
      'lists of lists',
      raw(
        0,
        1,
        value('k', 9, Buffer.concat([u32(9), u64(2n), u32(0), u64(1n), Buffer.of(3), u32(0), u64(0n)])),
      ),
      'has a list of lists in "k", which is not read',
    ],
    ['five dimensions', raw(1, 0, entry('w', [1n, 1n, 1n, 1n, 1n], 0, 0n)), '5 dimensions'],
    ['an unknown type', padded(raw(1, 0, entry('w', [4n], 99, 0n))), 'unknown type 99'],
    [
      'parts of blocks',
      padded(raw(1, 0, entry('w', [33n], 2, 0n))),
      'rows of 33 values, and Q4_0 has blocks of 32',
    ],
    [
      'a size beyond numbers',
      padded(raw(1, 0, entry('w', [2n ** 40n, 2n ** 40n], 0, 0n))),
      'a size that cannot be',
    ],
    ['a tensor twice', padded(raw(2, 0, one, entry('w', [4n], 0, 32n))), 'two tensors "w"'],
    ['a hole', padded(raw(2, 0, one, entry('v', [4n], 0, 64n))), '"v" at byte 64 of the data, and not at 32'],
    [
      'an overlap',
      padded(raw(2, 0, one, entry('v', [4n], 0, 0n))),
      '"v" at byte 0 of the data, and not at 32',
    ],
    ['an alignment of 12', padded(raw(0, 1, value('general.alignment', 4, u32(12)))), 'general.alignment 12'],
    ['data that ends', raw(1, 0, one), 'the tensor "w" ends at byte'],
  ];
  test.each(cases)('%s', async (_, bytes, expected) => {
    const message = await said(bytes);
    expect(message).toContain(expected);
    expect(message).toMatch(/^ERR_FILE: /);
  });

  test('every beginning of a right one is cut off', async () => {
    const whole = await ggufBytes(adapterMetadata, adapterTensors);
    for (let length = 0; length < whole.length; length += 13)
      expect(await said(whole.subarray(0, length))).toMatch(/^ERR_FILE: FILE is cut off/);
  });

  test('a header beyond the bound', async () => {
    const texts = Array.from({ length: 6000 }, (_, i) => `token ${i}`);
    const bytes = await ggufBytes(new Map([['texts', { texts }]]), none);
    expect(await said(bytes, { ...defaultLimits, headerBytes: 100_000 })).toContain(
      'limits.headerBytes raises',
    );
    expect(await said(bytes)).toBe('read');
  });
});

describe('an adapter', () => {
  const model = parseModelConfig(tinyConfig);
  const refusal = async (
    metadata: ReadonlyMap<string, GgufField>,
    tensors: ReadonlyMap<string, LateGgufTensor> = adapterTensors,
  ): Promise<string> =>
    readGgufAdapter(written(await ggufBytes(metadata, tensors)), model, {}).then(
      () => 'read',
      (error: Error) => error.message,
    );
  const other = (key: string, field: GgufField) => new Map([...adapterMetadata, [key, field] as const]);

  test('puts the rows of q, whose pairs are neighbors, into Hugging Face’s order', async () => {
    const layers = await readGgufAdapter(
      written(await ggufBytes(adapterMetadata, adapterTensors)),
      model,
      {},
    );
    const of = (path: string): number[] => {
      const { up } = layers.find((layer) => layer.path === path)!;
      return [...new Float32Array(up.bytes.slice().buffer)].filter((_, i) => i % 2 === 0).map((v) => v / 2);
    };
    expect(of('model.layers.0.self_attn.v_proj')).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    // Heads of 6: the first halves of the pairs, then the second ones.
    expect(of('model.layers.0.self_attn.q_proj').slice(0, 12)).toEqual([
      0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11,
    ]);
    expect(layers.map(({ r, scale }) => [r, scale])).toEqual([
      [2, 2],
      [2, 2],
    ]);
  });

  test('without alpha has the factor 1', async () => {
    const file = written(await ggufBytes(other('adapter.lora.alpha', { f32: 0 }), adapterTensors));
    expect((await readGgufAdapter(file, model, {})).map(({ scale }) => scale)).toEqual([1, 1]);
  });

  test('of another kind is refused', async () => {
    expect(await refusal(other('general.type', { text: 'model' }))).toContain('general.type "model"');
    expect(await refusal(other('adapter.type', { text: 'control' }))).toContain('adapter.type "control"');
    expect(await refusal(other('general.architecture', { text: 'gemma3' }))).toContain('"gemma3"');
    expect(await refusal(other('adapter.lora.alpha', { text: '4' }))).toContain('adapter.lora.alpha 4');
    expect(await refusal(other('adapter.alora.invocation_tokens', { i32s: [1] }))).toContain('alora');
  });

  test('with other tensors is refused', async () => {
    const without = new Map(adapterTensors);
    without.delete('blk.0.attn_q.weight.lora_b');
    expect(await refusal(adapterMetadata, without)).toContain('only one of blk.0.attn_q.weight.lora_a');
    const more = new Map([...adapterTensors, ['blk.9.attn_q.weight.lora_a', counting([2, 24])] as const]);
    expect(await refusal(adapterMetadata, more)).toContain('blk.9.attn_q.weight.lora_a');
    const wide = new Map([...adapterTensors, ['blk.0.attn_q.weight.lora_b', counting([24, 3])] as const]);
    expect(await refusal(adapterMetadata, wide)).toContain('expected [r, 24] and [24, r]');
    expect(await refusal(adapterMetadata, none)).toContain('holds no tensors');
  });
});

describeWithData('ggml’s own files', 'golden/quant-gguf', (dir) => {
  test('all types of blocks have their sizes', async () => {
    const file = await GgufFile.open(join(dir, 'blocks.gguf'));
    for (const [name, { block, shape }] of file.tensors) {
      expect(block.type).toBe(name);
      expect(shape).toEqual([8, 512]);
    }
    expect(file.tensors.size).toBe(20);
    await file.close();
  });
});
