// What a results file says of the machine, the versions and the commit; and what the machine can do at most.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addon } from './addon.mjs';
import { Worker } from './providers/worker.mjs';

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

/**
 * What this machine reaches with `threads`: GFLOP/s of multiply-adds in f32 and bf16, GB/s of reads. It is measured in the rounds of what is
 * compared with it, for a processor that others share has no speed of its own.
 */
export class Ceilings {
  #worker;
  /** Why there are none. */
  reason;
  /** The best of all measurements: { f32, bf16, read }; {} where there are none. */
  best = {};

  static async start(threads) {
    const ceilings = new Ceilings();
    const { path, reason } = program();
    ceilings.reason = reason;
    if (path) ceilings.#worker = await Worker.start('ceilings', path, [String(threads)]);
    return ceilings;
  }

  /** A function that measures one of them, for `interleave` and `inTurns`; undefined where there are none. */
  of(what, milliseconds = 40) {
    if (!this.#worker) return undefined;
    return async () => {
      const { rate } = await this.#worker.ask({ what, milliseconds });
      this.best[what] = Math.max(this.best[what] ?? 0, rate);
      return rate;
    };
  }

  async stop() {
    await this.#worker?.stop();
  }
}
