/** LoRA's configuration, in PEFT's words, and its file form adapter_config.json. */
import { isDeepStrictEqual } from 'node:util';
import { LoRAError } from '../errors';
import { isRecord } from '../formats/json';
import { checkOptions, describe, isDropout, isListOf } from '../validate';
import { Deadline, fullMatch, matchAround } from './python_regex';

/** A complete configuration, every value checked. */
export interface LoRAConfig {
  /** Rank of the update: A is [out, r], B is [r, in]. */
  r: number;
  /** The update is scaled by loraAlpha / r, or loraAlpha / √r with useRslora. */
  loraAlpha: number;
  /** Probability by which elements of the LoRA branch's input are dropped in training. */
  loraDropout: number;
  /**
   * Which linear modules: names that equal a module's path or its end (after a dot), or one Python regular
   * expression for the whole path, or 'all-linear' for every one except the output embedding.
   */
  targetModules: readonly string[] | string;
  /** Modules left out although they are targets: names, or a regular expression. */
  excludeModules: readonly string[] | string | null;
  /** Indices of the layers to adapt; null for all. Not together with a regular expression as targetModules. */
  layersToTransform: readonly number[] | null;
  /** Names (regular expressions) of the lists that layersToTransform counts in; null for any list. */
  layersPattern: readonly string[] | null;
  /** Regular expression for the end of a path → r of those modules; the first that matches wins. */
  rankPattern: Readonly<Record<string, number>>;
  /** The same for loraAlpha. */
  alphaPattern: Readonly<Record<string, number>>;
  /** Scales by α/√r in place of α/r. */
  useRslora: boolean;
  /** Splits each weight into magnitude and direction, and trains both (DoRA). */
  useDora: boolean;
  /** Linear modules that are trained whole, in the place of a low-rank change: names that equal a path or its end. */
  modulesToSave: readonly string[] | null;
  /** Biases are not trained. */
  bias: 'none';
  /** true: A (PEFT's lora_B) is zero, B uniform; 'gaussian': B normal; false: both random. */
  initLoraWeights: boolean | 'gaussian';
}

/**
 * What a program passes: PEFT's words in camelCase. The command line has the same defaults.
 *
 * @example
 * const config: LoRAConfigInput = { r: 16, loraAlpha: 32, targetModules: ['q_proj', 'v_proj'], rankPattern: { v_proj: 4 } };
 */
export interface LoRAConfigInput {
  /** The rank of the update. Default 16. */
  r?: number | undefined;
  /** α: the update is scaled by α/r, or α/√r with `useRslora`. Default 2·r. */
  loraAlpha?: number | undefined;
  /** The probability with which elements of the LoRA branch's input are dropped in training. Default 0. */
  loraDropout?: number | undefined;
  /**
   * Which linear layers: names that equal a layer's path or its end (after a dot), one Python regular expression for the
   * whole path (without look-around and references to groups, since patterns come from strangers), or 'all-linear' for every one except the output embedding. Default 'all-linear'.
   */
  targetModules?: readonly string[] | string | null | undefined;
  /** Layers left out although they are targets. Default: none. */
  excludeModules?: readonly string[] | string | null | undefined;
  /** Indices of the blocks to adapt, from 0; not beside a regular expression as `targetModules`. Default: all. */
  layersToTransform?: readonly number[] | number | null | undefined;
  /** Names of the lists that `layersToTransform` counts in. Default: any. */
  layersPattern?: readonly string[] | string | null | undefined;
  /** Regular expression for the end of a path → r of those layers; the first that matches wins. */
  rankPattern?: Readonly<Record<string, number>> | null | undefined;
  /** The same for α. */
  alphaPattern?: Readonly<Record<string, number>> | null | undefined;
  /** Scales by α/√r (Kalajdzievski, 2023). Default false. */
  useRslora?: boolean | undefined;
  /** DoRA (Liu et al., 2024): a magnitude per output is trained beside A and B. Default false. */
  useDora?: boolean | undefined;
  /**
   * Linear layers that are trained whole, such as ['lm_head'], beside the low-rank changes of the targets. Default: none.
   */
  modulesToSave?: readonly string[] | null | undefined;
  /** Biases are not trained: 'none' is the only value. */
  bias?: 'none' | undefined;
  /** How A and B begin: true is zero and uniform, 'gaussian' zero and normal, false both random. Default true. */
  initLoraWeights?: boolean | 'gaussian' | undefined;
}

