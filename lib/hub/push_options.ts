/** What a push may be told, and what it gives. */
import { check, checkBoolean, checkSignal, describe } from '../validate';
import { isCommit, parseSource, type RepositoryName } from './names';
import type { PushProgress } from './progress';

/** The options of {@link CausalLM.push} that say where it goes, and how. */
export interface PushOptions {
  /** Who may read a repository that does not exist yet: true, those who you let. Default: as its owner has set it, which mostly is all. Where it exists, true is checked: a public one gets nothing. */
  private?: boolean | undefined;
  /** The branch, which is created where the repository has none of that name. Default 'main'. */
  revision?: string | undefined;
  /** What the commit is called: the first line is its title. Default 'Upload with lora-native'. */
  message?: string | undefined;
  /** A token that may write. Default: HF_TOKEN, or the file that `hf auth login` writes. */
  token?: string | undefined;
  /** Stops the push before its commit; rejects with its reason. Large files that are there by then are not sent again. */
  signal?: AbortSignal | undefined;
  /** Called while files are hashed and sent. */
  onProgress?: ((progress: PushProgress) => void) | undefined;
}

/** Their names, for checkOptions(). */
export const pushOptionNames = [
  'private',
  'revision',
  'message',
  'token',
  'signal',
  'onProgress',
] as const satisfies readonly (keyof PushOptions)[];

/** What a push has done. */
export interface PushResult {
  /** 'org/name'. */
  repository: string;
  /** The branch. */
  revision: string;
  /** The page of the repository. */
  url: string;
  /** The commit that has the files: a new one, or, where nothing differed, the one that was there. */
  commit: string;
  /** The files that the commit changes; none where the hub had all of them. */
  files: string[];
  /** Whether the repository was created. */
  created: boolean;
}

/** Where a push goes. @throws ERR_ARGUMENT for a bad option, or what is no name of a repository and a branch */
export function pushTarget(op: string, name: string, options: PushOptions): RepositoryName {
  const { revision, message, token, signal, onProgress } = options;
  check(typeof name === 'string', op, () => `expected org/name but received ${describe(name)}`);
  if (options.private !== undefined) checkBoolean(op, 'private', options.private);
  check(
    message === undefined ||
      (typeof message === 'string' && message.trim() !== '' && message.length <= 10_000),
    op,
    () => `expected message to be text but received ${describe(message)}`,
  );
  check(token === undefined || typeof token === 'string', op, 'expected token to be text');
  checkSignal(op, signal);
  check(
    onProgress === undefined || typeof onProgress === 'function',
    op,
    () => `expected onProgress to be a function but received ${describe(onProgress)}`,
  );
  const target = parseSource(name.startsWith('hf:') ? name : `hf:${name}`, op, revision);
  check(
    typeof target !== 'string' && target.file === undefined,
    op,
    () => `expected org/name but received ${describe(name)}`,
  );
  check(
    !isCommit(target.revision),
    op,
    () => `expected revision to be a branch but received the commit ${target.revision}`,
  );
  return target;
}
