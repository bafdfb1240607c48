/** Names of repositories of the hub, and what tells them from paths. */
import { existsSync } from 'node:fs';
import { toPath } from '../formats/paths';
import { check, describe } from '../validate';

/** A repository of models of the hub, and which state of it. */
export interface RepositoryName {
  /** 'org/name'. */
  readonly id: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** What the caller wrote. */
  readonly source: string;
  /** Whether it was written without `hf:`: then no folder of that name is there. */
  readonly bare: boolean;
}

/** The characters of the hub's names; `--` stands for the slash in the names of the cache's folders, and is in none. */
const part = String.raw`[A-Za-z0-9](?:[\w.-]{0,94}[\w])?`;
const repository = new RegExp(`^(hf:)?(${part}/${part})(?:@(.*))?$`);
const prefix = 'hf:';

/** Every commit of git is named by 40 such digits. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** The id that a text names; undefined for what can be none. */
export function repositoryId(text: string): string | undefined {
  const id = repository.exec(text)?.[2];
  return id === undefined || /--|\.\.|\.git$/.test(id) ? undefined : id;
}

/** Whether a text can be a name of the hub, with or without its prefix and a revision. */
export const isHubName = (text: string): boolean => repositoryId(text) !== undefined;

/** A revision becomes a path below `refs`: nothing in it may lead elsewhere. */
function isRevision(text: unknown): text is string {
  return (
    typeof text === 'string' &&
    text.length <= 200 &&
    text.split('/').every((name) => /^[\w+=@-](?:[\w.+=@-]*[\w+=@-])?$/.test(name) && !name.includes('..'))
  );
}

/**
 * The path that a source is, or the repository that it names: `hf:org/name[@revision]`, and `org/name[@revision]` where there is no
 * such folder.
 *
 * @throws ERR_ARGUMENT for `hf:` before anything else, a revision that is given twice, that cannot be one, or with a folder.
 */
export function parseSource(source: string | URL, op: string, given?: string): string | RepositoryName {
  const path = toPath(source, op);
  const text = String(source);
  check(
    given === undefined || isRevision(given),
    op,
    () => `expected revision to be a branch, a tag or a commit but received ${describe(given)}`,
  );
  const id = repositoryId(text);
  const bare = !text.startsWith(prefix);
  if (bare && (id === undefined || /\.gguf$/i.test(text) || existsSync(path))) {
    check(
      given === undefined,
      op,
      `expected no revision, which is for a name of the hub, since ${describe(path)} is a path`,
    );
    return path;
  }
  check(id !== undefined, op, `expected hf:org/name or hf:org/name@revision but received ${describe(text)}`);
  const written = repository.exec(text)?.[3];
  check(
    written === undefined || given === undefined,
    op,
    `expected one revision but received ${describe(written)} in ${describe(text)} and the option revision`,
  );
  check(
    written === undefined || isRevision(written),
    op,
    () => `expected a branch, a tag or a commit after @ but received ${describe(text)}`,
  );
  return { id, revision: written ?? given ?? 'main', source: text, bare };
}
