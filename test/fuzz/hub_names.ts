/** Names of the hub: what is one leads to folders of the cache alone, and says the same when it is written again. */
import { existsSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { CachedRepository, folderName, idOf, idOfSnapshot } from '../../lib/hub/cache';
import { isHubName, parseSource } from '../../lib/hub/names';
import { mutateText } from './mutate';
import { bytes, text } from './seeds';
import { same, type Target } from './target';

const pieces = [
  'hf:',
  'org',
  '/',
  'name',
  '@',
  'main',
  '..',
  '.',
  '-',
  '--',
  '.git',
  'refs/pr/1',
  '\\',
  ' ',
  '%2e',
  '\n',
  '\0',
  'é',
  '_',
];
const names = [
  'hf:org/name',
  'hf:org/name@main',
  'org/na.me-1@refs/pr/3',
  'Org_1/Name-2.5B',
  './org/name',
  '/org/name',
  'hf:org/name@v1/model.gguf',
  'hf:org/name/Q4_K_M/model-00001-of-00002.gguf',
  'org/name/model.gguf',
];
const revisions = ['', 'v1.0', 'refs/pr/1', 'a+b=c@d', 'f'.repeat(40)];

export const hubName: Target = {
  make(dice) {
    const damaged = (texts: readonly string[]): string =>
      dice.once(3) ? dice.pick(texts) : mutateText(dice.pick(texts), dice, pieces);
    return bytes(JSON.stringify([damaged(names), dice.once(3) ? damaged(revisions) : '']));
  },
  run(input) {
    const [source = '', given = ''] = JSON.parse(text(input)) as string[];
    const named = parseSource(source, 'x', given === '' ? undefined : given);
    if (typeof named === 'string') {
      same(named, source);
      if (isHubName(source) && !existsSync(source)) throw new Error(`took the name ${source} for a path`);
      return;
    }
    const { id, revision, file, bare } = named;
    const end = file === undefined ? '' : `/${file}`;
    const spelt = `${bare ? '' : 'hf:'}${id}`;
    same(source, `${spelt}${source.includes('@') ? `@${revision}` : ''}${end}`);
    // A revision with slashes and a file have no spelling in one text.
    if (file === undefined || !revision.includes('/')) {
      const whole = `hf:${id}@${revision}${end}`;
      same(
        JSON.stringify(parseSource(whole, 'x')),
        JSON.stringify({ kind: 'model', id, revision, ...(file && { file }), source: whole, bare: false }),
      );
    }
    same(idOf(folderName(id)) ?? 'no id', id);
    const repository = new CachedRepository('/cache', id);
    same(idOfSnapshot(repository.snapshot('f'.repeat(40))) ?? 'no id', id);
    // One folder of the cache, and below its refs one path without a way up.
    same(String(relative('/cache', repository.folder).split(sep).length), '1');
    same(
      relative(repository.folder, join(repository.folder, 'refs', revision)),
      join('refs', ...revision.split('/')),
    );
    if (file) same(relative('/cache', join('/cache', file)), join(...file.split('/')));
    same(String(/\.\.|[^\x21-\x7e]/.test(id + revision + end)), 'false');
  },
};
