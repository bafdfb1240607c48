import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { openModelTensors } from '../../lib/formats/sharded';
import { InputFile } from '../../lib/formats/input';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let count = 0;

const tensor = (value: number): SafetensorsTensor => ({
  dtype: 'U8',
  shape: [1],
  bytes: Uint8Array.of(value),
});

/** A model directory: files of tensors (name → byte) and the index's weight_map. */
async function model(files: Record<string, Record<string, number>>, map?: unknown): Promise<string> {
  const dir = join(root, String(count++));
  mkdirSync(dir);
  for (const [file, tensors] of Object.entries(files)) {
    await writeSafetensors(
      join(dir, file),
      new Map(Object.entries(tensors).map(([name, value]) => [name, tensor(value)])),
    );
  }
  if (map !== undefined) {
    writeFileSync(
      join(dir, 'model.safetensors.index.json'),
      JSON.stringify({ metadata: { total_size: 0 }, weight_map: map }),
    );
  }
  return dir;
}
const one = 'model-00001-of-00002.safetensors';
const two = 'model-00002-of-00002.safetensors';

test('one file, which comes before an index', async () => {
  const dir = await model({ 'model.safetensors': { a: 1, b: 2 } }, { a: 'gone.safetensors' });
  const tensors = await openModelTensors(dir);
  expect([...tensors.names]).toEqual(['a', 'b']);
  expect([...(await tensors.get('b').read())]).toEqual([2]);
  expect(() => tensors.get('c')).toThrow(
    expect.objectContaining({ code: 'ERR_SAFETENSORS', message: `${dir} holds no tensor c` }),
  );
  await tensors.close();
});

test('shards, with tensors that the index does not mention', async () => {
  const dir = await model({ [one]: { a: 1, extra: 9 }, [two]: { b: 2 } }, { b: two, a: one });
  const tensors = await openModelTensors(dir);
  expect([...tensors.names].sort()).toEqual(['a', 'b', 'extra']);
  expect([...(await tensors.get('b').read()), ...(await tensors.get('a').read())]).toEqual([2, 1]);
  await tensors.close();
});

test('names are in file order, shard after shard, in the order in which the index names the shards', async () => {
  const dir = await model({ [one]: { z: 1, y: 2 }, [two]: { b: 3, a: 4 } }, { b: two, y: one, z: one });
  const tensors = await openModelTensors(dir);
  expect([...tensors.names]).toEqual(['a', 'b', 'y', 'z']);
  await tensors.close();
});

test('several spellings of one path are one shard, which may lie in a folder below', async () => {
  const dir = await model({}, { a: `part/${one}`, b: `./part/${one}`, c: `part/../part//${one}` });
  mkdirSync(join(dir, 'part'));
  const content = new Map(['a', 'b', 'c'].map((name, i) => [name, tensor(i)]));
  await writeSafetensors(join(dir, 'part', one), content);
  const tensors = await openModelTensors(dir);
  for (const [i, name] of ['a', 'b', 'c'].entries())
    expect([...(await tensors.get(name).read())]).toEqual([i]);
  await tensors.close();
});

test('a name that begins with two dots is inside the directory', async () => {
  const dir = await model({ '..model.safetensors': { a: 5 } }, { a: '..model.safetensors' });
  const tensors = await openModelTensors(dir);
  expect([...(await tensors.get('a').read())]).toEqual([5]);
  await tensors.close();
});

test('slices are the bytes in order, and overwrite each other', async () => {
  const dir = await model({});
  const bytes = Uint8Array.from({ length: 4 * 2 ** 20 + 9 }, (_, i) => i % 251);
  const big: SafetensorsTensor = { dtype: 'U8', shape: [bytes.length], bytes };
  await writeSafetensors(
    join(dir, 'model.safetensors'),
    new Map([
      ['a', tensor(7)],
      ['big', big],
    ]),
  );
  const tensors = await openModelTensors(dir);
  const buffers = new Set<ArrayBufferLike>();
  for (let time = 0; time < 2; time++) {
    const parts: Buffer[] = [];
    for await (const slice of tensors.get('big').slices()) {
      parts.push(Buffer.from(slice));
      buffers.add(slice.buffer);
    }
    expect(parts.map(({ length }) => length)).toEqual([4 * 2 ** 20, 9]);
    expect(Buffer.concat(parts).equals(bytes)).toBe(true);
  }
  expect(buffers.size).toBe(1); // the tensor after it is read into the same memory
  await tensors.close();
});

test('tensors that are read at the same time have slices of their own', async () => {
  const dir = await model({});
  const size = 4 * 2 ** 20;
  const filled = (value: number): SafetensorsTensor => {
    return { dtype: 'U8', shape: [size], bytes: new Uint8Array(size).fill(value) };
  };
  await writeSafetensors(
    join(dir, 'model.safetensors'),
    new Map([
      ['a', filled(1)],
      ['b', filled(2)],
    ]),
  );
  const tensors = await openModelTensors(dir);
  const [a, b] = [tensors.get('a').slices(), tensors.get('b').slices()];
  const [first, second] = [await a.next(), await b.next()];
  expect([first.value![0], second.value![0]]).toEqual([1, 2]);
  await a.return();
  await b.return();
  await tensors.close();
});

test('a shard that cannot be opened closes those that were', async () => {
  const dir = await model({ [one]: { a: 1 } }, { a: one, b: two });
  const close = jest.spyOn(InputFile.prototype, 'close');
  await expect(openModelTensors(dir)).rejects.toMatchObject({ code: 'ERR_FILE' });
  const closed = (close.mock.contexts as InputFile[]).map(({ path }) => path);
  close.mockRestore();
  expect(closed).toContain(join(dir, one));
});

