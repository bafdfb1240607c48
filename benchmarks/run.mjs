// npm run bench: everything that this machine can run, ours and its rivals interleaved, and what was left out and why.
//
//   npm run bench -- --filter 'bf16 m=512'   cases whose id has all the words; give it twice for either
//   npm run bench -- --quick                 the most telling cases, in at most 3 minutes; the whole run takes at most 30
//   npm run bench -- --list                  the ids alone
//   npm run bench -- --json                  the results on stdout, the table on stderr
//   npm run bench -- --profile [--dtype bf16] [--shape 1x512] [--steps 3]: where a training step spends its time
//   npm run bench -- --profile --decode 16 [--dtype bf16]: where a token does that is written after a prompt of 16
//
// docs/internals/benchmarks.md explains every row. All options: the table below.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { setThreads } from 'lora-native';
import { allCases, quickCases } from './kinds/all.mjs';
import { Ceilings, defaultThreads, facts } from './machine.mjs';
import { findModel } from './models.mjs';
import { profileDecode, profileSteps } from './profile.mjs';
import { findPython, Rival } from './providers/rival.mjs';
import { chart } from './report/chart.mjs';
import { ratios } from './report/numbers.mjs';
import { isQuiet } from './report/readme.mjs';
import { resultsText } from './report/results_text.mjs';
import { legend, Table } from './report/table.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const { values: options, tokens } = parseArgs({
  tokens: true,
  options: {
    filter: { type: 'string', multiple: true, default: [] },
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    minutes: { type: 'string' }, // after which no other case begins
    threads: { type: 'string', default: String(defaultThreads()) },
    'no-rivals': { type: 'boolean', default: false },
    'no-compile': { type: 'boolean', default: false },
    model: { type: 'string' }, // the folder of SmolLM2-135M
    'model-1b': { type: 'string' }, // the folder that ../shared/baselines/make_1b.py made
    openblas: { type: 'string' }, // the path of libopenblas
    out: { type: 'string', default: join(here, 'results/local-bench.json') },
    profile: { type: 'boolean', default: false },
    dtype: { type: 'string', default: 'bf16' },
    shape: { type: 'string', default: '1x512' },
    steps: { type: 'string', default: '3' },
    decode: { type: 'string' }, // the length of a prompt
  },
});
const threads = Number(options.threads);
const print = options.json ? console.error : console.log;
const given = { 'SmolLM2-135M': options.model, 'shape of Llama-3.2-1B': options['model-1b'] };
setThreads(threads);

if (options.profile) {
  const [batch, length] = options.shape.split('x').map(Number);
  const { dir, reason } = findModel('SmolLM2-135M', given);
  if (!dir) throw new Error(reason);
  const { dtype, json } = options;
  if (options.decode) {
    await profileDecode({ model: dir, dtype, prompt: Number(options.decode), json });
  } else {
    await profileSteps({ model: dir, dtype, batch, length, json, count: Number(options.steps) });
  }
  process.exit(0);
}

/** Whether one of the filters has only words that the case has. */
const taken = ({ kind, id }) =>
  options.filter.length === 0 ||
  options.filter.some((filter) => filter.split(/\s+/).every((word) => `${kind} ${id}`.includes(word)));
const definitions = JSON.parse(readFileSync(join(here, 'cases.json'), 'utf8'));
const cases = (options.quick ? quickCases(definitions) : allCases(definitions)).filter(taken);
if (options.list) {
  for (const { kind, id } of cases) console.log(`${kind}  ${id}`);
  process.exit(0);
}

const begun = performance.now();
const load = [loadavg()[0]];
const ceilings = await Ceilings.start(threads);
const table = new Table(print);
const leftOut = [];
const failures = [];
const rows = [];
const gap = 50; // ms between providers, in which the spinning threads of one fall asleep
const rounds = options.rounds === undefined ? undefined : Number(options.rounds);
const bench = {
  threads,
  quick: options.quick,
  ceilings,
  settings: { rounds: rounds ?? (options.quick ? 3 : 5), budget: options.quick ? 0.05 : 0.1, gap },
  stepSettings: { rounds: rounds ?? (options.quick ? 2 : 5), gap: 200 },
  noRivals: options['no-rivals'] ? '--no-rivals' : undefined,
  noCompile: options['no-compile'] ? '--no-compile' : options.quick ? '--quick' : undefined,
  reasons: {},
  add(row) {
    rows.push(row);
    table.add(row);
  },
  leaveOut(what, why) {
    leftOut.push({ what, why });
  },
};

