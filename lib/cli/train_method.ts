/** What `train` begins with: a new adapter of some method, an adapter that there is, or the weights themselves. */
import type { CausalLM } from '../models/causal_lm';
import type { ModelConfig } from '../models/config';
import type { MemoryOptions } from '../models/memory';
import { valuesOf, type Option, type Values } from '../options/option';
import { adapterOptions } from '../options/table';
import type { Adapter } from '../peft/adapter';
import { readAdapter } from '../peft/adapter_files';
import { normalizeLoRAConfig, type LoRAConfig, type LoRAConfigInput } from '../peft/config';
import { methodNames, methodOf, methodOfInput, methodOfJson, type AdapterConfigInput } from '../peft/methods';
import { flagName } from './args';
import { UsageError, type Console } from './command';
import { hubOptions } from './hub_report';

/** Methods of the registry under names of their own. */
const variants = {
  dora: { useDora: true },
  houlsby: { method: 'bottleneck', placement: 'houlsby' },
  pfeiffer: { method: 'bottleneck', placement: 'pfeiffer' },
} as const satisfies Readonly<Record<string, AdapterConfigInput>>;
const isVariant = (name: string): name is keyof typeof variants => Object.hasOwn(variants, name);

const names: readonly string[] = [...methodNames, ...Object.keys(variants), 'full'];

/** Its words would not fit into a line of help: they are told where another one is given. */
export const methodFlag = {
  type: 'string',
  value: 'NAME',
  default: 'lora',
  help: 'what is trained, such as dora, ia3 or full',
} as const satisfies Option;

/** How a run begins. */
export interface TrainStart {
  /** Flags of estimates; of an adapter of another method, those of a LoRA of about its size. */
  readonly memory: (config: ModelConfig) => MemoryOptions;
  /** Gives the model what is trained: the adapter, or null for its weights. */
  readonly begin: (model: CausalLM) => Promise<Adapter | null>;
}

interface MethodValues extends Values<typeof adapterOptions> {
  readonly method: string;
  readonly adapter?: string | undefined;
  readonly offline: boolean;
  readonly seed: number;
}

/** What an adapter's size depends on. */
function sizeOf(config: LoRAConfig): MemoryOptions {
  const { r, targetModules, excludeModules, layersToTransform, layersPattern, rankPattern } = config;
  const { useDora, modulesToSave } = config;
  return {
    ...{ r, targetModules, excludeModules, layersToTransform, layersPattern, rankPattern },
    ...{ useDora, modulesToSave },
  };
}

/** Says what is wrong before the model is loaded. */
export async function readStart(values: MethodValues, console: Console): Promise<TrainStart> {
  const { adapter: from, method, offline, seed } = values;
  const asLora = (input: LoRAConfigInput): MemoryOptions => sizeOf(normalizeLoRAConfig(input));
  if (from !== undefined) {
    const files = await readAdapter(from, hubOptions(console, { offline }));
    const choice = methodOfJson(files.config);
    return {
      memory: () => asLora(methodOf(choice.method).sizeAsLora(choice.config)),
      begin: (model) => model.loadAdapter(files, { seed, trainable: true }),
    };
  }
  if (!names.includes(method))
    throw new UsageError(`expected --method to be one of ${names.join(', ')} but received "${method}"`);
  const isLora = method === 'lora' || method === 'dora';
  const own = valuesOf(adapterOptions, values);
  if (!isLora) refuseLoraFlags(method, own);
  if (method === 'full') {
    const begin = (model: CausalLM): Promise<null> => {
      model.trainAll();
      return Promise.resolve(null);
    };
    return { memory: () => ({ train: 'all' }), begin };
  }
  const input = {
    ...(isLora ? own : { method }),
    ...(isVariant(method) && variants[method]),
  } as AdapterConfigInput;
  if (isLora) normalizeLoRAConfig(input as LoRAConfigInput);
  return {
    memory: (config) => {
      const choice = methodOfInput('train', input, config);
      return asLora(methodOf(choice.method).sizeAsLora(choice.config));
    },
    begin: (model) => Promise.resolve(model.addAdapter(input, { seed })),
  };
}

/** @throws UsageError for a flag of LoRA beside another method. */
function refuseLoraFlags(method: string, own: Readonly<Record<string, unknown>>): void {
  for (const [name, option] of Object.entries<Option>(adapterOptions)) {
    const standard = option.type === 'boolean' ? false : option.default;
    if (own[name] === undefined || own[name] === standard) continue;
    throw new UsageError(`train takes --${flagName(name)} with --method lora, not with --method ${method}`);
  }
}
