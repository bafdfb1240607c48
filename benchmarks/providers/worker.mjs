// A process that reads one line and answers one line of JSON: a rival that is kept alive, so that it can be interleaved.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

/** The environment of a rival. OPENBLAS_* may force an old kernel: the rival gets its best one. */
export function rivalEnvironment(threads) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('OPENBLAS_')));
  const count = String(threads);
  // OpenBLAS's threads spin for 2 to this power of cycles after a call; by default they take a core for longer than the pause
  // between two providers.
  const threadsOf = { OMP_NUM_THREADS: count, OPENBLAS_NUM_THREADS: count, OPENBLAS_THREAD_TIMEOUT: '16' };
  return { ...env, ...threadsOf, PYTHONDONTWRITEBYTECODE: '1' };
}

export class Worker {
  #name;
  #child;
  #lines;
  #errors = '';
  /** What it answered when it was ready. */
  info;

  static async start(name, command, args, env = process.env) {
    const worker = new Worker();
    worker.#name = name;
    worker.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env });
    worker.#child.stderr.on('data', (data) => (worker.#errors = (worker.#errors + data).slice(-2000)));
    worker.#child.on('error', (error) => (worker.#errors += error.message));
    worker.#child.stdin.on('error', () => {}); // it has ended, which the next answer tells
    worker.#lines = createInterface({ input: worker.#child.stdout })[Symbol.asyncIterator]();
    worker.info = await worker.#answer();
    return worker;
  }

  async #answer() {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.#name} ended: ${this.#errors.trim()}`);
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(`${this.#name}: ${answer.error}`);
    return answer;
  }

  /** One request at a time. */
  ask(command) {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    return this.#answer();
  }

  /** The most memory in MiB that it has had in RAM (VmHWM), mapped pages of files among them; undefined off Linux. */
  peakMiB() {
    try {
      const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
      return Number(/VmHWM:\s+(\d+)/.exec(status)[1]) / 1024;
    } catch {
      return undefined;
    }
  }

  /** Resolves when it has ended. */
  async stop() {
    const ended = new Promise((done) => this.#child.once('exit', done));
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.stdin.end();
    await ended;
  }
}
