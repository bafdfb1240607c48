// PyTorch and OpenBLAS for the same inputs: a worker, and a folder through which arrays go.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { spawnSync } from 'node:child_process';
import { rivalEnvironment, Worker } from './worker.mjs';

const here = dirname(fileURLToPath(import.meta.url));

/** The first Python that runs a line: $LORA_PYTHON, the one on the PATH, the system's. */
export function findPython(line = '') {
  return [process.env.LORA_PYTHON, 'python3', '/usr/bin/python3']
    .filter(Boolean)
    .find((python) => spawnSync(python, ['-c', line], { stdio: 'ignore' }).status === 0);
}

export class Rival {
  #worker;
  #dir = mkdtempSync(join(tmpdir(), 'lora-bench-'));
  info;

  /** `script` is a file of this folder. Throws with the reason where it cannot run. */
  static async start(script, python, threads, args = []) {
    const rival = new Rival();
    try {
      const command = [join(here, script), String(threads), ...args];
      rival.#worker = await Worker.start(script, python, command, rivalEnvironment(threads));
    } catch (error) {
      rival.#remove();
      throw error;
    }
    rival.info = rival.#worker.info;
    return rival;
  }

  #write(arrays) {
    for (const [name, values] of Object.entries(arrays))
      writeFileSync(join(this.#dir, `${name}.bin`), values);
  }

  loadLayers(testCase, { x, branches, scale }, copies = 1) {
    this.#write({ x });
    branches.forEach(({ w, a, b, g }, i) =>
      this.#write({ [`w${i}`]: w, [`a${i}`]: a, [`b${i}`]: b, [`g${i}`]: g }),
    );
    return this.#worker.ask({ do: 'layers', case: { ...testCase, scale, copies }, dir: this.#dir });
  }

  loadAttention(testCase, inputs) {
    this.#write(inputs);
    return this.#worker.ask({ do: 'attention', case: testCase, dir: this.#dir });
  }

  loadShortConv(testCase, inputs) {
    this.#write(inputs);
    return this.#worker.ask({ do: 'short_conv', case: testCase, dir: this.#dir });
  }

  loadDeltaRule(testCase, inputs) {
    this.#write(inputs);
    return this.#worker.ask({ do: 'delta_rule', case: testCase, dir: this.#dir });
  }

  /** What a form computes, as f32 by name. */
  async check(what) {
    const { names } = await this.#worker.ask({ do: 'check', what, dir: this.#dir });
    const read = (name) => {
      const { buffer, byteOffset, byteLength } = readFileSync(join(this.#dir, `${name}.bin`));
      return new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength));
    };
    return Object.fromEntries(names.map((name) => [name, read(name)]));
  }

  async time(what, iterations, batch) {
    return (await this.#worker.ask({ do: 'time', what, iterations, batch })).seconds;
  }

  async stop() {
    await this.#worker.stop();
    this.#remove();
  }

  #remove() {
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
