/** The methods that can be compared, an entry each, and the variants that a question makes of them. */
import type { LinearRole } from '../linear/linear';
import type { CausalLM } from '../models/causal_lm';
import type { Adapter } from '../peft/adapter';
import type { LoRAConfigInput } from '../peft/config';
import { namesOfRoles, type ModulePath } from '../peft/roles';

/** A method with its values; an axis that a method has not is null. */
export interface Setting {
  /** The method. */
  method: MethodName;
  /** The rank; of bottleneck adapters, how many numbers the bottleneck has; of prompt tuning, how many virtual tokens there are. */
  rank: number | null;
  /** α: the update is scaled by α / rank. */
  alpha: number | null;
  /** Which layers: 'attention', 'mlp', 'all-linear', or names of modules with + between them. */
  targets: string | null;
  /** The learning rate, where settings differ by it, as those of {@link sweep} do; absent: the one that was chosen for the method. */
  rate?: SweptRate;
}

/** A learning rate of a sweep: 'auto' is that of {@link Trainer}. */
export type SweptRate = number | 'auto';

/** A setting that is trained with one seed. */
export interface Variant extends Setting {
  /** Of the initial values and of the order of the data. */
  seed: number;
}

/** What a comparison has to know of a method. */
interface Method {
  /** The axes on which it has more than one variant. */
  readonly axes: Readonly<Record<'rank' | 'alpha' | 'targets', boolean>>;
  /** The learning rates that are tried. Each method has as many. */
  readonly rates: readonly number[];
  /** Whether 'auto' is a learning rate of it. */
  readonly hasRule?: boolean;
  /** Gives the model what is trained: the active adapter, or null for its weights, after which another model is loaded. */
  readonly begin: (model: CausalLM, variant: Variant) => Adapter | null;
}

/** What a comparison calls the adapter that it trains. */
const trialName = 'compared';

const usualRates = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2];

const lowRank = (more: LoRAConfigInput): Method => ({
  axes: { rank: true, alpha: true, targets: true },
  rates: usualRates,
  hasRule: true,
  begin: (model, { rank, alpha, targets, seed }) => {
    const targetModules = modulesOf(targets!, model.core.linears());
    const config = { r: rank!, loraAlpha: alpha!, targetModules, ...more };
    return model.addAdapter(config, { name: trialName, seed, activate: true });
  },
});

export const methods = {
  lora: lowRank({}),
  dora: lowRank({ useDora: true }),
  ia3: {
    // Vectors that begin as 1 and have few numbers: their rates are higher.
    axes: { rank: false, alpha: false, targets: false },
    rates: [1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
    begin: (model, { seed }) =>
      model.addAdapter({ method: 'ia3' }, { name: trialName, seed, activate: true }),
  },
  bottleneck: {
    axes: { rank: true, alpha: false, targets: false },
    rates: usualRates,
    begin: (model, { rank, seed }) =>
      model.addAdapter(
        { method: 'bottleneck', bottleneckSize: rank! },
        { name: trialName, seed, activate: true },
      ),
  },
  prompt: {
    // The steps of few numbers far from the loss are small: their rates are the highest.
    axes: { rank: true, alpha: false, targets: false },
    rates: [3e-3, 1e-2, 3e-2, 1e-1, 3e-1],
    begin: (model, { rank, seed }) =>
      model.addAdapter(
        { method: 'prompt', numVirtualTokens: rank!, promptTuningInit: 'sample_vocab' },
        { name: trialName, seed, activate: true },
      ),
  },
  full: {
    axes: { rank: false, alpha: false, targets: false },
    // All weights move at once: their rates are lower.
    rates: [3e-6, 1e-5, 3e-5, 1e-4, 3e-4],
    hasRule: true,
    begin: (model) => {
      model.trainAll();
      return null;
    },
  },
} as const satisfies Readonly<Record<string, Method>>;

/** The methods that {@link compareMethods} has. */
export type MethodName = keyof typeof methods;
export const methodNames = Object.keys(methods) as MethodName[];
export const comparedMethod = (name: MethodName): Method => methods[name];

const groups: Readonly<Record<string, readonly LinearRole[]>> = {
  attention: ['query', 'key', 'value', 'queryKeyValue', 'mixerInput', 'attentionOutput'],
  mlp: ['gate', 'up', 'gateUp', 'mlpOutput'],
};

/** The target modules that a word of the question stands for in a model of these layers. */
export function modulesOf(targets: string, linears: readonly ModulePath[]): string | string[] {
  if (targets === 'all-linear') return targets;
  const roles = groups[targets];
  return roles ? namesOfRoles(linears, roles) : targets.split('+');
}

/** The axes of a question: every method meets every value of those that it has. */
export interface Axes {
  readonly methods: readonly MethodName[];
  readonly ranks: readonly number[];
  readonly alphas: readonly (number | string)[];
  readonly targets: readonly string[];
  /** The learning rates of a sweep; absent: each method has one of its own. */
  readonly swept?: readonly SweptRate[];
}

/** The most virtual tokens that a variant puts before a text. */
export const maxVirtualTokens = ({ methods: names, ranks }: Axes): number =>
  names.includes('prompt') ? Math.max(...ranks) : 0;

/** 16 of 16, 32 of '2r' where the rank is 16. */
const alphaOf = (alpha: number | string, rank: number): number =>
  typeof alpha === 'number' ? alpha : rank * Number(alpha.slice(0, -1) || '1');

/** The settings of a question, each once, in the order of its axes. */
export function settingsOf({ methods: names, ranks, alphas, targets, swept }: Axes): Setting[] {
  const settings = new Map<string, Setting>();
  for (const method of names) {
    const { axes } = comparedMethod(method);
    for (const words of axes.targets ? targets : [null])
      for (const rank of axes.rank ? ranks : [null])
        for (const word of axes.alpha ? alphas : [null]) {
          const alpha = word === null ? null : alphaOf(word, rank!);
          for (const rate of swept ?? [undefined]) {
            const setting = { method, rank, alpha, targets: words, ...(rate !== undefined && { rate }) };
            settings.set(idOf(setting), setting);
          }
        }
  }
  return [...settings.values()];
}

/** The name of a setting, and with its seed of a variant: also that of its files. */
export function idOf({ method, rank, alpha, targets, rate, seed }: Setting & { seed?: number }): string {
  const parts = [
    method,
    ...(rank === null ? [] : [`r${rank}`]),
    ...(alpha === null ? [] : [`a${alpha}`]),
    ...(targets === null ? [] : [targets]),
    ...(rate === undefined ? [] : [`lr${rate}`]),
    ...(seed === undefined ? [] : [`s${seed}`]),
  ];
  return parts.join('-');
}

/** The setting on which the learning rate of a method is chosen: the middle rank, the first α and the first targets. */
export function settingOfTrials(method: MethodName, { ranks, alphas, targets }: Axes): Setting {
  const rank = [...ranks].sort((a, b) => a - b)[Math.floor((ranks.length - 1) / 2)]!;
  const axes = { methods: [method], ranks: [rank], alphas: alphas.slice(0, 1), targets: targets.slice(0, 1) };
  return settingsOf(axes)[0]!;
}
