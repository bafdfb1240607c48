// Tries the binary of a platform where it is to run:  node scripts/try-platform.mjs PLATFORM [PART …]
//
//   step    training steps through JavaScript (test/platform/training_step.cjs), in an official Node 20 from npm:
//           linux-x64-gnu inside Debian 11, by chroot; linux-arm64-gnu under qemu with Debian 11's libraries, once with
//           each instruction set; other platforms as `here`.
//   here    the same with the Node that runs this, on a machine of that platform
//   quick   linux-arm64-gnu: native tests of the ops, cross-built, under qemu
//   tests   all native tests that make sense there (an hour of work for one processor): scripts/soak.mjs runs them
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from './build-platform.mjs';
import { binaryOf, platforms } from './platforms.mjs';
import { cache, sysroot } from './sysroot.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const quick = [
  'cpu_targets_test',
  'core_dtype_test',
  'cpu_lora_linear_test',
  'cpu_gemm_test',
  'cpu_rms_norm_test',
  'cpu_attention_test',
];
// What the emulated kernel cannot say about a real one: threads that wait for each other are slow in it.
const qemu = ['qemu-aarch64-static', '-cpu', 'max'];

function run(command, args, options = {}) {
  const { status, error, signal } = spawnSync(command, args, { stdio: 'inherit', ...options });
  if (error) throw error;
  if (status !== 0) throw new Error(`${basename(command)} ended with ${signal ?? status}`);
}

