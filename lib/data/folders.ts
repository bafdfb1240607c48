/** The files of a data set: a file, what a folder has of a split, or a repository of the hub. */
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { LoRAError, loraError } from '../errors';
import { toPath } from '../formats/paths';
import { systemReason } from '../formats/system_reason';
import { dataFile, isPlainPlace, parseSource, type RepositoryName } from '../hub/names';
import { checkSourceOptions, repositoryFiles, type SourceOptions } from '../hub/source';
import type { Wanted } from '../hub/wanted';
import { check, describe, listed } from '../validate';

/** A part of a data set. Repositories of the hub may have others, such as 'train_sft'. */
export type DataSplit = 'train' | 'valid' | 'test' | (string & {});

const synonyms: Readonly<Record<string, readonly string[]>> = {
  train: ['train', 'training'],
  valid: ['valid', 'validation', 'val', 'dev', 'eval'],
  test: ['test', 'testing'],
};
/** The words of all parts that have some. */
const anySplit = Object.values(synonyms).flat();
const wordsOf = (split: string): readonly string[] =>
  Object.values(synonyms).find((words) => words.includes(split)) ?? [split];

/** One of several files that are read one after the other: train-00000-of-00002, in older repositories with a hash behind it. */
const shard = /-(\d{5})-of-(\d{5})(?:-[0-9a-f]{8,})?$/;
/** What repositories have beside their data. */
const noData = /(?:^|\/)(?:dataset_infos?|dataset_dict|state|config|package)\.json$|\.txt(?:\.gz|\.zst)?$/i;

const op = 'loadDataset';

/** The files that are read for a call, and the name that stands for them. */
export interface DataFiles {
  /** The file, or what the caller named where that is several. */
  readonly path: string;
  readonly files: readonly string[];
}

/** What a name says. */
interface NamedFile {
  readonly name: string;
  readonly folder: string;
  /** Without its extension and the number of a shard. */
  readonly stem: string;
  readonly extension: string;
  /** Number and count of a shard. */
  readonly shard: readonly [number, number] | undefined;
}

function namedFile(name: string): NamedFile {
  const at = name.lastIndexOf('/') + 1;
  const extension = dataFile.exec(name)![0].toLowerCase();
  const whole = name.slice(at, name.length - extension.length);
  const [, number, count] = shard.exec(whole) ?? [];
  return {
    name,
    folder: name.slice(0, Math.max(0, at - 1)),
    stem: whole.replace(shard, '').toLowerCase(),
    extension,
    shard: number === undefined ? undefined : [Number(number), Number(count)],
  };
}

const lastFolder = ({ folder }: NamedFile): string => basename(folder).toLowerCase();
const partsOf = ({ stem }: NamedFile): string[] => stem.split(/[-_. ]/);

/**
 * The files of a split among the names of a repository: those whose name or folder is the split's, else those whose name has it as a word. A repository in which
 * nothing names a split is for training.
 */
function filesOfSplit(files: readonly NamedFile[], split: string): readonly NamedFile[] {
  const words = wordsOf(split);
  const whole = files.filter((file) => words.includes(file.stem) || words.includes(lastFolder(file)));
  if (whole.length > 0) return whole;
  const within = files.filter((file) => partsOf(file).some((part) => words.includes(part)));
  if (within.length > 0) return within;
  const named = files.some((file) =>
    [...partsOf(file), lastFolder(file)].some((word) => anySplit.includes(word)),
  );
  return split === 'train' && !named ? files : [];
}

/** The files of a data set that are read together, of which there may be one set; or a sentence that says why not. */
function oneSet(
  files: readonly NamedFile[],
  split: string,
  several: string,
): readonly string[] | { problem: string } {
  const sets = new Map<string, NamedFile[]>();
  for (const file of files) {
    // Files of a folder that is called after the split belong together, whatever their own names.
    const own = file.shard !== undefined || !wordsOf(split).includes(lastFolder(file)) ? file.stem : '*';
    const key = `${file.folder}/${own}${file.extension}`;
    sets.set(key, [...(sets.get(key) ?? []), file]);
  }
  if (sets.size !== 1)
    return {
      problem: `${several} ${listed(
        [...sets.values()].map((set) => set[0]!.name),
        20,
      )}`,
    };
  const [set] = [...sets.values()];
  const count = set![0]!.shard?.[1];
  const numbers = new Set(set!.map((file) => file.shard?.[0]));
  for (let number = 0; count !== undefined && number < count; number++)
    if (!numbers.has(number)) return { problem: `lacks part ${number} of ${count} of ${set![0]!.stem}` };
  return set!.map(({ name }) => name).sort();
}

