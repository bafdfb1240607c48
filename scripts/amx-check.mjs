// The native tests of products, attention and formats on AVX3_SPR, whose kernels use tile registers (AMX): on this machine
// where it has them, else in Bochs, which plays a Sapphire Rapids at some tens of millions of instructions a second.
//   node scripts/amx-check.mjs [--bochs] [--minutes N] [--counts FILE] [-- ARGUMENTS OF cpu_tests]
//     --bochs      in Bochs, whatever this machine has
//     --minutes N  when a guest is given up (default 20; with no other work the core takes about 3)
//     -- …         other tests than the core below: -- '-sf=*/attention_test.cc' '-tc=*window*'
// Bochs and what writes its image are installed by scripts/setup.sh. Counts are left in build/ctest-amx.json, for .ci/run, or in
// the FILE of --counts; what cannot run is skipped there with its reason.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { buildModule, kernelIn, must, runGuest, writeGuest } from './amx-check/guest.mjs';

const onlyTiles = { LORA_TEST_SIMD: 'avx3_spr' };
// What each of two guests runs, about the same time each. Formats are tested on the other instruction set of the build too (SSE2 in
// Bochs): what a test expects there must not follow the best of the machine.
const core = [
  {
    env: {},
    cases: [
      'weight formats: a decode step*',
      'weight formats: rows with adapters*',
      'weight formats: unpack*',
      'cpu blocks: many rows*',
      'cpu blocks: the bits of a row*',
    ],
  },
  {
    env: onlyTiles,
    cases: [
      'gemm:*',
      'matmul:*',
      'lora_linear agrees with the reference in both phases',
      'lora_linear is exact*',
      'cpu lora_linear: a row*',
      'attention takes whole*',
      'attention: *',
      "attention's gradients agree where*",
      "attention's gradients of whole*",
      'attention_paged: the first query*',
    ],
  },
];

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    bochs: { type: 'boolean', default: false },
    minutes: { type: 'string', default: '20' },
    counts: { type: 'string', default: join(root, 'build/ctest-amx.json') },
  },
});
const minutes = Number(options.minutes);
if (!(minutes > 0))
  throw new Error(`expected --minutes to be a positive number but received ${options.minutes}`);
const groups =
  positionals.length > 0
    ? [{ env: onlyTiles, args: positionals }]
    : core.map(({ env, cases }) => ({ env, args: [`-tc=${cases.join(',')}`] }));
const counts = { passed: 0, failed: 0, skipped: 0, skips: [] };

function finish(where) {
  writeFileSync(options.counts, JSON.stringify({ ...counts, where }));
  console.log(
    `avx3_spr: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped, ${where}`,
  );
  process.exit(counts.failed > 0 ? 1 : 0);
}

function skip(reason) {
  counts.skipped = 1;
  counts.skips = [`avx3_spr in Bochs (skipped: ${reason})`];
  finish(`for ${reason}`);
}

/** Adds what doctest said at its end; anything else than success is printed whole. */
function add(text, status, args) {
  const found = /test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed/.exec(text);
  const [passed, failed] = found ? [Number(found[1]), Number(found[2])] : [0, 0];
  counts.passed += passed;
  counts.failed += failed;
  if (status === 0 && passed > 0 && failed === 0) return;
  console.log(`${args.join(' ')}: ${passed === 0 ? 'no test passed' : `status ${status}`}\n${text}`);
  if (failed === 0) counts.failed++; // a crash, or a filter that finds nothing
}

function here(cpu) {
  const program = join(root, 'build/cmake/native/test/cpu_tests');
  if (!existsSync(program))
    throw new Error('no build/cmake/native/test/cpu_tests: run node scripts/ctest.mjs first');
  for (const { env, args } of groups) {
    const options = { env: { ...process.env, ...env }, encoding: 'utf8' };
    const { stdout, stderr, status, signal } = spawnSync(program, args, options);
    add(`${stdout}${stderr}`, signal ?? status, args);
  }
  finish(`on this machine's AMX (${cpu})`);
}

/** Installs what is missing, or says why it cannot. */
function prepare() {
  if (process.platform !== 'linux' || process.arch !== 'x64') skip('no x86-64 Linux');
  const has = (command) => spawnSync('sh', ['-c', `command -v ${command}`]).status === 0;
  if (!has('apt-get')) skip('no apt-get');
  const needed = {
    bochs: 'bochs',
    xorriso: 'xorriso',
    '/usr/share/bochs/BIOS-bochs-legacy': 'bochsbios',
    '/usr/lib/ISOLINUX/isolinux.bin': 'isolinux',
    '/usr/lib/syslinux/modules/bios/ldlinux.c32': 'syslinux-common',
  };
  const missing = Object.keys(needed).filter(
    (path) => !(path.startsWith('/') ? existsSync(path) : has(path)),
  );
  const packages = missing.map((path) => needed[path]);
  if (packages.length === 0) return;
  if (process.getuid() !== 0 && !has('sudo')) skip(`neither root nor sudo to install ${packages.join(', ')}`);
  if (spawnSync('bash', [join(root, 'scripts/setup.sh'), ...packages], { stdio: 'inherit' }).status !== 0)
    skip(`apt-get cannot install ${packages.join(', ')}`);
}

function kernel(folder) {
  try {
    return kernelIn(folder);
  } catch {
    const update = ['apt-get', 'update', '-qq']; // a fresh machine has no lists of packages, an old one may have old ones
    if (process.getuid() !== 0) update.unshift('sudo', '-n');
    spawnSync(update[0], update.slice(1), { stdio: 'inherit' });
  }
  try {
    return kernelIn(folder);
  } catch (error) {
    console.log(error.message);
    return skip('apt-get cannot download a kernel');
  }
}

async function inBochs() {
  prepare();
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1)); // ends the guests
  const folder = join(root, 'build/amx-check');
  mkdirSync(folder, { recursive: true });
  const found = kernel(folder);
  const module = buildModule(found);
  const tree = join(root, 'build/bochs');
  const jobs = String(availableParallelism());
  console.log('building cpu_tests for Bochs');
  must('cmake', ['-S', root, '-B', tree, '-DLORA_NODE=OFF', '-DLORA_TESTS=ON', '-DLORA_BOCHS=ON']);
  must('cmake', ['--build', tree, '--target', 'cpu_tests', '--parallel', jobs]);
  const runs = groups.map(async ({ env, args }, index) => {
    const guest = join(folder, `guest-${index}`);
    // -d names each case when it ends, which tells how far a guest came.
    const lines = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    lines.push(...args, '-d=true', '--no-colors=true');
    writeGuest(guest, found.kernel, module, join(tree, 'native/test/cpu_tests'), lines);
    const began = Date.now();
    const { text, late } = await runGuest(guest, minutes * 60_000);
    const status = /^exit status (\d+)$/m.exec(text)?.[1];
    console.log(`guest ${index}: ${args.join(' ')}: ${Math.round((Date.now() - began) / 1000)} s`);
    if (status === undefined && !late) console.log(`guest ${index} ended early: ${guest}/bochs.log says why`);
    if (late)
      console.log(
        `guest ${index} was given up after ${minutes} minutes (--minutes), after the case that is named last`,
      );
    add(text, status === undefined ? 'unknown' : Number(status), args);
  });
  await Promise.all(runs);
  finish('in Bochs (sapphire_rapids)');
}

const info = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';
const hasTiles = ['amx_tile', 'amx_bf16', 'avx512_fp16'].every((flag) => info.includes(` ${flag}`));
if (hasTiles && !options.bochs) here(/^model name\s*: (.*)/m.exec(info)?.[1] ?? 'unknown');
else await inBochs();
