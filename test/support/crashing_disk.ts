/** A disk that stops after the n-th step that changes it, as a killed process or a power failure does, or fails at one. */
import { promises as fs, readdirSync, renameSync, statSync, truncateSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { systemError } from './file_system';

/** What every call gets once the disk has stopped. */
export class Stopped extends Error {}

type Write = (bytes: Uint8Array, offset: number, length: number) => Promise<{ bytesWritten: number }>;

export class CrashingDisk {
  /** Steps done so far, by kind. */
  readonly counts: Record<string, number> = {};
  /** Steps that are done before everything stops. */
  stopAfter = Infinity;
  /** Only the step after these fails, with EIO, and the disk goes on. */
  failsOnce = false;
  /** What that step was. */
  failed: string | undefined;
  #steps = 0;
  /** Inodes whose content is not durable. */
  readonly #dirty = new Set<number>();

  get steps(): number {
    return this.#steps;
  }

  get stopped(): boolean {
    return !this.failsOnce && this.#steps > this.stopAfter;
  }

  /** Begins anew. */
  reset(stopAfter = Infinity, failsOnce = false): void {
    this.stopAfter = stopAfter;
    this.failsOnce = failsOnce;
    this.failed = undefined;
    this.#steps = 0;
    this.#dirty.clear();
    for (const kind of Object.keys(this.counts)) delete this.counts[kind];
  }

  /** Throws where the disk has stopped, and counts the step else. */
  step(kind: string): void {
    this.#steps++;
    if (this.stopped) throw new Stopped(`stopped at ${kind}`);
    if (this.failsOnce && this.#steps === this.stopAfter + 1) {
      this.failed = kind;
      throw systemError('EIO');
    }
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
  }

  watch(handle: FileHandle): FileHandle {
    const write = handle.write.bind(handle) as Write;
    const inode = handle.stat().then(({ ino }) => ino);
    handle.write = (async (bytes: Uint8Array, offset: number, length: number) => {
      this.#dirty.add(await inode);
      try {
        this.step('write');
      } catch (error) {
        if (this.#steps === this.stopAfter + 1) await write(bytes, offset, length >> 1); // the last one is torn
        throw error;
      }
      return write(bytes, offset, length);
    }) as FileHandle['write'];
    // Not the disk's own: a power failure is played, not had.
    handle.sync = async () => {
      this.step('sync');
      this.#dirty.delete(await inode);
    };
    return handle;
  }

  /** The process is dead, and what it left is nobody's; where the disk stopped, what was not made durable is lost by half. */
  end(dir: string, deadPid: number): void {
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      let path = join(dir, entry.name);
      const left = entry.name.replace(`.${process.pid}-`, `.${deadPid}-`);
      if (left !== entry.name) renameSync(path, (path = join(dir, left)));
      if (entry.isDirectory()) this.end(path, deadPid);
      else if (!this.failsOnce && this.#dirty.has(statSync(path).ino))
        truncateSync(path, statSync(path).size >> 1);
    }
  }
}

/** To be called at the top of a file: every change of a file during its tests goes through the disk. */
export function crashingDisk(): CrashingDisk {
  const disk = new CrashingDisk();
  beforeAll(() => {
    const { open } = fs;
    jest.spyOn(fs, 'open').mockImplementation(async (path, flags, mode) => {
      const makes = flags === 'wx' || flags === 'w';
      if (makes) disk.step('create');
      return disk.watch(await open(path, flags, mode));
    });
    for (const kind of [
      'rename',
      'mkdir',
      'rm',
      'rmdir',
      'chmod',
      'unlink',
      'copyFile',
      'writeFile',
    ] as const) {
      const real = fs[kind] as (...args: unknown[]) => Promise<unknown>;
      jest.spyOn(fs, kind).mockImplementation((async (...args: unknown[]) => {
        disk.step(kind);
        return real(...args);
      }) as never);
    }
  });
  afterAll(() => jest.restoreAllMocks());
  return disk;
}
