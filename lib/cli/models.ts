import {
  CachedRepository,
  isCached,
  listCache,
  lockFiles,
  removeFolder,
  type CacheEntry,
} from '../hub/cache';
import { tryLock } from '../hub/lock';
import { kindNames, repositoryId, type RepositoryKind } from '../hub/names';
import { cacheFolder } from '../hub/settings';
import { loraError } from '../errors';
import { binding } from '../native/calls';
import type { NativeLock } from '../native/handles';
import { defineCommand, helpFlag, UsageError } from './command';
import { note, printJson } from './common';
import { sizeText } from './hub_report';
import { printable } from './printable';

export const models = defineCommand({
  summary: 'Lists the models, adapters and data sets that the cache of the hub holds, or removes one.',
  usage: '[--remove NAME] [--json]',
  flags: {
    remove: { type: 'string', value: 'NAME', help: 'takes org/name, or datasets/org/name, out of the cache' },
    json: { type: 'boolean', help: 'the list as one JSON object' },
    help: helpFlag,
  },
  json:
    'one object: { cache, models: [{ kind: "model" | "dataset", id, folder, bytes, incompleteBytes, revisions: [{ commit, refs, files }], modified }] }; ' +
    'with --remove { cache, removed, bytes }',

  async run({ remove, json }, console) {
    const cache = cacheFolder();
    if (remove !== undefined) {
      const { id, bytes } = await removeModel(cache, remove);
      note(console, `removed ${id}: ${sizeText(bytes)}`);
      if (json) printJson(console, { cache, removed: id, bytes });
      return;
    }
    const entries = await listCache(cache);
    if (json) {
      printJson(console, { cache, models: entries });
      return;
    }
    note(console, `${cache}: ${entries.length === 0 ? 'no models' : sumOf(entries)}`);
    for (const line of table(entries)) console.stdout.write(`${printable(line)}\n`);
  },
});

const sumOf = (entries: readonly CacheEntry[]): string =>
  `${entries.length} in ${sizeText(entries.reduce((sum, { bytes }) => sum + bytes, 0))}`;

const dataPrefix = `${kindNames.dataset.plural}/`;
/** As --remove takes it. */
const nameOf = ({ kind, id }: Pick<CacheEntry, 'kind' | 'id'>): string =>
  kind === 'dataset' ? `${dataPrefix}${id}` : id;

/** A line for each repository, and below it one for each revision. */
function table(entries: readonly CacheEntry[]): string[] {
  const width = entries.reduce((most, entry) => Math.max(most, nameOf(entry).length), 0);
  return entries.flatMap(({ kind, id, bytes, incompleteBytes, revisions, modified }) => [
    `${nameOf({ kind, id }).padEnd(width)}  ${sizeText(bytes)}  ${modified.toISOString().slice(0, 10)}` +
      (incompleteBytes === 0 ? '' : `  (${sizeText(incompleteBytes)} of files that are not complete)`),
    ...revisions.map(
      ({ commit, refs, files }) =>
        `  ${commit.slice(0, 12)}  ${files} files${refs.length === 0 ? '' : `  ${refs.join(', ')}`}`,
    ),
  ]);
}

/** @throws ERR_BUSY while a process downloads files of it. */
async function removeModel(cache: string, name: string): Promise<{ id: string; bytes: number }> {
  const kind: RepositoryKind = name.startsWith(dataPrefix) ? 'dataset' : 'model';
  const id = repositoryId(kind === 'dataset' ? name.slice(dataPrefix.length) : name);
  if (id === undefined)
    throw new UsageError(`models needs --remove org/name but received ${JSON.stringify(name)}`);
  const cached = new CachedRepository(cache, id, kind);
  if (!(await isCached(cached))) throw loraError('models', 'ERR_HUB', `the cache has no ${name}: ${cache}`);
  const held: NativeLock[] = [];
  try {
    for (const path of await lockFiles(cached)) {
      const lock = await tryLock(path);
      if (lock === null)
        throw loraError('models', 'ERR_BUSY', `${id} is being downloaded: wait for it, or end that process`);
      held.push(lock);
    }
    const [entry] = (await listCache(cache)).filter((found) => found.kind === kind && found.id === id);
    await removeFolder(cached);
    return { id: nameOf({ kind, id }), bytes: entry?.bytes ?? 0 };
  } finally {
    for (const lock of held) binding().unlockFile(lock);
  }
}
