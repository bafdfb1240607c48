// What the kinds that measure whole models share: their processes.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from '../providers/worker.mjs';

export const processes = join(dirname(fileURLToPath(import.meta.url)), '../processes');

/** Starts one of our own processes. */
export const startOurs = (name, settings) =>
  Worker.start(`processes/${name}`, process.execPath, [join(processes, name), JSON.stringify(settings)]);

/** Asks the workers in turns; answers the list of each one's answers by name. */
export async function inTurns(workers, requestOf, { rounds, gap }) {
  const answers = new Map([...workers.keys()].map((name) => [name, []]));
  for (let round = 0; round < rounds; round++)
    for (const [name, worker] of workers) {
      await sleep(gap);
      answers.get(name).push(await worker.ask(requestOf(name, round)));
    }
  return answers;
}

export async function stopAll(workers) {
  for (const worker of workers.values()) await worker.stop();
}
