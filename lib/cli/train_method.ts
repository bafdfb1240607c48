/** What `train` begins with: a new adapter of some method, an adapter that there is, or the weights themselves. */
import type { CausalLM } from '../models/causal_lm';
import type { MemoryOptions } from '../models/memory';
import type { TrainAllOptions } from '../models/core/trained_base';
import { valuesOf, type Option, type Options, type Values } from '../options/option';
import { adapterOptions, methodOptions } from '../options/table';
import type { Adapter } from '../peft/adapter';
import { readAdapter } from '../peft/adapter_files';
import type { HeadInput } from '../peft/head';
import { normalizeLoRAConfig, type LoRAConfigInput } from '../peft/config';
import { methodNames, storedMethod, type AdapterConfigInput } from '../peft/methods';
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

/** Flags of the options of methods beside LoRA. */
export const methodFlags = {
  ...methodOptions.ia3,
  ...methodOptions.bottleneck,
  ...methodOptions.prompt,
  ...methodOptions.full,
};

/** How a run begins. */
export interface TrainStart {
  /** What an estimate of its memory takes. */
  readonly memory: MemoryOptions;
  /** The method of the adapter; undefined where all weights are trained. */
  readonly method: string | undefined;
  /** The head that the adapter was trained with. */
  readonly head?: HeadInput | undefined;
  /** Gives the model what is trained: the adapter, or null for its weights. */
  readonly begin: (model: CausalLM) => Promise<Adapter | null>;
}

interface MethodValues extends Partial<Values<typeof adapterOptions>>, Partial<Values<typeof methodFlags>> {
  readonly method: string;
}

/** What a method is begun with. */
type MethodInput = { readonly adapter: AdapterConfigInput } | { readonly full: TrainAllOptions };

/** The tables of what each method takes. */
const tables: Readonly<Record<string, Options>> = { lora: adapterOptions, ...methodOptions };

/** @throws UsageError for a method that there is not, and for a flag of another one. */
export function methodInput(command: string, values: MethodValues): MethodInput {
  const { method } = values;
  if (!names.includes(method))
    throw new UsageError(`expected --method to be one of ${names.join(', ')} but received "${method}"`);
  const variant = isVariant(method) ? variants[method] : undefined;
  const table = variant && 'method' in variant ? variant.method : method === 'dora' ? 'lora' : method;
  refuseForeign(command, table, values);
  const own = givenOf(tables[table]!, values);
  if (method === 'full') return { full: own };
  const { targetModules } = values;
  const input = {
    ...(table !== 'lora' && { method: table }),
    ...own,
    ...(table === 'ia3' && targetModules !== undefined && { targetModules }),
    ...variant,
  } as AdapterConfigInput;
  if (table === 'lora') normalizeLoRAConfig(input as LoRAConfigInput);
  return { adapter: input };
}

/** What an estimate of its memory takes. */
export const memoryOf = (input: MethodInput): MemoryOptions =>
  'adapter' in input ? input : { train: 'all', stochasticRounding: input.full.stochasticRounding };

/** Says what is wrong before the model is loaded. */
export async function readStart(
  values: MethodValues & { readonly adapter?: string | undefined; offline: boolean; seed: number },
  console: Console,
): Promise<TrainStart> {
  const { adapter: from, offline, seed } = values;
  if (from !== undefined) {
    const files = await readAdapter(from, hubOptions(console, { offline }));
    const { method } = storedMethod(files.config);
    return {
      method,
      memory: { adapter: files.config },
      head: files.head,
      begin: (model) => model.loadAdapter(files, { seed, trainable: true }),
    };
  }
  const input = methodInput('train', values);
  const begin = (model: CausalLM): Adapter | null => {
    if ('adapter' in input) return model.addAdapter(input.adapter, { seed });
    model.trainAll(input.full);
    return null;
  };
  return {
    method: 'adapter' in input ? (input.adapter.method ?? 'lora') : undefined,
    memory: memoryOf(input),
    begin: (model) => Promise.resolve(begin(model)),
  };
}

/** Whether a flag is given, or at least not as it would be without. */
function isGiven(
  { type, default: standard = type === 'boolean' ? false : undefined }: Option,
  value: unknown,
) {
  return value !== undefined && value !== standard;
}

/** The values of a table that are given, under the names of its options. */
function givenOf(table: Options, values: MethodValues): Record<string, unknown> {
  const own = Object.entries(valuesOf(table, values)) as [string, unknown][];
  return Object.fromEntries(own.filter(([name, value]) => isGiven(table[name]!, value)));
}

/** @throws UsageError for a flag of another method than the one that `table` describes. */
function refuseForeign(command: string, table: string, values: MethodValues): void {
  for (const [other, options] of Object.entries(tables)) {
    if (other === table) continue;
    for (const name of Object.keys(givenOf(options, values))) {
      if (table === 'ia3' && name === 'targetModules') continue;
      throw new UsageError(
        `${command} takes --${flagName(name)} with --method ${other}, not with --method ${values.method}`,
      );
    }
  }
}
