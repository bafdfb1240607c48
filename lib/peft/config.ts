/** LoRA's configuration, in PEFT's words, and its file form adapter_config.json. */
import { adapterOptions } from '../options/table';
import { checkOptions, isDropout, isListOf } from '../validate';
import {
  ConfigReader,
  configOfJson,
  flag,
  isAllLinear,
  isIndex,
  isNumber,
  isPositive,
  isText,
  jsonOfConfig,
  refuseOption,
  type ConfigFile,
  type Refuse,
  type StoredConfig,
  type Unchecked,
} from './config_values';
import { matchAround } from './python_regex';
import { namesOfRoles, type ModulePath } from './roles';

/** A complete configuration, every value checked. */
export interface LoRAConfig {
  /** Rank of the update: up is [out, r], down is [r, in]. */
  r: number;
  /** The update is scaled by loraAlpha / r, or loraAlpha / √r with useRslora. */
  loraAlpha: number;
  /** Probability of dropping elements of the LoRA branch's input in training. */
  loraDropout: number;
  /**
   * Which linear modules: names that equal a module's path or its end (after a dot), or one Python regular
   * expression for the whole path, or 'all-linear' for every one except the output embedding and routers.
   */
  targetModules: readonly string[] | string;
  /** Targets to exclude: names, or a regular expression. */
  excludeModules: readonly string[] | string | null;
  /** Indices of the layers to adapt; null for all. Not together with a regular expression as targetModules. */
  layersToTransform: readonly number[] | null;
  /** Names (regular expressions) of the lists that layersToTransform counts in; null for any list. */
  layersPattern: readonly string[] | null;
  /** Regular expression for the end of a path → r of those modules; the first that matches wins. */
  rankPattern: Readonly<Record<string, number>>;
  /** The same for loraAlpha. */
  alphaPattern: Readonly<Record<string, number>>;
  /** Scales by α/√r instead of α/r. */
  useRslora: boolean;
  /** Splits each weight into magnitude and direction, and trains both (DoRA). */
  useDora: boolean;
  /** Parameters of experts to adapt, such as mlp.experts.gate_up_proj: names that equal a path or its end; null: none. */
  targetParameters: readonly string[] | null;
  /** Linear modules to train whole instead of by a low-rank change: names that equal a path or its end. */
  modulesToSave: readonly string[] | null;
  /** Biases are not trained. */
  bias: 'none';
  /** true: up is zero, down uniform; 'gaussian': down normal; false: both random. */
  initLoraWeights: boolean | 'gaussian';
}

/**
 * What a program passes: PEFT's words in camelCase. The command line has the same defaults.
 *
 * @example
 * const config: LoRAConfigInput = { r: 16, loraAlpha: 32, targetModules: ['q_proj', 'v_proj'], rankPattern: { v_proj: 4 } };
 */
export interface LoRAConfigInput {
  /** LoRA is the default. */
  method?: 'lora' | undefined;
  /** The rank of the update. Default 16. */
  r?: number | undefined;
  /** α: the update is scaled by α/r, or α/√r with `useRslora`. Default 2·r. */
  loraAlpha?: number | undefined;
  /** Probability of dropping elements of the LoRA branch's input in training. Default 0. */
  loraDropout?: number | undefined;
  /**
   * Which linear layers: names that equal a layer's path or its end (after a dot), one Python regular expression for the
   * whole path (without look-around and back-references, because patterns may be untrusted), or 'all-linear' for every one except the output embedding and routers. Default 'all-linear'.
   */
  targetModules?: readonly string[] | string | null | undefined;
  /** Targets to exclude. Default: none. */
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
  /** DoRA (Liu et al., 2024): a magnitude per output is trained beside up and down. Default false. */
  useDora?: boolean | undefined;
  /**
   * Parameters of experts, such as ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'], as PEFT's target_parameters names them; each expert has a change of its own
   * of rank `r`. Without `targetModules` no other layer is adapted. Not beside dropout and DoRA. Default: none.
   */
  targetParameters?: readonly string[] | null | undefined;
  /**
   * Linear layers to train whole, such as ['lm_head'], besides the low-rank changes of the targets. Default: none.
   */
  modulesToSave?: readonly string[] | null | undefined;
  /** Biases are not trained: 'none' is the only value. */
  bias?: 'none' | undefined;
  /** Initial values of up and down: true is zero and uniform, 'gaussian' zero and normal, false both random. Default true. */
  initLoraWeights?: boolean | 'gaussian' | undefined;
}

interface Defaults<Targets extends string | null> {
  readonly r: number;
  readonly loraAlpha: (r: number) => number;
  readonly targetModules: Targets;
}

/** What an absent value means in adapter_config.json: PEFT's defaults. */
const peftDefaults: Defaults<null> = { r: 8, loraAlpha: () => 8, targetModules: null };

/** What it means in a program. */
const ownDefaults: Defaults<string> = {
  r: adapterOptions.r.default,
  loraAlpha: (r) => 2 * r,
  targetModules: adapterOptions.targetModules.word,
};

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
  targetParameters: 'target_parameters',
  modulesToSave: 'modules_to_save',
  bias: 'bias',
  initLoraWeights: 'init_lora_weights',
};
const fields = Object.keys(peftNames) as (keyof LoRAConfig)[];

type Parsed<Targets> = Omit<LoRAConfig, 'targetModules'> & {
  targetModules: LoRAConfig['targetModules'] | Targets;
};

