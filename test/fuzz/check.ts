/** What a reader may do with an input: give something, or throw a LoRAError, soon, in little memory. */
import { inspect } from 'node:util';
import { LoRAError } from '../../lib/errors';
import { peakProcessBytes } from '../../lib/native/peak_memory';

export const maxMilliseconds = 1000;
export const maxKibibytes = 256 * 1024;
/** Runs of an input that takes too long before it is a fault: on a busy machine one run takes several times its CPU time. */
const runs = 3;

/** The peak of the memory of this process, in kibibytes. */
export const peakKibibytes = (): number => (peakProcessBytes() ?? 0) / 1024;

/**
 * Runs a reader: the LoRAError that it throws, a sentence for a fault, undefined for neither. `baseline`: the peak of the process, in
 * kibibytes, before the inputs that are judged, or 0 where memory is not judged. Memory is judged only in a process that reads nothing
 * else, since a peak that other work has left hides the reader's own. Time is a fault where each of three runs takes too long.
 */
export async function checkRun(
  run: () => unknown,
  baseline: number,
): Promise<LoRAError | string | undefined> {
  for (let count = 1; ; count++) {
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
    // Memory comes before time, because the system takes long to give so much of it on a busy machine.
    const grown = baseline > 0 ? peakKibibytes() - baseline : 0;
    if (grown > maxKibibytes) return `took ${grown} KiB`;
    if (took <= maxMilliseconds) return thrown;
    if (count === runs) return `took ${took.toFixed(0)} ms`;
  }
}
