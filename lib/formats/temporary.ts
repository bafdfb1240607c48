/** Names of files and folders that are being written, and what is left of those whose process was killed. */
import { createHash, randomBytes } from 'node:crypto';
import { lstat, readdir, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';

let tag: string | undefined;
/**
 * Of this machine: a process number says nothing about one on another machine that shares the folder. A program that may not ask for the
 * machine's name, as in Deno without --allow-sys, is like a machine of its own.
 */
function host(): string {
  if (tag === undefined) {
    let name: string | Buffer;
    try {
      name = hostname();
    } catch {
      name = randomBytes(16);
    }
    tag = createHash('sha256').update(name).digest('hex').slice(0, 8);
  }
  return tag;
}
const day = 24 * 60 * 60 * 1000;

/** The path for a hidden name in a folder: `.NAME.PID-RANDOM.tmp`. */
export function temporaryIn(dir: string, name: string): string {
  return join(dir, `.${name}.${process.pid}-${host()}${randomBytes(4).toString('hex')}.tmp`);
}

/** A hidden name beside `path`, hence on the same file system, as rename needs. */
export const temporaryBeside = (path: string): string => temporaryIn(dirname(path), basename(path));

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0); // sends nothing
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'; // it is there, or nothing is known about it
  }
}

async function isAbandoned(path: string, pid: number, from: string): Promise<boolean> {
  const { mtimeMs, uid } = await lstat(path);
  // Whoever owns a folder in a shared one could put a link in its place while it is removed.
  if (uid !== (process.getuid?.() ?? uid)) return false;
  if (from !== host()) return Date.now() - mtimeMs > day;
  // A process number comes again, in containers often: then the file is older than this process.
  if (pid === process.pid) return mtimeMs < Date.now() - process.uptime() * 1000 - 1000;
  return !isRunning(pid);
}

/**
 * Removes what writers that were killed left in a folder: of names that `mine` accepts, and of this user. What a living process writes
 * stays; so does, for a day, what came from another machine.
 */
export async function sweep(dir: string, mine: (name: string) => boolean): Promise<void> {
  const entries = await readdir(dir).catch((): string[] => []);
  for (const entry of entries) {
    // Without the machine's part: of the first versions of this package.
    const found = /^\.(.+)\.(\d+)-([0-9a-f]{8})([0-9a-f]{8})?\.tmp$/.exec(entry);
    if (found === null || !mine(found[1]!)) continue;
    const path = join(dir, entry);
    // It may be gone by now, or be another user's: neither stops a save.
    if (await isAbandoned(path, Number(found[2]), found[4] ? found[3]! : host()).catch(() => false))
      await rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}
