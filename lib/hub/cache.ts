/** The cache of Python's huggingface_hub: models--org--name/{blobs,refs,snapshots}, and the locks beside it. */
import { copyFile, lstat, readdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import { makeDirectory, writeFileAtomic } from '../formats/atomic';
import type { FolderFile } from '../formats/links';
import { temporaryBeside } from '../formats/temporary';
import { isCommit, kindNames, type RepositoryKind } from './names';

/** models--org--name, datasets--org--name */
export const folderName = (id: string, kind: RepositoryKind = 'model'): string =>
  `${kindNames[kind].plural}--${id.replace('/', '--')}`;

/** The id of the repository that a folder of the cache is of; undefined for another folder. */
export function idOf(folder: string, kind: RepositoryKind = 'model'): string | undefined {
  const prefix = `${kindNames[kind].plural}--`;
  const parts = folder.startsWith(prefix) ? folder.slice(prefix.length).split('--') : [];
  return parts.length === 2 && parts.every((name) => name !== '') ? parts.join('/') : undefined;
}

/** The id of the repository that a folder of files is a snapshot of, or that a GGUF file in one is of; undefined elsewhere. */
export function idOfSnapshot(directory: string): string | undefined {
  const folder = /(?:^|[\\/])(models--[^\\/]+)[\\/]snapshots[\\/][^\\/]+(?:[\\/].+\.gguf)?[\\/]?$/.exec(
    directory,
  )?.[1];
  return folder === undefined ? undefined : idOf(folder);
}

const sizeOf = async (path: string): Promise<number | undefined> => {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ? found.size : undefined;
};

/** Where a file system or a user may make no links. */
const noLinks = ['EPERM', 'EACCES', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EINVAL', 'UNKNOWN'];

/**
 * The id of the base on the Hub where its folder tells it (the cache of huggingface_hub), else the name of the folder; undefined
 * where that can be no id. A whole path would be refused by the Hub, and names its owner.
 */
export function baseModelId(directory: string): string | undefined {
  const id = idOfSnapshot(directory) ?? nameOfFolder(directory);
  return /^[A-Za-z0-9][\w.-]{0,95}(\/[A-Za-z0-9][\w.-]{0,95})?$/.test(id) ? id : undefined;
}

/** The last name of a path. */
export const nameOfFolder = (directory: string): string =>
  basename(directory) || basename(dirname(directory)) || 'the base model';

/** What the cache has of one repository. */
export class CachedRepository {
  readonly folder: string;

  constructor(
    readonly cache: string,
    readonly id: string,
    readonly kind: RepositoryKind = 'model',
  ) {
    this.folder = join(cache, folderName(id, kind));
  }

  snapshot(commit: string): string {
    return join(this.folder, 'snapshots', commit);
  }

  blob(etag: string): string {
    return join(this.folder, 'blobs', etag);
  }

  /** The file that both sides lock while they write a blob. */
  lock(etag: string): string {
    return join(this.cache, '.locks', folderName(this.id, this.kind), `${etag}.lock`);
  }

  file(commit: string, name: string): FolderFile {
    return { path: join(this.snapshot(commit), name), folder: this.snapshot(commit) };
  }

  /** The names in a snapshot and in its folders, as the hub lists them; undefined where there is none. */
  async names(commit: string): Promise<string[] | undefined> {
    const names = await readdir(this.snapshot(commit), { recursive: true }).catch(() => undefined);
    return names?.map((name) => name.split(sep).join('/'));
  }

  /** Whether a snapshot has a file, and not only a link to one that is gone. */
  async has(commit: string, name: string): Promise<boolean> {
    return (await sizeOf(this.file(commit, name).path)) !== undefined;
  }

  /** Whether a blob is there, of that size. */
  async hasBlob(etag: string, size: number): Promise<boolean> {
    return (await sizeOf(this.blob(etag))) === size;
  }

  /** The commit that a revision stood for when it was last asked for. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const text = await readFile(join(this.folder, 'refs', revision), 'utf8').catch(() => '');
    return isCommit(text.trim()) ? text.trim() : undefined;
  }

  async remember(revision: string, commit: string): Promise<void> {
    if (revision === commit || (await this.commitOf(revision)) === commit) return;
    const path = join(this.folder, 'refs', revision);
    await makeDirectory(dirname(path));
    await writeFileAtomic(path, commit);
  }

  /**
   * Lets a snapshot have a blob under a name, by a relative link, as Python's tools do. Where there are no links (Windows without
   * developer mode), a new blob is moved there and another copied.
   */
  async link(commit: string, name: string, etag: string, isNew: boolean): Promise<void> {
    const { path } = this.file(commit, name);
    const blob = this.blob(etag);
    await makeDirectory(dirname(path));
    const temporary = temporaryBeside(path);
    try {
      await symlink(relative(dirname(path), blob), temporary);
    } catch (error) {
      if (!noLinks.includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      if (isNew) {
        await rename(blob, path);
        return;
      }
      await copyFile(blob, temporary);
    }
    await rename(temporary, path);
  }

  async makeBlobs(): Promise<void> {
    await makeDirectory(join(this.folder, 'blobs'));
  }
}

/** One repository of the cache, for people. */
export interface CacheEntry {
  kind: RepositoryKind;
  id: string;
  folder: string;
  /** Bytes of all its files, what is not complete among them. */
  bytes: number;
  /** Bytes of files that are not complete. */
  incompleteBytes: number;
  revisions: { commit: string; refs: string[]; files: number }[];
  /** When a file of it was last written. */
  modified: Date;
}

interface Sum {
  bytes: number;
  incomplete: number;
  modified: number;
}

/** Adds up the regular files below; links count nothing, since what they lead to is counted where it lies. */
async function addFiles(dir: string, sum: Sum): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true }).catch(() => [])) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await addFiles(path, sum);
    if (!entry.isFile()) continue;
    const found = await lstat(path).catch(() => undefined);
    if (found === undefined) continue;
    sum.bytes += found.size;
    if (entry.name.endsWith('.incomplete')) sum.incomplete += found.size;
    sum.modified = Math.max(sum.modified, found.mtimeMs);
  }
}

