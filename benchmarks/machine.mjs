// What a results file says of the machine, the versions and the commit; and what the machine can do at most.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addon } from './addon.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function output(command, args) {
  const { status, stdout } = spawnSync(command, args, { cwd: root, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

/** The threads that everybody gets. */
export const defaultThreads = () => Number(process.env.LORA_THREADS ?? availableParallelism());

/** The commit of this clone, with a + where files differ from it; undefined in an installed package. */
function commit() {
  const id = existsSync(join(root, '.git')) ? output('git', ['rev-parse', '--short=10', 'HEAD']) : undefined;
  return id && id + (output('git', ['status', '--porcelain', '--untracked-files=no']) ? '+' : '');
}

export function facts(threads) {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const { target, highwayVersion } = addon().cpuInfo();
  return {
    date: new Date().toISOString(),
    commit: commit(),
    machine: {
      cpu: cpus()[0]?.model,
      cores: cpus().length,
      threads,
      instructions: target,
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      system: `${type()} ${release()}`,
    },
    versions: { 'lora-native': version, node: process.version, highway: highwayVersion },
  };
}

/** Builds the program of native/bench; answers its path, or { reason }. */
function program() {
  const build = join(root, 'build/cmake');
  const path = join(build, 'native/bench/ceilings');
  if (!existsSync(join(build, 'CMakeCache.txt')))
    return { reason: 'it is built from source, and build/cmake is not there (npm run build:native)' };
  const { status, stderr, stdout } = spawnSync('cmake', ['--build', build, '--target', 'ceilings'], {
    encoding: 'utf8',
  });
  if (status !== 0)
    return { reason: `it does not build: ${(stderr || stdout || 'no cmake').trim().slice(-300)}` };
  return { path };
}

/** What this machine reaches with `threads`: GFLOP/s in f32 and bf16, GB/s of reads. */
export class Ceilings {
  #path;
  #threads;
  /** Why there are none. */
  reason;
  /** The best that was measured: { f32, bf16, read }; {} where there are none. */
  best = {};

  constructor(threads) {
    this.#threads = threads;
    ({ path: this.#path, reason: this.reason } = program());
  }

  /** Measures again: a ceiling is the best of all runs, since others may have been at work in one. */
  measure(milliseconds = 600) {
    if (this.#path === undefined) return;
    const text = output(this.#path, [String(this.#threads), String(milliseconds)]);
    if (text === undefined) throw new Error(`${this.#path} failed`);
    const { f32, bf16, read } = JSON.parse(text);
    for (const [name, value] of Object.entries({ f32, bf16, read }))
      this.best[name] = Math.max(this.best[name] ?? 0, value);
  }
}
