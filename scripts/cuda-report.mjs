// Compiles every kernel of the CUDA backend for every architecture, with the flags of the build and its strictness (no
// warning, no spill, no stack frame), and says what ptxas made of it. Its machine code is looked at, too: the order of fences
// (cuda-report/lint.mjs), and the instructions that decoding issues for a byte (cuda-report/decode_gates.mjs).
//   node scripts/cuda-report.mjs [--write] [--jobs N] [--minutes N] [FILE.cu ...]
// What a build with LORA_CUDA_BUILD=all has compiled is read instead of compiled again (scripts/nvcc-keep.sh).
// --write leaves the tables in docs/internals/cuda-kernels.md. Beside the architectures that the binary has code for, the
// intermediate form is assembled for those whose driver would do that: sm_87, sm_103, sm_110. After --minutes no
// further file is begun, and those left out are named. Without nvcc there is nothing to do.
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { document } from './cuda-report/document.mjs';
import { gateFaults } from './cuda-report/decode_gates.mjs';
import { checkedIn, faultsOf } from './cuda-report/lint.mjs';
import { demangle, sharedBytesIn } from './cuda-report/names.mjs';
import { passesIn } from './cuda-report/passes.mjs';
import { classes, loopMix, parsePtx } from './cuda-report/ptx.mjs';
import { functionsIn, listing } from './cuda-report/sass.mjs';
import { cache } from './sysroot.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options, positionals } = parseArgs({
  options: { write: { type: 'boolean' }, jobs: { type: 'string' }, minutes: { type: 'string' } },
  allowPositionals: true,
});
const nvcc = spawnSync('nvcc', ['--version'], { encoding: 'utf8' });
if (nvcc.status !== 0) {
  console.log('skipped: no nvcc');
  process.exit(0);
}
const jobs = Number(options.jobs ?? availableParallelism());
const kernels = join(root, 'native/backend/cuda');
const scratch = mkdtempSync(join(tmpdir(), 'cuda-report-'));

/** The files as they are built: units, which include several, and the others. */
function builtFiles() {
  const alone = new Set(readdirSync(kernels).filter((name) => name.endsWith('.cu')));
  const units = readFileSync(join(kernels, 'units.cmake'), 'utf8');
  const long = new RegExp(`^(${/LORA_CUDA_ALONE "(.*)"/.exec(units)[1]})`);
  const files = [];
  for (const unit of /LORA_CUDA_UNITS (.*)\)/.exec(units)[1].split(' ')) {
    const names = [...alone].filter((name) => new RegExp(`^[${unit}]`).test(name) && !long.test(name)).sort();
    for (const name of names) alone.delete(name);
    files.push(join(scratch, `unit_${unit}.cu`));
    writeFileSync(files.at(-1), names.map((name) => `#include "backend/cuda/${name}"\n`).join(''));
  }
  return [...files, ...[...alone].map((name) => join(kernels, name))].sort();
}
const files = positionals.length ? positionals : builtFiles();

// As in cmake/cuda.cmake.
const built = { 80: [80, 86], 90: [90, 100, 120] };
// The intermediate form that the binary holds.
const held = [80];
// As a driver would from that form.
const assembled = { 87: 80, 103: 80, 110: 80 };
const real = Object.values(built).flat();
const architectures = [...real, ...Object.keys(assembled).map(Number)].sort((a, b) => a - b);
const flags = [
  ...['-std=c++20', '-O3', '--expt-relaxed-constexpr', '-Werror', 'all-warnings'],
  ...['-Xptxas=-warn-spills,-warn-lmem-usage,-v', '-Xcompiler=-fPIC', `-I${join(root, 'native')}`],
  ...Object.entries(built).map(
    ([virtual, codes]) =>
      `-gencode=arch=compute_${virtual},code=[${[...codes.map((arch) => `sm_${arch}`), `compute_${virtual}`].join()}]`,
  ),
];
const dryrun = spawnSync('nvcc', ['--dryrun', '-c', files[0], '-o', '/dev/null'], { encoding: 'utf8' });
const ptxas = join(/_HERE_=(.+)/.exec(dryrun.stderr)?.[1] ?? '', 'ptxas');

