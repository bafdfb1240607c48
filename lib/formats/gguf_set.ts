/**
 * The GGUF files of one model: one, or the parts of a split one, as llama.cpp splits them.
 *
 *     NAME-00001-of-00003.gguf: metadata, split.no = 0, split.count = 3, split.tensors.count of all parts
 *     NAME-00002-of-00003.gguf: split.no = 1 …, its own tensors
 */
import { stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LoRAError } from '../errors';
import { SavedFolder } from './file_group';
import { GgufFile, type GgufTensor } from './gguf';
import type { GgufValue } from './gguf_header';
import { GgufValues } from './gguf_values';
import type { Reading } from './json';
import type { Source } from './links';
import { indexFile, weightsFile } from './model_files';
import { listed } from '../validate';

/** Five digits each, from 1. */
const partName = /^(.+)-(\d{5})-of-(\d{5})\.gguf$/;

/** Parts that are open at once: a process may have 1024 files by default. */
const maxParts = 512;

const pathOf = (source: Source): string => (typeof source === 'string' ? source : source.path);
const nameOfPart = (stem: string, part: number, count: number): string =>
  `${stem}-${String(part).padStart(5, '0')}-of-${String(count).padStart(5, '0')}.gguf`;

/**
 * The GGUF model at a path: that file, or the one model of a folder without safetensors. Undefined for any other folder, and for nothing.
 * @throws ERR_FILE for a folder with several
 */
export async function ggufAt(path: string): Promise<Source | undefined> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isDirectory()) return found && path;
  const folder = await SavedFolder.open(path, 'model directory');
  if (folder.has(weightsFile) || folder.has(indexFile)) return undefined;
  const models = ggufModelsOf(folder.names);
  if (models.length > 1)
    throw new LoRAError(
      'ERR_FILE',
      `${path} holds ${models.length} GGUF models (${listed(models)}): name one of these files`,
    );
  return models[0] === undefined ? undefined : folder.file(models[0]);
}

/** The files by which the GGUF models among some names are opened: of a split one, the first part. */
export function ggufModelsOf(names: Iterable<string>): string[] {
  const models = new Set<string>();
  for (const name of names) {
    if (!name.endsWith('.gguf')) continue;
    const [, stem, , count] = partName.exec(name) ?? [];
    models.add(stem === undefined ? name : nameOfPart(stem, 1, Number(count)));
  }
  return [...models].sort();
}

/** The names of all parts of the model that a file is one of, by its name; that name alone where it is no part. */
export function* ggufPartsOf(name: string): Generator<string, void, void> {
  const [, stem, , count] = partName.exec(name) ?? [];
  if (stem === undefined) yield name;
  for (let part = 1; stem !== undefined && part <= Number(count); part++)
    yield nameOfPart(stem, part, Number(count));
}

/** The open files of one model. */
export class GgufSet {
  private constructor(
    /** The file that was named, or the first part. */
    readonly path: string,
    readonly metadata: ReadonlyMap<string, GgufValue>,
    readonly tensors: ReadonlyMap<string, GgufTensor>,
    private readonly files: readonly GgufFile[],
  ) {}

  /**
   * Opens a file and, where it is a part, the others beside it.
   * @throws ERR_FILE for what is no GGUF file, parts that are missing or do not belong together, and two tensors of one name.
   */
  static async open(source: Source, reading: Reading = {}): Promise<GgufSet> {
    const named = await GgufFile.open(source, reading);
    const files = new Set([named]);
    try {
      const count = new GgufValues(pathOf(source), named.metadata).count('split.count') ?? 1;
      const [, stem, number, counted] = partName.exec(basename(pathOf(source))) ?? [];
      if (count <= 1 && stem === undefined)
        return new GgufSet(pathOf(source), named.metadata, named.tensors, [named]);
      const fail = (message: string): never => {
        throw new LoRAError('ERR_FILE', `${pathOf(source)} ${message}`);
      };
      if (stem === undefined || Number(counted) !== count)
        fail(
          `says that it is one of ${count} parts (split.count): expected its name to end with -0000N-of-${String(count).padStart(5, '0')}.gguf, and the others beside it`,
        );
      if (count > maxParts) fail(`is one of ${count} parts: ${maxParts} are read at most`);
      files.clear();
      for (let part = 1; part <= count; part++) {
        const path = join(dirname(pathOf(source)), nameOfPart(stem!, part, count));
        const open = (): Promise<GgufFile> =>
          GgufFile.open(typeof source === 'string' ? path : { ...source, path }, reading);
        files.add(part === Number(number) ? named : await open());
      }
      return GgufSet.#joined([...files]);
    } catch (error) {
      for (const file of files.add(named)) await file.close();
      throw error;
    }
  }

  /** Parts in their order, checked to be those of one model. */
  static #joined(files: readonly GgufFile[]): GgufSet {
    const tensors = new Map<string, GgufTensor>();
    for (const [i, { file, metadata, tensors: own }] of files.entries()) {
      const values = new GgufValues(file.path, metadata);
      const [number, count] = [values.count('split.no'), values.count('split.count')];
      if (number !== i || count !== files.length)
        values.fail(
          `has split.no = ${number ?? 'nothing'} and split.count = ${count ?? 'nothing'}: expected ${i} and ${files.length}, as its name says`,
        );
      for (const [name, tensor] of own) {
        if (tensors.has(name)) values.fail(`has the tensor ${name}, and so has another part`);
        tensors.set(name, tensor);
      }
    }
    const [{ file, metadata }] = files as readonly [GgufFile];
    const values = new GgufValues(file.path, metadata);
    const promised = values.count('split.tensors.count');
    if (promised !== undefined && promised !== tensors.size)
      values.fail(
        `has split.tensors.count = ${promised}, and its ${files.length} parts have ${tensors.size}`,
      );
    return new GgufSet(file.path, metadata, tensors, files);
  }

  /** Opens the files again, without reading their headers. @throws ERR_FILE where one was written, or replaced, since it was opened. */
  async reopen(): Promise<GgufSet> {
    const files: GgufFile[] = [];
    try {
      for (const file of this.files) files.push(await file.reopen());
      return files.length > 1
        ? GgufSet.#joined(files)
        : new GgufSet(this.path, this.metadata, files[0]!.tensors, files);
    } catch (error) {
      for (const file of files) await file.close();
      throw error;
    }
  }

  /** Throws ERR_FILE when a file was written, or another got its name, since it was opened. */
  async checkUnchanged(): Promise<void> {
    for (const { file } of this.files) await file.checkUnchanged(true);
  }

  async close(): Promise<void> {
    for (const file of this.files) await file.close();
  }
}
