// Training, generation, saving, loading and disposing at random, in four threads, while allocations and ops fail, models
// are disposed of under running work and threads are ended half-way:  node scripts/stress.mjs [--minutes 10] [--workers 4] [--seed N]
// Every result must be that of a calm run, and every error one of those that are allowed. Needs a build (npm run build).
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { clearInterval, setInterval } from 'node:timers';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: flags } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    workers: { type: 'string', default: '4' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
const minutes = Number(flags.minutes);
const program = new URL('stress/worker.mjs', import.meta.url);
const folder = mkdtempSync(join(tmpdir(), 'lora-stress-'));
let seed = Number(flags.seed);
console.log(`seed ${seed}, ${flags.workers} threads, ${minutes} minutes`);

const faults = [];
const totals = {};
let ended = 0;

/** Runs a worker to its end, or until it is terminated; gives what it said last. */
function run(data, { terminateAfter } = {}) {
  const worker = new Worker(program, { workerData: { root, folder, ...data } });
  let last;
  let terminated = false;
  const timer =
    terminateAfter === undefined
      ? undefined
      : setTimeout(() => {
          terminated = true;
          void worker.terminate();
        }, terminateAfter);
  return new Promise((done) => {
    worker.on('message', (message) => {
      last = message;
      if (message.type === 'fault') {
        faults.push(message);
        console.error(`FAULT ${message.what} (seed ${message.seed}): ${message.detail}`);
      } else if (message.type === 'counts') {
        for (const [key, n] of Object.entries(message.counts)) totals[key] = (totals[key] ?? 0) + n;
      }
    });
    worker.on('error', (error) => faults.push({ what: 'a worker failed', detail: error.stack }));
    worker.on('exit', (code) => {
      clearTimeout(timer);
      if (terminated) ended++;
      else if (code !== 0) faults.push({ what: 'a worker ended', detail: `with ${code}` });
      done(last);
    });
  });
}

const calm = await run({ seed: 0, calm: true });
if (calm?.type !== 'calm') {
  console.error('the calm run did not end');
  process.exit(1);
}
const { known, values: expected } = calm;
console.log(`calm run: ${Object.keys(expected).length} results`);

const begin = Date.now();
const until = begin + minutes * 60_000;
const seats = Array.from({ length: Number(flags.workers) }, async (_, seat) => {
  while (Date.now() < until && faults.length < 20) {
    // One in three is ended at some moment; the others go on until they have rested several times.
    const terminateAfter = seed++ % 3 === seat % 3 ? 3_000 + ((seed * 7919) % 30_000) : undefined;
    const share = terminateAfter === undefined ? 60_000 : 120_000;
    await run({ seed, expected, known, until: Math.min(until, Date.now() + share) }, { terminateAfter });
  }
});
const ticker = setInterval(() => {
  const done = Object.values(totals).reduce((sum, n) => sum + n, 0);
  const rss = Math.round(process.memoryUsage().rss / 2 ** 20);
  console.log(
    `${Math.round((Date.now() - begin) / 1000)} s: ${done} deeds, ${faults.length} faults, ${rss} MiB`,
  );
}, 30_000);
await Promise.all(seats);
clearInterval(ticker);
rmSync(folder, { recursive: true, force: true });

const table = {};
for (const [key, n] of Object.entries(totals)) {
  const [name, ...outcome] = key.split(' ');
  (table[name] ??= {})[outcome.join(' ')] = n;
}
console.table(table);
const sum = (outcome) => Object.values(table).reduce((total, row) => total + (row[outcome] ?? 0), 0);
console.log(
  `stress: ${sum('right') + sum('right, calm')} right, ${sum('out of memory')} out of memory, ${sum('failed op')} failed ops, ` +
    `${sum('disposed')} disposed, ${sum('busy')} busy, ${ended} threads ended, ${faults.length} faults`,
);
process.exitCode = faults.length > 0 ? 1 : 0;
