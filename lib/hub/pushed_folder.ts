/** Which files of a folder are pushed: those of an adapter or a model and its card. Checkpoints, logs and what else lies there stay. */
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, sep } from 'node:path';
import { loraError } from '../errors';
import { SavedFolder } from '../formats/file_group';
import { readText } from '../formats/json';
import { cardFile, indexFile } from '../formats/model_files';
import { toPath } from '../formats/paths';
import type { PushFile } from './pushed_file';
import { shardsOf, wantedFiles } from './wanted';

/**
 * The files of an adapter, a model or both, or of a GGUF file with its parts.
 *
 * Errors: ERR_FILE for a folder that is missing or holds neither.
 */
export async function folderToPush(op: string, source: string | URL): Promise<PushFile[]> {
  const path = toPath(source, op);
  const isFile = (await stat(path).catch(() => undefined))?.isFile() ?? false;
  const file = isFile ? basename(path) : undefined;
  const folder = await SavedFolder.open(isFile ? dirname(path) : path);
  const below = isFile ? [] : await readdir(path, { recursive: true });
  const all = [...new Set([...folder.names, ...below.map((name) => name.split(sep).join('/'))])];
  const wrong = (problem: string): Error => loraError(op, 'ERR_FILE', `${path} ${problem}`);
  if (file !== undefined && !/\.gguf$/i.test(file))
    throw wrong('is a file: expected the folder of an adapter or a model, or a GGUF file');
  const wanted = wantedFiles('any', { id: 'org/name', ...(file !== undefined && { file }) }, all);
  if ('problem' in wanted) throw wrong(wanted.problem);
  const names = [...wanted.names];
  if (names.includes(indexFile)) {
    const shards = await shardsOf(folder.file(indexFile));
    const missing = shards?.find((name) => !all.includes(name));
    if (shards === undefined) throw wrong(`has an ${indexFile} that names no list of shards`);
    if (missing !== undefined) throw wrong(`has no ${missing}, which its ${indexFile} names`);
    names.push(...shards);
  }
  const files = names.map((name): PushFile => ({ name, content: { from: folder.file(name) } }));
  if (file === undefined && folder.has(cardFile))
    files.unshift({ name: cardFile, content: { text: await readText(folder.file(cardFile)) } });
  return files;
}
