/** What a caller names a model or an adapter by, as a folder: the one place where a name of the hub becomes files. */
import { check, checkBoolean, checkSignal, describe } from '../validate';
import { parseSource, type RepositoryName } from './names';
import type { LoadProgress } from './progress';
import { hubSettings } from './settings';
import { Snapshot, type Found } from './snapshot';
import { wantedFiles, type Purpose, type Wanted } from './wanted';

/** The options of a call that takes a folder or a name of the hub. */
export interface SourceOptions {
  /** The branch, tag or commit of a name of the hub. Default 'main'. */
  revision?: string | undefined;
  /** The token of the hub, for gated and private repositories. Default: HF_TOKEN, or the file that `hf auth login` writes. */
  token?: string | undefined;
  /** Takes a name of the hub from the cache alone. Default: HF_HUB_OFFLINE. */
  offline?: boolean | undefined;
  /** Stops a download, of which a part stays for the next one; rejects with its reason. */
  signal?: AbortSignal | undefined;
  /** Called while a name of the hub is found and downloaded. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** Their names, for checkOptions(). */
export const sourceOptionNames = ['revision', 'token', 'offline', 'signal', 'onProgress'] as const;

/**
 * The folder with the files of a source, or its GGUF file: a path as it stands, or a snapshot in the cache of the hub, downloaded where it is
 * missing.
 *
 * Errors: ERR_ARGUMENT for a bad option; ERR_HUB for a name that the hub does not have or does not give, for files that are not what
 * they should be, and without a network; ERR_FILE where the cache cannot be written; the reason of the signal.
 */
export async function sourceFolder(
  source: string | URL,
  op: string,
  purpose: Purpose,
  options: SourceOptions = {},
): Promise<string> {
  checkSourceOptions(op, options);
  const named = parseSource(source, op, options.revision);
  if (typeof named === 'string') return named;
  const wanted = (all: readonly string[]): Wanted => wantedFiles(purpose, named, all);
  return (await repositoryFiles(named, op, wanted, options)).path;
}

/** Throws for an option that is none. */
export function checkSourceOptions(
  op: string,
  { token, offline, signal, onProgress }: Omit<SourceOptions, 'revision'>,
): void {
  checkSignal(op, signal);
  check(
    token === undefined || typeof token === 'string',
    op,
    'expected token to be text', // which is not shown
  );
  if (offline !== undefined) checkBoolean(op, 'offline', offline);
  check(
    onProgress === undefined || typeof onProgress === 'function',
    op,
    `expected onProgress to be a function but received ${describe(onProgress)}`,
  );
}

/** The files of a repository that `wanted` asks for, downloaded where the cache lacks them. @throws as sourceFolder() does. */
export async function repositoryFiles(
  repository: RepositoryName,
  op: string,
  wanted: (all: readonly string[]) => Wanted,
  { token, offline, signal, onProgress }: SourceOptions,
): Promise<Found> {
  const settings = await hubSettings(op, { token, offline });
  const subject = { op, repository, settings };
  return new Snapshot(subject, wanted, signal, onProgress ?? (() => undefined)).complete();
}
