/**
 * Several files of a folder that change together, as the weights and the configuration of an adapter do.
 *
 * They are written into a hidden folder inside, made durable, and that folder gets the name `.lora-native-save` by one rename: from
 * then on, for the readers of this package, its files stand for those of the same names outside. Then they are moved out, one by
 * one. A crash before the rename leaves the old files, a crash after it the new ones, wherever it comes; the next save of the folder
 * finishes the moves. A folder that is new gets its name when all is in it.
 *
 * The files of an embedding model lie in folders, and no save of a model changes them: they are moved one by one before the others.
 *
 * A folder may come from a stranger. What has that name is taken for a save's only if it is a real folder of regular files whose
 * names are those that saves write; else it is an error and stays as it is. No call here follows a link below the folder that was named.
 */
import { existsSync } from 'node:fs';
import { lstat, mkdir, open, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LoRAError } from '../errors';
import { cannotWrite, keepMode, makeDirectory, syncDirectory, targetOf, writeNewFile } from './atomic';
import { readJson } from './json';
import { refuseLink, type FolderFile } from './links';
import { modelFiles, modulesFile, savedFiles, sentenceFilesOf } from './model_files';
import { systemReason } from './system_reason';
import { sweep, temporaryBeside, temporaryIn } from './temporary';

/** The folder whose files stand for those outside. */
const journal = '.lora-native-save';
/** In it: a list of the names outside that the save takes away. */
const removals = '.removed';
const staging = 'save';

/** The folders that a training run makes in its own, each of another name. */
const checkpoint = /^checkpoint-\d+$/;
const areCheckpoints = (name: string, target: string): boolean =>
  checkpoint.test(name) && checkpoint.test(basename(target));

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException | undefined)?.code;
/** For calls that another process may have made before. */
const unless =
  (...codes: string[]) =>
  (error: unknown): undefined => {
    if (!codes.includes(codeOf(error) ?? '')) throw error;
    return undefined;
  };

const isSystemError = (error: unknown): boolean =>
  typeof (error as NodeJS.ErrnoException).syscall === 'string';

/** The last call that looks for its target. */
let looking: Promise<unknown> = Promise.resolve();

/** The same as targetOf(), found in the order of the calls, which the file system does not keep. */
function targetInOrder(dir: string): Promise<string> {
  const found = looking.then(() => targetOf(dir));
  looking = found.catch(() => undefined);
  return found;
}

/** Saves of one folder, in their order. */
const running = new Map<string, Promise<void>>();

async function inTurn(target: string, save: () => Promise<void>): Promise<void> {
  const before = running.get(target) ?? Promise.resolve();
  const mine = before.then(save);
  const settled = mine.catch(() => undefined);
  running.set(target, settled);
  await mine.finally(() => {
    if (running.get(target) === settled) running.delete(target);
  });
}

/**
 * Lets `write` fill a hidden folder with files of known names, which then appear in `dir` together; other files of `dir` stay, but for
 * those of `obsolete`, a list of names, that `write` does not make. Missing parents are made; on failure everything stays as it was.
 *
 * Errors: what `write` throws; ERR_FILE with the reason.
 */
export async function saveTogether(
  dir: string,
  write: (folder: string) => Promise<void>,
  obsolete: readonly string[] = [],
): Promise<void> {
  const target = await targetInOrder(dir);
  await inTurn(target, async () => {
    await sweep(dirname(target), (name) => name === basename(target) || areCheckpoints(name, target));
    await sweep(target, (name) => name === staging || checkpoint.test(name));
    const isNew = !existsSync(target);
    const folder = isNew ? temporaryBeside(target) : temporaryIn(target, staging);
    try {
      if (isNew) await makeDirectory(dirname(target));
      else await checkFolder(target);
      await mkdir(folder);
      await finish(target);
    } catch (error) {
      await discard(folder);
      throw cannotWrite(dir, error);
    }
    try {
      await write(folder);
    } catch (error) {
      await discard(folder);
      throw isSystemError(error) ? cannotWrite(dir, error) : named(error, folder, dir);
    }
    try {
      await syncTree(folder);
      if (!isNew || !(await becomes(folder, target))) await replaceFiles(folder, target, obsolete);
      await syncDirectory(dirname(target));
    } catch (error) {
      await discard(folder);
      throw cannotWrite(dir, error);
    }
  });
}

