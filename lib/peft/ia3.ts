/** IA³ in PEFT's words: which layers are scaled at their output, and which, those of the feedforward part, at their input. */
import { ia3Input, ia3Output } from '../linear/ia3';
import { whole } from '../linear/whole';
import { checkOptions } from '../validate';
import {
  ConfigReader,
  flag,
  isAllLinear,
  refuseOption,
  type ConfigFile,
  type Refuse,
  type StoredConfig,
  type Unchecked,
} from './config_values';
import { chooseModules, moduleMatcher, namesOfAdapted } from './matching';
import { peftPrefix, refuseStrangers, refuseUnchangeable, type AdapterMethod } from './method';
import { namesOfRoles, type ModulePath } from './roles';

/** A complete configuration of IA³, every value checked. */
export interface IA3Config {
  /** Which linear modules, as `LoRAConfig.targetModules` names them. */
  readonly targetModules: readonly string[] | string;
  /** Those of them whose input is scaled; the output of the others is. */
  readonly feedforwardModules: readonly string[] | string;
  /** Modules left out although they are targets. */
  readonly excludeModules: readonly string[] | string | null;
  /** Linear modules that are trained whole beside. */
  readonly modulesToSave: readonly string[] | null;
  /** true: the vectors are 1 at first; false: normal numbers. */
  readonly initIa3Weights: boolean;
}

/**
 * What a program passes for IA³, in PEFT's words.
 *
 * @example
 * const config: IA3ConfigInput = { method: 'ia3', targetModules: ['k_proj', 'v_proj', 'down_proj'], feedforwardModules: ['down_proj'] };
 */
export interface IA3ConfigInput {
  /** Chooses IA³. */
  method: 'ia3';
  /**
   * Which linear layers: names, a regular expression for the whole path, or 'all-linear'. Default: key, value and the output of the MLP, of Llama
   * ['k_proj', 'v_proj', 'down_proj'].
   */
  targetModules?: readonly string[] | string | null | undefined;
  /** Those of them whose input is scaled in the place of their output. Default: the output of the MLP (down_proj), where it is a target. */
  feedforwardModules?: readonly string[] | string | null | undefined;
  /** Layers left out although they are targets. Default: none. */
  excludeModules?: readonly string[] | string | null | undefined;
  /** Linear layers that are trained whole beside, such as ['lm_head']. Default: none. */
  modulesToSave?: readonly string[] | null | undefined;
  /** Whether the vectors are 1 at first, so that nothing changes yet. Default true. */
  initIa3Weights?: boolean | undefined;
}

const names: Readonly<Record<keyof IA3Config, string>> = {
  targetModules: 'target_modules',
  feedforwardModules: 'feedforward_modules',
  excludeModules: 'exclude_modules',
  modulesToSave: 'modules_to_save',
  initIa3Weights: 'init_ia3_weights',
};

/** What PEFT scales where nothing is said, whatever an architecture calls it. */
const defaultTargets = (linears: readonly ModulePath[]): string[] =>
  namesOfRoles(linears, ['key', 'value', 'queryKeyValue', 'mlpOutput']);

/** Whether a name is among those of some targets; every name is where they are a pattern. */
const isAmong =
  (targets: IA3Config['targetModules']) =>
  (name: string): boolean =>
    typeof targets === 'string' || targets.includes(name);

function parse(values: Unchecked<keyof IA3Config>, refuse: Refuse): StoredConfig<IA3Config> {
  const from = new ConfigReader<keyof IA3Config>(values, refuse);
  const targetModules = from.targets('targetModules', null);
  const given = values.feedforwardModules ?? null;
  const feedforwardModules = given === null ? null : (from.modules('feedforwardModules') ?? []);
  const listed = typeof feedforwardModules === 'string' ? [] : (feedforwardModules ?? []);
  if (targetModules !== null && !listed.every(isAmong(targetModules)))
    refuse('feedforwardModules', 'names that are among those of the targets', given);
  return {
    targetModules,
    feedforwardModules,
    excludeModules: from.modules('excludeModules'),
    modulesToSave: from.names('modulesToSave'),
    initIa3Weights: from.take('initIa3Weights', true, 'true or false', flag),
  };
}

function complete(config: StoredConfig<IA3Config>, linears: readonly ModulePath[]): IA3Config {
  const targetModules = config.targetModules ?? defaultTargets(linears);
  const feedforwardModules =
    config.feedforwardModules ?? namesOfRoles(linears, ['mlpOutput']).filter(isAmong(targetModules));
  return { ...config, targetModules, feedforwardModules };
}

const file: ConfigFile<IA3Config> = {
  peftType: 'IA3',
  names,
  fixed: {},
  beside: { fan_in_fan_out: false },
  optional: [],
  parse,
};

export const ia3: AdapterMethod<IA3Config> = {
  title: 'IA³',
  loadedByPeft: true,
  file,

  normalize(input, { linears }) {
    checkOptions('IA3Config', input, Object.keys(names));
    const { targetModules, ...given } = input as Unchecked<keyof IA3Config>;
    const values = { ...given, targetModules: targetModules ?? defaultTargets(linears) };
    return complete(parse(values, refuseOption('IA3Config')), linears);
  },
  complete,

  plan(config, { linears }, typed) {
    if (typed) refuseStrangers(config, linears);
    const rules = { ...config, layersToTransform: null, layersPattern: null };
    const chosen = chooseModules(rules, linears);
    const isFeedforward = moduleMatcher(config.feedforwardModules);
    return linears.flatMap((linear, layer) => {
      const { path } = linear;
      const choice = chosen.get(path);
      if (choice === undefined) return [];
      const kind = choice === 'whole' ? whole : isFeedforward(path) ? ia3Input : ia3Output;
      refuseUnchangeable(linear, kind);
      const spec = { r: 0, scale: 1, stream: layer, layer };
      return [{ linear, kind, spec, initWeights: config.initIa3Weights, prefix: peftPrefix(path) }];
    });
  },

  written(config, changed) {
    if (!isAllLinear(config.targetModules)) return config;
    return { ...config, targetModules: namesOfAdapted(config, changed) };
  },
  dropout: () => 0,
  size: () => ({ method: 'ia3' }),
  sizeAsLora: ({ targetModules, excludeModules, modulesToSave }) => ({
    r: 1,
    ...{ targetModules, excludeModules, modulesToSave },
  }),

  facts({ targetModules, feedforwardModules, modulesToSave }) {
    const listed = (names: readonly string[] | string): string => [names].flat().join(', ') || 'none';
    return [
      ['Method', 'IA³'],
      ['Scaled layers', listed(targetModules)],
      ['of these at their input', listed(feedforwardModules)],
      ...(modulesToSave ? [['Trained whole', listed(modulesToSave)] as const] : []),
    ];
  },
};