/** An official Node 20 for the platform, from the npm package that carries it. */
function nodeOf(platform) {
  const name = `node-${platform.replace('-gnu', '')}`;
  const folder = join(cache, name);
  const node = join(folder, 'package/bin/node');
  if (existsSync(node)) return node;
  mkdirSync(folder, { recursive: true });
  const scratch = mkdtempSync(join(tmpdir(), 'lora-node-'));
  try {
    run('npm', ['pack', '--silent', `${name}@20`, '--pack-destination', scratch], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    run('tar', ['-xzf', join(scratch, readdirSync(scratch)[0]), '-C', folder, 'package/bin/node']);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return node;
}

/** A folder with the package as it is installed, the model, the data and the program. */
function application(platform, folder) {
  const installed = join(folder, 'node_modules/lora-native');
  const binary = relative(root, binaryOf(root, platform));
  mkdirSync(join(installed, dirname(binary)), { recursive: true });
  if (!existsSync(join(root, 'dist/index.js'))) throw new Error('no dist/: npm run build:js');
  for (const name of ['package.json', 'dist'])
    cpSync(join(root, name), join(installed, name), { recursive: true });
  cpSync(join(root, binary), join(installed, binary)); // node-gyp-build finds it there
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const name of Object.keys(dependencies))
    cpSync(join(root, 'node_modules', name), join(folder, 'node_modules', name), { recursive: true });
  cpSync(join(root, 'examples/base-model'), join(folder, 'base-model'), { recursive: true });
  cpSync(join(root, 'examples/data/train.jsonl'), join(folder, 'train.jsonl'));
  cpSync(join(root, 'test/platform/training_step.cjs'), join(folder, 'training_step.cjs'));
  writeFileSync(join(folder, 'package.json'), '{"name":"app","private":true}');
}

const program = ['training_step.cjs', 'base-model', 'train.jsonl'];

/** Inside Debian 11: nothing of this machine but its kernel. */
function stepInOldUserLand(platform, scratch) {
  run('cp', ['-a', `${sysroot('amd64')}/.`, scratch]);
  application(platform, join(scratch, 'app'));
  cpSync(nodeOf(platform), join(scratch, 'node'));
  for (const name of ['proc', 'dev', 'tmp']) mkdirSync(join(scratch, name), { recursive: true });
  // A mount namespace of its own, so that nothing stays mounted.
  const enter = 'mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" /node "$@"';
  run(
    'unshare',
    [
      '--mount',
      ...(process.getuid() === 0 ? [] : ['--map-root-user']),
      'sh',
      '-c',
      enter,
      scratch,
      ...program.map((path) => `/app/${path}`),
    ],
    { env: { PATH: process.env.PATH } },
  );
}

function stepUnderQemu(platform, scratch) {
  application(platform, scratch);
  for (const LORA_SIMD of ['neon', 'neon_bf16'])
    run(qemu[0], [...qemu.slice(1), '-L', sysroot('arm64'), nodeOf(platform), ...program], {
      cwd: scratch,
      env: { ...process.env, LORA_SIMD },
    });
}

function step(platform, here) {
  const scratch = mkdtempSync(join(tmpdir(), 'lora-platform-'));
  try {
    if (platform === 'linux-x64-gnu' && !here) stepInOldUserLand(platform, scratch);
    else if (platform === 'linux-arm64-gnu' && !here) stepUnderQemu(platform, scratch);
    else {
      application(platform, scratch);
      run(process.execPath, program, { cwd: scratch });
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Cross-built native tests, as ctest names them; one line of counts for each, and the failures whole. */
function nativeTests(platform, names) {
  const parts = (name) => /^([a-z]+)_(.*)$/.exec(name).slice(1);
  const programOf = (name) => `${parts(name)[0]}_tests`;
  const tree = join(root, 'build', platform);
  const headers = join(tree, 'doctest');
  mkdirSync(headers, { recursive: true });
  rmSync(join(headers, 'doctest'), { force: true });
  symlinkSync('/usr/include/doctest', join(headers, 'doctest'));
  build(platform, {
    definitions: ['-DLORA_TESTS=ON', `-DDOCTEST_INCLUDE=${headers}`],
    targets: [...new Set(names.map(programOf))],
  });
  const total = { cases: 0, failed: [] };
  for (const name of names) {
    const begin = Date.now();
    const { stdout, stderr, error } = spawnSync(
      qemu[0],
      [
        ...qemu.slice(1),
        '-L',
        sysroot('arm64'),
        join(tree, 'native/test', programOf(name)),
        `--source-file=*/${parts(name)[1]}.cc`,
      ],
      { encoding: 'utf8', maxBuffer: 64 << 20 },
    );
    if (error) throw error;
    const counts = /test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*0 failed/.exec(stdout);
    if (!counts || Number(counts[2]) === 0) {
      total.failed.push(name);
      console.log(stdout, stderr);
    } else total.cases += Number(counts[2]);
    console.log(
      `${name}: ${counts ? `${counts[2]} passed` : 'FAILED'} (${Math.round((Date.now() - begin) / 1000)} s)`,
    );
  }
  console.log(
    `${total.cases} test cases passed in ${names.length - total.failed.length} files for aarch64 under qemu`,
  );
  if (total.failed.length > 0) throw new Error(`failed: ${total.failed.join(', ')}`);
}

const [platform, ...parts] = process.argv.slice(2);
if (
  !Object.hasOwn(platforms, platform ?? '') ||
  parts.some((part) => !/^(step|here|quick|tests)$/.test(part))
) {
  console.error(
    `usage: node scripts/try-platform.mjs PLATFORM [step|here|quick|tests …]\n  PLATFORM: ${Object.keys(platforms).join(', ')}`,
  );
  process.exit(2);
}
try {
  if (!existsSync(binaryOf(root, platform)))
    throw new Error(`no ${binaryOf(root, platform)}: node scripts/build-platform.mjs ${platform}`);
  for (const part of parts.length > 0 ? parts : ['step'])
    if (part === 'step' || part === 'here') step(platform, part === 'here');
    else if (platform !== 'linux-arm64-gnu') throw new Error(`${part}: only linux-arm64-gnu has it`);
    else
      nativeTests(
        platform,
        part === 'quick'
          ? quick
          : ['core', 'reference', 'cpu', 'ops', 'support'].flatMap((layer) =>
              readdirSync(join(root, 'native/test', layer))
                .filter((name) => name.endsWith('_test.cc'))
                .map((name) => `${layer === 'ops' ? 'cpu' : layer}_${name.replace('.cc', '')}`),
            ),
      );
  console.log(
    `tried ${platform} on ${availableParallelism()} processors of ${process.platform}-${process.arch}`,
  );
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
