/** Folders of data sets: a file for training, and files that measure. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LoRAError, loraError } from '../errors';
import { systemReason } from '../formats/system_reason';

/** Which file of a folder is read. */
export type DataSplit = 'train' | 'valid' | 'test';
export const dataSplits: readonly DataSplit[] = ['train', 'valid', 'test'];

const names: Readonly<Record<DataSplit, readonly string[]>> = {
  train: ['train', 'training'],
  valid: ['valid', 'validation', 'val', 'dev', 'eval'],
  test: ['test'],
};
const extension = /\.(?:jsonl|ndjson|json|csv|tsv|txt)(?:\.gz)?$/i;

const op = 'loadDataset';

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false; // whoever opens it says what is wrong
  }
}

/** The files of a folder that are this part of its data. Links are not followed. */
async function filesOf(folder: string, split: DataSplit): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile() && extension.test(entry.name))
      .map(({ name }) => name)
      .filter((name) => names[split].includes(name.replace(extension, '').toLowerCase()))
      .sort();
  } catch (cause) {
    throw loraError(op, 'ERR_FILE', `cannot read ${folder}: ${systemReason(cause)}`, cause);
  }
}

/**
 * The file of a part of the data: of a folder the one whose name says so, and any other path as it is.
 * @throws ERR_FILE for a folder without such a file, or with several; ERR_ARGUMENT for a part of what is no folder.
 */
export async function splitFile(path: string, split: DataSplit | undefined): Promise<string> {
  if (!(await isFolder(path))) {
    if (split === undefined) return path;
    throw loraError(op, 'ERR_ARGUMENT', `expected a folder beside split but received ${path}`);
  }
  const wanted = split ?? 'train';
  const files = await filesOf(path, wanted);
  if (files.length === 1) return join(path, files[0]!);
  const expected = `${wanted}.jsonl (or .json, .csv, .tsv, .txt, each also .gz)`;
  throw new LoRAError(
    'ERR_FILE',
    files.length === 0
      ? `[${op}] ${path}: expected ${expected} in it but received none`
      : `[${op}] ${path}: expected one file for ${wanted} but received ${files.join(', ')}`,
    { op },
  );
}

/** The file that measures: of a folder its valid, and any other path as it is. @throws as splitFile() does. */
export const measuringFile = async (path: string): Promise<string> =>
  (await isFolder(path)) ? splitFile(path, 'valid') : path;

/** The file of a folder that measures a run, where there is one. */
export async function validFile(path: string): Promise<string | undefined> {
  const found = (await isFolder(path)) && (await filesOf(path, 'valid')).length > 0;
  return found ? splitFile(path, 'valid') : undefined;
}