/** What is read of a repository that lists `all`. */
export function wantedData(
  { id, file: place }: Pick<RepositoryName, 'id' | 'file'>,
  split: string,
  all: readonly string[],
): Wanted {
  const plain = all.filter((name) => isPlainPlace(name) && dataFile.test(name));
  if (place !== undefined && dataFile.test(place))
    return plain.includes(place) ? { names: [place] } : { problem: `has no ${place}` };
  const below = place === undefined ? plain : plain.filter((name) => name.startsWith(`${place}/`));
  const files = below.filter((name) => !noData.test(name)).map(namedFile);
  if (files.length === 0)
    return {
      problem: `has no data${place === undefined ? '' : ` in ${place}`} that is read (JSONL, JSON, CSV, TSV or Parquet)`,
    };
  const chosen = filesOfSplit(files, split);
  if (chosen.length === 0)
    return {
      problem: `has nothing for the split ${split}: give one of what it holds (${listed(below, 20)})`,
    };
  const several = `has several data sets for ${split}; name a folder or a file of it, as hf:${id}/PATH:`;
  const names = oneSet(chosen, split, several);
  return 'problem' in names ? names : { names };
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false; // whoever opens it says what is wrong
  }
}

/** The files of a folder that are this part of its data. Links are not followed. */
async function filesIn(folder: string, split: string): Promise<NamedFile[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile() && dataFile.test(entry.name))
      .map(({ name }) => namedFile(name))
      .filter(({ stem }) => wordsOf(split).includes(stem))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (cause) {
    throw loraError(op, 'ERR_FILE', `cannot read ${folder}: ${systemReason(cause)}`, cause);
  }
}

/** The files of a part of a folder. @throws ERR_FILE where it has none, or several that do not belong together. */
async function filesOfFolder(folder: string, split: string): Promise<DataFiles> {
  const files = await filesIn(folder, split);
  const expected = `${split}.jsonl (or .json, .csv, .tsv, .parquet, .txt, each also .gz or .zst)`;
  const fail = (sentence: string): never => {
    throw new LoRAError('ERR_FILE', `[${op}] ${folder}: ${sentence}`, { op });
  };
  if (files.length === 0) fail(`expected ${expected} in it but received none`);
  const names = oneSet(files, split, `expected one file for ${split} but received`);
  if ('problem' in names) return fail(names.problem);
  const paths = names.map((name) => join(folder, name));
  return { path: paths.length === 1 ? paths[0]! : folder, files: paths };
}

/** How the files of a data set are found. */
export interface FindDataOptions extends SourceOptions {
  readonly split?: string | undefined;
}

/**
 * The files of a data set: a file as it is; of a folder, or a repository of the hub, those of the split, downloaded where they are missing.
 * @throws ERR_FILE for a folder without them, or with several; ERR_ARGUMENT for a split of a file; those of sourceFolder().
 */
export async function dataFiles(source: string | URL, options: FindDataOptions = {}): Promise<DataFiles> {
  const { split, revision } = options;
  check(
    split === undefined ||
      (typeof split === 'string' && /^[\w.-]{1,100}$/.test(split) && !split.includes('..')),
    op,
    () => `expected split to be the name of a split, such as 'train', but received ${describe(split)}`,
  );
  checkSourceOptions(op, options);
  const named = parseSource(source, op, revision, 'dataset');
  if (typeof named !== 'string') {
    const wanted = (all: readonly string[]): Wanted => wantedData(named, split ?? 'train', all);
    const { path, names } = await repositoryFiles(named, op, wanted, options);
    return { path: named.source, files: names.map((name) => join(path, name)) };
  }
  const path = toPath(named, op);
  if (await isFolder(path)) return filesOfFolder(path, split ?? 'train');
  if (split === undefined) return { path, files: [path] };
  throw loraError(
    op,
    'ERR_ARGUMENT',
    `expected a folder or a name of the hub beside split but received ${path}`,
  );
}

/** Whether a source has parts, which it is asked for by a split: a folder, or a repository. */
export async function hasSplits(source: string | URL): Promise<boolean> {
  const named = parseSource(source, op, undefined, 'dataset');
  if (typeof named === 'string') return isFolder(named);
  return named.file === undefined || !dataFile.test(named.file);
}

/** The files that measure: of a folder or a repository its valid, or another split, and any other path as it is. @throws as dataFiles() does. */
export const measuringFiles = async (
  source: string | URL,
  options: FindDataOptions = {},
): Promise<DataFiles> =>
  dataFiles(source, {
    ...options,
    split: options.split ?? ((await hasSplits(source)) ? 'valid' : undefined),
  });

/** The files of a folder on this machine that measure a run, where there are some. */
export async function validFiles(path: string): Promise<DataFiles | undefined> {
  const found = (await isFolder(path)) && (await filesIn(path, 'valid')).length > 0;
  return found ? filesOfFolder(path, 'valid') : undefined;
}
