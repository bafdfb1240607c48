/** Data sets by name, from a server on this machine that speaks the hub's protocol. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { wantedData } from '../../lib/data/folders';
import { loadDataset, type LoadDatasetOptions, type LoadProgress } from '../../lib/index';
import { commandLine } from '../support/command_line';
import { expectReject } from '../support/errors';
import { answer, sha256, type FakeRepository } from '../support/hub_server';
import { hubHome } from '../support/hub_home';

const at = hubHome();
const commit = 'c0ffee'.padEnd(40, '0');
const id = 'org/sums';

const rows = (...firsts: number[]): string => firsts.map((n) => `{"inputIds":[${n},0]}\n`).join('');
const parquet = (...firsts: number[]): Uint8Array =>
  new Uint8Array(
    parquetWriteBuffer({ columnData: [{ name: 'inputIds', data: firsts.map((n) => [n, 0]), type: 'JSON' }] }),
  );
const serve = (files: FakeRepository['files'], more: Partial<FakeRepository> = {}): void =>
  void at.hub.repositories.set(id, { kind: 'dataset', files, ...more });
const firsts = async (source: string, options: LoadDatasetOptions = {}): Promise<number[]> =>
  [...(await loadDataset(source, options))].map(({ inputIds }) => inputIds[0]!);
const inCache = (...names: string[]): string => join(at.home, 'hub', 'datasets--org--sums', ...names);

const some = {
  'README.md': '---\nlicense: mit\n---\n',
  'dataset_infos.json': '{}',
  'data/train-00000-of-00002.parquet': parquet(1, 2),
  'data/train-00001-of-00002.parquet': parquet(3),
  'data/validation-00000-of-00001.parquet': parquet(4),
  'data/test_gen-00000-of-00001-a3ecf92756993583.parquet': parquet(5),
};

test('all parts of a split are read in their order, and lie in the cache as Python has them', async () => {
  serve(some);
  const events: LoadProgress[] = [];
  expect(await firsts('hf:org/sums', { onProgress: (event) => events.push(event) })).toEqual([1, 2, 3]);
  expect(readFileSync(inCache('refs', 'main'), 'utf8')).toBe(commit);
  expect(readdirSync(inCache('snapshots', commit, 'data')).sort()).toEqual([
    'train-00000-of-00002.parquet',
    'train-00001-of-00002.parquet',
  ]);
  expect(existsSync(inCache('blobs', sha256(some['data/train-00000-of-00002.parquet'])))).toBe(true);
  expect(existsSync(join(at.home, 'hub', '.locks', 'datasets--org--sums'))).toBe(true);
  expect(events[0]).toMatchObject({
    type: 'repository',
    repository: id,
    url: `${at.hub.hub}/datasets/org/sums`,
  });
  at.hub.reset();
  expect(await firsts('org/sums', { offline: true })).toEqual([1, 2, 3]);
  expect(at.hub.seen).toEqual([]);
  const error = loadDataset('org/sums', { offline: true, split: 'valid' });
  await expectReject(
    error,
    'ERR_HUB',
    /^\[loadDataset\] what the cache has of org\/sums at main has nothing for the split valid/,
  );
});

test.each([
  [{ split: 'valid' }, [4]],
  [{ split: 'validation' }, [4]],
  [{ split: 'test_gen' }, [5]],
  [{ split: 'test' }, [5]],
])('the split of %j', async (options, wanted) => {
  serve(some);
  expect(await firsts('org/sums', options)).toEqual(wanted);
});

test('a folder, a file and a revision are named behind the id', async () => {
  serve(
    { 'main/train.jsonl': rows(1), 'socratic/train.jsonl': rows(2), 'socratic/test.csv.gz': 'x' },
    { refs: { main: commit, 'refs/convert/parquet': 'beef'.padEnd(40, '0') } },
  );
  expect(await firsts('hf:org/sums/main')).toEqual([1]);
  expect(await firsts('hf:org/sums@main/socratic/train.jsonl')).toEqual([2]);
  expect(await firsts('hf:org/sums@refs/convert/parquet/socratic')).toEqual([2]);
  expect(await firsts('hf:org/sums/main', { revision: 'refs/convert/parquet' })).toEqual([1]);
  await expectReject(
    loadDataset('org/sums'),
    'ERR_HUB',
    '[loadDataset] org/sums has several data sets for train; name a folder or a file of it, as hf:org/sums/PATH: main/train.jsonl, socratic/train.jsonl',
  );
  await expectReject(
    loadDataset('hf:org/sums/socratic/dev.jsonl'),
    'ERR_HUB',
    '[loadDataset] org/sums has no socratic/dev.jsonl',
  );
});

test('a name that ends as a file does is a path, and a folder of that name comes first', async () => {
  serve(some);
  await expectReject(loadDataset('data/train.jsonl'), 'ERR_FILE', /cannot read data\/train\.jsonl/);
  const before = process.cwd();
  const folder = join(at.home, 'work');
  mkdirSync(join(folder, 'org', 'sums'), { recursive: true });
  writeFileSync(join(folder, 'org', 'sums', 'train.jsonl'), rows(9));
  process.chdir(folder);
  try {
    expect(await firsts('org/sums')).toEqual([9]);
    expect(await firsts('hf:org/sums')).toEqual([1, 2, 3]);
  } finally {
    process.chdir(before);
  }
});

test('a request that fails is made again, and what the hub refuses has its sentence', async () => {
  serve(some, { token: 'hf_secret' });
  const error = loadDataset('hf:org/sums', { token: 'hf_wrong' });
  await expectReject(error, 'ERR_HUB', /the hub has no data set org\/sums, or it is private/);
  at.hub.fail(/^hub GET .*\/revision\//, answer(503, { 'retry-after': '0' }));
  expect(await firsts('hf:org/sums', { token: 'hf_secret' })).toEqual([1, 2, 3]);
  for (const { at: where, headers } of at.hub.seen)
    if (where === 'store') expect(headers.authorization).toBeUndefined();
  at.hub.repositories.set(id, { files: some }); // a model of that name is another repository
  await expectReject(loadDataset('hf:org/sums', { split: 'test' }), 'ERR_HUB', /no data set org\/sums/);
});

describe('what is read of the files of a repository', () => {
  const names = (split: string, ...all: string[]): unknown => wantedData({ id }, split, all);
  test.each<[string, string[], string[] | RegExp]>([
    ['train', ['train.jsonl', 'test.jsonl'], ['train.jsonl']],
    ['train', ['alpaca_cleaned.json', 'README.md'], ['alpaca_cleaned.json']],
    ['test', ['alpaca_cleaned.json'], /^has nothing for the split test/],
    ['train', ['my_train_v2.csv', 'my_test_v2.csv'], ['my_train_v2.csv']],
    [
      'train',
      ['default/train/0001.parquet', 'default/train/0000.parquet'],
      ['default/train/0000.parquet', 'default/train/0001.parquet'],
    ],
    ['train', ['a.jsonl', 'b.jsonl'], /^has several data sets for train/],
    ['train', ['train.jsonl', 'train.csv'], /: train\.jsonl, train\.csv$/],
    ['train', ['data/train-00001-of-00002.parquet'], /^lacks part 0 of 2 of train$/],
    ['train', ['../train.jsonl', '/train.jsonl', 'x/../../train.jsonl'], /^has no data that is read/],
    ['train', ['model.safetensors', 'requirements.txt', 'dataset_infos.json'], /^has no data that is read/],
    ['train', ['train.jsonl.zst', 'dev.jsonl.zst'], ['train.jsonl.zst']],
  ])('%s of %j', (split, all, wanted) => {
    const found = names(split, ...all);
    if (Array.isArray(wanted)) expect(found).toEqual({ names: wanted });
    else expect(found).toEqual({ problem: expect.stringMatching(wanted) as string });
  });
});

test('lora-native models lists data sets and removes one', async () => {
  serve(some);
  await firsts('hf:org/sums');
  const { out } = await commandLine(['models', '--json']);
  expect((JSON.parse(out) as { models: object[] }).models).toMatchObject([{ kind: 'dataset', id }]);
  const missing = await commandLine(['models', '--remove', 'org/sums']);
  expect(missing.err).toContain('the cache has no org/sums');
  const removed = await commandLine(['models', '--remove', 'datasets/org/sums', '--json']);
  expect(JSON.parse(removed.out)).toMatchObject({ removed: 'datasets/org/sums' });
  expect(existsSync(inCache())).toBe(false);
});
