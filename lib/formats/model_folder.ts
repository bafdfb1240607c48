/** The files of a model directory as they are at one moment. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LoRAError } from '../errors';
import { SavedFolder } from './file_group';
import { readJson, readText, type Reading, type SizeLimit } from './json';
import { modelFiles, weightsFile } from './model_files';
import { openModelTensors, type ModelTensors } from './sharded';

/** All but the weights, which are checked where they are read. */
const textFiles = modelFiles.filter((name) => name !== weightsFile);

/** Which file a name stands for, and what was written last; undefined for none. */
async function identity(path: string): Promise<string | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  return found && [found.dev, found.ino, found.size, found.mtimeNs].join();
}

const identities = (folder: SavedFolder): Promise<(string | undefined)[]> =>
  Promise.all(textFiles.map((name) => identity(folder.file(name).path)));

/** The texts and the weights of a model. */
export interface ModelFiles {
  /** The directory, or the file of a model that is one. */
  readonly dir: string;
  readonly reading: Reading;
  /** What a GGUF file says of pooling, in the words of sentence-transformers, whose files say it in a directory. */
  readonly pooling?: string | undefined;
  has(name: string): boolean;
  /** The content of a JSON file; undefined when there is none. */
  json(name: string, size?: SizeLimit): Promise<unknown>;
  /** The content of a text file; undefined when there is none. */
  text(name: string): Promise<string | undefined>;
  /** Where the content of a file stands, for messages. */
  where(name: string): string;
  /** The caller closes it. */
  tensors(): Promise<ModelTensors>;
  /** Throws ERR_FILE when a text was written, replaced or taken away since it was opened: it may not belong to the others. */
  checkUnchanged(): Promise<void>;
}

/** Reads the texts of a model directory, and tells afterwards whether they belong together. */
export class ModelFolder implements ModelFiles {
  private constructor(
    private readonly folder: SavedFolder,
    private readonly before: readonly (string | undefined)[],
    readonly reading: Reading,
  ) {}

  static async open(dir: string, reading: Reading): Promise<ModelFolder> {
    const folder = await SavedFolder.open(dir);
    return new ModelFolder(folder, await identities(folder), reading);
  }

  get dir(): string {
    return this.folder.dir;
  }

  has(name: string): boolean {
    return this.folder.has(name);
  }

  where(name: string): string {
    return join(this.dir, name);
  }

  tensors(): Promise<ModelTensors> {
    return openModelTensors(this.dir, this.reading);
  }

  async json(name: string, size?: SizeLimit): Promise<unknown> {
    return this.has(name) ? readJson(this.folder.file(name), this.reading, size) : undefined;
  }

  async text(name: string): Promise<string | undefined> {
    return this.has(name) ? readText(this.folder.file(name), this.reading) : undefined;
  }

  async checkUnchanged(): Promise<void> {
    const now = await identities(await SavedFolder.open(this.dir));
    const changed = textFiles.find((_, i) => now[i] !== this.before[i]);
    if (changed !== undefined)
      throw new LoRAError(
        'ERR_FILE',
        `${join(this.dir, changed)} was changed while the model was read: try again when it is written`,
      );
  }
}
