/** Going on with a run: what a run depends on, and the state from which it continues as if it had never stopped. */
import { createHash, type Hash } from 'node:crypto';
import { dirname, join } from 'node:path';
import type { Batch } from '../data/batches';
import { LoRAError, loraError } from '../errors';
import { loadCheckpoint } from '../formats/checkpoint';
import { SavedFolder } from '../formats/file_group';
import { parseJson } from '../formats/json';
import { refuseLink } from '../formats/links';
import { fingerprintOf, sameNumbers } from '../linear/fingerprint';
import { isPacked, type FrozenWeight } from '../tensor/frozen_weight';
import { runDetached } from '../tensor/scope';
import { Pace } from '../tensor/pace';
import { slicedBytes } from '../tensor/slices';
import type { CausalLM } from '../models/causal_lm';
import { describe, isRecord } from '../validate';
import type { Best, BestState } from './best';
import type { Objective } from './objectives/objective';
import type { ResolvedOptions } from './options';
import type { RuledRate } from './rates';
import type { StepBatches } from './step_batches';
import type { TrainingSubject } from './subject';
import { tokensOf } from './update';

const op = 'Trainer';

/** What the steps of a run depend on, beside its data. */
export type RunSettings = Readonly<Record<string, unknown>>;

export async function settingsOf(
  options: ResolvedOptions,
  model: CausalLM,
  subject: TrainingSubject,
  objective: Objective,
): Promise<RunSettings> {
  const { batchSize, batchesPerStep, lr, lrReason, weightDecay, maxGradNorm, seed, shuffleWindow } = options;
  const { schedule, warmupSteps, totalSteps, packing, packLength, neftuneNoiseAlpha } = options;
  const { optimizer, loraPlusRatio, decaySteps, groupByLength } = options;
  return {
    batchSize,
    // Of all ranks: another number of them may go on with other shares.
    gradientAccumulationSteps: batchesPerStep,
    optimizer,
    ...(loraPlusRatio === undefined ? {} : { loraPlusRatio }),
    lr,
    ...(lrReason === undefined ? {} : { lrReason }),
    weightDecay,
    maxGradNorm,
    seed,
    shuffleWindow: shuffleWindow ?? 1000,
    ...(neftuneNoiseAlpha > 0 ? { neftuneNoiseAlpha } : {}),
    ...(packing ? { packing, packLength: packLength ?? null } : {}),
    ...(groupByLength ? { groupByLength } : {}),
    schedule,
    warmupSteps,
    ...(decaySteps === undefined ? {} : { decaySteps }),
    // A constant rate does not depend on the end.
    ...(schedule === 'constant' ? {} : { totalSteps: totalSteps ?? null }),
    dtype: model.dtype,
    model: model.config.raw,
    ...quantizedLayers(model),
    weights: await fingerprintOf(model.core.linears()[0]!.base),
    ...(await quantizedValues(model)),
    ...objective.settings,
    ...subject.settings(),
  };
}

const isQuantized = ({ format }: FrozenWeight): boolean => isPacked(format);

/** How many layers are kept in which format of few bits, and which are not, where some are. */
function quantizedLayers(model: CausalLM): { quantized?: Record<string, unknown> } {
  const counts: Record<string, number> = {};
  for (const { base } of model.core.linears())
    if (isQuantized(base)) counts[base.format] = (counts[base.format] ?? 0) + 1;
  if (Object.keys(counts).length === 0) return {};
  const whole = model.core.linears().filter(({ base }) => !isQuantized(base));
  return { quantized: { ...counts, whole: whole.map(({ path }) => path) } };
}

/** A digest of the values of one layer of few bits, where there is one: a fingerprint does not tell two roundings of one weight apart. */
async function quantizedValues(model: CausalLM): Promise<{ quantizedValues?: string }> {
  const layer = model.core.linears().find(({ base }) => isQuantized(base));
  if (!layer) return {};
  const values = runDetached(null, () => layer.base.unpack());
  try {
    const hash = createHash('sha256');
    for await (const slice of slicedBytes(values)) hash.update(slice);
    return { quantizedValues: hash.digest('hex') };
  } finally {
    values.dispose();
  }
}

