/** The tensors of a Hugging Face model directory: one safetensors file, or shards with an index. */
import { readdir } from 'node:fs/promises';
import { isAbsolute, join, normalize, sep } from 'node:path';
import { LoRAError } from '../errors';
import { isRecord, readJson } from './json';
import type { Limits } from './limits';
import { openSafetensors, type SafetensorsFile, type SafetensorsTensor } from './safetensors';
import { systemReason } from './system_reason';

const single = 'model.safetensors';
const index = 'model.safetensors.index.json';

export interface ModelTensors {
  /** In file order, shard after shard. */
  readonly names: readonly string[];
  /** Throws ERR_SAFETENSORS when there is no such tensor. */
  get(name: string): SafetensorsTensor;
  /** Closes every file: all bytes that were got become empty. */
  close(): void;
}

/**
 * Opens model.safetensors, or the shards that model.safetensors.index.json names.
 *
 * Errors: ERR_FILE when the directory or a shard is missing, or the index names a file outside the directory;
 * ERR_SAFETENSORS when a file is bad, or a shard lacks a tensor that the index promises.
 */
export async function openModelTensors(dir: string, limits?: Limits): Promise<ModelTensors> {
  let present: string[];
  try {
    present = await readdir(dir);
  } catch (error) {
    const reason = systemReason(error).replace('no such file', 'no such directory');
    throw new LoRAError('ERR_FILE', `cannot read the model directory ${dir}: ${reason}`, { cause: error });
  }
  if (present.includes(single)) return new OpenShards(dir, new Map([[single, undefined]]), limits).open();
  if (present.includes(index)) return new OpenShards(dir, await readIndex(dir, limits), limits).open();
  throw new LoRAError('ERR_FILE', `${dir} has neither ${single} nor ${index}${hint(present)}`);
}

function hint(present: readonly string[]): string {
  if (present.includes('adapter_model.safetensors')) return ': it is an adapter, which needs its base model';
  const other = present.find((name) => /^pytorch_model.*\.bin$|\.pth?$|\.gguf$|\.h5$/.test(name));
  return other === undefined ? '' : ` (but ${other}): convert it to safetensors first`;
}

/** Shard file → names of the tensors that it must hold. */
async function readIndex(dir: string, limits?: Limits): Promise<Map<string, string[]>> {
  const path = join(dir, index);
  const json = await readJson(path, { limits });
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
  readonly #dir: string;
  readonly #limits: Limits | undefined;
  readonly #shards: ReadonlyMap<string, readonly string[] | undefined>;
  readonly #files: SafetensorsFile[] = [];
  readonly #tensors = new Map<string, SafetensorsTensor>();

  constructor(dir: string, shards: ReadonlyMap<string, readonly string[] | undefined>, limits?: Limits) {
    this.#dir = dir;
    this.#limits = limits;
    this.#shards = shards;
  }

  async open(): Promise<this> {
    try {
      for (const [shard, promised] of this.#shards) await this.#openShard(shard, promised ?? []);
    } catch (error) {
      this.close();
      throw error;
    }
    return this;
  }

  async #openShard(shard: string, promised: readonly string[]): Promise<void> {
    const path = join(this.#dir, shard);
    const file = await openSafetensors(path, { limits: this.#limits });
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

  get(name: string): SafetensorsTensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new LoRAError('ERR_SAFETENSORS', `${this.#dir} holds no tensor ${name}`);
    return tensor;
  }

  close(): void {
    for (const file of this.#files) file.close();
  }
}

function list(names: readonly string[], most = 5): string {
  const rest = names.length - most;
  return names.slice(0, most).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}
