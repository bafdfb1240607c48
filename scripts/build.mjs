// Builds build/Release/lora_native.node: CMake is the build of truth, cmake-js drives it with headers from
// npm. Arguments are passed on as CMake definitions: node scripts/build.mjs -DLORA_TESTS=ON
// LORA_CUDA_BUILD (all, native or off) and LORA_SIMD_BUILD (all or native) say which GPUs and instruction sets it compiles for:
// scripts/cuda-build.mjs.
// With --mpi it compiles build/mpi/lora_mpi.node alone, with the mpicc that MPICC names or the PATH has: the way to MPI differs between its
// implementations, and needs nothing else of the build.
// In a published package, where the packages that it builds with are missing, they go to build/tools first.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cudaBuild, simdBuild } from './cuda-build.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const tools = join(root, 'build/tools');
const given = process.argv.slice(2);
const onlyMpi = given.includes('--mpi');
const toolNames = onlyMpi ? ['node-api-headers'] : ['cmake-js', 'node-addon-api', 'node-api-headers'];

function run(command, args, options) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', ...options });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

function resolveFrom(folder, name) {
  try {
    return createRequire(join(folder, 'package.json')).resolve(name);
  } catch (error) {
    if (error.code === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}

/** The folder that has all tools: this package in a clone, else build/tools. */
function toolsFolder() {
  const hasAll = (folder) => toolNames.every((name) => resolveFrom(folder, `${name}/package.json`));
  if (hasAll(root)) return root;
  if (hasAll(tools)) return tools;
  const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const dependencies = Object.fromEntries(toolNames.map((name) => [name, devDependencies[name]]));
  console.log(`installing ${toolNames.join(', ')} into ${tools}`);
  mkdirSync(tools, { recursive: true });
  writeFileSync(join(tools, 'package.json'), JSON.stringify({ private: true, dependencies }));
  const npm = ['install', '--prefix', tools, '--ignore-scripts', '--no-audit', '--no-fund'];
  run('npm', npm, { cwd: tools, shell: process.platform === 'win32' });
  return tools;
}

const folder = toolsFolder();
if (onlyMpi) {
  buildMpi();
  process.exit(0);
}
const cmakeJs = join(dirname(resolveFrom(folder, 'cmake-js/package.json')), 'bin/cmake-js');
// CMake asks node where the headers are: it must see these packages too.
const NODE_PATH = [join(folder, 'node_modules'), process.env.NODE_PATH].filter(Boolean).join(delimiter);

/** A library whose functions of Node.js are those of the process that loads it. */
function buildMpi() {
  const mpicc = process.env.MPICC || 'mpicc';
  const include = join(dirname(resolveFrom(folder, 'node-api-headers/package.json')), 'include');
  const out = process.env.LORA_MPI_SHIM || join(root, 'build/mpi/lora_mpi.node');
  mkdirSync(dirname(out), { recursive: true });
  // Under another name first: a run that goes on has the old one open.
  const made = `${out}.${process.pid}`;
  const undefinedLater = process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [];
  const flags = ['-std=gnu11', '-O3', '-Wall', '-Wextra', '-fPIC', '-shared', '-pthread', ...undefinedLater];
  const { error, status } = spawnSync(
    mpicc,
    [...flags, `-I${include}`, join(root, 'native/mpi/lora_mpi.c'), '-o', made],
    { stdio: 'inherit' },
  );
  if (error || status !== 0) {
    rmSync(made, { force: true });
    const why = error ? `${mpicc} cannot be run (${error.code})` : `${mpicc} failed`;
    console.error(
      `build: ${why}: install an MPI with its compiler (Debian: libopenmpi-dev or libmpich-dev), or set MPICC`,
    );
    process.exit(1);
  }
  renameSync(made, out);
  console.log(`build: ${out}, by ${mpicc}`);
}

/** Those of the command line, and those of the environment that the command line does not have. */
function definitions() {
  const has = (definition) => given.some((one) => one.startsWith(definition.replace(/=.*/, '=')));
  // A clone has the tests, which make calls fail; the package has not.
  const tested = existsSync(join(root, 'native/test')) ? ['-DLORA_FAULTS=ON'] : [];
  try {
    const chosen = [simdBuild(process.env.LORA_SIMD_BUILD || undefined)];
    if (!has('-DLORA_CUDA=')) chosen.push(cudaBuild(process.env.LORA_CUDA_BUILD));
    for (const { meaning } of chosen) console.log(`build: ${meaning}`);
    return [
      ...chosen.flatMap(({ definitions }) => definitions).filter((definition) => !has(definition)),
      ...tested,
      ...given,
    ];
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}

// cmake-js configures, with headers from npm. Its `compile` is not used: where a file does not compile, it removes the tree
// and builds all of it again, to fail at the same file.
const tree = join(root, 'build/cmake');
const env = { ...process.env, NODE_PATH };
const passedOn = definitions().map((argument) => argument.replace(/^-D/, '--CD'));
run(process.execPath, [cmakeJs, 'configure', '--out', tree, ...passedOn], { cwd: root, env });
const parallel = ['--parallel', String(availableParallelism())];
run('cmake', ['--build', tree, '--config', 'Release', ...parallel], { cwd: root, env });