interface Defaults {
  readonly r: number;
  readonly loraAlpha: (r: number) => number;
  readonly targetModules: LoRAConfig['targetModules'];
}

/** What an absent value means in adapter_config.json: PEFT's defaults, with its targets for the Llama family. */
const peftDefaults: Defaults = { r: 8, loraAlpha: () => 8, targetModules: ['q_proj', 'v_proj'] };

/** What it means in a program. */
const ownDefaults: Defaults = { r: 16, loraAlpha: (r) => 2 * r, targetModules: 'all-linear' };

const peftNames: Readonly<Record<keyof LoRAConfig, string>> = {
  r: 'r',
  loraAlpha: 'lora_alpha',
  loraDropout: 'lora_dropout',
  targetModules: 'target_modules',
  excludeModules: 'exclude_modules',
  layersToTransform: 'layers_to_transform',
  layersPattern: 'layers_pattern',
  rankPattern: 'rank_pattern',
  alphaPattern: 'alpha_pattern',
  useRslora: 'use_rslora',
  useDora: 'use_dora',
  modulesToSave: 'modules_to_save',
  bias: 'bias',
  initLoraWeights: 'init_lora_weights',
};
const fields = Object.keys(peftNames) as (keyof LoRAConfig)[];

/**
 * Whether a string of targets stands for every linear module.
 * @example isAllLinear('all-linear') // true
 */
export function isAllLinear(targets: LoRAConfig['targetModules']): boolean {
  return typeof targets === 'string' && targets.toLowerCase() === 'all-linear';
}

type Refuse = (field: keyof LoRAConfig, expected: string, value: unknown) => never;

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);
const isIndex = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isRank = (value: unknown): value is number => isIndex(value) && value > 0;

