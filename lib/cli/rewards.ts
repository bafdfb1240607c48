/** The functions of --rewards. */
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { RewardFunction } from '../train/objectives/grpo_settings';
import { UsageError } from './command';

const isFunction = (value: unknown): value is RewardFunction => typeof value === 'function';

/** The functions that a module exports: its default, one or a list, else those that have names. */
export async function readRewards(file: string): Promise<RewardFunction[]> {
  const own = (await import(pathToFileURL(resolve(file)).href).catch((cause: unknown) => {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UsageError(`--rewards ${file} cannot be read: ${reason}`);
  })) as Record<string, unknown>;
  const { default: given, ...named } = own;
  const found = given === undefined ? Object.values(named) : [given].flat();
  const functions = found.filter(isFunction);
  if (functions.length > 0 && functions.length === found.length) return functions;
  throw new UsageError(
    `expected --rewards ${file} to export functions: export const short = ({ completion }) => -completion.length`,
  );
}
