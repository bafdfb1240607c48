/** The names of the logs of a run. */
import { check, describe, isListOf } from '../../validate';

/** What a run may be logged as: event files in `outDir/tensorboard`, or lines in `outDir/log.jsonl`. */
export type LogName = 'tensorboard' | 'jsonl';
const logNames: readonly LogName[] = ['tensorboard', 'jsonl'];

/** @throws ERR_ARGUMENT for a name that is none. */
export function checkLogs(op: string, given: unknown): readonly LogName[] {
  const names: unknown = given ?? [];
  check(
    isListOf(names, (name) => logNames.includes(name as LogName)),
    op,
    () => `expected log to be a list of ${logNames.join(', ')} but received ${describe(given)}`,
  );
  return [...new Set(names as LogName[])];
}
