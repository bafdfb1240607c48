/** A file system of its own, small enough to be filled, where this process may mount one. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface SmallDisk {
  readonly dir: string;
  /** Writes until nothing more fits. */
  readonly fill: () => void;
  /** Takes that away. */
  readonly free: () => void;
  readonly readOnly: (yes: boolean) => void;
}

function mount(...args: string[]): string | undefined {
  const { status, stderr, error } = spawnSync('mount', args, { encoding: 'utf8' });
  return status === 0 ? undefined : (error?.message ?? stderr).trim().split('\n')[0];
}

/** A disk of 4 MiB, which is removed after the tests of the file, or why there is none. */
export function smallDisk(): SmallDisk | string {
  const dir = mkdtempSync(join(tmpdir(), 'lora-disk-'));
  const refused = mount('-t', 'tmpfs', '-o', 'size=4m', 'none', dir);
  if (refused !== undefined) {
    rmdirSync(dir);
    return refused;
  }
  afterAll(() => {
    spawnSync('umount', ['-l', dir]);
    rmdirSync(dir);
  });
  const ballast = join(dir, 'ballast');
  return {
    dir,
    fill: () => {
      const file = openSync(ballast, 'w');
      try {
        while (writeSync(file, Buffer.alloc(4096)) > 0);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      } finally {
        closeSync(file);
      }
    },
    free: () => rmSync(ballast),
    readOnly: (yes) => {
      const failed = mount('-o', `remount,${yes ? 'ro' : 'rw'}`, dir);
      if (failed !== undefined) throw new Error(failed);
    },
  };
}
