/** What the configurations of all methods share: how their values are checked, and their form in adapter_config.json. */
import { isDeepStrictEqual } from 'node:util';
import { LoRAError, loraError } from '../errors';
import { describe, isListOf, isRecord } from '../validate';
import { Deadline, fullMatch, matchAround } from './python_regex';

/** Refuses the value of a field with what was expected. */
export type Refuse = (field: string, expected: string, value: unknown) => never;

/** The values of fields, unchecked. */
export type Unchecked<Field extends string> = Readonly<Partial<Record<Field, unknown>>>;

export const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
export const isNumber = (value: unknown): value is number =>
  typeof value === 'number' && Number.isFinite(value);
export const isIndex = (value: unknown): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0;
export const isPositive = (value: unknown): value is number => isIndex(value) && value > 0;

/** What `take` reads a flag with. */
export const flag = (value: unknown): boolean | undefined => (typeof value === 'boolean' ? value : undefined);

/**
 * Whether a string of targets stands for every linear module.
 * @example isAllLinear('all-linear') // true
 */
export function isAllLinear(targets: readonly string[] | string): boolean {
  return typeof targets === 'string' && targets.toLowerCase() === 'all-linear';
}

const moduleWords = 'a list of module names or a regular expression';

/** Reads a configuration field by field. `neverNull`: fields in which null is a mistake and not the default. */
export class ConfigReader<Field extends string> {
  readonly #deadline = new Deadline();

  constructor(
    readonly values: Unchecked<Field>,
    readonly refuse: Refuse,
    readonly neverNull: readonly Field[] = [],
  ) {}

  /** The value that `read` makes of a field; null means the default, as it does in PEFT wherever it is legal. */
  take<T>(field: Field, fallback: T, expected: string, read: (value: unknown) => T | undefined): T {
    const value = this.values[field];
    if (value === undefined || (value === null && !this.neverNull.includes(field))) return fallback;
    return read(value) ?? this.refuse(field, expected, value);
  }

  /** `result`, once `compile` has taken `source` for a regular expression. */
  pattern<T>(field: Field, source: string, compile: () => unknown, result: T): T {
    try {
      this.#deadline.spend(compile);
      return result;
    } catch (error) {
      return this.refuse(field, `a regular expression (${(error as Error).message})`, source);
    }
  }

  #modules(field: Field, value: unknown): string | string[] | undefined {
    if (isText(value))
      return isAllLinear(value) ? value : this.pattern(field, value, () => fullMatch(value), value);
    return isListOf(value, isText) ? [...value] : undefined;
  }

  /** Which modules are changed: at least one, unless there is something else to change. */
  targets<T extends readonly string[] | string | null>(
    field: Field,
    fallback: T,
    orNone = false,
  ): readonly string[] | string | T {
    return this.take<readonly string[] | string | T>(
      field,
      fallback,
      `${moduleWords}, or 'all-linear'`,
      (value) => {
        const found = this.#modules(field, value);
        return found?.length === 0 && !orNone ? undefined : found;
      },
    );
  }

  /** Some modules or a pattern of them; null: none. */
  modules(field: Field): readonly string[] | string | null {
    const found = this.take<string | string[] | null>(field, null, moduleWords, (value) =>
      value === '' ? [] : this.#modules(field, value),
    );
    return found?.length ? found : null;
  }

  /** Names of modules; null: none. */
  names(field: Field): readonly string[] | null {
    const found = this.take<string[] | null>(field, null, 'a list of module names', (value) =>
      isListOf(value, isText) ? [...value] : undefined,
    );
    return found?.length ? found : null;
  }

  /** An object of patterns for the ends of paths, and numbers. */
  patterns(
    field: Field,
    expected: string,
    is: (value: unknown) => value is number,
  ): Readonly<Record<string, number>> {
    return this.take<Record<string, number>>(field, {}, expected, (value) => {
      if (!isRecord(value)) return undefined;
      for (const [key, number] of Object.entries(value)) {
        if (!is(number)) return undefined;
        this.pattern(field, key, () => matchAround('(.*\\.)?(', key, ')$'), undefined);
      }
      return { ...value } as Record<string, number>;
    });
  }
}

/** Refuses an option of a program. */
export const refuseOption =
  (op: string): Refuse =>
  (field, expected, value) => {
    throw loraError(
      op,
      'ERR_ARGUMENT',
      `expected ${field} to be ${expected} but received ${describe(value)}`,
    );
  };

// ---- adapter_config.json ---------------------------------------------------------------------

/** A configuration as adapter_config.json has it, in which null leaves modules to the architecture: they are named for a model. */
export type StoredConfig<Config> = {
  [Field in keyof Config]: Field extends 'targetModules' | 'feedforwardModules'
    ? Config[Field] | null
    : Config[Field];
};

/** How a configuration lies in adapter_config.json. */
export interface ConfigFile<Config extends object> {
  readonly peftType: string;
  /** What each field is called there. */
  readonly names: Readonly<Record<keyof Config & string, string>>;
  /** Further fields, with the only value that switches nothing on. */
  readonly fixed: Readonly<Record<string, unknown>>;
  /** What is written beside the configuration. */
  readonly beside: Readonly<Record<string, unknown>>;
  /** Fields that are written only where they say something, since not every reader knows them. */
  readonly optional: readonly string[];
  /** A value as it is written, where PEFT spells it otherwise. */
  spell?(field: keyof Config & string, value: unknown): unknown;
  /** Checks the values of a file, and fills in PEFT's defaults. */
  parse(values: Unchecked<keyof Config & string>, refuse: Refuse): StoredConfig<Config>;
}