/** Checks the values and fills in the defaults; both forms of a configuration come through here. */
function parse(
  values: Partial<Record<keyof LoRAConfig, unknown>>,
  defaults: Defaults,
  refuse: Refuse,
): LoRAConfig {
  /** null means the default, as it does in PEFT wherever it is legal. */
  function take<T>(
    field: keyof LoRAConfig,
    fallback: T,
    expected: string,
    read: (value: unknown) => T | undefined,
  ): T {
    const value = values[field];
    if (value === undefined || (value === null && field !== 'r' && field !== 'loraAlpha')) return fallback;
    return read(value) ?? refuse(field, expected, value);
  }
  const deadline = new Deadline();
  function pattern<T>(field: keyof LoRAConfig, source: string, compile: () => unknown, result: T): T {
    try {
      deadline.spend(compile);
      return result;
    } catch (error) {
      return refuse(field, `a regular expression (${(error as Error).message})`, source);
    }
  }
  const modules = (field: keyof LoRAConfig) => (value: unknown) => {
    if (isText(value))
      return isAllLinear(value) ? value : pattern(field, value, () => fullMatch(value), value);
    return isListOf(value, isText) ? [...value] : undefined;
  };
  const patterns = (field: keyof LoRAConfig, is: (value: unknown) => value is number) => (value: unknown) => {
    if (!isRecord(value)) return undefined;
    for (const [key, number] of Object.entries(value)) {
      if (!is(number)) return undefined;
      pattern(field, key, () => matchAround('(.*\\.)?(', key, ')$'), undefined);
    }
    return { ...value } as Record<string, number>;
  };
  const flag = (value: unknown): boolean | undefined => (typeof value === 'boolean' ? value : undefined);
  const names = 'a list of module names or a regular expression';

  const targetModules = take(
    'targetModules',
    defaults.targetModules,
    `${names}, or 'all-linear'`,
    (value) => {
      const found = modules('targetModules')(value);
      return found?.length === 0 ? undefined : found;
    },
  );
  const excluded = take('excludeModules', null, names, (value) =>
    value === '' ? [] : modules('excludeModules')(value),
  );
  const layers = take('layersToTransform', null, 'a layer index or a list of them', (value) =>
    isIndex(value) ? [value] : isListOf(value, isIndex) ? [...value] : undefined,
  );
  const layerLists = take('layersPattern', null, 'a name or a list of names', (value) => {
    const list = value === '' ? [] : isText(value) ? [value] : value;
    if (!isListOf(list, isText)) return undefined;
    for (const one of list) pattern('layersPattern', one, () => matchAround('', one, ''), undefined);
    return [...list];
  });
  const whole = take('modulesToSave', null, 'a list of module names', (value) =>
    isListOf(value, isText) ? [...value] : undefined,
  );
  const r = take('r', defaults.r, 'a positive integer', (value) => (isRank(value) ? value : undefined));
  const config: LoRAConfig = {
    r,
    loraAlpha: take('loraAlpha', defaults.loraAlpha(r), 'a number', (value) =>
      isNumber(value) ? value : undefined,
    ),
    loraDropout: take('loraDropout', 0, 'a number from 0 up to, but not, 1', (value) =>
      isNumber(value) && isDropout(value) ? value : undefined,
    ),
    targetModules,
    excludeModules: excluded?.length ? excluded : null,
    layersToTransform: layers?.length ? layers : null,
    layersPattern: layerLists?.length ? layerLists : null,
    rankPattern: take(
      'rankPattern',
      {},
      'an object of patterns and positive integers',
      patterns('rankPattern', isRank),
    ),
    alphaPattern: take(
      'alphaPattern',
      {},
      'an object of patterns and numbers',
      patterns('alphaPattern', isNumber),
    ),
    useRslora: take('useRslora', false, 'true or false', flag),
    useDora: take('useDora', false, 'true or false', flag),
    modulesToSave: whole?.length ? whole : null,
    bias: take('bias', 'none', `'none' (biases are not trained here)`, (value) =>
      value === 'none' ? value : undefined,
    ),
    initLoraWeights: take<boolean | 'gaussian'>(
      'initLoraWeights',
      true,
      `true, false or 'gaussian'`,
      (value) => (typeof value === 'string' && value.toLowerCase() === 'gaussian' ? 'gaussian' : flag(value)),
    ),
  };
  const { targetModules: targets } = config;
  if (config.layersToTransform !== null && typeof targets === 'string' && !isAllLinear(targets)) {
    refuse(
      'layersToTransform',
      'nothing beside a regular expression for whole paths',
      values.layersToTransform,
    );
  }
  if (config.layersPattern !== null && config.layersToTransform === null) {
    refuse('layersPattern', 'nothing without layers to transform', values.layersPattern);
  }
  return config;
}

/**
 * A complete configuration out of what a program passes.
 *
 * Errors: ERR_ARGUMENT for an unknown option (with the one that was meant) or a bad value.
 *
 * @example normalizeLoRAConfig({ r: 16, loraAlpha: 32, targetModules: 'all-linear' }).useRslora // false
 */
export function normalizeLoRAConfig(input: LoRAConfigInput = {}): LoRAConfig {
  const op = 'LoRAConfig';
  checkOptions(op, input, fields);
  return parse(input, ownDefaults, (field, expected, value) => {
    throw new LoRAError(
      'ERR_ARGUMENT',
      `[${op}] expected ${field} to be ${expected} but received ${describe(value)}`,
      {
        op,
      },
    );
  });
}

/** Fields that say something about the adapter and change nothing: they are kept as they are. */
const informative: Readonly<Record<string, (value: unknown) => boolean>> = {
  base_model_name_or_path: (value) => typeof value === 'string',
  revision: (value) => typeof value === 'string',
  peft_version: (value) => typeof value === 'string',
  inference_mode: (value) => typeof value === 'boolean',
  auto_mapping: isRecord,
  // PEFT itself does not read it back.
  runtime_config: isRecord,
};

