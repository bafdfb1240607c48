/** Files that a received folder names: a link in it must not make us read, and save() copy, another file of the user's. */
import { lstat, realpath } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';
import { LoRAError } from '../errors';

/** A file of a folder that a stranger may have made. */
export interface FolderFile {
  readonly path: string;
  /** The folder as the user named it, which no link of the file may leave. */
  readonly folder: string;
}

/** A path that the user named, which is followed wherever it leads, or a file of a folder. */
export type Source = string | FolderFile;

/**
 * Where a file of a folder lies: in that folder, or in the blobs of the same repository in the cache of the hub, whose folders consist
 * of links (models--org--name/snapshots/REVISION/NAME to models--org--name/blobs/DIGEST).
 *
 * Errors: ERR_FILE for a link to elsewhere; those of realpath.
 */
export async function endOfLinks({ path, folder }: FolderFile): Promise<string> {
  const [base, end] = await Promise.all([realpath(folder), realpath(path)]);
  if (end.startsWith(base.endsWith(sep) ? base : base + sep) || dirname(end) === blobsOf(base)) return end;
  throw new LoRAError('ERR_FILE', `${path} is a link to a file outside its directory: ${end}`);
}

/** Throws for a link at the name of a folder that a run makes in its own: what it leads to is another's. */
export async function refuseLink(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found?.isSymbolicLink())
    throw new LoRAError('ERR_FILE', `${path} is a link, and not a folder that a run made`);
}

/** The folder of the files of a snapshot in the cache of the hub. */
function blobsOf(snapshot: string): string | undefined {
  for (let at = snapshot; dirname(at) !== at; at = dirname(at)) {
    const repository = dirname(at);
    if (basename(at) === 'snapshots' && basename(repository).startsWith('models--'))
      return join(repository, 'blobs');
  }
  return undefined;
}
