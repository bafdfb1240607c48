/** What a reader may do with an input: give something, or throw a LoRAError, soon, in little memory. */
import { inspect } from 'node:util';
import { LoRAError } from '../../lib/errors';

export const mostMilliseconds = 1000;
export const mostKibibytes = 256 * 1024;

/**
 * Runs a reader: the LoRAError that it throws, a sentence for a fault, undefined for neither. `baseline`: the peak of the process, in
 * kibibytes, before the inputs that are judged, or 0 where memory is not judged. Memory is judged only in a process that reads nothing
 * else, since a peak that other work has left hides the reader's own.
 */
export async function checkRun(
  run: () => unknown,
  baseline: number,
): Promise<LoRAError | string | undefined> {
  const before = process.cpuUsage();
  let thrown: unknown;
  try {
    await run();
  } catch (error) {
    thrown = error ?? 'nothing';
  }
  const { user, system } = process.cpuUsage(before);
  const took = (user + system) / 1000; // not what other processes take
  if (thrown !== undefined && !(thrown instanceof LoRAError))
    return `threw ${inspect(thrown).slice(0, 2000)}`;
  if (took > mostMilliseconds) return `took ${took.toFixed(0)} ms`;
  const { maxRSS } = process.resourceUsage();
  if (baseline > 0 && maxRSS - baseline > mostKibibytes) return `took ${maxRSS - baseline} KiB`;
  return thrown;
}
