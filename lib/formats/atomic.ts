/** Files and directories that appear whole or not at all. */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, open, readdir, realpath, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { types } from 'node:util';
import { LoRAError } from '../errors';
import { systemReason } from './system_reason';

/** One write call of Node.js takes at most 2^31 − 1 bytes. */
const maxWrite = 2 ** 30;
/** Smaller pieces are gathered to this size, so that a thousand small tensors are not a thousand calls. */
const gatherBytes = 2 ** 18;

/** A hidden name in the same directory, hence on the same file system, as rename needs. */
function siblingOf(path: string, suffix: string): string {
  return join(dirname(path), `.${basename(path)}.${process.pid}-${randomBytes(4).toString('hex')}.${suffix}`);
}

/** A symbolic link is followed: what it points to is replaced, and the link stays. */
async function targetOf(path: string): Promise<string> {
  return realpath(path).catch(() => resolve(path));
}

async function failWriting(path: string, error: unknown): Promise<never> {
  if (error instanceof LoRAError) throw error;
  const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
  const reason = missing ? `the directory ${dirname(path)} does not exist` : systemReason(error);
  throw new LoRAError('ERR_FILE', `cannot write ${path}: ${reason}`, { cause: error });
}

/** Makes the names in a directory durable; not every platform lets a directory be opened. */
async function syncDirectory(dir: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(dir, 'r');
    await handle.sync();
  } catch {
    // The rename itself has succeeded: the files are right, only later after a power failure.
  } finally {
    await handle?.close();
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  const { length } = bytes;
  for (let done = 0; done < length;) {
    // A view whose file is closed meanwhile has length 0: the write then throws.
    const { bytesWritten } = await handle.write(bytes, done, Math.min(length - done, maxWrite));
    done += bytesWritten;
  }
}

/** A part of a file, and the length that it had when the caller checked it. */
export interface Piece {
  readonly bytes: Uint8Array;
  readonly length: number;
}

async function writePieces(handle: FileHandle, pieces: readonly Piece[], path: string): Promise<void> {
  const gathered = Buffer.allocUnsafe(gatherBytes);
  let used = 0;
  const flush = async (): Promise<void> => {
    await writeAll(handle, gathered.subarray(0, used));
    used = 0;
  };
  for (const { bytes, length } of pieces) {
    if (used + length > gatherBytes) await flush();
    if (bytes.length !== length) {
      throw new LoRAError('ERR_ARGUMENT', `the bytes for ${path} were released while it was written`);
    }
    if (length > gatherBytes) {
      await writeAll(handle, bytes);
    } else {
      gathered.set(bytes, used);
      used += length;
    }
  }
  await flush();
}

/**
 * Writes a file so that its name holds either the old content or the new one, never a part: temporary file in the
 * same directory, fsync, rename, fsync of the directory. On failure the temporary file is removed.
 *
 * Errors: ERR_FILE with the reason.
 */
export async function writeFileAtomic(
  path: string,
  data: string | Uint8Array | readonly Piece[],
): Promise<void> {
  await (await stageFile(path, data)).commit();
}

/** A file that is written and durable, but does not have its name yet. */
export interface StagedFile {
  commit(): Promise<void>;
  discard(): Promise<void>;
}

/** The first half of writeFileAtomic: several files can be staged before the first one gets its name. */
export async function stageFile(
  path: string,
  data: string | Uint8Array | readonly Piece[],
): Promise<StagedFile> {
  const whole = typeof data === 'string' ? Buffer.from(data) : types.isUint8Array(data) ? data : undefined;
  const pieces = whole === undefined ? (data as readonly Piece[]) : [{ bytes: whole, length: whole.length }];
  const target = await targetOf(path);
  const temporary = siblingOf(target, 'tmp');
  const discard = async (): Promise<void> => rm(temporary, { force: true });
  try {
    const handle = await open(temporary, 'wx');
    try {
      await writePieces(handle, pieces, path);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    await discard();
    return failWriting(path, error);
  }
  return {
    discard,
    async commit(): Promise<void> {
      try {
        await rename(temporary, target);
      } catch (error) {
        await discard();
        await failWriting(path, error);
      }
      await syncDirectory(dirname(target));
    },
  };
}

/** fsync of every file and directory below; files of writeFileAtomic are durable already, others may not be. */
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

/**
 * Fills a directory through `write`, which gets the path of a temporary sibling, and then gives it its name, in
 * place of what had it. The name never holds a part: a crash between the two renames of a replacement leaves the old
 * directory under a hidden name beside it. Missing parents are made; on failure the old directory stays.
 *
 * Errors: what `write` throws; ERR_FILE with the reason.
 */
export async function replaceDirectory(
  dir: string,
  write: (temporary: string) => Promise<void>,
): Promise<void> {
  const target = await targetOf(dir);
  const temporary = siblingOf(target, 'tmp');
  try {
    await mkdir(dirname(target), { recursive: true });
    await mkdir(temporary);
  } catch (error) {
    await failWriting(dir, error);
  }
  try {
    await write(temporary);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  try {
    await syncTree(temporary);
    await swap(temporary, target);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    await failWriting(dir, error);
  }
  await syncDirectory(dirname(target));
}

async function swap(temporary: string, target: string): Promise<void> {
  const present = await lstat(target).catch(() => undefined);
  if (present === undefined) return rename(temporary, target);
  if (!present.isDirectory()) throw new Error('it exists and is not a directory');
  const old = siblingOf(target, 'old');
  await rename(target, old);
  try {
    await rename(temporary, target);
  } catch (error) {
    await rename(old, target);
    throw error;
  }
  await rm(old, { recursive: true, force: true });
}
