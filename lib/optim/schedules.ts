/** Factors on the learning rate, as transformers' schedulers of the same names give them. */
import { check, checkInteger, checkNumber, checkOptions, describe } from '../validate';

/** Where a schedule rises and where it ends. */
export interface ScheduleOptions {
  /** The step at which the factor reaches its end; needed by all but constant. */
  totalSteps?: number | undefined;
  /** Steps in which the factor rises from 0 to 1, or below 1 their share of totalSteps; default 0. */
  warmupSteps?: number | undefined;
}

/** The factor on lr of a step that counts from 0. */
export type Schedule = (step: number) => number;

/** Steps, of which a number between 0 and 1 is a share of all, rounded up as transformers' warmup_ratio is. */
export function stepsOf(
  op: string,
  name: string,
  value: unknown,
  totalSteps: number | undefined,
  totalName = 'totalSteps',
): number {
  if (typeof value === 'number' && value > 0 && value < 1) {
    check(
      totalSteps !== undefined,
      op,
      `expected ${totalName}, since ${name} is the share ${value} of all steps`,
    );
    return Math.ceil(value * totalSteps);
  }
  checkInteger(op, name, value);
  return value;
}

type After = (step: number, warmup: number, total: number) => number;

function define(
  op: string,
  options: ScheduleOptions,
  own: readonly string[],
  needsTotal: boolean,
  after: After,
): Schedule {
  checkOptions(op, options, ['totalSteps', 'warmupSteps', ...own]);
  const { totalSteps } = options;
  check(
    totalSteps !== undefined || !needsTotal,
    op,
    `expected totalSteps to be an integer but received ${describe(totalSteps)}`,
  );
  if (totalSteps !== undefined) checkInteger(op, 'totalSteps', totalSteps);
  const warmup = stepsOf(op, 'warmupSteps', options.warmupSteps ?? 0, totalSteps);
  return (step) => {
    checkInteger(op, 'step', step);
    if (step < warmup) return step / Math.max(1, warmup);
    return after(step, warmup, totalSteps ?? 0);
  };
}

/**
 * 1, after a linear warm-up (transformers: constant, and with warmupSteps constant_with_warmup).
 *
 * @example
 * const factor = constantSchedule({ warmupSteps: 10 });
 * factor(5); // 0.5
 */
export function constantSchedule(options: ScheduleOptions = {}): Schedule {
  return define('constantSchedule', options, [], false, () => 1);
}

/**
 * From 1 after the warm-up down to 0 at totalSteps, linearly.
 *
 * @throws ERR_ARGUMENT without totalSteps.
 * @example
 * const factor = linearSchedule({ totalSteps: 100 });
 * factor(25); // 0.75
 */
export function linearSchedule(options: ScheduleOptions): Schedule {
  return define('linearSchedule', options, [], true, (step, warmup, total) =>
    Math.max(0, (total - step) / Math.max(1, total - warmup)),
  );
}

/**
 * max(0, ½(1 + cos(2π·numCycles·t))), t the share of the steps after the warm-up that are done; numCycles
 * ½, the default, falls once from 1 to 0 (Loshchilov & Hutter, "SGDR", 2017, without restarts).
 *
 * @throws ERR_ARGUMENT without totalSteps.
 * @example
 * const factor = cosineSchedule({ totalSteps: 200, warmupSteps: 10 });
 * for (let step = 0; step < 200; step++) optimizer.lr = 1e-3 * factor(step);
 */
export function cosineSchedule(options: ScheduleOptions & { numCycles?: number }): Schedule {
  const { numCycles = 0.5 } = options;
  checkNumber('cosineSchedule', 'numCycles', numCycles, 0);
  return define('cosineSchedule', options, ['numCycles'], true, (step, warmup, total) => {
    const t = (step - warmup) / Math.max(1, total - warmup);
    return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * numCycles * 2 * t)));
  });
}

/** The options of {@link wsdSchedule}. */
export interface WsdScheduleOptions extends ScheduleOptions {
  /** Steps of the fall at the end, or below 1 their share of totalSteps; default 0.1. */
  decaySteps?: number | undefined;
}

/**
 * Warm-up, stable, decay: 1 after the warm-up, and in the last `decaySteps` linearly down to 0 at totalSteps (Hu et al., "MiniCPM", 2024,
 * with a linear fall). A run that is stopped while the factor is 1 can be continued to any length.
 *
 * @throws ERR_ARGUMENT without totalSteps, and when warm-up and decay together are longer.
 * @example
 * const factor = wsdSchedule({ totalSteps: 100, warmupSteps: 10, decaySteps: 20 });
 * [5, 50, 90].map(factor); // [0.5, 1, 0.5]
 */
export function wsdSchedule(options: WsdScheduleOptions): Schedule {
  const op = 'wsdSchedule';
  const factor = define(op, options, ['decaySteps'], true, (step, _, total) =>
    step < total - decay ? 1 : Math.max(0, (total - step) / Math.max(1, decay)),
  );
  const { totalSteps } = options;
  const decay = stepsOf(op, 'decaySteps', options.decaySteps ?? 0.1, totalSteps);
  const warmup = stepsOf(op, 'warmupSteps', options.warmupSteps ?? 0, totalSteps);
  check(
    warmup + decay <= totalSteps!,
    op,
    `expected warmupSteps and decaySteps of ${totalSteps} together at most (totalSteps) but received ${warmup} and ${decay}`,
  );
  return factor;
}
