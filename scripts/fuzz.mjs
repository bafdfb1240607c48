// Inputs that are nearly right, for every reader of files and for the native binding:
// node scripts/fuzz.mjs [TARGET …] [--count N | --seconds S] [--seed N]
//   --count N     inputs of each target; default 10000
//   --seconds S   of all targets together, with as many processes as cores; no count then
//   --seed N      default: another one each day, which is printed
//   --replay TARGET:INDEX    that input again, with --seed
//   --list        the targets
//   --sanitize    with an add-on that has ASan and UBSan, which is built first in build/sanitize-node
//   --kinds       how many inputs of each kind were accepted, where a target has kinds: the functions of the binding
// A crash, an error that is not a LoRAError, more than 256 MiB, or more than 1 s of CPU time in each of three runs fails; the input
// is kept in build/fuzz.
// What found something stands in test/fuzz/corpus and is read by test/unit/fuzz.test.ts.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, existsSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { clearInterval, setInterval } from 'node:timers';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { buildSync } from 'esbuild';
import { textAssets } from './text-assets.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: 'string' },
    seconds: { type: 'string' },
    seed: { type: 'string' },
    replay: { type: 'string' },
    list: { type: 'boolean' },
    sanitize: { type: 'boolean' },
    kinds: { type: 'boolean' },
  },
});

const bundle = join(root, 'build/fuzz/child.cjs');
mkdirSync(dirname(bundle), { recursive: true });
const shared = {
  bundle: true,
  platform: 'node',
  format: 'cjs',
  logLevel: 'error',
  packages: 'external',
  loader: textAssets,
  absWorkingDir: root,
};
buildSync({ ...shared, entryPoints: ['test/fuzz/child.ts'], outfile: bundle });
buildSync({ ...shared, entryPoints: ['test/fuzz/save.ts'], outfile: join(root, 'build/fuzz/save.cjs') });

/** Of the processes that read inputs. A limit of memory makes a huge tensor an error instead of a slow success. */
const env = {
  ...process.env,
  LORA_THREADS: '1',
  LORA_MEMORY_LIMIT: '128MiB',
  ...(values.sanitize ? sanitized() : {}),
};

/** Builds the add-on with sanitizers; gives what Node needs to load it. */
function sanitized() {
  const dir = join(root, 'build/sanitize-node');
  const must = (command, args) => {
    const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
    if (status !== 0) process.exit(status ?? 1);
  };
  const options = ['-DLORA_SANITIZE=ON', '-DLORA_CUDA=OFF', `-DLORA_OUTPUT=${dir}`];
  must('cmake', ['-S', '.', '-B', dir, ...options]);
  must('cmake', ['--build', dir, '--parallel', String(availableParallelism()), '--target', 'lora_native']);
  // The C++ library too: ASan looks for its functions at the start, and Node has none to show.
  const libraries = ['libasan.so', 'libstdc++.so'].map((name) =>
    execFileSync('c++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
  );
  return {
    LD_PRELOAD: libraries.join(':'),
    LORA_NATIVE_BINARY: join(dir, 'lora_native.node'),
    // Node leaves memory behind when it ends; what malloc cannot give is an error of the binding, as without sanitizers.
    ASAN_OPTIONS:
      'detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16:detect_stack_use_after_return=0',
    UBSAN_OPTIONS: 'print_stacktrace=1',
  };
}

const read = (...args) =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, [join(root, 'build/fuzz/save.cjs'), ...args], { cwd: root, env });
    let out = '';
    child.stdout.on('data', (chunk) => (out += chunk));
    child.stderr.pipe(process.stderr);
    child.on('exit', () => resolve(out.trim()));
  });
const all = (await read('--list')).split('\n');
if (values.list) {
  console.log(all.join('\n'));
  process.exit(0);
}
const seed = values.seed ?? String(Math.floor(Date.now() / 86_400_000));
if (values.replay) {
  const [target, index] = values.replay.split(':');
  console.log(await read(target, seed, index, 'run'));
  process.exit(0);
}
const names = positionals.length > 0 ? positionals : all;
const unknown = names.filter((name) => !all.includes(name));
if (unknown.length > 0) {
  console.error(`there is no target ${unknown.join(', ')}; there are ${all.join(', ')}`);
  process.exit(2);
}
const jobs = Math.min(availableParallelism(), names.length);
const seconds = values.seconds === undefined ? 1e9 : (Number(values.seconds) * jobs) / names.length;
const count = values.seconds === undefined ? Number(values.count ?? 10_000) : 1e12;
// In memory where there is such a file system: some targets write a file per input.
const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'fuzz-'));

