// How long the event loop waits while a model trains, and while it generates: one process per case, a table and JSON.
//
//   node benchmarks/event_loop.mjs [--model DIR] [--filter train] [--library DIR] [--out FILE]
//
// MODEL defaults to SmolLM2-135M in the cache of the tests. The cases are those of `event_loop` in cases.json. --library measures another
// build of the package, for a comparison in one run: give it twice, and each case runs with both. Columns:
//   p50, p99, max   lateness in ms of a timer of 1 ms, without the time in which the thread waited for a core (Linux)
//   node p99, max   of perf_hooks.monitorEventLoopDelay, which counts that time too
//   starved         how often a timer of 10 ms came more than 20 ms late, of how many times
//   js              ms of CPU of JavaScript's thread, per step or token;  cpu: of all threads
//   gc              mark-compact collections, and the longest in ms
//   abort           tokens that a stream gave after another thread had sent the wish to abort it
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, homedir, loadavg } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { watched } from './loop_watch.mjs';
import { resultsText } from './report/results_text.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: join(homedir(), '.cache/lora-native-test/smollm2-135m') },
    filter: { type: 'string', default: '' },
    library: { type: 'string', multiple: true, default: [join(here, '..')] },
    out: { type: 'string' },
    child: { type: 'string' }, // the case that this process measures, as JSON
  },
});

const title = ({ do: what, batchSize, length, streams, prompt }) =>
  what === 'train' ? `train ${batchSize} × ${length}` : `generate ${streams} × ${prompt} +`;

async function train({ Trainer }, model, { batchSize, length, steps }) {
  model.addAdapter({ r: 16, targetModules: 'all-linear' });
  const row = (seed) => Array.from({ length }, (_, i) => 1000 + ((i * 31 + seed * 977) % 20000));
  const data = Array.from({ length: batchSize * (steps + 1) }, (_, i) => ({ inputIds: row(i) }));
  const run = async (maxSteps) => {
    await new Trainer({ model, data, batchSize, maxSteps }).run();
    return maxSteps;
  };
  await run(1); // makes the layouts for gradients, and takes the memory
  const figures = await watched(() => run(steps));
  return { ...figures, perSecond: (figures.count * batchSize * length * 1000) / figures.wall };
}

async function generate(_, model, { streams, prompt, tokens }) {
  const ids = (seed) => Array.from({ length: prompt }, (_, i) => 1000 + ((i * 31 + seed * 977) % 20000));
  const stream = async (seed, settings = {}, seen = () => {}) => {
    let count = 0;
    const wanted = { maxNewTokens: tokens, temperature: 0, ignoreEos: true, ...settings };
    for await (const token of model.generate(ids(seed), wanted)) seen(++count, token);
    return count;
  };
  const all = async (count) => (await Promise.all(Array.from({ length: count }, (_, i) => stream(i)))).length;
  await all(1);
  const figures = await watched(async () => (await all(streams)) * tokens);

  // The wish to abort comes from another thread, as that of a client comes from the network.
  const client = new Worker(
    `const { parentPort } = require('node:worker_threads');
     parentPort.on('message', () => setTimeout(() => parentPort.postMessage(Date.now()), 20));`,
    { eval: true },
  );
  const stop = new AbortController();
  const arrivals = [];
  const sent = new Promise((done) => client.once('message', (time) => (stop.abort(), done(time))));
  const others = Array.from({ length: streams - 1 }, (_, i) => stream(i + 1));
  const aborted = stream(0, { signal: stop.signal }, (count) => {
    arrivals.push(Date.now());
    if (count === 3) client.postMessage('go');
  });
  await aborted.catch((error) => {
    if (error !== stop.signal.reason) throw error;
  });
  const time = await sent;
  await Promise.all(others);
  await client.terminate();
  const abort = arrivals.filter((arrival) => arrival > time).length;
  return { ...figures, abort, perSecond: (figures.count * 1000) / figures.wall };
}

if (options.child) {
  const { library, ...settings } = JSON.parse(options.child);
  const lora = createRequire(join(library, 'package.json'))(join(library, 'dist/index.js'));
  const model = await lora.CausalLM.fromPretrained(options.model);
  const figures = await (settings.do === 'train' ? train : generate)(lora, model, settings);
  console.log(JSON.stringify({ ...figures, load: loadavg()[0] }));
  process.exit(0);
}

const { event_loop: cases } = JSON.parse(readFileSync(join(here, 'cases.json'), 'utf8'));
const results = [];
const number = (x, digits = 1) => (x === undefined ? '' : x.toFixed(digits)).padStart(8);
const columns = ['p50', 'p99', 'max', 'node p99', 'node max', 'starved', 'tok/s', 'js', 'cpu', 'gc', 'abort'];
console.log(`${'case'.padEnd(30)}${columns.map((name) => name.padStart(9)).join('')}     load`);
for (const settings of cases.filter((c) => title(c).includes(options.filter)))
  for (const [build, path] of options.library.entries()) {
    const child = JSON.stringify({ ...settings, library: resolve(path) });
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      [fileURLToPath(import.meta.url), '--model', options.model, '--child', child],
      { encoding: 'utf8', maxBuffer: 1 << 26 },
    );
    if (status !== 0) throw new Error(`${title(settings)} failed: ${stderr}`);
    const r = JSON.parse(stdout);
    // Builds by their number: a path says nothing on another machine.
    results.push({ ...settings, ...(options.library.length > 1 && { build }), ...r });
    const cells = [r.p50, r.p99, r.max, r.nodeP99, r.nodeMax].map((x) => number(x));
    cells.push(`${r.starved}/${r.ticks}`.padStart(8), number(r.perSecond), number(r.js), number(r.cpu));
    cells.push(
      `${r.collections}:${r.longestCollection.toFixed(0)}`.padStart(8),
      number(r.abort, 0),
      number(r.load),
    );
    const name = title(settings) + (settings.tokens ? ` ${settings.tokens}` : '');
    console.log(name.padEnd(30) + cells.join(' '));
  }
const report = {
  date: new Date().toISOString(),
  cpu: cpus()[0]?.model,
  node: process.version,
  threads: Number(process.env.LORA_THREADS ?? availableParallelism()),
  model: basename(resolve(options.model)),
  results,
};
if (options.out) writeFileSync(options.out, resultsText(report));
else console.log(JSON.stringify(report));
