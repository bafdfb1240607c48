/** Files that appear whole or not at all. */
import { chmod, lstat, mkdir, open, realpath, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { types } from 'node:util';
import { LoRAError } from '../errors';
import { systemReason } from './system_reason';
import { sweep, temporaryBeside } from './temporary';

/** One write call of Node.js takes at most 2^31 − 1 bytes. */
const maxWrite = 2 ** 30;
/** Smaller pieces are gathered to this size, so that a thousand small tensors are not a thousand calls. */
const gatherBytes = 2 ** 18;

/** Where a folder lies that the user named: a link to it is followed. */
export async function targetOf(path: string): Promise<string> {
  return realpath(path).catch(() => resolve(path));
}

/** ERR_FILE with the reason, or the error itself where it is one of ours. */
export function cannotWrite(path: string, error: unknown): LoRAError {
  if (error instanceof LoRAError) return error;
  const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
  const reason = missing ? `the directory ${dirname(path)} does not exist` : systemReason(error);
  return new LoRAError('ERR_FILE', `cannot write ${path}: ${reason}`, { cause: error });
}

/** Where a directory cannot be opened, or be made durable: of Windows, of some network file systems, of a folder that may not be listed. */
const notForDirectories = ['EINVAL', 'EISDIR', 'EPERM', 'EACCES', 'EBADF', 'ENOSYS', 'ENOTSUP'];

/** Makes the names in a directory durable, where the platform can. */
export async function syncDirectory(dir: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(dir, 'r');
    await handle.sync();
  } catch (error) {
    if (!notForDirectories.includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  } finally {
    await handle?.close();
  }
}

/**
 * Makes a directory with its parents. Step by step: on a file system that is read-only, Node's own way says that there is no
 * such file.
 */
export async function makeDirectory(path: string): Promise<void> {
  const present = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' || dirname(path) === path) throw error;
    return undefined;
  });
  if (present?.isDirectory()) return;
  if (present) throw Object.assign(new Error(`${path} is not a directory`), { code: 'EEXIST' });
  await makeDirectory(dirname(path));
  await mkdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error; // another has made it meanwhile
  });
  await syncDirectory(dirname(path));
}

/** A part of a file, and the length that it had when the caller checked it. */
export type Piece = { readonly length: number } & (
  | { readonly bytes: Uint8Array }
  /** Gives `length` bytes in all, made while the file is written. */
  | { readonly parts: () => AsyncIterable<Uint8Array> }
);

async function writeAll(handle: FileHandle, bytes: Uint8Array, path: string): Promise<void> {
  const { length } = bytes;
  for (let done = 0; done < length;) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(length - done, maxWrite));
    done += bytesWritten;
    if (done < length && (bytesWritten === 0 || bytes.length !== length)) throw released(path);
  }
}

/** The file that the bytes are a view of was closed, or their memory was given away. */
const released = (path: string): LoRAError =>
  new LoRAError('ERR_DISPOSED', `the bytes for ${path} were released while it was written`);

async function* partsOf(piece: Piece, path: string): AsyncGenerator<Uint8Array> {
  if ('parts' in piece) yield* piece.parts();
  else if (piece.bytes.length === piece.length) yield piece.bytes;
  else throw released(path);
}

async function writePieces(handle: FileHandle, pieces: readonly Piece[], path: string): Promise<void> {
  const gathered = Buffer.allocUnsafe(gatherBytes);
  let used = 0;
  const flush = async (): Promise<void> => {
    await writeAll(handle, gathered.subarray(0, used), path);
    used = 0;
  };
  for (const piece of pieces) {
    let given = 0;
    for await (const part of partsOf(piece, path)) {
      const { length } = part;
      given += length;
      if (used + length > gatherBytes) await flush();
      if (part.length !== length) throw released(path); // meanwhile
      if (length > gatherBytes) {
        await writeAll(handle, part, path);
      } else {
        gathered.set(part, used);
        used += length;
      }
    }
    if (given !== piece.length) throw released(path);
  }
  await flush();
}

/**
 * Writes a file so that its name holds either the old content or the new one, never a part: temporary file in the
 * same directory, fsync, rename, fsync of the directory. On failure the temporary file is removed. A link at the name is replaced, and
 * what it leads to stays as it is.
 *
 * Errors: ERR_FILE with the reason.
 */
export async function writeFileAtomic(
  path: string,
  data: string | Uint8Array | readonly Piece[],
): Promise<void> {
  await (await stageFile(path, data)).commit();
}

/** Writes a new file and makes its content durable; its name may hold a part until then. */
export async function writeNewFile(
  path: string,
  data: string | Uint8Array | readonly Piece[],
  shownAs = path,
): Promise<void> {
  const whole = typeof data === 'string' ? Buffer.from(data) : types.isUint8Array(data) ? data : undefined;
  const pieces = whole === undefined ? (data as readonly Piece[]) : [{ bytes: whole, length: whole.length }];
  const handle = await open(path, 'wx');
  try {
    await writePieces(handle, pieces, shownAs);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** A file that takes the place of another may be read by whom that one might. */
export async function keepMode(path: string, target: string): Promise<void> {
  const before = await lstat(target).catch(() => undefined);
  if (before?.isFile()) await chmod(path, before.mode & 0o7777);
}

/** A file that is written and durable, but does not have its name yet. */
export interface StagedFile {
  commit(): Promise<void>;
  discard(): Promise<void>;
}

/** The first half of writeFileAtomic. */
export async function stageFile(
  path: string,
  data: string | Uint8Array | readonly Piece[],
): Promise<StagedFile> {
  const target = join(await targetOf(dirname(path)), basename(path));
  await sweep(dirname(target), (name) => name === basename(target));
  const temporary = temporaryBeside(target);
  // What stopped the write is told, not what stops this.
  const discard = (): Promise<void> => rm(temporary, { force: true }).catch(() => undefined);
  try {
    await writeNewFile(temporary, data, path);
    await keepMode(temporary, target);
  } catch (error) {
    await discard();
    throw cannotWrite(path, error);
  }
  return {
    discard,
    async commit(): Promise<void> {
      try {
        await rename(temporary, target);
        await syncDirectory(dirname(target));
      } catch (error) {
        await discard();
        throw cannotWrite(path, error);
      }
    },
  };
}
