/** What `train --resume` goes on with: the flags of the run, which need not be said again. */
import { runEnds } from '../train/options';
import { newestCheckpoint, optionsOfRun } from '../train/resume';
import { flagName, givenValues, standardOf } from './args';
import { UsageError, type AnyValues, type Command, type Flag } from './command';
import type { ConfigFile } from './config_file';

/** Where a run lies, and how it is shown: no part of it. */
const ofTheCall = new Set(['outDir', 'resume', 'config', 'json', 'help', 'offline']);

/** What a run may change when it goes on. Whether data and weights are the same, the Trainer sees from what they hold. */
const changeable = new Set<string>([
  ...['model', 'revision', 'data', 'evalData', 'device', 'gradientCheckpointing'],
  ...['evalEvery', 'saveEvery', 'saveLimit', 'keepBest', 'patience', 'report', 'log'],
  ...['distributed', 'distributedTimeout', 'distributedDtype'],
  ...runEnds,
]);

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

/** The flags of a run that are not as they would be without. */
export function flagsOfRun({ flags }: Pick<Command, 'flags'>, values: AnyValues): Record<string, unknown> {
  const own = Object.entries(values).filter(
    ([key, value]) => !ofTheCall.has(key) && value !== undefined && !same(value, standardOf(flags[key]!)),
  );
  return Object.fromEntries(own);
}

/** How a flag is written with a value. */
function written(key: string, value: unknown): string {
  const name = flagName(key);
  if (value === undefined) return `no --${name}`;
  if (typeof value === 'boolean') return `--${value ? '' : 'no-'}${name}`;
  const text = Array.isArray(value)
    ? value.join(',')
    : typeof value === 'string'
      ? value
      : JSON.stringify(value);
  return `--${name} ${text}`;
}

/**
 * Adds the flags of the run that --resume goes on with to those of a file, or changes nothing where no run is resumed.
 * @throws UsageError for a flag that differs.
 */
export async function withFlagsOfRun(
  name: string,
  command: Command,
  argv: readonly string[],
  file: ConfigFile | undefined,
): Promise<ConfigFile | undefined> {
  if (command.flags['resume'] === undefined) return file;
  const given = { ...file?.values, ...givenValues(name, command, argv) };
  if (given['resume'] !== true) return file;
  const { outDir = command.flags['outDir']?.default } = given;
  const dir = await newestCheckpoint(String(outDir));
  if (dir === undefined) return file;
  const { options, all } = await optionsOfRun(dir);
  const known = Object.entries(options).filter(
    ([key]) => Object.hasOwn(command.flags, key) && !ofTheCall.has(key),
  );
  const saved = Object.fromEntries(known);
  // Another number of ranks has other shares of the same step, which the Trainer compares.
  const shared = (given['distributed'] ?? saved['distributed']) !== undefined;
  const standard = (flag: Flag): unknown => (all ? standardOf(flag) : undefined);
  for (const [key, value] of Object.entries(given)) {
    if (ofTheCall.has(key) || changeable.has(key)) continue;
    if (shared && key === 'gradientAccumulationSteps') continue;
    const flag = command.flags[key];
    if (flag === undefined || (!all && saved[key] === undefined)) continue; // parse() names what is unknown
    const had = saved[key] ?? standard(flag);
    if (!same(had, value))
      throw new UsageError(
        `${dir} is of a run with ${written(key, had)} but received ${written(key, value)}: leave it out, or begin another run in a new --out-dir`,
      );
  }
  const ends: readonly string[] = runEnds.some((key) => given[key] !== undefined) ? runEnds : [];
  const kept = Object.entries(saved).filter(([key]) => !ends.includes(key));
  const where = (key: string): string => (file && Object.hasOwn(file.values, key) ? file.where(key) : dir);
  return { path: dir, values: { ...Object.fromEntries(kept), ...file?.values }, where };
}
