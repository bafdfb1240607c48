/** Files that this process has open. */
import { existsSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { join, sep } from 'node:path';

const descriptors = '/proc/self/fd';

/** The paths of open files below a folder; none where the system does not list them. */
export function openFilesIn(folder: string): string[] {
  if (!existsSync(descriptors)) return [];
  const below = realpathSync(folder) + sep;
  return readdirSync(descriptors).flatMap((name) => {
    try {
      const path = readlinkSync(join(descriptors, name));
      return path.startsWith(below) ? [path] : [];
    } catch {
      return []; // the one that listed them
    }
  });
}