/** An error of `write` that names the files as they are asked for, in the place of the hidden folder, which is gone. */
function named(error: unknown, folder: string, dir: string): unknown {
  if (!(error instanceof LoRAError) || !error.message.includes(folder)) return error;
  const { code, op, cause } = error;
  return new LoRAError(code, error.message.replaceAll(folder, dir), { ...(op && { op }), cause });
}

/** What stopped the save is told, not what stops this. */
const discard = (folder: string): Promise<void> =>
  rm(folder, { recursive: true, force: true }).catch(() => undefined);

async function checkFolder(target: string): Promise<void> {
  if (!(await stat(target)).isDirectory()) throw new Error('it exists and is not a directory');
}

/** Gives a new folder its name; false when another was there first. */
async function becomes(folder: string, target: string): Promise<boolean> {
  const taken = ['EEXIST', 'ENOTEMPTY', 'EPERM', 'ENOTDIR'];
  try {
    await rename(folder, target);
    return true;
  } catch (error) {
    if (!taken.includes(codeOf(error) ?? '') || !existsSync(target)) throw error;
    await checkFolder(target);
    return false;
  }
}

/** fsync of every file and directory below. */
async function syncTree(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    if (!entry.isFile()) continue;
    const handle = await open(path, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
  await syncDirectory(dir);
}

/** Moves the files of an embedding model out of `folder`; the one that names the others last. */
async function placeSentenceFiles(folder: string, target: string): Promise<void> {
  const files = sentenceFilesOf(await readdir(folder, { recursive: true }));
  const folders = new Set(files.map(dirname).filter((name) => name !== '.'));
  for (const name of folders) {
    await refuseLink(join(target, name));
    await mkdir(join(target, name)).catch(unless('EEXIST'));
  }
  for (const name of files.sort((a, b) => Number(a === modulesFile) - Number(b === modulesFile)))
    await rename(join(folder, name), join(target, name));
  for (const name of folders) {
    await syncDirectory(join(target, name));
    await rmdir(join(folder, name));
  }
}

async function replaceFiles(folder: string, target: string, obsolete: readonly string[]): Promise<void> {
  await placeSentenceFiles(folder, target);
  const names = await readdir(folder);
  const unknown = names.find((name) => !savedFiles.includes(name));
  if (unknown !== undefined) throw new Error(`a save would not know ${unknown}: it belongs to savedFiles`);
  await sweep(target, (name) => names.includes(name));
  for (const name of names) {
    const there = await lstat(join(target, name)).catch(() => undefined);
    if (there?.isDirectory()) throw Object.assign(new Error(), { code: 'EISDIR' });
    await keepMode(join(folder, name), join(target, name));
  }
  const present = await readdir(target);
  const gone = modelFiles.filter(
    (name) => obsolete.includes(name) && !names.includes(name) && present.includes(name),
  );
  if (gone.length > 0) {
    await writeNewFile(join(folder, removals), JSON.stringify(gone));
    await syncDirectory(folder);
  }
  // The save happens here: with one rename, before which nothing and after which everything is new.
  while (
    (await rename(folder, join(target, journal)).then(() => true, unless('EEXIST', 'ENOTEMPTY'))) !== true
  )
    await finish(target);
  await syncDirectory(target);
  try {
    await finish(target);
  } catch (error) {
    // Nothing is moved yet: the save can be taken back. After that it stands, for readers of this package.
    const left = await readdir(join(target, journal)).catch((): string[] => []);
    if (names.every((name) => left.includes(name))) await rename(join(target, journal), folder);
    throw error;
  }
}

/** What has the journal's name, and is not a save's, stays as it is. */
function notOurs(dir: string, why: string): LoRAError {
  return new LoRAError(
    'ERR_FILE',
    `${join(dir, journal)} is not of a save of lora-native: ${why}; look at it, and remove it`,
  );
}

/** The names that a save takes away; none where another process has finished it. */
async function removed(dir: string): Promise<string[]> {
  const list = { path: join(dir, journal, removals), folder: dir };
  const names = await readJson(list).catch((error: unknown) => {
    if (codeOf((error as LoRAError).cause) !== 'ENOENT') throw error;
    return [];
  });
  const known = (name: unknown): name is string => modelFiles.includes(name as string);
  if (!Array.isArray(names) || !names.every(known))
    throw notOurs(dir, `${removals} in it is not a list of names that a save takes away`);
  return names;
}

/** The names in the journal of a folder; undefined where there is none. Throws for what no save has made. */
async function journalOf(dir: string): Promise<string[] | undefined> {
  const path = join(dir, journal);
  const found = await lstat(path).catch(unless('ENOENT', 'ENOTDIR'));
  if (found === undefined) return undefined;
  if (!found.isDirectory())
    throw notOurs(dir, found.isSymbolicLink() ? 'it is a link' : 'it is not a directory');
  const entries = await readdir(path, { withFileTypes: true }).catch(unless('ENOENT'));
  if (entries === undefined) return undefined; // another process has finished the save
  for (const entry of entries) {
    if (!savedFiles.includes(entry.name) && entry.name !== removals)
      throw notOurs(dir, `it holds ${entry.name}`);
    if (!entry.isFile()) throw notOurs(dir, `${entry.name} in it is not a regular file`);
  }
  const names = entries.map(({ name }) => name);
  if (names.includes(removals)) await removed(dir);
  return names;
}

/**
 * Moves the files of a save to their names, where that is not done yet. Two processes may do it at once: each move is made by one of
 * them, and one too many is of a later save, which is whole as well.
 */
async function finish(target: string): Promise<void> {
  const from = join(target, journal);
  const names = await journalOf(target);
  if (names === undefined) return;
  for (const name of names)
    if (name !== removals) await rename(join(from, name), join(target, name)).catch(unless('ENOENT'));
  for (const name of await removed(target))
    await rm(join(target, name)).catch(unless('ENOENT', 'ERR_FS_EISDIR'));
  await syncDirectory(target);
  await rm(join(from, removals), { force: true });
  await rmdir(from).catch(unless('ENOENT', 'ENOTEMPTY', 'EEXIST'));
}

/** What is in a folder, with the files of a save that is not moved to its end in their places. */
export class SavedFolder {
  private constructor(
    readonly dir: string,
    /** The names of what is in it. */
    readonly names: ReadonlySet<string>,
    private readonly moving: ReadonlySet<string>,
  ) {}

  /** @throws ERR_FILE for a directory that cannot be read, and for a journal in it that no save has made. */
  static async open(dir: string, what = 'directory'): Promise<SavedFolder> {
    try {
      const saved = await journalOf(dir);
      const names = new Set(await readdir(dir));
      names.delete(journal);
      const moving = new Set(saved);
      if (moving.delete(removals)) for (const name of await removed(dir)) names.delete(name);
      for (const name of moving) names.add(name);
      return new SavedFolder(dir, names, moving);
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      const reason = systemReason(cause).replace('no such file', 'no such directory');
      throw new LoRAError('ERR_FILE', `cannot read the ${what} ${dir}: ${reason}`, { cause });
    }
  }

  /** The same; undefined where there is no such directory. */
  static async find(dir: string): Promise<SavedFolder | undefined> {
    return SavedFolder.open(dir).catch((error: unknown) => {
      if (codeOf((error as LoRAError).cause) !== 'ENOENT') throw error;
      return undefined;
    });
  }

  has(name: string): boolean {
    return this.names.has(name);
  }

  /** Where the file of that name is to be read, from which no link may lead out of the folder. */
  file(name: string): FolderFile {
    const path = this.moving.has(name) ? join(this.dir, journal, name) : join(this.dir, name);
    return { path, folder: this.dir };
  }
}
