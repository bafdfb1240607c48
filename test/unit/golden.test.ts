import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseModelConfig } from '../../lib/models/families';
import { goldenFolders, otherTasks, supportedFamilies, supportedGolden } from '../support/golden';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyConfig } from '../support/tiny_model';

const scratch = temporaryFolder();

/** A golden folder with a model and an adapter of these configurations. */
function folder(
  root: string,
  name: string,
  model: object,
  adapter: object,
  record: object = { steps: [{ loss: 1 }] },
): void {
  const write = (path: string, content: object): void => {
    mkdirSync(join(root, name, path, '..'), { recursive: true });
    writeFileSync(join(root, name, path), JSON.stringify(content));
  };
  write('record.json', { ...record, model: '../model' });
  write('model/config.json', { ...tinyConfig, ...model });
  write('adapter_init/adapter_config.json', { peft_type: 'LORA', ...adapter });
}

test('what is not supported is listed with its reason, and what is no golden folder of an adapter is not', () => {
  const root = join(scratch, 'mixed');
  folder(root, 'a', {}, {});
  folder(root, 'b', { model_type: 'unknown' }, {});
  folder(root, 'c', {}, { lora_bias: true });
  folder(root, 'd', {}, {}, {});
  mkdirSync(join(root, 'e'));
  writeFileSync(join(root, 'README.md'), '');
  const found = goldenFolders(root);
  expect(found.map(({ name, hasSteps }) => [name, hasSteps])).toEqual([
    ['a', true],
    ['b', true],
    ['c', true],
    ['d', false],
  ]);
  expect(found.map(({ modelRefusal }) => modelRefusal)).toEqual([
    undefined,
    expect.stringContaining('config.json has model_type = "unknown"; supported are'),
    undefined,
    undefined,
  ]);
  expect(found.map(({ adapterRefusal }) => adapterRefusal)).toEqual([
    undefined,
    undefined,
    'adapter_config.json has lora_bias true, which is not supported',
    undefined,
  ]);
  expect(goldenFolders(join(root, 'absent'))).toEqual([]);
});

describeWithData('the golden folders', 'golden', (data) => {
  const names = (root?: string): string[] =>
    goldenFolders(root).flatMap(({ name, hasSteps }) => (hasSteps ? [name] : []));

  test('all that must be supported are there', () => {
    expect(names()).toEqual(expect.arrayContaining([...supportedGolden]));
  });

  test('another one beside them is found', () => {
    const copy = join(scratch, 'copy');
    mkdirSync(copy);
    for (const name of supportedGolden) symlinkSync(join(data, name), join(copy, name));
    folder(copy, 'tiny-unknown', { model_type: 'unknown' }, {});
    expect(names(copy)).toEqual([...supportedGolden, 'tiny-unknown'].sort());
  });
});

describeWithData('the golden folders of families', 'golden-families', (data) => {
  const json = (...path: string[]): Record<string, unknown> =>
    JSON.parse(readFileSync(join(data, ...path), 'utf8')) as Record<string, unknown>;

  test('each is in one list, and those of another task say so', () => {
    const lists = [...supportedFamilies, ...otherTasks];
    expect(lists.sort()).toEqual(readdirSync(data).sort());
    const withTask = readdirSync(data).filter((name) => 'task' in json(name, 'record.json'));
    expect(withTask.sort()).toEqual([...otherTasks].sort());
  });

  for (const name of supportedFamilies)
    test(`${name} has a model that is known`, () => {
      expect(() => parseModelConfig(json(name, 'model/config.json'))).not.toThrow();
    });
});

test('a folder that must be supported is not skipped when it is refused', () => {
  const root = join(scratch, 'refused');
  folder(root, supportedGolden[0]!, { model_type: 'unknown' }, { lora_bias: true });
  expect(goldenFolders(root)).toMatchObject([{ modelRefusal: undefined, adapterRefusal: undefined }]);
});
