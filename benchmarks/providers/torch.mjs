// PyTorch, in a python3 that is kept alive so that it can be interleaved with ours.
import { spawn, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const worker = join(dirname(fileURLToPath(import.meta.url)), 'torch_worker.py');

/** The first python3 that has torch: $LORA_PYTHON, the one on the PATH, the system's. */
export function findPython() {
  return [process.env.LORA_PYTHON, 'python3', '/usr/bin/python3']
    .filter(Boolean)
    .find((python) => spawnSync(python, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0);
}

export class TorchProvider {
  name = 'torch';
  #child;
  #lines;

  static async start(python, threads) {
    const provider = new TorchProvider();
    // OPENBLAS_* of this environment may force an old kernel: the rival gets its best one.
    const env = Object.fromEntries(
      Object.entries(process.env).filter(([key]) => !key.startsWith('OPENBLAS_')),
    );
    env.OMP_NUM_THREADS = env.OPENBLAS_NUM_THREADS = String(threads);
    provider.#child = spawn(python, [worker, String(threads)], { stdio: ['pipe', 'pipe', 'inherit'], env });
    provider.#lines = createInterface({ input: provider.#child.stdout })[Symbol.asyncIterator]();
    provider.info = { python, ...(await provider.#answer()) };
    return provider;
  }

  async #answer() {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('the PyTorch worker ended');
    return JSON.parse(value);
  }

  async #ask(command) {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    return this.#answer();
  }

  load(testCase, dir) {
    return this.#ask({ do: 'load', case: testCase, dir });
  }
  check(dir) {
    return this.#ask({ do: 'check', dir });
  }
  async time(what, iterations, batch) {
    return (await this.#ask({ do: 'time', what, iterations, batch })).seconds;
  }
  stop() {
    this.#child.stdin.end();
  }
}