/** ptxas -v → [{ symbol, arch, registers, stack, stores, loads, shared, barriers }]. */
function parsePtxas(text) {
  const rows = [];
  let row;
  for (const line of text.split('\n')) {
    let found;
    if ((found = /Compiling entry function '(\w+)' for 'sm_(\d+)\w*'/.exec(line)))
      rows.push((row = { symbol: found[1], arch: Number(found[2]) }));
    else if (
      row &&
      (found = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line))
    )
      [row.stack, row.stores, row.loads] = found.slice(1).map(Number);
    else if (row && (found = /Used (\d+) registers/.exec(line))) {
      row.registers = Number(found[1]);
      row.barriers = Number(/used (\d+) barriers/.exec(line)?.[1] ?? 0);
      row.shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0);
    }
  }
  return rows;
}
/** What the machine code of a file's kernels is: { arch, symbol, name, faults, checked, passes } for each. */
function lookAtCode(dir) {
  const rows = [];
  for (const file of readdirSync(dir)) {
    const arch = Number(/\.sm_(\d+)\.cubin$/.exec(file)?.[1]);
    if (!real.includes(arch)) continue;
    const text = listing(readFileSync(join(dir, file)));
    const passesOf = passesIn(root, text);
    for (const kernel of functionsIn(text)) {
      const name = demangle(kernel.name);
      const passes = passesOf.get(kernel.name) ?? [];
      const faults = [...faultsOf(kernel), ...gateFaults(name, passes)];
      rows.push({ arch, symbol: kernel.name, name, faults, checked: checkedIn(kernel), passes });
    }
  }
  return rows;
}

/** What a failed compilation says, without ptxas' notes on what went well. */
function complaints(text) {
  let arch = '';
  const lines = [];
  for (const line of text.split('\n')) {
    arch = /Compiling entry function .* for '(sm_\d+)/.exec(line)?.[1] ?? arch;
    if (/^ptxas (error|warning)/.test(line)) lines.push(`${arch}: ${line}`);
    else if (!/^ptxas info|^cpu [\d.]+$|bytes stack frame|^$/.test(line)) lines.push(line);
  }
  return lines.slice(0, 40).join('\n');
}

