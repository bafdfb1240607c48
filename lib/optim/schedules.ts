/** Factors on the learning rate, as transformers' schedulers of the same names give them. */
import { check, checkInteger, checkNumber, checkOptions, describe } from '../validate';

/** Where a schedule rises and where it ends. */
export interface ScheduleOptions {
  /** The step at which the factor reaches its end; needed by linear and cosine. */
  totalSteps?: number | undefined;
  /** Steps in which the factor rises from 0 to 1; default 0. */
  warmupSteps?: number | undefined;
}

/** The factor on lr of a step that counts from 0. */
export type Schedule = (step: number) => number;

function define(
  op: string,
  options: ScheduleOptions,
  after: (step: number, warmup: number, total: number) => number,
  needsTotal: boolean,
): Schedule {
  checkOptions(op, options, ['totalSteps', 'warmupSteps', ...(op === 'cosineSchedule' ? ['numCycles'] : [])]);
  const { totalSteps, warmupSteps = 0 } = options;
  checkInteger(op, 'warmupSteps', warmupSteps);
  check(
    totalSteps !== undefined || !needsTotal,
    op,
    `expected totalSteps to be an integer but received ${describe(totalSteps)}`,
  );
  if (totalSteps !== undefined) checkInteger(op, 'totalSteps', totalSteps);
  return (step) => {
    checkInteger(op, 'step', step);
    if (step < warmupSteps) return step / Math.max(1, warmupSteps);
    return after(step, warmupSteps, totalSteps ?? 0);
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
  return define('constantSchedule', options, () => 1, false);
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
  const fall = (step: number, warmup: number, total: number): number =>
    Math.max(0, (total - step) / Math.max(1, total - warmup));
  return define('linearSchedule', options, fall, true);
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
  const fall = (step: number, warmup: number, total: number): number => {
    const t = (step - warmup) / Math.max(1, total - warmup);
    return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * numCycles * 2 * t)));
  };
  return define('cosineSchedule', options, fall, true);
}
