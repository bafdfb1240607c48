// What the kinds that measure whole models share: their processes.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from '../providers/worker.mjs';
import { inRounds } from '../stats.mjs';

export const processes = join(dirname(fileURLToPath(import.meta.url)), '../processes');

/** Starts one of our own processes. */
export const startOurs = (name, settings) =>
  Worker.start(`processes/${name}`, process.execPath, [join(processes, name), JSON.stringify(settings)]);

/** Asks the workers in turns; answers the list of each one's answers by name, and what `ceiling` measured around the first one. */
export async function inTurns(workers, requestOf, settings, ceiling) {
  const answers = new Map([...workers.keys()].map((name) => [name, []]));
  const turns = [...workers].map(([name, worker]) => async (round) => {
    answers.get(name).push(await worker.ask(requestOf(name, round)));
  });
  return { answers, ceilings: await inRounds(turns, settings, ceiling) };
}

export async function stopAll(workers) {
  for (const worker of workers.values()) await worker.stop();
}