/** Checks the values and fills in the defaults; both forms of a configuration come through here. */
function parse<Targets extends string | null>(
  values: Unchecked<keyof LoRAConfig>,
  defaults: Defaults<Targets>,
  refuse: Refuse,
): Parsed<Targets> {
  const from = new ConfigReader<keyof LoRAConfig>(values, refuse, ['r', 'loraAlpha']);
  const targetParameters = from.names('targetParameters');
  const targetModules = from.targets(
    'targetModules',
    targetParameters ? [] : defaults.targetModules,
    targetParameters !== null,
  );
  const excludeModules = from.modules('excludeModules');
  const layers = from.take<number[] | null>(
    'layersToTransform',
    null,
    'a layer index or a list of them',
    (value) => (isIndex(value) ? [value] : isListOf(value, isIndex) ? [...value] : undefined),
  );
  const layerLists = from.take<string[] | null>(
    'layersPattern',
    null,
    'a name or a list of names',
    (value) => {
      const list = value === '' ? [] : isText(value) ? [value] : value;
      if (!isListOf(list, isText)) return undefined;
      for (const one of list) from.pattern('layersPattern', one, () => matchAround('', one, ''), undefined);
      return [...list];
    },
  );
  const modulesToSave = from.names('modulesToSave');
  const r = from.take('r', defaults.r, 'a positive integer', (value) =>
    isPositive(value) ? value : undefined,
  );
  const config: Parsed<Targets> = {
    r,
    loraAlpha: from.take('loraAlpha', defaults.loraAlpha(r), 'a number', (value) =>
      isNumber(value) ? value : undefined,
    ),
    loraDropout: from.take('loraDropout', 0, 'a number from 0 up to, but not, 1', (value) =>
      isNumber(value) && isDropout(value) ? value : undefined,
    ),
    targetModules,
    excludeModules,
    layersToTransform: layers?.length ? layers : null,
    layersPattern: layerLists?.length ? layerLists : null,
    rankPattern: from.patterns('rankPattern', 'an object of patterns and positive integers', isPositive),
    alphaPattern: from.patterns('alphaPattern', 'an object of patterns and numbers', isNumber),
    useRslora: from.take('useRslora', false, 'true or false', flag),
    useDora: from.take('useDora', false, 'true or false', flag),
    targetParameters,
    modulesToSave,
    bias: from.take('bias', 'none', `'none' (biases are not trained here)`, (value) =>
      value === 'none' ? value : undefined,
    ),
    initLoraWeights: from.take<boolean | 'gaussian'>(
      'initLoraWeights',
      true,
      `true, false or 'gaussian'`,
      (value) => (typeof value === 'string' && value.toLowerCase() === 'gaussian' ? 'gaussian' : flag(value)),
    ),
  };
  if (targetParameters && config.useDora) refuse('useDora', 'false beside targetParameters', values.useDora);
  if (targetParameters && config.loraDropout > 0)
    refuse('loraDropout', '0 beside targetParameters', values.loraDropout);
  if (config.layersToTransform !== null && typeof targetModules === 'string' && !isAllLinear(targetModules)) {
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
  checkOptions('LoRAConfig', input, fields);
  return parse(input, ownDefaults, refuseOption('LoRAConfig'));
}

/** LoRA's adapter_config.json. Only fields are added that every PEFT since 0.9 knows, because older ones refuse what they do not know. */
export const loraFile: ConfigFile<LoRAConfig> = {
  peftType: 'LORA',
  names: peftNames,
  fixed: { megatron_core: 'megatron.core', qalora_group_size: 16 },
  beside: {
    fan_in_fan_out: false,
    layer_replication: null,
    loftq_config: {},
    megatron_config: null,
    megatron_core: 'megatron.core',
  },
  optional: ['excludeModules', 'targetParameters'],
  spell: (field, value) =>
    field === 'targetModules' && Array.isArray(value) && value.length === 0 ? null : value,
  parse: (values, refuse) => parse(values, peftDefaults, refuse),
};

/**
 * Reads the content of an adapter_config.json of LoRA. `raw` is the content itself, to be given back to {@link toPeftJson}, so that no field
 * is lost.
 *
 * Errors: those of {@link configOfJson}.
 *
 * @example const { config, raw } = fromPeftJson(await readJson('dir/adapter_config.json'));
 */
export function fromPeftJson(
  json: unknown,
  where = 'adapter_config.json',
): { config: StoredConfig<LoRAConfig>; raw: Record<string, unknown> } {
  return configOfJson(loraFile, json, where);
}

/** The configuration of a file for a model of these layers: PEFT's targets of an architecture are those of query and value. */
export function completeLoRAConfig(
  config: StoredConfig<LoRAConfig>,
  linears: readonly ModulePath[],
): LoRAConfig {
  const targetModules = config.targetModules ?? namesOfRoles(linears, ['query', 'value', 'queryKeyValue']);
  return { ...config, targetModules };
}

/**
 * The content of an adapter_config.json as PEFT writes it. Fields of `raw` (what fromPeftJson gave, or some of it) are kept as they are where
 * `config` says the same; absent means neutral.
 *
 * @example toPeftJson(normalizeLoRAConfig({ r: 4 }), { base_model_name_or_path: 'org/name' })
 */
export function toPeftJson(
  config: StoredConfig<LoRAConfig>,
  raw: Readonly<Record<string, unknown>> = {},
): Record<string, unknown> {
  return jsonOfConfig(loraFile, config, raw);
}
