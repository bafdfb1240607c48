/** Locks of files between processes, which Python's filelock heeds, and which end with the process that holds them. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeDirectory } from '../formats/atomic';
import { binding } from '../native/calls';
import type { NativeLock } from '../native/handles';
import { sleep } from './connection';

const flags = constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0);

/** The lock of a file, which is made where it is missing; null where another has it. */
export async function tryLock(path: string): Promise<NativeLock | null> {
  const handle = await open(path, flags, 0o644);
  await handle.close();
  return binding().lockFile(path);
}

/** Runs `work` while this process has the lock of a file. `onWait` is told once, when another has it. */
export async function withLock<T>(
  path: string,
  { signal, onWait }: { signal?: AbortSignal | undefined; onWait?: () => void },
  work: () => Promise<T>,
): Promise<T> {
  await makeDirectory(dirname(path));
  let lock = await tryLock(path);
  if (lock === null) onWait?.();
  for (let wait = 50; lock === null; wait = Math.min(1000, 1.5 * wait)) {
    await sleep(wait, signal);
    lock = await tryLock(path);
  }
  try {
    return await work();
  } finally {
    binding().unlockFile(lock);
  }
}