/** Values of a stranger may be as long as a file. */
const cut = (text: string): string => (text.length > 200 ? `${text.slice(0, 200)}…` : text);

const areNumbers = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((one) => typeof one === 'number');

/** The first setting that differs, with both values; undefined: none. */
export function difference(saved: RunSettings, own: RunSettings): string | undefined {
  const text = (value: unknown): string => JSON.stringify(value) ?? 'nothing';
  for (const key of new Set([...Object.keys(own), ...Object.keys(saved)])) {
    const [was, is] = [saved[key], own[key]];
    if (text(was) === text(is)) continue;
    if (key === 'weights') {
      if (areNumbers(was) && areNumbers(is) && sameNumbers(was, is)) continue;
      return 'the model has other weights';
    }
    if (key === 'quantizedValues')
      return 'the quantized weights have other values, as with another doubleQuant';
    if (!isRecord(was) || !isRecord(is)) return `${cut(key)} was ${cut(text(was))} and is ${cut(text(is))}`;
    const inner = difference(was, is);
    if (inner !== undefined) return `${key}: ${inner}`;
  }
  return undefined;
}

/** A running digest of the batches that were taken, in order: it tells another data set, or another order, from the same. */
export class DataDigest {
  readonly #hash: Hash = createHash('sha256');

  add(batches: readonly Batch[]): void {
    for (const { inputIds, labels, groups = [] } of batches)
      for (const row of [...inputIds, ...labels, ...groups.map(({ marks = [] }) => marks)])
        this.#hash.update(Int32Array.from([row.length, ...row]));
  }

  get value(): string {
    return this.#hash.copy().digest('hex');
  }
}

/** Settings of a run that are options of its Trainer. */
const optionNames = [
  ...[
    'batchSize',
    'gradientAccumulationSteps',
    'optimizer',
    'loraPlusRatio',
    'lr',
    'weightDecay',
    'maxGradNorm',
  ],
  ...['seed', 'neftuneNoiseAlpha', 'packing', 'groupByLength', 'schedule', 'warmupSteps', 'decaySteps'],
];

const parsedRecord = (text: unknown, dir: string): Record<string, unknown> => {
  const value = typeof text === 'string' ? parseJson(text, `the settings of the run in ${dir}`) : {};
  return isRecord(value) ? value : {};
};

/** The learning rate that a rule gave the run of a checkpoint, which it keeps where the rule is another one now; undefined: a number was given. */
export async function ruledRateOf(dir: string): Promise<RuledRate | undefined> {
  const { lr, lrReason: reason } = parsedRecord((await loadCheckpoint(dir))['settings'], dir);
  return typeof lr === 'number' && typeof reason === 'string' ? { lr, reason } : undefined;
}

/** The options that the run of a checkpoint was begun with: all that a command line gave, or what is known of those of a program. */
export async function optionsOfRun(
  dir: string,
): Promise<{ options: Readonly<Record<string, unknown>>; all: boolean }> {
  const { settings, command } = await loadCheckpoint(dir);
  if (command !== undefined) return { options: parsedRecord(command, dir), all: true };
  const own = parsedRecord(settings, dir);
  const { totalSteps } = own;
  const options = Object.fromEntries(optionNames.flatMap((name) => (name in own ? [[name, own[name]]] : [])));
  return {
    options: { ...options, ...(typeof totalSteps === 'number' && { maxSteps: totalSteps }) },
    all: false,
  };
}

/** What a checkpoint holds beside the adapter and the optimizer. */
export interface RunState {
  readonly step: number;
  readonly settings: RunSettings;
  /** Of the batches of all steps so far. */
  readonly data: string;
  readonly evaluations: BestState;
  /** The options that a command line gave, as JSON. */
  readonly command?: string | undefined;
  /** What the objective goes on with, where it does. */
  readonly objective?: unknown;
}

/** A checkpoint that a run goes on from, and where it lies. */
export type Resumed = RunState & { readonly dir: string };