/** Seconds of CPU time at one input: it hangs. The child measures it too, but may never come back. */
const hang = 20;

/** Seconds of CPU time that a process has taken; of the clock where the system does not say. */
function cpuSeconds(pid) {
  try {
    const [, fields] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ');
    const [user, system] = fields.split(' ').slice(11, 13).map(Number);
    return (user + system) / 100;
  } catch {
    return Date.now() / 1000 / 10;
  }
}

function place(name) {
  try {
    return readFileSync(join(folder, `${name}.at`)).readDoubleLE();
  } catch {
    return -1;
  }
}

/** Inputs of one process: garbage of a great many would count as the memory that one of them takes. */
const portion = 25_000;

/** Runs a target from an index on, for some inputs; gives what the child says, or how it ended. */
function attempt(name, first, most, seconds) {
  const args = [
    '--max-old-space-size=256',
    bundle,
    name,
    seed,
    String(first),
    String(most),
    String(seconds),
    folder,
  ];
  /** What a sanitizer found, else the last lines. */
  const lastWords = (err) =>
    /^SUMMARY: .*|^.*: runtime error: .*/m.exec(err)?.[0] ?? err.trim().split('\n').slice(-3).join(' ');
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: root, env });
    let out = '';
    let err = '';
    child.stdout.on('data', (chunk) => (out += chunk));
    child.stderr.on('data', (chunk) => (err = (err + chunk).slice(-4000)));
    let last = -1;
    let since = cpuSeconds(child.pid);
    let hung = false;
    const timer = setInterval(() => {
      const now = place(name);
      if (now !== last) [last, since] = [now, cpuSeconds(child.pid)];
      else if (cpuSeconds(child.pid) - since > hang) {
        hung = true;
        child.kill('SIGKILL');
      }
    }, 500);
    child.on('exit', (code, signal) => {
      clearInterval(timer);
      const said = out.trim() === '' ? {} : JSON.parse(out.trim().split('\n').at(-1));
      if (code === 0) resolve(said);
      else
        resolve({
          index: said.index ?? place(name),
          fault: hung
            ? `is not done after ${hang} s`
            : (said.fault ?? `ended the process (${signal ?? code}): ${lastWords(err)}`),
        });
    });
  });
}

/** The same of all inputs, in one process after the other. */
async function portions(name) {
  const end = Date.now() + seconds * 1000;
  const all = { inputs: 0, refused: 0, kinds: {} };
  while (all.inputs < count && (all.inputs === 0 || Date.now() < end)) {
    const most = Math.min(portion, count - all.inputs);
    const result = await attempt(name, all.inputs, most, (end - Date.now()) / 1000);
    if (result.fault !== undefined) return result;
    all.inputs += result.inputs;
    all.refused += result.refused;
    for (const [kind, { inputs, refused }] of Object.entries(result.kinds)) {
      const sum = (all.kinds[kind] ??= { inputs: 0, refused: 0 });
      sum.inputs += inputs;
      sum.refused += refused;
    }
  }
  return all;
}

const failures = [];
const queue = [...names];
async function worker() {
  for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
    const begin = Date.now();
    const result = await portions(name);
    const took = ((Date.now() - begin) / 1000).toFixed(0);
    if (result.fault === undefined) {
      console.log(`${name.padEnd(16)} ${result.inputs} inputs, ${result.refused} refused, ${took} s`);
      if (values.kinds)
        for (const [kind, { inputs, refused }] of Object.entries(result.kinds))
          console.log(`  ${kind.padEnd(24)} ${inputs} inputs, ${refused} refused`);
      continue;
    }
    const path = await read(name, seed, String(result.index), 'save', join(root, 'build/fuzz'));
    console.log(`${name.padEnd(16)} FAILED at ${result.index}: ${result.fault}\n${' '.repeat(17)}${path}`);
    failures.push(`${name}:${result.index} ${result.fault.split('\n')[0]}`);
  }
}
await Promise.all(Array.from({ length: jobs }, worker));
rmSync(folder, { recursive: true, force: true });
console.log(`seed ${seed}: ${names.length - failures.length} targets passed, ${failures.length} failed`);
// Again, since the end of a log may be all that its reader has.
for (const failure of failures) console.log(failure);
process.exitCode = failures.length > 0 ? 1 : 0;
