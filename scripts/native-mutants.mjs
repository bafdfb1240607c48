// Mutation tests of native code: puts single faults into it and tells which ones no test notices.
//
//   node scripts/native-mutants.mjs [FILES…] [options]      default files: those of native/ that differ from main
//     --count N      how many faults (default 20)          --seed S      which ones (default 1)
//     --list         print them, and run nothing           --minutes M   begin none after so long
//     --retry        run again those that survived         --threshold P fail below a score of P percent
//     --jobs N       of the compiler                        --no-node     leave out the tests in JavaScript
//
// Works in a copy with a build tree of its own, build/mutants/; the checkout is only read. Faults that were tried are kept in
// build/mutants/results.json, so that a run that was cut off goes on where it ended. build/mutants/report.md is the table.
// A fault counts as noticed when a test fails, crashes or takes far longer than without it. Three kinds count for nothing: one that
// does not compile, one in a file of another system or build, and one whose id is in docs/internals/mutation.md, where survivors that
// are accepted say why.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { cudaBuild } from './cuda-build.mjs';
import { apply, pick, propose } from './mutate-cpp.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    minutes: { type: 'string', default: 'Infinity' },
    threshold: { type: 'string', default: '0' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    list: { type: 'boolean', default: false },
    retry: { type: 'boolean', default: false },
    'no-node': { type: 'boolean', default: false },
  },
});
const number = (name) => {
  const value = Number(options[name]);
  if (Number.isNaN(value) || value < 0)
    throw new Error(`expected --${name} to be a number but received ${options[name]}`);
  return value;
};
const [count, seed, minutes, threshold] = ['count', 'seed', 'minutes', 'threshold'].map(number);

function git(...args) {
  const { status, stdout, stderr } = spawnSync('git', args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  if (status !== 0) throw new Error(`git ${args.join(' ')}: ${stderr}`);
  return stdout.split('\0').filter((line) => line !== '');
}

// ---- which faults -----------------------------------------------------------------------------------------------------

function sources() {
  const source = (file) => /\.(cc|h|cu|cuh)$/.test(file);
  const product = (file) => source(file) && !/^native\/(test|simt)\//.test(file);
  if (positionals.length === 0) {
    const base = spawnSync('git', ['merge-base', 'main', 'HEAD'], {
      cwd: root,
      encoding: 'utf8',
    }).stdout.trim();
    const files =
      base === '' ? [] : git('diff', '--name-only', '--diff-filter=d', '-z', base, '--', 'native');
    return files.filter(product);
  }
  const all = git('ls-files', '-z', '-co', '--exclude-standard', '--', 'native');
  return positionals.flatMap((given) => {
    const file = relative(root, resolve(given));
    const inside = all.filter((one) => one.startsWith(`${file}/`) && product(one));
    if (inside.length === 0 && !(existsSync(join(root, file)) && lstatSync(join(root, file)).isFile()))
      throw new Error(`expected a source, or a folder of sources in native/, but received ${given}`);
    return inside.length > 0 ? inside : [file];
  });
}

const files = [...new Set(sources())].sort();
const texts = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]));
const proposals = new Map();
for (const [file, text] of texts) {
  const lines = text.split('\n');
  const seen = new Map();
  proposals.set(
    file,
    propose(text).map((mutant) => {
      // Stays the same while its line does, wherever the line goes.
      const place = `${file}\n${lines[mutant.line - 1].trim()}\n${mutant.before}\n${mutant.after}`;
      const nth = seen.get(place) ?? 0;
      seen.set(place, nth + 1);
      return { ...mutant, id: createHash('sha256').update(`${place}\n${nth}`).digest('hex').slice(0, 8) };
    }),
  );
}
const picked = pick(proposals, count, seed);
const oneLine = (text) => text.replace(/\s+/g, ' ').slice(0, 90);
const describe = (m) =>
  `${m.file}:${m.line} ${m.id} ${m.kind}: \`${oneLine(m.before)}\` → \`${oneLine(m.after)}\``;

if (options.list || picked.length === 0) {
  if (files.length === 0) console.log('no source in native/ differs from main');
  for (const mutant of picked) console.log(describe(mutant));
  const total = [...proposals.values()].reduce((sum, list) => sum + list.length, 0);
  console.log(`${picked.length} of ${total} faults in ${files.length} files`);
  process.exit(0);
}

// ---- the copy ---------------------------------------------------------------------------------------------------------

const work = join(root, 'build/mutants');
const tree = join(work, 'tree');
const build = join(tree, 'build/cmake');

