/** The tensors of a Hugging Face model directory: one safetensors file, or shards with an index. */
import { isAbsolute, normalize, sep } from 'node:path';
import { LoRAError } from '../errors';
import { SavedFolder } from './file_group';
import { readJson, type Reading } from './json';
import { indexFile as index, weightsFile as single } from './model_files';
import { StoredTensors, type StoredTensor } from './stored_tensors';
import { isRecord } from '../validate';

export interface ModelTensors {
  /** In file order, shard after shard. */
  readonly names: readonly string[];
  /** Throws ERR_SAFETENSORS when there is no such tensor. */
  get(name: string): StoredTensor;
  /** What the file calls a tensor, for messages. */
  nameInFile(name: string): string;
  /** Throws ERR_FILE when a file was written, or another got its name, since it was opened. */
  checkUnchanged(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Opens model.safetensors, or the shards that model.safetensors.index.json names. They are read, never mapped.
 *
 * Errors: ERR_FILE when the directory or a shard is missing, the index names a file outside the directory, or a shard is a
 * link to one; ERR_SAFETENSORS when a file is bad, or a shard lacks a tensor that the index promises.
 */
export async function openModelTensors(dir: string, reading: Reading = {}): Promise<ModelTensors> {
  const folder = await SavedFolder.open(dir, 'model directory');
  if (folder.has(single)) return new OpenShards(folder, new Map([[single, undefined]]), reading).open();
  if (folder.has(index)) return new OpenShards(folder, await readIndex(folder, reading), reading).open();
  throw new LoRAError('ERR_FILE', `${dir} has neither ${single} nor ${index}${hint([...folder.names])}`);
}

function hint(present: readonly string[]): string {
  if (present.includes('adapter_model.safetensors')) return ': it is an adapter, which needs its base model';
  const other = present.find((name) => /^pytorch_model.*\.bin$|\.pth?$|\.gguf$|\.h5$/.test(name));
  return other === undefined ? '' : ` (but ${other}): convert it to safetensors first`;
}

/** Shard file → names of the tensors that it must hold. */
async function readIndex(folder: SavedFolder, reading: Reading): Promise<Map<string, string[]>> {
  const file = folder.file(index);
  const { path } = file;
  const json = await readJson(file, reading);
  const weights = isRecord(json) ? json['weight_map'] : undefined;
  if (!isRecord(weights)) throw new LoRAError('ERR_FILE', `${path} has no weight_map object`);
  const shards = new Map<string, string[]>();
  for (const [name, file] of Object.entries(weights)) {
    if (typeof file !== 'string') {
      throw new LoRAError('ERR_FILE', `${path} gives the tensor ${name} a file that is not text`);
    }
    const shard = insideDirectory(path, file);
    const names = shards.get(shard);
    if (names === undefined) shards.set(shard, [name]);
    else names.push(name);
  }
  return shards;
}

/** The index comes from a download: it must not make us read files elsewhere. */
function insideDirectory(path: string, file: string): string {
  const plain = normalize(file);
  const outside = isAbsolute(file) || plain === '.' || plain === '..' || plain.startsWith(`..${sep}`);
  if (file === '' || outside || /[\0\\]/.test(file)) {
    throw new LoRAError('ERR_FILE', `${path} names a file outside its directory: ${JSON.stringify(file)}`);
  }
  return plain;
}

class OpenShards implements ModelTensors {
  readonly #folder: SavedFolder;
  readonly #shards: ReadonlyMap<string, readonly string[] | undefined>;
  readonly #reading: Reading;
  readonly #files: StoredTensors[] = [];
  readonly #tensors = new Map<string, StoredTensor>();

  constructor(
    folder: SavedFolder,
    shards: ReadonlyMap<string, readonly string[] | undefined>,
    reading: Reading,
  ) {
    this.#folder = folder;
    this.#shards = shards;
    this.#reading = reading;
  }

  async open(): Promise<this> {
    try {
      for (const [shard, promised] of this.#shards) await this.#openShard(shard, promised ?? []);
    } catch (error) {
      await this.close();
      throw error;
    }
    return this;
  }

  async #openShard(shard: string, promised: readonly string[]): Promise<void> {
    const source = this.#folder.file(shard);
    const { path } = source;
    const file = await StoredTensors.open(source, this.#reading);
    this.#files.push(file);
    const lacking = promised.filter((name) => !file.tensors.has(name));
    if (lacking.length > 0) {
      throw new LoRAError(
        'ERR_SAFETENSORS',
        `${path} lacks ${lacking.length} of the tensors that ${index} places in it: ${list(lacking)}`,
      );
    }
    for (const [name, tensor] of file.tensors) {
      if (this.#tensors.has(name)) {
        throw new LoRAError('ERR_SAFETENSORS', `${path} holds the tensor ${name}, and so does another shard`);
      }
      this.#tensors.set(name, tensor);
    }
  }

  get names(): string[] {
    return [...this.#tensors.keys()];
  }

  get(name: string): StoredTensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined)
      throw new LoRAError('ERR_SAFETENSORS', `${this.#folder.dir} holds no tensor ${name}`);
    return tensor;
  }

  nameInFile(name: string): string {
    return name;
  }

  async checkUnchanged(): Promise<void> {
    for (const { file } of this.#files) await file.checkUnchanged(true);
  }

  async close(): Promise<void> {
    for (const file of this.#files) await file.close();
  }
}

function list(names: readonly string[], most = 5): string {
  const rest = names.length - most;
  return names.slice(0, most).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}
