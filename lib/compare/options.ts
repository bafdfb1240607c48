/** What a comparison is asked, checked and complete. */
import type { DataSource } from '../data/example';
import { checkRereadable, checkSource } from '../data/batches';
import { fromPretrainedOptionNames } from '../models/core/load_model';
import type { FromPretrainedOptions } from '../models/core/options';
import { checkedOptions, type CheckedValues } from '../options/option';
import { compareOptions, sweepOptions } from '../options/compare';
import { datasetOptions } from '../options/table';
import {
  check,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkSignal,
  describe,
} from '../validate';
import { methodNames, comparedMethod, type Axes, type MethodName, type SweptRate } from './methods';

/** The function that was called, which its errors name. */
export type CompareOp = 'compareMethods' | 'sweep';

/**
 * How long each variant is trained: a number of optimizer steps, with a cosine schedule, or minutes of steps, at a constant rate (a decaying
 * schedule has to know the number of steps).
 */
export type CompareBudget = { steps: number } | { minutes: number };

/**
 * What {@link compareMethods} compares, on what, for how long. The variants are all combinations of methods, ranks, alphas, targets
 * and seeds.
 *
 * @example
 * const options: CompareOptions = { model: 'model', data, evalData, ranks: [8, 16], budget: { steps: 200 }, outDir: 'comparison' };
 */
export interface CompareOptions extends FromPretrainedOptions {
  /** The base model, as {@link CausalLM.fromPretrained} takes it. Pass either it or `modelDir`. */
  model?: string | URL | undefined;
  /** The same as `model`. */
  modelDir?: string | URL | undefined;
  /** The training data: a file or folder for {@link loadDataset}, or examples that can be read more than once. */
  data: string | URL | DataSource;
  /** Held-out data of the same kinds; of a folder, its valid split. It chooses the learning rates and measures every variant. */
  evalData: string | URL | DataSource;
  /** How long each variant is trained. A trial of a learning rate gets a quarter of it. */
  budget: CompareBudget;
  /** The folder for results, adapters and the report. A stopped comparison resumes from it. */
  outDir: string;
  /** The methods: 'lora', 'dora', 'ia3', 'bottleneck', 'prompt', 'full'. Default: all but 'full', which takes the most memory, and a file as large as the model each. */
  methods?: readonly MethodName[] | undefined;
  /** Ranks, sizes of bottlenecks, and numbers of virtual tokens. Default [16]. */
  ranks?: readonly number[] | undefined;
  /** α: numbers, or multiples of the rank such as 'r', '2r', '0.5r'. Default ['2r']. */
  alphas?: readonly (number | string)[] | undefined;
  /** Layers: 'attention', 'mlp', 'all-linear', or module names joined with +, 'q_proj+v_proj'. Default ['all-linear']. */
  targets?: readonly string[] | undefined;
  /** How many seeds each setting is trained with: 0, 1, …. Default 3. */
  seeds?: number | undefined;
  /** The learning rates that are tried for each method. Default: five for each, a factor of about three apart. */
  learningRates?: readonly number[] | undefined;
  /** Examples in a batch. Default 4. */
  batchSize?: number | undefined;
  /** Number of batches whose gradients are summed for a step. Default 1. */
  gradientAccumulationSteps?: number | undefined;
  /** Less memory, more time, the same bits. Default false. */
  gradientCheckpointing?: boolean | undefined;
  /** Of files: longer examples are cut to this many tokens, and to what fits the context beside virtual tokens. Default 512. */
  maxLength?: number | undefined;
  /** Of files: which tokens count, as in {@link loadDataset}. */
  trainOn?: 'all' | 'completion' | undefined;
  /** Of files, as in {@link loadDataset}. */
  chatTemplate?: string | null | undefined;
  /** Of files: lets messages contain special tokens by their spelling, as in {@link loadDataset}. Default false. */
  allowSpecialTokens?: boolean | undefined;
  /** Of files: the names of the columns, as in {@link loadDataset}. */
  columns?: Readonly<Record<string, string>> | undefined;
  /** Measures only the first rows of `evalData`. Default: all. */
  evalLimit?: number | undefined;
  /** Maximum tokens of an answer, as in {@link CausalLM.evaluateTask}. */
  maxNewTokens?: number | undefined;
  /** Texts that end an answer, as in {@link CausalLM.generate}. */
  stop?: string | readonly string[] | undefined;
  /** An abort rejects with its reason; the same call later resumes with the interrupted variant. */
  signal?: AbortSignal | undefined;
}

/**
 * What {@link sweep} tries: all combinations of learning rates, ranks, alphas, targets and seeds of one method.
 *
 * @example
 * const options: SweepOptions = { model: 'model', data, evalData, ranks: [8, 32], budget: { steps: 200 }, outDir: 'sweep' };
 */
export interface SweepOptions extends Omit<
  CompareOptions,
  'methods' | 'learningRates' | 'maxNewTokens' | 'stop'
> {
  /** The method. Default 'lora'. */
  method?: MethodName | undefined;
  /** The learning rates, each with the whole budget; 'auto' is that of {@link Trainer}. Default: five, a factor of about three apart, and 'auto' where it has a rule. */
  learningRates?: readonly SweptRate[] | undefined;
}

const table = { ...compareOptions, ...datasetOptions } as const;
const names = [...Object.keys(table), ...fromPretrainedOptionNames];
const sweepNames = [...Object.keys({ ...sweepOptions, ...datasetOptions }), ...fromPretrainedOptionNames];

