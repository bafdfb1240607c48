/** Bottleneck adapters, behind the attention and the MLP of each block (houlsby) or behind the MLP alone (pfeiffer), in files of our own. */
import { loraError } from '../errors';
import { bottleneckActivations, bottleneckKind, type BottleneckActivation } from '../linear/bottleneck';
import type { LinearRole } from '../linear/linear';
import { checkOptions, isDropout } from '../validate';
import {
  ConfigReader,
  isNumber,
  isPositive,
  refuseOption,
  type ConfigFile,
  type Refuse,
  type Unchecked,
} from './config_values';
import type { AdapterMethod } from './method';
import { namesOfRoles, placeInBlocks } from './roles';

const placements = ['houlsby', 'pfeiffer'] as const;

/** Where bottleneck adapters stand: behind attention and MLP, or behind the MLP. */
export type BottleneckPlacement = (typeof placements)[number];

/** A complete configuration of bottleneck adapters, every value checked. */
export interface BottleneckConfig {
  /** 'houlsby': behind the attention and the MLP of each block; 'pfeiffer': behind the MLP. */
  readonly placement: BottleneckPlacement;
  /** How many numbers the bottleneck has. */
  readonly bottleneckSize: number;
  /** What is applied to them. */
  readonly activation: BottleneckActivation;
  /** The probability with which an element of what is added is dropped in training. */
  readonly dropout: number;
}

/**
 * What a program passes for bottleneck adapters.
 *
 * @example
 * const config: BottleneckConfigInput = { method: 'bottleneck', placement: 'houlsby', reductionFactor: 16, activation: 'silu' };
 */
export interface BottleneckConfigInput {
  /** Chooses bottleneck adapters. */
  method: 'bottleneck';
  /** 'houlsby': behind the attention and the MLP of each block; 'pfeiffer': behind the MLP. Default 'pfeiffer'. */
  placement?: BottleneckPlacement | undefined;
  /** How many numbers the bottleneck has. Default: by `reductionFactor`. */
  bottleneckSize?: number | undefined;
  /** The width of the model divided by the size of the bottleneck; in the place of `bottleneckSize`. Default 16. */
  reductionFactor?: number | undefined;
  /** What is applied in the bottleneck. Default 'relu'. */
  activation?: BottleneckActivation | undefined;
  /** The probability with which an element of what is added is dropped in training. Default 0. */
  dropout?: number | undefined;
}

const names: Readonly<Record<keyof BottleneckConfig, string>> = {
  placement: 'placement',
  bottleneckSize: 'bottleneck_size',
  activation: 'activation',
  dropout: 'dropout',
};

const oneOf = <T extends string>(words: readonly T[]) => ({
  expected: words.map((word) => `'${word}'`).join(' or '),
  read: (value: unknown): T | undefined => words.find((word) => word === value),
});
const placement = oneOf(placements);
const activation = oneOf(bottleneckActivations);

/** `size`: that of a bottleneck of which the values say nothing. */
function parse(
  values: Unchecked<keyof BottleneckConfig>,
  size: number | undefined,
  refuse: Refuse,
): BottleneckConfig {
  const from = new ConfigReader<keyof BottleneckConfig>(values, refuse);
  const whole = 'a positive integer';
  return {
    placement: from.take<BottleneckPlacement>('placement', 'pfeiffer', placement.expected, placement.read),
    bottleneckSize:
      from.take('bottleneckSize', size, whole, (value) => (isPositive(value) ? value : undefined)) ??
      refuse('bottleneckSize', whole, undefined),
    activation: from.take<BottleneckActivation>('activation', 'relu', activation.expected, activation.read),
    dropout: from.take('dropout', 0, 'a number from 0 up to, but not, 1', (value) =>
      isNumber(value) && isDropout(value) ? value : undefined,
    ),
  };
}

const file: ConfigFile<BottleneckConfig> = {
  peftType: 'BOTTLENECK',
  names,
  fixed: {},
  beside: {},
  optional: [],
  parse: (values, refuse) => parse(values, undefined, refuse),
};

/** Behind which layers they stand: those whose output goes into the sum of a block. */
const rolesOf = {
  houlsby: ['attentionOutput', 'mlpOutput'],
  pfeiffer: ['mlpOutput'],
} as const satisfies Readonly<Record<BottleneckPlacement, readonly LinearRole[]>>;

/** What the adapter behind a layer is called in a file. */
const nameOf: Readonly<Partial<Record<LinearRole, string>>> = {
  attentionOutput: 'attention',
  mlpOutput: 'mlp',
};

export const bottleneck: AdapterMethod<BottleneckConfig> = {
  title: 'Bottleneck',
  loadedByPeft: false,
  mergingObstacle: 'what it adds behind a layer is no matrix that a weight could hold',
  file,

  normalize(input, { hiddenSize }) {
    const op = 'BottleneckConfig';
    const { reductionFactor, ...values } = input as Unchecked<keyof BottleneckConfig | 'reductionFactor'>;
    checkOptions(op, input, [...Object.keys(names), 'reductionFactor']);
    const refuse = refuseOption(op);
    if (reductionFactor === undefined) return parse(values, Math.max(1, Math.floor(hiddenSize / 16)), refuse);
    if (values.bottleneckSize !== undefined)
      refuse('reductionFactor', 'nothing beside bottleneckSize', reductionFactor);
    if (!isNumber(reductionFactor) || reductionFactor < 1)
      return refuse('reductionFactor', 'a number of at least 1', reductionFactor);
    return parse(values, Math.max(1, Math.floor(hiddenSize / reductionFactor)), refuse);
  },

  plan(config, { linears }) {
    const kind = bottleneckKind(config.activation);
    const roles: readonly LinearRole[] = rolesOf[config.placement];
    const planned = linears.flatMap((linear, layer) => {
      const { path, role } = linear;
      const place = placeInBlocks(path);
      if (role === null || !roles.includes(role) || place === null) return [];
      const spec = { r: config.bottleneckSize, scale: 1, stream: layer, layer };
      return [{ linear, kind, spec, initWeights: true, prefix: `layers.${place.block}.${nameOf[role]!}` }];
    });
    if (planned.length > 0) return planned;
    throw loraError(
      'adapter',
      'ERR_UNSUPPORTED',
      `expected blocks with a layer of the role ${roles.join(' or ')} for bottleneck adapters but the model has none`,
    );
  },

  written: (config) => config,
  dropout: ({ dropout }) => dropout,
  size: ({ placement: where, bottleneckSize }) => ({ method: where, size: bottleneckSize }),

  sizeAsLora: ({ placement: where, bottleneckSize }, linears) => ({
    r: bottleneckSize,
    targetModules: namesOfRoles(linears, rolesOf[where]),
  }),

  facts: ({ placement: where, bottleneckSize, activation: applied, dropout }) => [
    ['Method', `bottleneck adapters, ${where}`],
    ['Bottleneck size', String(bottleneckSize)],
    ['Activation', applied],
    ...(dropout > 0 ? [['Dropout', String(dropout)] as const] : []),
  ],
};