/** What adapters are for, in PEFT's words: which head the model has. */
export const taskTypes: readonly unknown[] = ['CAUSAL_LM', 'SEQ_CLS'];

/** Fields that say something about the adapter and change nothing: they are kept as they are. */
const informative: Readonly<Record<string, (value: unknown) => boolean>> = {
  base_model_name_or_path: (value) => typeof value === 'string',
  revision: (value) => typeof value === 'string',
  peft_version: (value) => typeof value === 'string',
  inference_mode: (value) => typeof value === 'boolean',
  // How the matrices of the base stand in its files: layers know it, and files of GPT-2's adapters say either.
  fan_in_fan_out: (value) => typeof value === 'boolean',
  auto_mapping: isRecord,
  // PEFT itself does not read it back.
  runtime_config: isRecord,
  // How the text was cut that vectors began as.
  tokenizer_kwargs: isRecord,
};

function isEmpty(value: unknown): boolean {
  if (value === null || value === false || value === '') return true;
  if (Array.isArray(value)) return value.length === 0;
  return isRecord(value) && Object.keys(value).length === 0;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}

/** Why an adapter_config.json is not that of an adapter of these types, or undefined. */
export function foreignConfig(json: unknown, types: readonly string[]): string | undefined {
  if (!isRecord(json)) return 'is not a JSON object';
  const type = json['peft_type'];
  if (types.some((known) => known === type)) return undefined;
  if ('peft_type' in json) {
    const known = types.map((one) => `"${one}"`);
    const list = known.length > 1 ? `${known.slice(0, -1).join(', ')} and ${known.at(-1)}` : known[0];
    return `has peft_type ${shown(type)}, and only ${list} ${known.length > 1 ? 'are' : 'is'} supported`;
  }
  if ('lora_parameters' in json || 'fine_tune_type' in json || 'lora_layers' in json) {
    return 'is the configuration of an MLX adapter: convert it to PEFT (convertAdapter, or lora-native convert)';
  }
  return 'has no peft_type: it is not the configuration of a PEFT adapter';
}

function refuseField(where: string, key: string, value: unknown, why: string): never {
  throw new LoRAError('ERR_ADAPTER', `${where} has ${key} ${shown(value)}, ${why}`);
}

function parseRaw<Config extends object>(
  file: ConfigFile<Config>,
  raw: Readonly<Record<string, unknown>>,
  where: string,
): StoredConfig<Config> {
  const values: Partial<Record<keyof Config & string, unknown>> = {};
  for (const field of fieldsOf(file))
    if (Object.hasOwn(raw, file.names[field])) values[field] = raw[file.names[field]];
  return file.parse(values, (field, expected, value) =>
    refuseField(where, file.names[field as keyof Config & string], value, `expected ${expected}`),
  );
}

const fieldsOf = <Config extends object>({ names }: ConfigFile<Config>): (keyof Config & string)[] =>
  Object.keys(names) as (keyof Config & string)[];

/**
 * Reads the content of an adapter_config.json.
 *
 * @throws ERR_ADAPTER that names the field for a value of the wrong type, and for everything that would change the mathematics and is not
 * supported. What is at its neutral value (null, false, {}, [], "", PEFT's fixed defaults) passes.
 */
export function configOfJson<Config extends object>(
  file: ConfigFile<Config>,
  json: unknown,
  where: string,
): { config: StoredConfig<Config>; raw: Record<string, unknown> } {
  const foreign = foreignConfig(json, [file.peftType]);
  if (foreign !== undefined) throw new LoRAError('ERR_ADAPTER', `${where} ${foreign}`);
  const raw = json as Record<string, unknown>;
  const config = parseRaw(file, raw, where);
  const known = new Set<string>(Object.values(file.names));
  const fixed: Readonly<Record<string, unknown>> = {
    peft_type: file.peftType,
    ...file.fixed,
  };
  for (const [key, value] of Object.entries(raw)) {
    if (known.has(key) || isEmpty(value)) continue;
    if (Object.hasOwn(informative, key)) {
      if (!informative[key]!(value)) refuseField(where, key, value, 'which is of the wrong type');
    } else if (key === 'task_type' ? !taskTypes.includes(value) : fixed[key] !== value) {
      refuseField(where, key, value, 'which is not supported');
    }
  }
  return { config, raw };
}

/**
 * The content of an adapter_config.json as PEFT writes it: sorted keys, `inference_mode` true. Fields of `raw`, what was read, are kept as
 * they are where `config` says the same.
 */
export function jsonOfConfig<Config extends object>(
  file: ConfigFile<Config>,
  config: StoredConfig<Config>,
  raw: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const json: Record<string, unknown> = {
    auto_mapping: null,
    base_model_name_or_path: null,
    revision: null,
    task_type: 'CAUSAL_LM',
    ...file.beside,
    ...raw,
    inference_mode: true,
    peft_type: file.peftType,
  };
  // What was not read says the same as the configuration: a field may have no default.
  const own = Object.fromEntries(fieldsOf(file).map((field) => [file.names[field], config[field]]));
  const was = parseRaw(file, { ...own, ...raw }, 'adapter_config.json');
  for (const field of fieldsOf(file)) {
    const key = file.names[field];
    if (Object.hasOwn(raw, key) && isDeepStrictEqual(was[field], config[field])) continue;
    if (config[field] === null && !Object.hasOwn(raw, key) && file.optional.includes(field)) continue;
    json[key] = file.spell ? file.spell(field, config[field]) : config[field];
  }
  return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
}
