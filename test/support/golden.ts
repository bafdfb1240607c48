/**
 * The golden folders of the reference data (its golden/README.md): what PEFT did, one folder each. They are found by listing,
 * so that a new one needs no change here; what this package does not support yet is told apart by the reason that it gives.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LoRAError } from '../../lib/errors';
import { parseModelConfig } from '../../lib/models/families';
import { fromPeftJson } from '../../lib/peft/config';
import { sharedData } from './shared_data';

type Json = Record<string, unknown>;

export interface GoldenFolder {
  name: string;
  dir: string;
  /** The directory of the base model. */
  model: string;
  /** adapter_init/adapter_config.json. */
  adapterConfig: Json;
  /** Training steps are recorded, so it can be replayed. */
  hasSteps: boolean;
  /** Why the model's family or the adapter's configuration is refused as not supported, where it is. */
  modelRefusal?: string;
  adapterRefusal?: string;
}

/** Folders that this package must support: when one of them is refused, a test fails instead of being skipped. */
export const supportedGolden: readonly string[] = [
  'stories260K-all-linear-r8',
  'stories260K-dora',
  'stories260K-patterns',
  'stories260K-rslora-accumulate',
  'tiny-llama-yarn-bias',
  'tiny-llama3-rope',
  'tiny-mistral-sliding',
  'tiny-qwen2',
  'tiny-qwen3',
  'tiny-qwen3-modules-to-save',
];

/** Folders of golden-families that are replayed: when the model of one is refused, its test fails. */
export const supportedFamilies: readonly string[] = [
  'tiny-gemma3',
  'tiny-gemma3-window',
  'tiny-gemma4',
  'tiny-gemma4-moe',
  'tiny-gpt2',
  'tiny-gptoss',
  'tiny-gptoss-experts',
  'tiny-granite',
  'tiny-granite3',
  'tiny-lfm2',
  'tiny-ministral',
  'tiny-ministral3',
  'tiny-olmo2',
  'tiny-olmo3',
  'tiny-phi3',
  'tiny-phi4mini',
  'tiny-qwen35',
  'tiny-qwen3moe',
  'tiny-qwen3moe-experts',
  'tiny-smollm3',
];

/** Folders of golden-families that are no language models: their record names another task. */
export const otherTasks: readonly string[] = [
  'tiny-gemma3-embed',
  'tiny-llama-seqcls',
  'tiny-qwen3-embed',
  'tiny-qwen3-seqcls',
];

const read = (...path: string[]): Json => JSON.parse(readFileSync(join(...path), 'utf8')) as Json;

/** The sentence with which a reader refuses what is not supported; any other fault is left to the test that meets it. */
function refusal(name: string, parse: () => unknown): string | undefined {
  if (supportedGolden.includes(name)) return undefined;
  try {
    parse();
    return undefined;
  } catch (error) {
    const refused = error instanceof LoRAError && /^ERR_(UNSUPPORTED|ADAPTER)$/.test(error.code);
    return refused ? error.message : undefined;
  }
}

/** The folders with an adapter and a record of its base model, in the order of their names. */
export function goldenFolders(root = join(sharedData, 'golden')): GoldenFolder[] {
  if (!existsSync(root)) return [];
  const folders: GoldenFolder[] = [];
  for (const name of readdirSync(root).sort()) {
    const dir = join(root, name);
    const adapter = join(dir, 'adapter_init');
    if (!existsSync(join(dir, 'record.json')) || !existsSync(adapter)) continue;
    const record = read(dir, 'record.json');
    const base = record['model'] as string;
    const model = base === '../model' ? join(dir, 'model') : join(sharedData, 'models', base);
    const adapterConfig = read(adapter, 'adapter_config.json');
    folders.push({
      name,
      dir,
      model,
      adapterConfig,
      hasSteps: Array.isArray(record['steps']) && record['steps'].length > 0,
      modelRefusal: refusal(name, () => parseModelConfig(read(model, 'config.json'))),
      adapterRefusal: refusal(name, () => fromPeftJson(adapterConfig)),
    });
  }
  return folders;
}