/** Starts a rival, or says why there is none. */
async function rival(name, start) {
  try {
    if (bench.noRivals) throw new Error(bench.noRivals);
    bench[name] = await start();
  } catch (error) {
    bench.reasons[name] = error.message;
    bench.leaveOut(name, error.message);
  }
}
await rival('torch', async () => {
  const python = findPython('import torch');
  if (!python)
    throw new Error(
      'no python3 with torch was found: set LORA_PYTHON (../shared/baselines/setup-torch.sh makes one)',
    );
  bench.python = python;
  return Rival.start('torch_worker.py', python, threads);
});
await rival('openblas', async () => {
  const python = findPython();
  if (!python) throw new Error('it is called from Python, and no python3 was found');
  return Rival.start('openblas_worker.py', python, threads, options.openblas ? [options.openblas] : []);
});
for (const what of ['f32', 'bf16', 'read']) await ceilings.of(what, 300)?.();
if (ceilings.reason) bench.leaveOut("the machine's ceilings", ceilings.reason);

const about = facts(threads);
const { f32, bf16, read } = ceilings.best;
print(
  `${about.machine.cpu}, ${about.machine.instructions}, ${threads} threads; lora-native ${about.versions['lora-native']} ${about.commit ?? ''}`,
);
for (const name of ['torch', 'openblas'])
  if (bench[name]) print(`${name}: ${JSON.stringify(bench[name].info)}`);
if (f32) print(`ceilings: ${f32} GFLOP/s f32, ${bf16} bf16, ${read} GB/s`);
if (!isQuiet({ load, ...about }))
  print(`other programs are at work (load ${load[0].toFixed(2)}): figures will be noisy`);

const minutes = Number(options.minutes ?? (options.quick ? 3 : 30));
// Where the program that measures ceilings was built first, that alone may have taken longer.
const firstCase = performance.now();
for (const [place, testCase] of cases.entries()) {
  if (place > 0 && performance.now() - firstCase > minutes * 60e3) {
    bench.leaveOut(testCase.id, `the run had taken its ${minutes} minutes (--minutes)`);
    continue;
  }
  try {
    await testCase.run(testCase, bench, given);
  } catch (error) {
    failures.push({ case: testCase.id, error: error.message });
    print(`FAILED ${testCase.id}: ${error.message}`);
  }
}
await bench.torch?.stop();
await bench.openblas?.stop();
await ceilings.stop();
load.push(loadavg()[0]);

for (const { what, why } of leftOut) print(`left out: ${what}: ${why}`);
/** Without what says where files of this machine lie. */
const flags = tokens
  .filter(({ name }) => !['out', 'model', 'model-1b', 'openblas'].includes(name))
  .map(({ name, value = '' }) => `--${name}${/^\w*$/.test(value) ? ` ${value}` : ` '${value}'`}`.trimEnd());
const command = ['npm run bench', ...(flags.length > 0 ? ['--', ...flags] : [])].join(' ');
const results = {
  schema: 2,
  command,
  ...about,
  rivals: Object.fromEntries(['torch', 'openblas'].filter((n) => bench[n]).map((n) => [n, bench[n].info])),
  ceilings: ceilings.best,
  load,
  settings: { steps: bench.stepSettings, calls: bench.settings },
  seconds: Math.round((performance.now() - begun) / 1000),
  rows: rows.map((row) => ({ ...row, ratios: ratios(row) })),
  ...(bench.cublas && { cublas: bench.cublas }),
  leftOut,
  failures,
};
mkdirSync(dirname(options.out), { recursive: true });
const text = resultsText(results);
writeFileSync(options.out, text);
writeFileSync(options.out.replace(/(\.json)?$/, '.svg'), chart(results));
if (options.json) console.log(JSON.stringify(JSON.parse(text)));
print(`\n${legend}\n${rows.length} rows in ${results.seconds} s, written to ${options.out}`);
if (failures.length > 0) process.exitCode = 1;
process.exit();