/** The checkpoints in the folder of a run, oldest first; none where there is no such folder. */
export async function checkpointsOf(outDir: string): Promise<{ step: number; path: string }[]> {
  const folder = await SavedFolder.find(outDir);
  return [...(folder?.names ?? [])]
    .flatMap((name) => {
      const step = /^checkpoint-(\d+)$/.exec(name)?.[1];
      return step === undefined ? [] : [{ step: Number(step), path: join(outDir, name) }];
    })
    .sort((a, b) => a.step - b.step);
}

/** The newest checkpoint in the folder of a run; undefined where there is none. @throws ERR_FILE for a link to elsewhere. */
export async function newestCheckpoint(outDir: string): Promise<string | undefined> {
  const path = (await checkpointsOf(outDir)).at(-1)?.path;
  if (path !== undefined) await refuseLink(path);
  return path;
}

/** What of a run its checkpoints have to fit. */
export interface OwnRun {
  readonly settings: RunSettings;
  /** After how many steps it ends at the latest; undefined where only the data tell. */
  readonly maxSteps: number | undefined;
  /** The settings that follow from the number of its steps, which a run that goes on beyond its end changes. */
  readonly ofTotal: readonly string[];
  /** How many processes it has. */
  readonly ranks?: number;
}

/** After how many steps the run of a checkpoint was to end, where this one ends later; undefined: it does not. */
export function earlierEnd(saved: RunSettings, own: RunSettings): number | undefined {
  const [was, is] = [saved['totalSteps'], own['totalSteps']];
  return typeof was === 'number' && typeof is === 'number' && is > was ? was : undefined;
}

const without = (settings: RunSettings, names: readonly string[]): RunSettings =>
  Object.fromEntries(Object.entries(settings).filter(([name]) => !names.includes(name)));

/**
 * The place in its run that a checkpoint holds; the adapter and the optimizer stay in the file.
 * @throws ERR_FILE for a folder that holds no such checkpoint, ERR_ARGUMENT for that of a run with other settings.
 */
export async function readRunState(dir: string, own: OwnRun): Promise<RunState> {
  return checkRunState(dir, await loadCheckpoint(dir), own);
}

/** Where a run of several ranks has another number of batches in a step than the checkpoint: which numbers fit. */
function fittingRanks(
  { gradientAccumulationSteps: was }: RunSettings,
  { ranks = 1, settings }: OwnRun,
): string {
  if (ranks === 1 || typeof was !== 'number' || was === settings['gradientAccumulationSteps']) return '';
  if (was % ranks === 0) return `, which ${ranks} ranks with gradientAccumulationSteps ${was / ranks} have`;
  const divisors = Array.from({ length: Math.min(was, 1024) }, (_, i) => i + 1).filter((n) => was % n === 0);
  return `, which ${divisors.join(', ')} ranks can have, and not ${ranks}`;
}