/** Values other than empty ones that switch nothing on. */
const fixedDefaults: Readonly<Record<string, unknown>> = {
  peft_type: 'LORA',
  task_type: 'CAUSAL_LM',
  megatron_core: 'megatron.core',
  qalora_group_size: 16,
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

/** Why an adapter_config.json cannot be one of PEFT's LoRA, or undefined. */
export function foreignConfig(json: unknown): string | undefined {
  if (!isRecord(json)) return 'is not a JSON object';
  if (json['peft_type'] === 'LORA') return undefined;
  if ('peft_type' in json) return `has peft_type ${shown(json['peft_type'])}, and only "LORA" is supported`;
  if ('lora_parameters' in json || 'fine_tune_type' in json || 'lora_layers' in json) {
    return 'is the configuration of an MLX adapter: convert it to PEFT';
  }
  return 'has no peft_type: it is not the configuration of a PEFT adapter';
}

/**
 * Reads the content of an adapter_config.json. `raw` is the content itself, to be given back to
 * {@link toPeftJson}, so that no field is lost.
 *
 * Errors: ERR_ADAPTER that names the field for a value of the wrong type, and for everything that would change the
 * mathematics and is not supported. What is at its neutral value (null, false, {}, [], "", PEFT's fixed defaults) passes.
 *
 * @example const { config, raw } = fromPeftJson(await readJson('dir/adapter_config.json'));
 */
export function fromPeftJson(
  json: unknown,
  where = 'adapter_config.json',
): { config: LoRAConfig; raw: Record<string, unknown> } {
  const foreign = foreignConfig(json);
  if (foreign !== undefined) throw new LoRAError('ERR_ADAPTER', `${where} ${foreign}`);
  const raw = json as Record<string, unknown>;
  const config = parseRaw(raw, where);
  const known = new Set(Object.values(peftNames));
  for (const [key, value] of Object.entries(raw)) {
    if (known.has(key) || isEmpty(value)) continue;
    if (Object.hasOwn(informative, key)) {
      if (!informative[key]!(value)) refuseField(where, key, value, 'which is of the wrong type');
    } else if (!Object.hasOwn(fixedDefaults, key) || fixedDefaults[key] !== value) {
      refuseField(where, key, value, 'which is not supported');
    }
  }
  return { config, raw };
}

function refuseField(where: string, key: string, value: unknown, why: string): never {
  throw new LoRAError('ERR_ADAPTER', `${where} has ${key} ${shown(value)}, ${why}`);
}

function parseRaw(raw: Readonly<Record<string, unknown>>, where: string): LoRAConfig {
  const values: Partial<Record<keyof LoRAConfig, unknown>> = {};
  for (const field of fields) if (Object.hasOwn(raw, peftNames[field])) values[field] = raw[peftNames[field]];
  return parse(values, peftDefaults, (field, expected, value) =>
    refuseField(where, peftNames[field], value, `expected ${expected}`),
  );
}

/**
 * The content of an adapter_config.json as PEFT writes it: sorted keys, `inference_mode` true. Fields of `raw` (what
 * fromPeftJson gave, or some of it) are kept as they are where `config` says the same. Without it only the fields
 * are written that every PEFT since 0.9 knows, because older ones refuse what they do not know; absent means neutral.
 *
 * @example toPeftJson(normalizeLoRAConfig({ r: 4 }), { base_model_name_or_path: 'org/name' })
 */
export function toPeftJson(
  config: LoRAConfig,
  raw: Readonly<Record<string, unknown>> = {},
): Record<string, unknown> {
  const json: Record<string, unknown> = {
    auto_mapping: null,
    base_model_name_or_path: null,
    fan_in_fan_out: false,
    layer_replication: null,
    loftq_config: {},
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: null,
    revision: null,
    task_type: 'CAUSAL_LM',
    use_dora: false,
    ...raw,
    inference_mode: true,
    peft_type: 'LORA',
  };
  const was = parseRaw(raw, 'adapter_config.json');
  for (const field of fields) {
    const key = peftNames[field];
    const kept = Object.hasOwn(raw, key) && isDeepStrictEqual(was[field], config[field]);
    // A null here means "what the architecture's default is", and not every reader knows that.
    if (kept && !(field === 'targetModules' && raw[key] === null)) continue;
    if (field === 'excludeModules' && config.excludeModules === null && !Object.hasOwn(raw, key)) continue;
    json[key] = config[field];
  }
  return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
}
