/** Which files of a repository a call needs. Only these names are ever asked for: what else a server lists is left alone. */
import { isRecord, readJson } from '../formats/json';
import {
  adapterConfigFile,
  adapterWeightsFile,
  configFile,
  indexFile,
  sideFiles,
  weightsFile,
} from '../formats/model_files';
import type { FolderFile } from '../formats/links';

/** What a call takes a repository for: 'any' is an adapter, a model, or both, by what is there. */
export type Purpose = 'model' | 'adapter' | 'tokenizer' | 'config' | 'any';

/** A listing, or a folder of the cache. */
export interface Present {
  has(name: string): boolean;
}

/** The files of a call, or a sentence that says why the repository is not for it. */
export type Wanted = { readonly names: readonly string[] } | { readonly problem: string };

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

function modelFiles(present: Present, all: readonly string[]): Wanted {
  if (!present.has(configFile))
    return {
      problem: present.has(adapterConfigFile)
        ? 'is an adapter: load its base model, and then the adapter'
        : `has no ${configFile}`,
    };
  const weights = [weightsFile, indexFile].find((name) => present.has(name));
  if (weights === undefined) {
    const found = all.find((name) => pickle.test(name) || /\.(?:gguf|h5|msgpack|onnx)$/.test(name));
    return {
      problem: `has neither ${weightsFile} nor ${indexFile}${found === undefined ? '' : ` (but ${found}, ${found.endsWith('.gguf') ? 'which is read where its path is given: download that file' : 'which is not read'})`}`,
    };
  }
  return { names: [configFile, ...sideFiles.filter((name) => present.has(name)), weights] };
}

/** The files of a repository that lists `all`. Shards come with their index. */
export function wantedFiles(purpose: Purpose, all: readonly string[]): Wanted {
  const present = new Set(all);
  if (purpose === 'tokenizer') {
    if (!present.has('tokenizer.json')) return { problem: 'has no tokenizer.json' };
    return { names: [configFile, ...sideFiles].filter((name) => present.has(name)) };
  }
  if (purpose === 'config' && present.has(configFile)) return { names: [configFile] };
  if (purpose === 'adapter') return adapterFiles(present, all);
  if (purpose === 'model' || purpose === 'config' || !present.has(adapterConfigFile))
    return modelFiles(present, all);
  const adapter = adapterFiles(present, all);
  const model = present.has(configFile) ? modelFiles(present, all) : { names: [] };
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
