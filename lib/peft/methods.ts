/** The methods of adapting a model, by name. */
import { SequencePlan } from '../data/sequence_plan';
import { LoRAError, loraError } from '../errors';
import { checkOneOf, isRecord } from '../validate';
import { bottleneck, type BottleneckConfig, type BottleneckConfigInput } from './bottleneck';
import type { LoRAConfig, LoRAConfigInput } from './config';
import { configOfJson, foreignConfig, type StoredConfig } from './config_values';
import { ia3, type IA3Config, type IA3ConfigInput } from './ia3';
import { lora } from './lora_method';
import type { AdapterMethod, ModelShape } from './method';
import { prompt, type PromptConfig, type PromptConfigInput } from './prompt';
import type { ModulePath } from './roles';

/** The configuration of each method. */
export interface AdapterConfigs {
  /** LoRA and DoRA. */
  lora: LoRAConfig;
  /** IA³. */
  ia3: IA3Config;
  /** Bottleneck adapters. */
  bottleneck: BottleneckConfig;
  /** Prompt tuning. */
  prompt: PromptConfig;
}

/** A method of adapting a model. */
export type AdapterMethodName = keyof AdapterConfigs;

/** What a program passes for each method. */
export type AdapterConfigInput = LoRAConfigInput | IA3ConfigInput | BottleneckConfigInput | PromptConfigInput;

/** A complete configuration of some method. */
export type AdapterConfig = AdapterConfigs[AdapterMethodName];

const methods: { readonly [Name in AdapterMethodName]: AdapterMethod<AdapterConfigs[Name]> } = {
  lora,
  ia3,
  bottleneck,
  prompt,
};

export const methodNames = Object.keys(methods) as AdapterMethodName[];

/** A method and its configuration, and what a file had beside it. */
export interface MethodChoice<Name extends AdapterMethodName = AdapterMethodName> {
  readonly method: Name;
  readonly config: AdapterConfigs[Name];
  readonly raw?: Record<string, unknown>;
}

/** Any method: its functions take the configurations that it made itself. */
export const methodOf = (name: AdapterMethodName): AdapterMethod<AdapterConfig> => methods[name];

/** Their words in PEFT's files. */
export const peftTypes: readonly string[] = methodNames.map((name) => methods[name].file.peftType);

/** Why an adapter_config.json is that of no adapter that is known here, or undefined. */
export const foreignAdapter = (json: unknown): string | undefined => foreignConfig(json, peftTypes);

/** The plan of texts behind an adapter that is not made yet. */
export const plannedSequence = ({ method, config }: MethodChoice): SequencePlan =>
  new SequencePlan({ name: method, virtualTokens: methodOf(method).virtualTokens?.(config) ?? 0 });

/** What the options of a program mean. @throws ERR_ARGUMENT */
export function methodOfInput(
  op: string,
  input: object & { method?: unknown },
  model: ModelShape,
): MethodChoice {
  // What is no object is refused where options are checked.
  const { method = 'lora', ...options } = isRecord(input) ? input : {};
  checkOneOf(op, 'method', method, methodNames);
  return { method, config: methodOf(method).normalize(isRecord(input) ? options : input, model) };
}

/** What an adapter_config.json says, whatever the model. @throws ERR_ADAPTER */
export function storedMethod(
  json: unknown,
  where = 'adapter_config.json',
): { method: AdapterMethodName; config: StoredConfig<AdapterConfig>; raw: Record<string, unknown> } {
  const foreign = foreignAdapter(json);
  if (foreign !== undefined) throw new LoRAError('ERR_ADAPTER', `${where} ${foreign}`);
  const type = isRecord(json) ? json['peft_type'] : undefined;
  const method = methodNames[peftTypes.findIndex((known) => known === type)]!;
  return { method, ...configOfJson(methodOf(method).file, json, where) };
}

/** What it means for a model of these layers. @throws ERR_ADAPTER */
export function methodOfJson(json: unknown, linears: readonly ModulePath[]): MethodChoice {
  const { config, ...choice } = storedMethod(json);
  const method = methodOf(choice.method);
  return { ...choice, config: method.complete?.(config, linears) ?? (config as AdapterConfig) };
}

/** @throws ERR_ADAPTER for an adapter of another method than the one that is expected. */
export function checkMethod(op: string, { method }: MethodChoice, expected: AdapterMethodName): void {
  if (method === expected) return;
  throw loraError(
    op,
    'ERR_ADAPTER',
    `expected an adapter of method '${expected}' but received one of method '${method}' (peft_type ${methods[method].file.peftType})`,
  );
}