/** The options with their defaults. */
export interface ResolvedCompare
  extends Omit<CompareOptions, keyof Axes | keyof Standard | 'model' | 'modelDir'>, Axes, Standard {
  readonly op: CompareOp;
  readonly modelDir: string | URL;
  /** What is tried for each method. */
  readonly rates: Readonly<Partial<Record<MethodName, readonly number[]>>>;
}
type Standard = Pick<
  CheckedValues<typeof table>,
  'seeds' | 'batchSize' | 'gradientAccumulationSteps' | 'gradientCheckpointing' | 'maxLength' | 'evalLimit'
>;

const isPath = (value: unknown): value is string | URL =>
  typeof value === 'string' || Object.prototype.toString.call(value) === '[object URL]';

/** A list of distinct values, of which each is checked. */
function listOf<T>(
  op: CompareOp,
  name: string,
  values: readonly T[],
  each: (place: string, value: T) => void,
): readonly T[] {
  const given: unknown = values;
  check(
    Array.isArray(given) && given.length > 0,
    op,
    () => `expected ${name} to be a list with something in it but received ${describe(given)}`,
  );
  for (const [i, value] of values.entries()) each(`${name}[${i}]`, value);
  return [...new Set(values)];
}

function checkAlpha(op: CompareOp, place: string, value: number | string): void {
  if (typeof value !== 'string') return checkNumber(op, place, value, Number.MIN_VALUE);
  check(
    /^(\d+(\.\d+)?|\.\d+)?r$/.test(value) && !/^0*(\.0*)?r$/.test(value.replace(/^r$/, '1r')),
    op,
    `expected ${place} to be a number or a multiple of the rank such as 'r' or '2r' but received ${describe(value)}`,
  );
}

function checkTargets(op: CompareOp, place: string, value: string): void {
  check(
    typeof value === 'string' &&
      /^\w[\w.]*(\+\w[\w.]*)*$/.test(value.replace('all-linear', 'all_linear')) &&
      value.length <= 100,
    op,
    () =>
      `expected ${place} to be 'attention', 'mlp', 'all-linear', or names of modules with + between them, but received ${describe(value)}`,
  );
}

function checkBudget(op: CompareOp, budget: CompareBudget): void {
  checkOptions(op, budget, ['steps', 'minutes']);
  const { steps, minutes } = budget as { steps?: unknown; minutes?: unknown };
  check(
    (steps === undefined) !== (minutes === undefined),
    op,
    `expected budget to be { steps } or { minutes } but received ${steps === undefined ? 'neither' : 'both'}`,
  );
  if (steps !== undefined) checkInteger(op, 'budget.steps', steps, 1);
  else checkNumber(op, 'budget.minutes', minutes, Number.MIN_VALUE);
}

/** Checks every option and fills in the defaults, before any work begins. */
export function resolveCompare(options: CompareOptions): ResolvedCompare {
  checkOptions('compareMethods', options, names);
  return resolved('compareMethods', options);
}

/** The same of a sweep, which is a comparison of the settings of one method, learning rates among them. */
export function resolveSweep(options: SweepOptions): ResolvedCompare {
  const op = 'sweep';
  checkOptions(op, options, sweepNames);
  const { method = 'lora', learningRates, ...others } = options;
  checkOneOf(op, 'method', method, methodNames);
  const { rates, hasRule } = comparedMethod(method);
  const usual: readonly SweptRate[] = [...rates, ...(hasRule ? (['auto'] as const) : [])];
  const swept = listOf(op, 'learningRates', learningRates ?? usual, (place, rate) => {
    if (rate === 'auto')
      check(
        hasRule === true,
        op,
        `expected ${place} to be a number with ${method}, for which 'auto' has no rule`,
      );
    else checkNumber(op, place, rate, Number.MIN_VALUE);
  });
  return { ...resolved(op, { ...others, methods: [method] }), rates: {}, swept };
}

function resolved(op: CompareOp, options: CompareOptions): ResolvedCompare {
  const { model, data, evalData, outDir, budget, signal, learningRates } = options;
  check(
    model === undefined || options.modelDir === undefined,
    op,
    'expected model or modelDir but received both',
  );
  const modelDir = model ?? options.modelDir;
  check(isPath(modelDir), op, () => `expected model to be a path but received ${describe(modelDir)}`);
  for (const [name, source] of Object.entries({ data, evalData })) {
    if (isPath(source)) continue;
    checkSource(op, name, source);
    checkRereadable(op, source);
  }
  check(
    typeof outDir === 'string' && outDir !== '',
    op,
    () => `expected outDir to be a folder but received ${describe(outDir)}`,
  );
  checkBudget(op, budget);
  checkSignal(op, signal);
  const axes: Axes = {
    methods: listOf(
      op,
      'methods',
      options.methods ?? methodNames.filter((name) => name !== 'full'),
      (place, value) => checkOneOf(op, place, value, methodNames),
    ),
    ranks: listOf(op, 'ranks', options.ranks ?? [16], (place, value) => checkInteger(op, place, value, 1)),
    alphas: listOf(op, 'alphas', options.alphas ?? ['2r'], (place, value) => checkAlpha(op, place, value)),
    targets: listOf(op, 'targets', options.targets ?? ['all-linear'], (place, value) =>
      checkTargets(op, place, value),
    ),
  };
  const checked = checkedOptions(op, table, options);
  const given =
    learningRates &&
    listOf(op, 'learningRates', learningRates, (place, rate) =>
      checkNumber(op, place, rate, Number.MIN_VALUE),
    );
  const rates = Object.fromEntries(axes.methods.map((name) => [name, given ?? comparedMethod(name).rates]));
  return { ...options, ...checked, op, modelDir, outDir, ...axes, rates };
}