/** The same of what the file holds, which may come from a stranger. */
export function checkRunState(dir: string, values: Record<string, unknown>, own: OwnRun): RunState {
  const expect: (fits: boolean, name: string, what: string, value: unknown) => asserts fits = (
    fits,
    name,
    what,
    value,
  ) => {
    if (fits) return;
    const sentence = `expected ${name} to be ${what} but received ${describe(value)}`;
    throw loraError(op, 'ERR_FILE', `${dir} cannot be continued: ${sentence}`);
  };
  const whole = (name: string, value: unknown, least: number, most: number): number => {
    const what = `a whole number of at least ${least}${most < Number.MAX_SAFE_INTEGER ? ` and at most ${most}` : ''}`;
    expect(
      Number.isInteger(value) && (value as number) >= least && (value as number) <= most,
      name,
      what,
      value,
    );
    return value as number;
  };
  const number = (name: string, value: unknown, mayBeNone = false): number => {
    const fits = typeof value === 'number' && (mayBeNone || Number.isFinite(value));
    expect(fits, name, 'a finite number', value);
    return value;
  };
  const record = (name: string, value: unknown): Record<string, unknown> => {
    expect(isRecord(value), name, 'an object', value);
    return value;
  };
  const text = (name: string, value: unknown): string => {
    expect(typeof value === 'string', name, 'text', value);
    return value;
  };

  const step = whole('step', values['step'], 0, Number.MAX_SAFE_INTEGER);
  const data = text('data', values['data']);
  const parsed = parseJson(text('settings', values['settings']), `the settings of the run in ${dir}`);
  const settings = record('settings', parsed);
  const evaluations = record('evaluations', values['evaluations']);
  const at = whole('evaluations.at', evaluations['at'], 0, step);
  const waited = whole('evaluations.waited', evaluations['waited'], 0, step);
  let best: Best | null = null;
  if (evaluations['best'] !== null) {
    const saved = record('evaluations.best', evaluations['best']);
    const bestAt = whole('evaluations.best.step', saved['step'], 1, at);
    const scored = saved['score'] !== undefined;
    const loss = number('evaluations.best.loss', saved['loss'], scored);
    best = { step: bestAt, loss, ...(scored && { score: number('evaluations.best.score', saved['score']) }) };
  }

  // The reason of a rate says nothing that the rate does not.
  const free = ['lrReason', ...(earlierEnd(settings, own.settings) === undefined ? [] : own.ofTotal)];
  const differs = difference(without(settings, free), without(own.settings, free));
  if (differs !== undefined)
    throw loraError(
      op,
      'ERR_ARGUMENT',
      `${dir} is of a run with other settings: ${differs}${fittingRanks(settings, own)}; start with a new outDir, or with those of that run`,
    );
  if (step > (own.maxSteps ?? Infinity)) throw beyondTheEnd(dir, step, own.maxSteps!);
  return { step, settings, data, evaluations: { best, waited, at }, objective: values['objective'] };
}

/**
 * Goes over the batches of the steps before a checkpoint, which must be those of its run, and adds them to `taken`. Gives how many tokens they have.
 * @throws ERR_DATA for other batches, ERR_ARGUMENT where the run would have ended before, the reason of the signal.
 */
export async function replay(
  { step, data, dir }: Resumed,
  groups: AsyncGenerator<StepBatches, void, void>,
  taken: DataDigest,
  { maxTokens = Infinity, signal }: { maxTokens: number | undefined; signal: AbortSignal | undefined },
): Promise<number> {
  const otherData = (): LoRAError =>
    loraError(
      op,
      'ERR_DATA',
      `the data is not that of the run: the batches of the ${step} steps before the checkpoint differ`,
    );
  let tokens = 0;
  const pace = new Pace(); // an epoch of few examples in memory is too short to pause in
  for (let at = 1; at <= step; at++) {
    if (pace.due) await pace.rest(signal);
    const { value: group } = await groups.next();
    signal?.throwIfAborted();
    if (!group) throw otherData();
    taken.add(group.batches);
    for (const { inputIds } of group.batches) tokens += tokensOf(inputIds);
    if (tokens >= maxTokens && at < step) throw beyondTheEnd(dir, step, at);
  }
  if (taken.value !== data) throw otherData();
  return tokens;
}

const beyondTheEnd = (dir: string, step: number, end: number): LoRAError =>
  loraError(op, 'ERR_ARGUMENT', `${dir} is of step ${step}, and this run ends after step ${end}`);

/**
 * Where the adapter of the best evaluation lies, when a run that keeps it goes on.
 * @throws ERR_FILE where it is neither beside the checkpoint nor in `outDir`: it cannot be kept any more.
 */
export async function bestCheckpoint(from: Resumed, outDir: string): Promise<string | undefined> {
  const { best } = from.evaluations;
  if (best === null) return undefined;
  if (best.step === from.step) return from.dir;
  for (const folder of [dirname(from.dir), outDir]) {
    const found = (await checkpointsOf(folder)).find(({ step }) => step === best.step);
    if (!found) continue;
    await refuseLink(found.path);
    return found.path;
  }
  throw loraError(
    op,
    'ERR_FILE',
    `expected checkpoint-${best.step}, the best evaluation so far, beside ${from.dir}, since keepBest is given: put it there, or resume without keepBest`,
  );
}