/** The names of the refs below, with the commit of each. */
async function refsIn(dir: string, prefix = ''): Promise<[string, string][]> {
  const refs: [string, string][] = [];
  for (const entry of await readdir(dir, { withFileTypes: true }).catch(() => [])) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) refs.push(...(await refsIn(path, `${prefix}${entry.name}/`)));
    else if (entry.isFile())
      refs.push([`${prefix}${entry.name}`, (await readFile(path, 'utf8').catch(() => '')).trim()]);
  }
  return refs;
}

async function describe(cache: string, id: string, kind: RepositoryKind): Promise<CacheEntry> {
  const { folder } = new CachedRepository(cache, id, kind);
  const sum: Sum = { bytes: 0, incomplete: 0, modified: 0 };
  await addFiles(folder, sum);
  const refs = await refsIn(join(folder, 'refs'));
  const commits = await readdir(join(folder, 'snapshots')).catch((): string[] => []);
  const revisions = [];
  for (const commit of commits.sort())
    revisions.push({
      commit,
      refs: refs.filter(([, of]) => of === commit).map(([name]) => name),
      files: (await readdir(join(folder, 'snapshots', commit)).catch(() => [])).length,
    });
  const { bytes, incomplete: incompleteBytes, modified } = sum;
  return { kind, id, folder, bytes, incompleteBytes, revisions, modified: new Date(modified) };
}

/** The models and adapters that the cache holds, by name, and then the data sets. */
export async function listCache(cache: string): Promise<CacheEntry[]> {
  const names = await readdir(cache, { withFileTypes: true }).catch(() => []);
  const folders = names.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  const known = (['model', 'dataset'] as const).flatMap((kind) =>
    folders
      .map((name) => idOf(name, kind))
      .filter((id) => id !== undefined)
      .sort()
      .map((id) => ({ kind, id })),
  );
  return Promise.all(known.map(({ kind, id }) => describe(cache, id, kind)));
}

/** Whether the cache has a folder of that repository: a real one, and no link to another. */
export async function isCached({ folder }: CachedRepository): Promise<boolean> {
  return (await lstat(folder).catch(() => undefined))?.isDirectory() ?? false;
}

/** Takes the folder of a repository away: at once for those who look, and then bit by bit. */
export async function removeFolder({ folder }: CachedRepository): Promise<void> {
  const hidden = temporaryBeside(folder);
  await rename(folder, hidden);
  await rm(hidden, { recursive: true, force: true });
}

/** The lock files of a repository. */
export async function lockFiles({ cache, id, kind }: CachedRepository): Promise<string[]> {
  const dir = join(cache, '.locks', folderName(id, kind));
  const names = await readdir(dir).catch((): string[] => []);
  return names.filter((name) => name.endsWith('.lock')).map((name) => join(dir, name));
}