describe('shards that are symbolic links', () => {
  test('are read where they are the cache of the hub', async () => {
    const cache = join(root, String(count++), 'models--org--name');
    const dir = join(cache, 'snapshots', 'abc');
    mkdirSync(join(cache, 'blobs'), { recursive: true });
    mkdirSync(join(dir, 'deep'), { recursive: true });
    await writeSafetensors(join(cache, 'blobs', 'f00'), new Map([['a', tensor(7)]]));
    symlinkSync('../../blobs/f00', join(dir, 'model.safetensors'));
    symlinkSync('../../../blobs/f00', join(dir, 'deep', 'model.safetensors'));
    for (const from of [dir, join(dir, 'deep')]) {
      const tensors = await openModelTensors(from);
      expect([...(await tensors.get('a').read())]).toEqual([7]);
      await tensors.close();
    }
  });

  test('are read where they stay in their directory, which may be a link itself', async () => {
    const dir = await model({ 'real.safetensors': { a: 7 } }, { a: one });
    symlinkSync('real.safetensors', join(dir, one));
    const link = join(root, String(count++));
    symlinkSync(dir, link);
    const tensors = await openModelTensors(link);
    expect([...(await tensors.get('a').read())]).toEqual([7]);
    await tensors.close();
  });

  test('are refused where they lead elsewhere', async () => {
    const elsewhere = await model({ secret: { a: 7 } });
    const path = join(elsewhere, 'secret');
    const sharded = await model({}, { a: one });
    symlinkSync(path, join(sharded, one));
    const single = await model({});
    symlinkSync(path, join(single, 'model.safetensors'));
    for (const [dir, name] of [
      [sharded, one],
      [single, 'model.safetensors'],
    ] as const)
      await expect(openModelTensors(dir)).rejects.toMatchObject({
        code: 'ERR_FILE',
        message: `${join(dir, name)} is a link to a file outside its directory: ${path}`,
      });
  });
});

test('what shards lack or hold twice is named', async () => {
  const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
  const lacking = await model({ [one]: { a: 1 } }, Object.fromEntries(names.map((name) => [name, one])));
  await expect(openModelTensors(lacking)).rejects.toMatchObject({
    code: 'ERR_SAFETENSORS',
    message: `${join(lacking, one)} lacks 6 of the tensors that model.safetensors.index.json places in it: b, c, d, e, f and 1 more`,
  });
  const twice = await model({ [one]: { a: 1 }, [two]: { a: 1, b: 2 } }, { a: one, b: two });
  await expect(openModelTensors(twice)).rejects.toMatchObject({
    code: 'ERR_SAFETENSORS',
    message: `${join(twice, two)} holds the tensor a, and so does another shard`,
  });
  const few = await model({ [one]: {} }, Object.fromEntries(names.slice(0, 5).map((name) => [name, one])));
  await expect(openModelTensors(few)).rejects.toThrow(/places in it: a, b, c, d, e$/);
  const gone = await model({ [one]: { a: 1 } }, { a: one, b: two });
  await expect(openModelTensors(gone)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: `cannot read ${join(gone, two)}: no such file`,
  });
});

test.each(['../x.safetensors', '/etc/passwd', 'a/../../x', '..', '.', '', 'a\\..\\b', 'a\0b'])(
  'the index must not name %j',
  async (file) => {
    const dir = await model({}, { a: file });
    await expect(openModelTensors(dir)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `${join(dir, 'model.safetensors.index.json')} names a file outside its directory: ${JSON.stringify(file)}`,
    });
  },
);

test('an index of another form is refused', async () => {
  await expect(openModelTensors(await model({}, 'text'))).rejects.toThrow('has no weight_map object');
  await expect(openModelTensors(await model({}, { a: 1 }))).rejects.toThrow(
    'gives the tensor a a file that is not text',
  );
  const broken = await model({});
  for (const [content, sentence] of [
    ['[]', 'has no weight_map object'],
    ['{"weight_map":["a"]}', 'has no weight_map object'],
    ['{"weight_map":', 'is not valid JSON'],
  ] as const) {
    writeFileSync(join(broken, 'model.safetensors.index.json'), content);
    await expect(openModelTensors(broken)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: expect.stringContaining(`${join(broken, 'model.safetensors.index.json')} ${sentence}`),
    });
  }
});

test('a directory without safetensors says what it holds instead', async () => {
  const expectFailure = async (file: string, sentence: string): Promise<void> => {
    const dir = await model({});
    if (file) writeFileSync(join(dir, file), '');
    await expect(openModelTensors(dir)).rejects.toMatchObject({
      code: 'ERR_FILE',
      message: `${dir} has neither model.safetensors nor model.safetensors.index.json${sentence}`,
    });
  };
  await expectFailure('', '');
  for (const file of [
    'pytorch_model.bin',
    'pytorch_model-00001-of-00002.bin',
    'consolidated.00.pth',
    'model.pt',
    'x.gguf',
    'tf_model.h5',
  ])
    await expectFailure(file, ` (but ${file}): convert it to safetensors first`);
  for (const file of ['optimizer.bin', 'pytorch_model.bin.index.json', 'notes.gguf.txt'])
    await expectFailure(file, '');
  await expectFailure('adapter_model.safetensors', ': it is an adapter, which needs its base model');
  const missing = join(root, 'missing');
  await expect(openModelTensors(missing)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: `cannot read the model directory ${missing}: no such directory`,
  });
});
