/** Records what the writers ask of the file system, in order, and lets chosen calls fail. */
import { promises as fs } from 'node:fs';
import { relative } from 'node:path';
import type { FileHandle } from 'node:fs/promises';

export interface FileSystemCalls {
  /** Paths are told relative to this folder. A new one begins a new list. */
  root: string;
  /**
   * One line per call that writes or makes durable: 'create a.tmp', 'sync a.tmp', 'close a.tmp', 'rename a.tmp → a',
   * 'mkdir a', 'remove a'. The random part of a temporary name is left out.
   */
  readonly lines: readonly string[];
  /** Handles that were opened and not closed. */
  readonly openHandles: number;
  /** The next call with this line fails with `error`, and does nothing. */
  failNext(line: string, error: Error): void;
}

/** An error as the operating system gives it. */
export function systemError(code: string, message = `${code}: made by the test`): Error {
  return Object.assign(new Error(message), { code });
}

/** To be called in a describe block (or at the top of a file): watches node:fs/promises during each of its tests. */
export function watchFileSystem(): FileSystemCalls {
  const failures = new Map<string, Error>();
  let lines: string[] = [];
  let root = '';
  let openHandles = 0;

  /** .name.PID-RANDOM.tmp → name.tmp */
  const shown = (path: unknown): string =>
    (relative(root, String(path)) || '.').replace(/\.([^/]+)\.\d+-[0-9a-f]+\.(tmp|old)(?=\/|$)/g, '$1.$2');
  const say = (line: string): void => {
    const error = failures.get(line);
    failures.delete(line);
    if (error !== undefined) throw error;
    lines.push(line);
  };

  beforeEach(() => {
    failures.clear();
    lines = [];
    openHandles = 0;
    const { open, rename, rm, mkdir } = fs;
    const watched = (handle: FileHandle, path: unknown, writes: boolean): FileHandle => {
      const [sync, close] = [handle.sync.bind(handle), handle.close.bind(handle)];
      openHandles++;
      handle.sync = async () => {
        say(`sync ${shown(path)}`);
        await sync();
      };
      handle.close = async () => {
        await close();
        openHandles--;
        if (writes) say(`close ${shown(path)}`);
      };
      return handle;
    };
    jest.spyOn(fs, 'open').mockImplementation(async (path, flags, mode) => {
      const writes = flags !== undefined && flags !== 'r';
      if (writes) say(`create ${shown(path)}`);
      return watched(await open(path, flags, mode), path, writes);
    });
    jest.spyOn(fs, 'rename').mockImplementation(async (from, to) => {
      say(`rename ${shown(from)} → ${shown(to)}`);
      await rename(from, to);
    });
    jest.spyOn(fs, 'rm').mockImplementation(async (path, options) => {
      say(`remove ${shown(path)}`);
      await rm(path, options);
    });
    jest.spyOn(fs, 'mkdir').mockImplementation(async (path, options) => {
      say(`mkdir ${shown(path)}`);
      return mkdir(path, options);
    });
  });
  afterEach(() => jest.restoreAllMocks());

  return {
    get root() {
      return root;
    },
    set root(folder) {
      root = folder;
      lines = [];
    },
    get lines() {
      return lines;
    },
    get openHandles() {
      return openHandles;
    },
    failNext(line, error) {
      failures.set(line, error);
    },
  };
}
