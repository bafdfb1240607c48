/** Which files of a repository a call needs. Only these names are ever asked for: what else a server lists is left alone. */
import { ggufModelsOf, ggufPartsOf } from '../formats/gguf_set';
import { readJson } from '../formats/json';
import {
  adapterConfigFile,
  adapterWeightsFile,
  configFile,
  indexFile,
  sentenceFilesOf,
  sideFiles,
  weightsFile,
} from '../formats/model_files';
import type { FolderFile } from '../formats/links';
import { isPlainFile, type RepositoryName } from './names';
import { isRecord, listed } from '../validate';

/** What a call takes a repository for: 'any' is an adapter, a model, or both, by what is there. */
export type Purpose = 'model' | 'adapter' | 'tokenizer' | 'config' | 'any';

/** A listing, or a folder of the cache. */
export interface Present {
  has(name: string): boolean;
}

/** The files of a call, or a sentence that says why the repository is not for it. */
export type Wanted = WantedFiles | { readonly problem: string };

export interface WantedFiles {
  readonly names: readonly string[];
  /** The one that is opened, where that is not their folder. */
  readonly opened?: string;
}

const pickle = /^(?:pytorch_model|adapter_model).*\.(?:bin|pt|pth)$/;

function adapterFiles(present: Present, all: readonly string[]): Wanted {
  if (!present.has(adapterConfigFile))
    return {
      problem: present.has(configFile) ? 'is a model, and not an adapter' : `has no ${adapterConfigFile}`,
    };
  if (present.has(adapterWeightsFile)) return { names: [adapterConfigFile, adapterWeightsFile] };
  const found = all.find((name) => pickle.test(name));
  return {
    problem:
      found === undefined
        ? `has no ${adapterWeightsFile}`
        : `has its weights only in ${found}, a Python pickle, which can run any code when it is loaded: ask its author for safetensors`,
  };
}

/** A GGUF file with the parts that belong to it. */
function ggufFile(present: Present, file: string): Wanted {
  const names: string[] = [];
  for (const name of ggufPartsOf(file)) {
    if (!present.has(name))
      return { problem: `has no ${name}${name === file ? '' : `, which ${file} is a part of`}` };
    names.push(name);
  }
  return { names, opened: file };
}

/** The one GGUF model of a repository without safetensors; undefined where it has none. */
function ggufModel(id: string, present: Present, all: readonly string[]): Wanted | undefined {
  const models = ggufModelsOf(all.filter(isPlainFile));
  const [first] = models;
  if (first === undefined) return undefined;
  if (models.length === 1) return ggufFile(present, first);
  return {
    problem: `holds ${models.length} GGUF models and no safetensors: name one, as hf:${id}/${first} (${listed(models, 40)})`,
  };
}

function modelFiles(id: string, present: Present, all: readonly string[]): Wanted {
  const weights = [weightsFile, indexFile].find((name) => present.has(name));
  if (weights === undefined && !present.has(adapterConfigFile)) {
    const gguf = ggufModel(id, present, all);
    if (gguf !== undefined) return gguf;
  }
  if (!present.has(configFile))
    return {
      problem: present.has(adapterConfigFile)
        ? 'is an adapter: load its base model, and then the adapter'
        : `has no ${configFile}`,
    };
  if (weights === undefined) {
    const found = all.find((name) => pickle.test(name) || /\.(?:h5|msgpack|onnx)$/.test(name));
    return {
      problem: `has neither ${weightsFile} nor ${indexFile}${found === undefined ? '' : ` (but ${found}, which is not read)`}`,
    };
  }
  const beside = [...sideFiles.filter((name) => present.has(name)), ...sentenceFilesOf(all)];
  return { names: [configFile, ...beside, weights] };
}

/** The files of a repository that lists `all`. Shards come with their index, and the parts of a split GGUF file with each other. */
export function wantedFiles(
  purpose: Purpose,
  { id, file }: Pick<RepositoryName, 'id' | 'file'>,
  all: readonly string[],
): Wanted {
  const present = new Set(all);
  if (file !== undefined) return ggufFile(present, file);
  if (purpose === 'tokenizer') {
    if (!present.has('tokenizer.json'))
      return ggufModel(id, present, all) ?? { problem: 'has no tokenizer.json' };
    return { names: [configFile, ...sideFiles].filter((name) => present.has(name)) };
  }
  if (purpose === 'config' && present.has(configFile)) return { names: [configFile] };
  if (purpose === 'adapter') return adapterFiles(present, all);
  if (purpose === 'model' || purpose === 'config' || !present.has(adapterConfigFile))
    return modelFiles(id, present, all);
  const adapter = adapterFiles(present, all);
  const model = present.has(configFile) ? modelFiles(id, present, all) : { names: [] };
  if ('problem' in adapter) return adapter;
  return { names: [...adapter.names, ...('names' in model ? model.names : [])] };
}

/** The shards that an index names, which must be plain names; undefined where one is not. */
export async function shardsOf(index: FolderFile): Promise<string[] | undefined> {
  const json = await readJson(index);
  const map = isRecord(json) ? json['weight_map'] : undefined;
  if (!isRecord(map)) return undefined;
  const names = [...new Set(Object.values(map))];
  const plain = (name: unknown): name is string =>
    typeof name === 'string' && /^\w[\w.-]{0,200}\.safetensors$/.test(name);
  return names.every(plain) ? names : undefined;
}
