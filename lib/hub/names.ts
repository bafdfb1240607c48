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
  /** The GGUF file of it that is meant, where one is named. */
  readonly file?: string;
  /** What the caller wrote. */
  readonly source: string;
  /** Whether it was written without `hf:`: then no folder of that name is there. */
  readonly bare: boolean;
}

/** The characters of the hub's names; `--` stands for the slash in the names of the cache's folders, and is in none. */
const part = String.raw`[A-Za-z0-9](?:[\w.-]{0,94}[\w])?`;
const folder = String.raw`\w[\w.+-]*`;
const file = String.raw`(?:${folder}/){0,8}${folder}\.gguf`;
/** The id, a revision and a file; a revision that has slashes may stand where no file does. */
const withFile = new RegExp(`^(?:hf:)?(${part}/${part})(?:@([^/]*))?/(${file})$`);
const withoutFile = new RegExp(`^(?:hf:)?(${part}/${part})(?:@(.*))?$`);
const prefix = 'hf:';

/** Every commit of git is named by 40 such digits. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

interface NameParts {
  readonly id: string;
  readonly written?: string | undefined;
  readonly file?: string | undefined;
}

/** What a text names, with or without its prefix; undefined for what can be no name. */
function partsOf(text: string): NameParts | undefined {
  const [, id, written, named] = withFile.exec(text) ?? withoutFile.exec(text) ?? [];
  if (id === undefined || /--|\.\.|\.git$/.test(id)) return undefined;
  return named === undefined || isPlainFile(named) ? { id, written, file: named } : undefined;
}

const plainFile = new RegExp(`^${file}$`);
/** Whether a name of a GGUF file in a repository leads nowhere else. */
export const isPlainFile = (name: string): boolean =>
  name.length <= 400 && !name.includes('..') && plainFile.test(name);

/** The id of a repository as a whole; undefined for what names none, and for a file of one. */
export function repositoryId(text: string): string | undefined {
  const { id, file: named } = partsOf(text) ?? {};
  return named === undefined ? id : undefined;
}

/** A text that ends so is a path, unless it begins with the prefix. */
const ggufPath = /\.gguf$/i;

/** Whether a text can be a name of the hub, with or without its prefix and a revision. */
export const isHubName = (text: string): boolean =>
  partsOf(text) !== undefined && (text.startsWith(prefix) || !ggufPath.test(text));

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
 * such folder. `hf:org/name[@revision]/FILE.gguf` names a file of it; without `hf:` that is a path.
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
  const parts = partsOf(text);
  const bare = !text.startsWith(prefix);
  if (bare && (!isHubName(text) || existsSync(path))) {
    check(
      given === undefined,
      op,
      `expected no revision, which is for a name of the hub, since ${describe(path)} is a path`,
    );
    return path;
  }
  check(
    parts !== undefined,
    op,
    `expected hf:org/name or hf:org/name@revision, or either with /FILE.gguf, but received ${describe(text)}`,
  );
  const { id, written, file: named } = parts;
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
  const revision = written ?? given ?? 'main';
  return { id, revision, ...(named !== undefined && { file: named }), source: text, bare };
}
