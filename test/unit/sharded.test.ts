import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
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
  await expectFailure('pytorch_model.bin', ' (but pytorch_model.bin): convert it to safetensors first');
  await expectFailure('adapter_model.safetensors', ': it is an adapter, which needs its base model');
  const missing = join(root, 'missing');
  await expect(openModelTensors(missing)).rejects.toMatchObject({
    code: 'ERR_FILE',
    message: `cannot read the model directory ${missing}: no such directory`,
  });
});
