/** Names of repositories of the hub, and what tells them from paths. */
import { existsSync } from 'node:fs';
import { toPath } from '../formats/paths';
import { check, describe } from '../validate';

/** What a repository of the hub holds. */
export type RepositoryKind = 'model' | 'dataset';

/** What addresses of the hub and folders of the cache call a kind, and what sentences do. */
export const kindNames: Readonly<Record<RepositoryKind, { readonly plural: string; readonly word: string }>> =
  {
    model: { plural: 'models', word: 'model' },
    dataset: { plural: 'datasets', word: 'data set' },
  };

/** A repository of the hub, and which state of it. */
export interface RepositoryName {
  readonly kind: RepositoryKind;
  /** 'org/name'. */
  readonly id: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** What of it is meant, where that is named: the GGUF file of a model; of a data set a file, or a folder. */
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

/** Of a data set; the revisions of the hub that have slashes begin with `refs/`. */
const place = String.raw`(?:${folder}/){0,8}${folder}`;
const dataset = new RegExp(`^(?:hf:)?(${part}/${part})(?:@(refs/[^/]*/[^/]*|[^/]*))?(?:/(${place}))?$`);
const plainPlace = new RegExp(`^${place}$`);

/** Every commit of git is named by 40 such digits. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

interface NameParts {
  readonly id: string;
  readonly written?: string | undefined;
  readonly file?: string | undefined;
}

/** What a text names, with or without its prefix; undefined for what can be no name. */
function partsOf(text: string, kind: RepositoryKind = 'model'): NameParts | undefined {
  const found = kind === 'dataset' ? dataset.exec(text) : (withFile.exec(text) ?? withoutFile.exec(text));
  const [, id, written, named] = found ?? [];
  if (id === undefined || /--|\.\.|\.git$/.test(id)) return undefined;
  const isPlain = kind === 'dataset' ? isPlainPlace : isPlainFile;
  return named === undefined || isPlain(named) ? { id, written, file: named } : undefined;
}

const plainFile = new RegExp(`^${file}$`);
/** Whether a name of a GGUF file in a repository leads nowhere else. */
export const isPlainFile = (name: string): boolean =>
  name.length <= 400 && !name.includes('..') && plainFile.test(name);

/** Whether a name of a file or folder in a repository leads nowhere else. */
export const isPlainPlace = (name: string): boolean =>
  name.length <= 400 && !name.includes('..') && plainPlace.test(name);

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

/** Files of data: a text without the prefix that ends so is a path. */
export const dataFile = /\.(?:jsonl|ndjson|json|csv|tsv|txt|parquet)(?:\.gz|\.zst)?$/i;

/** Whether a text without the prefix can be a name of this kind. */
const isBareName = (text: string, kind: RepositoryKind): boolean =>
  kind === 'model' ? isHubName(text) : partsOf(text, kind)?.file === undefined && !dataFile.test(text);

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
 * such folder. `hf:org/name[@revision]/FILE.gguf` names a file of it, and of a data set `hf:org/name[@revision]/PATH` a file or a folder; without
 * `hf:` these are paths.
 *
 * @throws ERR_ARGUMENT for `hf:` before anything else, a revision that is given twice, that cannot be one, or with a folder.
 */
export function parseSource(
  source: string | URL,
  op: string,
  given?: string,
  kind: RepositoryKind = 'model',
): string | RepositoryName {
  const path = toPath(source, op);
  const text = String(source);
  check(
    given === undefined || isRevision(given),
    op,
    () => `expected revision to be a branch, a tag or a commit but received ${describe(given)}`,
  );
  const parts = partsOf(text, kind);
  const bare = !text.startsWith(prefix);
  if (bare && (parts === undefined || !isBareName(text, kind) || existsSync(path))) {
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
    `expected hf:org/name or hf:org/name@revision, or either with /${kind === 'model' ? 'FILE.gguf' : 'PATH'}, but received ${describe(text)}`,
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
  return { kind, id, revision, ...(named !== undefined && { file: named }), source: text, bare };
}