// Files that are as they were keep their time, so that little is built again.
function writeChanged(path, content) {
  if (existsSync(path) && readFileSync(path).equals(content)) return;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

function synchronize() {
  const wanted = new Set();
  for (const file of git('ls-files', '-z', '-co', '--exclude-standard')) {
    if (!existsSync(join(root, file)) || !lstatSync(join(root, file)).isFile()) continue;
    wanted.add(file);
    writeChanged(join(tree, file), readFileSync(join(root, file)));
  }
  const remove = (folder) => {
    for (const entry of readdirSync(join(tree, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (path === 'build' || path === 'node_modules') continue;
      if (entry.isDirectory()) remove(path);
      else if (!wanted.has(path)) rmSync(join(tree, path));
    }
  };
  remove('');
  if (!existsSync(join(tree, 'node_modules')))
    symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'));
}

let running;
for (const signal of ['SIGINT', 'SIGTERM'])
  process.on(signal, () => {
    if (running) kill(running);
    process.exit(130);
  });
function kill(child) {
  try {
    process.kill(-child.pid, 'SIGKILL'); // with all that it started
  } catch {
    // it has ended
  }
}

// { status, late, seconds, output }; in the copy, in a process group of its own.
function run(command, args, seconds, env = {}) {
  return new Promise((done) => {
    const begin = Date.now();
    const child = spawn(command, args, { cwd: tree, detached: true, env: { ...process.env, ...env } });
    running = child;
    let output = '';
    let late = false;
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data) => (output = (output + data).slice(-20_000)));
    const timer = setTimeout(() => {
      late = true;
      kill(child);
    }, seconds * 1000);
    const end = (status) => {
      clearTimeout(timer);
      running = undefined;
      done({ status, late, seconds: (Date.now() - begin) / 1000, output });
    };
    child.on('error', (error) => {
      output += error.message;
      end(-1);
    });
    child.on('close', (status) => end(status ?? -1));
  });
}

// ---- tests ------------------------------------------------------------------------------------------------------------

const jest = (...args) => ({
  command: process.execPath,
  args: ['node_modules/jest/bin/jest.js', '-w', options.jobs, '--bail', ...args],
});
// The add-on as a whole, the slowest last; a target of the build, and what it takes to run it.
const nodeTests = [
  {
    name: 'jest ops',
    target: 'lora_native',
    ...jest(
      'test/numerics',
      'test/unit/(adamw|autograd|checkpoint|lora_linear|optimizers|poison|safetensors|scope|tensor)',
    ),
  },
  { name: 'jest model', target: 'lora_native', ...jest('test/e2e/model_(forward|generate)') },
  { name: 'jest lifecycle', target: 'lora_native', ...jest('test/lifecycle') },
];
const emulatedTests = [
  {
    name: 'jest cuda',
    target: 'lora_native_emulated',
    ...jest('test/e2e/cuda_(emulated|serving)'),
  },
];

// Every test of ctest, with the program that it is in. One that this build leaves out runs CMake, which prints why.
function programs() {
  const { status, stdout, stderr } = spawnSync('ctest', ['--test-dir', build, '--show-only=json-v1'], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  if (status !== 0) throw new Error(`ctest: ${stderr}`);
  return JSON.parse(stdout)
    .tests.filter(({ properties }) => !properties.some(({ name }) => name === 'SKIP_REGULAR_EXPRESSION'))
    .map(({ name, properties }) => ({
      name,
      target: properties.find((property) => property.name === 'LABELS')?.value[0] ?? name,
      command: 'ctest',
      args: ['--test-dir', build, '-R', `^${name}$`, '--output-on-failure'],
    }));
}

const stem = (name) =>
  name
    .replace(/^(core|reference|cpu|support|cuda|simt|driver)_/, '')
    .replace(/(_test|-inl)$/, '')
    .replace(/_(backward|forward|plan|rows|tasks|factors|kernels|shape)$/, '');

// The tests that can see a fault in a file, nearest first: each stage is built when the one before has not noticed it.
function stagesOf(file, all) {
  const node = options['no-node'] ? [] : nodeTests;
  const emulated = options['no-node'] ? [] : emulatedTests;
  if (file.startsWith('native/node/')) return node.map((test) => [test]);
  const area = file.split('/')[2];
  const device = (name) => /^(cuda|simt|driver|gpu)_/.test(name);
  const sees =
    {
      cuda: (name) => device(name),
      cpu: (name) => !device(name),
      no_cuda: (name) => !device(name),
      reference: (name) => !name.startsWith('driver_'),
      core: (name) => !device(name), // which is linked into everything: the nearest are enough
    }[file.startsWith('native/core/') ? 'core' : area] ?? (() => true);
  const own = stem(basename(file).replace(/\.\w+$/, ''));
  const near = (name) => stem(name).startsWith(own) || own.startsWith(stem(name));
  const seen = all.filter(({ name }) => sees(name));
  const stages = [seen.filter(({ name }) => near(name)), seen.filter(({ name }) => !near(name))];
  const rest = file.includes('/cuda/') ? emulated : node;
  return [...stages, ...rest.map((test) => [test])].filter((stage) => stage.length > 0);
}

// ---- the run ----------------------------------------------------------------------------------------------------------

const resultsFile = join(work, 'results.json');
const timesFile = join(work, 'times.json');
const read = (file) => (existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {});

function save(results) {
  writeFileSync(resultsFile, JSON.stringify(results, null, 1));
  const accepted = acceptedIds();
  const rows = Object.entries(results)
    .sort(([, a], [, b]) => (a.file < b.file ? -1 : a.file > b.file ? 1 : a.line - b.line))
    .map(
      ([id, r]) =>
        `| ${r.file}:${r.line} | ${id} | ${r.kind} | \`${cell(r.before)}\` | \`${cell(r.after)}\` | ${accepted.has(id) && r.outcome === 'survived' ? 'accepted' : r.outcome} | ${r.by ?? ''} |`,
    );
  const head = '| place | id | kind | code | fault | outcome | by |\n|---|---|---|---|---|---|---|';
  writeFileSync(join(work, 'report.md'), `${head}\n${rows.join('\n')}\n`);
}
const cell = (text) => oneLine(text).replaceAll('|', '\\|').replaceAll('`', "'");
function acceptedIds() {
  const file = join(root, 'docs/internals/mutation.md');
  return new Set(existsSync(file) ? readFileSync(file, 'utf8').match(/\b[0-9a-f]{8}\b/g) : []);
}

async function must(what, result) {
  const { status, output } = await result;
  if (status !== 0) throw new Error(`${what} fails without any fault:\n${output.slice(-4000)}`);
}

// Where a test has not run yet without a fault, it does now: its time is the measure of what takes too long.
async function baseline(stage, times) {
  const missing = stage.filter(({ name }) => times[name] === undefined);
  if (missing.length === 0) return;
  await must('the build', buildTargets(missing));
  for (const test of missing) {
    const result = await run(test.command, test.args, 1800);
    await must(test.name, result);
    times[test.name] = result.seconds;
    writeFileSync(timesFile, JSON.stringify(times, null, 1));
  }
}

function buildTargets(tests) {
  const targets = [...new Set(tests.map(({ target }) => target))];
  return run('cmake', ['--build', build, '--parallel', options.jobs, '--target', ...targets], 3600);
}

async function outcomeOf(mutant, all, times) {
  const path = join(tree, mutant.file);
  const original = texts.get(mutant.file);
  let compiled = false;
  try {
    for (const stage of stagesOf(mutant.file, all)) {
      writeFileSync(path, original);
      await baseline(stage, times);
      writeFileSync(path, apply(original, mutant));
      const built = await buildTargets(stage);
      if (built.late) throw new Error(`the build of ${mutant.file} takes more than an hour`);
      if (built.status !== 0) return { outcome: 'does not compile' };
      compiled ||= !built.output.includes('ninja: no work to do');
      if (!compiled) continue; // no program so far has the file in it
      for (const test of [...stage].sort((a, b) => times[a.name] - times[b.name])) {
        const result = await run(test.command, test.args, 60 + 10 * times[test.name]);
        if (result.late) return { outcome: 'noticed', by: `${test.name} (too slow)` };
        if (result.status !== 0) return { outcome: 'noticed', by: test.name };
      }
    }
    return { outcome: compiled ? 'survived' : 'not in this build' };
  } finally {
    writeFileSync(path, original);
  }
}

synchronize();
const cmakeJs = [
  'node_modules/cmake-js/bin/cmake-js',
  'configure',
  '--out',
  'build/cmake',
  '--CDLORA_TESTS=ON',
  '--CDLORA_FAULTS=ON',
  '--CDLORA_UNITY=OFF', // a fault is in one file
  ...cudaBuild(process.env.LORA_CUDA_BUILD).definitions.map((one) => one.replace('-D', '--CD')),
];
await must('cmake', run(process.execPath, cmakeJs, 600));
if (!options['no-node']) await must('build:js', run('npm', ['run', '--silent', 'build:js'], 600));
const all = programs();
const results = read(resultsFile);
const times = read(timesFile);
const begin = Date.now();
for (const [i, mutant] of picked.entries()) {
  const before = results[mutant.id];
  if (before !== undefined && !(options.retry && before.outcome === 'survived')) continue;
  if (Date.now() - begin > minutes * 60_000) break;
  const start = Date.now();
  const outcome = await outcomeOf(mutant, all, times);
  results[mutant.id] = {
    file: mutant.file,
    line: mutant.line,
    kind: mutant.kind,
    before: mutant.before,
    after: mutant.after,
    ...outcome,
  };
  save(results);
  console.log(
    `${i + 1}/${picked.length} ${outcome.outcome}${outcome.by ? ` by ${outcome.by}` : ''}, ${((Date.now() - start) / 1000).toFixed(0)} s: ${describe(mutant)}`,
  );
}
save(results);

const accepted = acceptedIds();
const tried = picked.filter(({ id }) => results[id] !== undefined);
const tally = (outcome) => tried.filter(({ id }) => results[id].outcome === outcome).length;
const survivors = tried.filter(({ id }) => results[id].outcome === 'survived' && !accepted.has(id));
const noticed = tally('noticed');
const score = noticed + survivors.length === 0 ? 100 : (100 * noticed) / (noticed + survivors.length);
for (const mutant of survivors) console.log(`survived: ${describe(mutant)}`);
console.log(
  `${tried.length} of ${picked.length} tried: ${noticed} noticed, ${survivors.length} survived, ${tally('survived') - survivors.length} accepted, ` +
    `${tally('does not compile')} do not compile, ${tally('not in this build')} not in this build; score ${score.toFixed(1)}%`,
);
if (tried.length === picked.length && score < threshold) process.exitCode = 1;
