import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SafetensorsFile, writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { openModelTensors } from '../../lib/formats/sharded';
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
  const { bytes } = tensors.get('b');
  expect([...bytes]).toEqual([2]);
  expect(() => tensors.get('c')).toThrow(
    expect.objectContaining({ code: 'ERR_SAFETENSORS', message: `${dir} holds no tensor c` }),
  );
  tensors.close();
  expect(bytes.length).toBe(0);
});

test('shards, with tensors that the index does not mention', async () => {
  const dir = await model({ [one]: { a: 1, extra: 9 }, [two]: { b: 2 } }, { b: two, a: one });
  const tensors = await openModelTensors(dir);
  expect([...tensors.names].sort()).toEqual(['a', 'b', 'extra']);
  expect([...tensors.get('b').bytes, ...tensors.get('a').bytes]).toEqual([2, 1]);
  tensors.close();
});

test('names are in file order, shard after shard, in the order in which the index names the shards', async () => {
  const dir = await model({ [one]: { z: 1, y: 2 }, [two]: { b: 3, a: 4 } }, { b: two, y: one, z: one });
  const tensors = await openModelTensors(dir);
  expect([...tensors.names]).toEqual(['a', 'b', 'y', 'z']);
  tensors.close();
});

test('several spellings of one path are one shard, which may lie in a folder below', async () => {
  const dir = await model({}, { a: `part/${one}`, b: `./part/${one}`, c: `part/../part//${one}` });
  mkdirSync(join(dir, 'part'));
  const content = new Map(['a', 'b', 'c'].map((name, i) => [name, tensor(i)]));
  await writeSafetensors(join(dir, 'part', one), content);
  const tensors = await openModelTensors(dir);
  expect(['a', 'b', 'c'].map((name) => [...tensors.get(name).bytes])).toEqual([[0], [1], [2]]);
  tensors.close();
});

test('a name that begins with two dots is inside the directory', async () => {
  const dir = await model({ '..model.safetensors': { a: 5 } }, { a: '..model.safetensors' });
  const tensors = await openModelTensors(dir);
  expect([...tensors.get('a').bytes]).toEqual([5]);
  tensors.close();
});

test('close() detaches the bytes of every shard', async () => {
  const dir = await model({ [one]: { a: 1 }, [two]: { b: 2 } }, { a: one, b: two });
  const tensors = await openModelTensors(dir);
  const views = ['a', 'b'].map((name) => tensors.get(name).bytes);
  expect(views.map(({ length }) => length)).toEqual([1, 1]);
  tensors.close();
  expect(views.map(({ length }) => length)).toEqual([0, 0]);
});

test('a shard that cannot be opened closes those that were', async () => {
  const dir = await model({ [one]: { a: 1 } }, { a: one, b: two });
  const close = jest.spyOn(SafetensorsFile.prototype, 'close');
  await expect(openModelTensors(dir)).rejects.toMatchObject({ code: 'ERR_FILE' });
  const closed = close.mock.contexts as SafetensorsFile[];
  close.mockRestore();
  expect(closed.map(({ path, disposed }) => [path, disposed])).toEqual([[join(dir, one), true]]);
});

test('shards that are symbolic links, as in the cache of the hub', async () => {
  const blobs = await model({ blob: { a: 7 } });
  const dir = await model({}, { a: one });
  symlinkSync(join(blobs, 'blob'), join(dir, one));
  const tensors = await openModelTensors(dir);
  expect([...tensors.get('a').bytes]).toEqual([7]);
  tensors.close();
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
    message: `cannot open ${join(gone, two)}: No such file or directory`,
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