// Results are kept for all clones, by what a file and all that it includes say: where ccache has the objects of a new clone,
// their intermediate forms are nowhere.
const kept = join(cache, 'cuda-report');
/** Of a file and all that it includes: a digest, and the time of the last change. */
function contents(file) {
  const hash = createHash('sha256')
    .update(nvcc.stdout)
    .update(flags.filter((flag) => !flag.startsWith('-I')).join())
    .update(JSON.stringify([built, assembled]));
  // And by how their code is looked at.
  const ways = join(root, 'scripts/cuda-report');
  for (const way of readdirSync(ways).sort()) hash.update(readFileSync(join(ways, way)));
  hash.update(readFileSync(join(root, 'scripts/sass-mix.awk')));
  const seen = new Set();
  let changed = 0;
  const add = (path) => {
    if (seen.has(path) || !existsSync(path)) return;
    seen.add(path);
    if (!path.startsWith(scratch)) changed = Math.max(changed, statSync(path).mtimeMs);
    const text = readFileSync(path, 'utf8');
    hash.update(text);
    for (const [, included] of text.matchAll(/^#include "([^"]+)"/gm)) add(join(root, 'native', included));
  };
  add(file);
  return { digest: hash.digest('hex').slice(0, 16), changed };
}

/** What the build left of a file: what ptxas said, the folder of the intermediate forms, and the object; or undefined. */
function fromBuild(file) {
  const object = join(root, 'build/cmake/native/backend/cuda', `${basename(file)}.o`);
  const dir = `${object}.keep`;
  if (![object, `${object}.log`, dir].every(existsSync)) return undefined;
  if (statSync(object).mtimeMs < contents(file).changed) return undefined;
  const forms = readdirSync(dir);
  const has = (virtual) => forms.some((form) => form.endsWith(`compute_${virtual}.ptx`));
  if (!Object.keys(built).every(has)) return undefined;
  if (!real.every((arch) => forms.some((form) => form.endsWith(`.sm_${arch}.cubin`)))) return undefined;
  return { text: readFileSync(`${object}.log`, 'utf8'), dir, object };
}

function execute(command, args) {
  return new Promise((resolve) => {
    execFile(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 }, (error, stdout, stderr) =>
      resolve({ failed: Boolean(error), text: stdout + stderr }),
    );
  });
}
const compileHere = (file, dir, name) =>
  execute('bash', [
    '-c',
    'TIMEFORMAT="cpu %U"; time "$@"',
    'bash',
    'nvcc',
    ...flags,
    '--keep',
    '--keep-dir',
    dir,
    '-c',
    file,
    '-o',
    join(dir, `${name}.o`),
  ]);
async function compile(file) {
  const name = basename(file, '.cu');
  const record = join(kept, `${name}-${contents(file).digest}.json`);
  if (existsSync(record)) {
    const result = JSON.parse(readFileSync(record, 'utf8'));
    console.log(`${name}: ${result.kernels} kernels, ${result.cpu.toFixed(1)} s of CPU when it was compiled`);
    return result;
  }
  const own = mkdtempSync(join(scratch, `${name}-`));
  const start = Date.now();
  const seconds = () => (Date.now() - start) / 1000;
  const ofBuild = fromBuild(file);
  const made = ofBuild ?? (await compileHere(file, own, name));
  const dir = ofBuild?.dir ?? own;
  const result = { name, rows: [], ptx: {}, failed: made.failed ?? false };
  if (made.failed) console.log(`${name}: FAILED\n${complaints(made.text)}`);
  else {
    result.rows = parsePtxas(made.text);
    const form = (virtual) =>
      join(
        dir,
        readdirSync(dir).find((f) => f.endsWith(`compute_${virtual}.ptx`)),
      );
    for (const virtual of Object.keys(built))
      result.ptx[virtual] = parsePtx(readFileSync(form(virtual), 'utf8'));
    for (const [arch, virtual] of Object.entries(assembled)) {
      const { failed, text } = await execute(ptxas, [
        '-v',
        `-arch=sm_${arch}`,
        form(virtual),
        '-o',
        join(own, 'x.cubin'),
      ]);
      if (failed) console.log(`${name}: FAILED for sm_${arch}\n${complaints(text)}`);
      result.failed ||= failed;
      result.rows.push(...parsePtxas(text));
    }
    result.code = lookAtCode(dir);
    const object = ofBuild?.object ?? join(own, `${name}.o`);
    const dynamic = sharedBytesIn((await execute('nm', ['--demangle', object])).text);
    for (const row of result.rows) {
      Object.assign(row, {
        file: name,
        name: demangle(row.symbol),
        threads: result.ptx[80][row.symbol]?.threads,
      });
      row.dynamic = dynamic.get(row.name);
      if (row.dynamic === undefined) throw new Error(`[cuda-report] ${name}.cu launches no ${row.name}`);
    }
    const count = new Set(result.rows.map((row) => row.symbol)).size;
    // Processor time of the compilation alone, as a machine may be busy with other things.
    result.cpu = Number(/cpu ([\d.]+)\s*$/.exec(made.text)?.[1] ?? 0);
    result.kernels = count;
    console.log(
      `${name}: ${count} kernels, ${ofBuild ? 'compiled by the build' : `${result.cpu.toFixed(1)} s of CPU`}, ${seconds().toFixed(1)} s in all`,
    );
    // Of the intermediate forms only what the document asks for.
    result.mix = {};
    for (const [symbol, { body }] of Object.entries(result.ptx[80])) {
      const mix = loopMix(body);
      if (mix) result.mix[symbol] = [...mix];
    }
    delete result.ptx;
    if (!result.failed) {
      mkdirSync(kept, { recursive: true });
      writeFileSync(record, JSON.stringify(result));
    }
  }
  rmSync(own, { recursive: true });
  return result;
}

const began = Date.now();
const limit = Number(options.minutes ?? Infinity) * 60_000;
const queue = [...files];
const results = [];
try {
  await Promise.all(
    Array.from({ length: jobs }, async () => {
      while (queue.length && Date.now() - began < limit) results.push(await compile(queue.shift()));
    }),
  );
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
results.sort((a, b) => (a.name < b.name ? -1 : 1));
const rows = results.flatMap((result) => result.rows);
const spilling = rows.filter(({ stack, stores, loads }) => stack + stores + loads > 0);
for (const row of spilling)
  console.log(
    `${row.file} ${row.name} sm_${row.arch}: stack ${row.stack}, spills ${row.stores} + ${row.loads} bytes`,
  );
const code = results.flatMap((result) => result.code ?? []);
const faulty = code.filter(({ faults }) => faults.length > 0);
for (const { name, arch, faults } of faulty)
  for (const fault of faults) console.log(`${name} sm_${arch}: ${fault}`);
// What is only assembled may: it is not in the binary.
const wrong = spilling.filter(({ arch }) => real.includes(arch));
const failed = results.filter((result) => result.failed).length + wrong.length + faulty.length;
const total = new Set(rows.map(({ symbol }) => symbol)).size;
console.log(
  `${results.length} files, ${total} kernels, ${rows.length} assembled (sm_${architectures.join(', sm_')}): ` +
    `${failed === 0 ? 'no warning, spill or stack frame, fences in order, decoding within its gates' : `${failed} FAILED`}; ${((Date.now() - began) / 1000).toFixed(0)} s`,
);
if (queue.length)
  console.log(`left out after ${options.minutes} minutes: ${queue.map((file) => basename(file)).join(', ')}`);
if (options.write && failed === 0 && queue.length === 0)
  writeFileSync(
    join(root, 'docs/internals/cuda-kernels.md'),
    document({
      ...{ root, files: files.length, total, rows, results, spilling, code },
      ...{ architectures, real, held, assembled, classes },
    }),
  );
process.exitCode = failed === 0 ? 0 : 1;
