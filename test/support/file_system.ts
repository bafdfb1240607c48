/** Records what the writers ask of the file system, in order, and lets chosen calls fail. */
import { promises as fs } from 'node:fs';
import { relative } from 'node:path';
import type { FileHandle } from 'node:fs/promises';

/** An error as the operating system gives it. */
export function systemError(code: string, message = `${code}: made by the test`): Error {
  return Object.assign(new Error(message), { code, syscall: 'any' });
}

type Write = (bytes: Uint8Array, offset: number, length: number) => Promise<{ bytesWritten: number }>;

export class FileSystemCalls {
  /** Paths are told relative to this folder. */
  root = '';
  /**
   * One line per call that writes or makes durable: 'create a.tmp', 'sync a.tmp', 'close a.tmp', 'rename a.tmp → a',
   * 'mkdir a', 'remove a'. The random part of a temporary name is left out.
   */
  lines: string[] = [];
  /** Handles that were opened and not closed. */
  openHandles = 0;
  /** How many bytes each call of write was asked for. */
  asked: number[] = [];
  /** A call of write writes no more than this many bytes. */
  maxPerWrite = Infinity;
  /** Bytes count as written and are not: for files too large for a test. */
  pretendToWrite = false;
  readonly #failures = new Map<string, Error>();

  /** The next call with this line fails with `error`, and does nothing. */
  failNext(line: string, error: Error): void {
    this.#failures.set(line, error);
  }

  /** .name.PID-RANDOM.tmp → name.tmp. */
  shown(path: unknown): string {
    const short = relative(this.root, String(path)) || '.';
    return short.replace(/\.([^/]+)\.\d+-[0-9a-f]+\.tmp(?=\/|$)/g, '$1.tmp');
  }

  /** Adds a line, or throws the error that is due for it. */
  say(line: string): void {
    const error = this.#failures.get(line);
    this.#failures.delete(line);
    if (error !== undefined) throw error;
    this.lines.push(line);
  }

  /** A handle whose calls are recorded. */
  watch(handle: FileHandle, path: unknown, writes: boolean): FileHandle {
    const write = handle.write.bind(handle) as Write;
    const [sync, close] = [handle.sync.bind(handle), handle.close.bind(handle)];
    this.openHandles++;
    const limited: Write = async (bytes, offset, length) => {
      this.asked.push(length);
      const bytesWritten = Math.min(length, this.maxPerWrite);
      return this.pretendToWrite ? { bytesWritten } : write(bytes, offset, bytesWritten);
    };
    handle.write = limited as FileHandle['write'];
    handle.sync = async () => {
      this.say(`sync ${this.shown(path)}`);
      await sync();
    };
    handle.close = async () => {
      await close();
      this.openHandles--;
      if (writes) this.say(`close ${this.shown(path)}`);
    };
    return handle;
  }
}

/** To be called in a describe block or at the top of a file: watches node:fs/promises during each of its tests. */
export function watchFileSystem(): FileSystemCalls {
  const calls = new FileSystemCalls();
  beforeEach(() => {
    Object.assign(calls, new FileSystemCalls());
    const { open, rename, rm, rmdir, mkdir } = fs;
    jest.spyOn(fs, 'open').mockImplementation(async (path, flags, mode) => {
      const writes = typeof flags === 'string' && flags !== 'r';
      if (writes) calls.say(`create ${calls.shown(path)}`);
      return calls.watch(await open(path, flags, mode), path, writes);
    });
    jest.spyOn(fs, 'rename').mockImplementation(async (from, to) => {
      calls.say(`rename ${calls.shown(from)} → ${calls.shown(to)}`);
      await rename(from, to);
    });
    jest.spyOn(fs, 'rm').mockImplementation(async (path, options) => {
      calls.say(`remove ${calls.shown(path)}`);
      await rm(path, options);
    });
    jest.spyOn(fs, 'rmdir').mockImplementation(async (path) => {
      calls.say(`remove ${calls.shown(path)}`);
      await rmdir(path);
    });
    jest.spyOn(fs, 'mkdir').mockImplementation(async (path, options) => {
      calls.say(`mkdir ${calls.shown(path)}`);
      return mkdir(path, options);
    });
  });
  afterEach(() => jest.restoreAllMocks());
  return calls;
}
