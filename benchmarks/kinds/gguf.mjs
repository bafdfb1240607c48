// A prompt that is read and tokens that are written with a model in ggml's blocks, against node-llama-cpp on the same file.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { convertModel } from 'lora-native';
import { startLlamaCpp } from '../providers/llama_cpp.mjs';
import { ratio, rivalOf, spread } from '../stats.mjs';
import { promptOf } from './generation.mjs';
import { inTurns, startOurs, stopAll } from './whole_model.mjs';

/** Prompts and tokens of the two rows: a prompt that is new in each round, and tokens after a short one. */
const runs = { prefill: { length: 512, tokens: 1 }, decode: { length: 16, tokens: 64 } };

export async function runGguf(testCase, bench) {
  const { dtype, format, found, id } = testCase;
  const folder = mkdtempSync(join(tmpdir(), 'lora-bench-'));
  const workers = new Map();
  try {
    const model = join(folder, 'model.gguf');
    await convertModel(found.dir, model, { format });
    const settings = { model, dtype, threads: bench.threads, contextSize: 1024 };
    workers.set('ours', await startOurs('generate.mjs', settings));
    try {
      if (bench.noRivals) throw new Error(bench.noRivals);
      workers.set('node-llama-cpp', await startLlamaCpp('generate_llama_cpp.mjs', settings));
    } catch (error) {
      bench.leaveOut(`${id}: node-llama-cpp`, error.message);
    }
    const { vocabSize } = workers.get('ours').info;
    for (const [what, { length, tokens }] of Object.entries(runs)) {
      const request = (_, round) => ({ ids: promptOf(length, vocabSize, round + 1), tokens });
      for (const worker of workers.values())
        await worker.ask({ ids: promptOf(length, vocabSize, 0), tokens });
      const { answers } = await inTurns(workers, request, bench.stepSettings);
      const figures = (name, read) => answers.get(name)?.map(read);
      const seconds = (name) => figures(name, (answer) => answer[`${what}Ms`] / 1000);
      const user = (name) => figures(name, (answer) => answer.userMs);
      const row = { kind: 'gguf', case: id, what, unit: 's', ours: spread(seconds('ours')), rivals: {} };
      row.tokens = what === 'decode' ? tokens - 1 : length;
      const theirs = seconds('node-llama-cpp');
      if (theirs) {
        const { version } = workers.get('node-llama-cpp').info;
        row.rivals['node-llama-cpp'] = { version, ...rivalOf(seconds('ours'), theirs) };
        row.userOfRival = ratio(user('ours'), user('node-llama-cpp'));
      }
      bench.add(row);
    }
  } finally {
    await stopAll(workers);
    rmSync(folder, { recursive: true, force: true });
  }
}
