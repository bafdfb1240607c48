/** One variant: trained for its budget, measured while it is. */
import type { DataSource } from '../data/example';
import { LoRAError } from '../errors';
import { memoryUsage, watchPeak } from '../native/device';
import type { CausalLM } from '../models/causal_lm';
import type { Adapter } from '../peft/adapter';
import { RunRecord, type CurvePoint } from '../train/record';
import { Trainer } from '../train/trainer';
import { comparedMethod, type SweptRate, type Variant } from './methods';
import type { CompareBudget, ResolvedCompare } from './options';
import type { CompareStepEvent } from './results';

/** Why a variant has no scores, where an error says something about it; any other error is thrown again. */
export function findingOf(error: unknown): string {
  const isFinding =
    error instanceof LoRAError && (error.code === 'ERR_NON_FINITE' || error.code === 'ERR_OUT_OF_MEMORY');
  if (!isFinding) throw error;
  return error.message;
}

/** A variant that is trained now, and what that took. */
export interface Trained {
  /** null: the weights of the model are trained. Absent where there was no memory for it. */
  readonly adapter?: Adapter | null;
  readonly failed?: string;
  /** The learning rate; 0 where it was to be 'auto' and the run did not begin. */
  readonly lr: number;
  readonly trainableParameters: number;
  readonly peakBytes: number;
  readonly steps: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  readonly curve: [step: number, loss: number][];
}

const maxPoints = 200;

/** At most 200 points, each the mean of those since the one before. */
export function thinned(points: readonly CurvePoint[]): [step: number, loss: number][] {
  const stride = Math.ceil(points.length / maxPoints);
  const curve: [number, number][] = [];
  for (let from = 0; from < points.length; from += stride) {
    const part = points.slice(from, from + stride);
    curve.push([part.at(-1)!.step, part.reduce((sum, { loss }) => sum + loss, 0) / part.length]);
  }
  return curve;
}

/** The options of a Trainer that follow from the budget. */
const endOf = (budget: CompareBudget) =>
  'steps' in budget
    ? ({ maxSteps: budget.steps, schedule: 'cosine' } as const)
    : ({ maxSteps: Number.MAX_SAFE_INTEGER, schedule: 'constant' } as const);

/** Watches how much memory is held, above what the program held before the comparison. */
export type MemoryWatch = () => () => number;

/** What is held now belongs to the program, which goes on to hold it. */
export function memoryWatch(): MemoryWatch {
  watchPeak(); // garbage is not held
  const before = memoryUsage().bytes;
  return () => {
    const peak = watchPeak();
    return () => Math.max(0, peak() - before);
  };
}

interface Training {
  readonly model: CausalLM;
  readonly data: DataSource;
  readonly options: ResolvedCompare;
  readonly watch: MemoryWatch;
}

/**
 * Trains a variant for a budget; the caller removes its adapter, or loads the model anew. Seconds are those in which the trainer works, without those in which the
 * consumer of the events does.
 */
export async function* train(
  { model, data, options, watch }: Training,
  variant: Variant,
  { id, lr, budget }: { id: string; lr: SweptRate; budget: CompareBudget },
): AsyncGenerator<CompareStepEvent, Trained, void> {
  const maxSteps = 'steps' in budget ? budget.steps : undefined;
  const { batchSize, gradientAccumulationSteps, gradientCheckpointing, signal } = options;
  const record = new RunRecord();
  const most = 'minutes' in budget ? 60 * budget.minutes : Infinity;
  const peak = watch();
  let adapter: Adapter | null | undefined;
  let failed: string | undefined;
  let seconds = 0;
  let rate = lr === 'auto' ? 0 : lr;
  try {
    adapter = comparedMethod(variant.method).begin(model, variant);
    const trainer = new Trainer({
      ...{ model, data, lr, batchSize, gradientAccumulationSteps, gradientCheckpointing },
      ...endOf(budget),
      seed: variant.seed,
    });
    const events = trainer.run({ signal })[Symbol.asyncIterator]();
    try {
      while (seconds < most || record.lastStep === undefined) {
        const from = performance.now();
        const { value: event, done } = await events.next();
        seconds += (performance.now() - from) / 1000;
        if (done) break;
        record.add(event);
        if (event.type === 'start') rate = event.autoRate?.lr ?? rate;
        if (event.type === 'step') yield { type: 'step', id, step: event.step, maxSteps, loss: event.loss };
      }
    } finally {
      await events.return!();
    }
  } catch (error) {
    failed = findingOf(error);
  }
  const { tokens, lastStep, points } = record;
  return {
    ...(adapter !== undefined && { adapter }),
    ...(failed === undefined ? {} : { failed }),
    trainableParameters: adapter === undefined ? 0 : model.numTrainable,
    ...{ lr: rate, tokens, seconds },
    peakBytes: peak(),
    steps: lastStep?.step ?? 0,
    tokensPerSecond: tokens / Math.max(seconds, 1e-9),
    curve: thinned(points),
  };
}
