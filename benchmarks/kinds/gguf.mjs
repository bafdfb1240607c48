// A prompt that is read and tokens that are written with a model in each format, against node-llama-cpp on the same GGUF file.
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { convertModel } from 'lora-native';
import { startLlamaCpp } from '../providers/llama_cpp.mjs';
import { writeRandomModel } from '../random_model.mjs';
import { ratio, rivalOf, spread } from '../stats.mjs';
import { promptOf } from './generation.mjs';
import { inTurns, startOurs, stopAll } from './whole_model.mjs';

/** Prompts and tokens of the two rows: a prompt that is new in each round, and tokens after a short one. */
const runs = { prefill: { length: 512, tokens: 1 }, decode: { length: 16, tokens: 64 } };

/** The folder of the model: random numbers in a shape, with the tokenizer of the model that was found, which has fewer tokens. */
async function sourceOf({ shape, found }, folder) {
  if (!shape) return found.dir;
  const dir = await writeRandomModel(join(folder, 'random'), shape);
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    copyFileSync(join(found.dir, name), join(dir, name));
  return dir;
}

export async function runGguf(testCase, bench) {
  const { dtype, format, quantize, activations, id } = testCase;
  const rounds = Math.min(bench.stepSettings.rounds, testCase.rounds ?? Infinity);
  const folder = mkdtempSync(join(tmpdir(), 'lora-bench-'));
  const workers = new Map();
  try {
    const source = await sourceOf(testCase, folder);
    const model = quantize ? source : join(folder, 'model.gguf');
    if (!quantize) await convertModel(source, model, { format });
    const settings = { model, quantize, dtype, threads: bench.threads, contextSize: 1024 };
    workers.set('ours', await startOurs('generate.mjs', { ...settings, activations }));
    if (activations) workers.set('exact', await startOurs('generate.mjs', settings));
    rmSync(join(folder, 'random'), { recursive: true, force: true });
    try {
      if (bench.noRivals) throw new Error(bench.noRivals);
      if (quantize) throw new Error('GGUF has no such format');
      workers.set('node-llama-cpp', await startLlamaCpp('generate_llama_cpp.mjs', settings));
    } catch (error) {
      bench.leaveOut(`${id}: node-llama-cpp`, error.message);
    }
    const { vocabSize } = workers.get('ours').info;
    // Takes the memory, and runs both kinds of steps once.
    const warmUp = { ids: promptOf(runs.prefill.length, vocabSize, 0), tokens: 8 };
    for (const worker of workers.values()) await worker.ask(warmUp);
    for (const [what, { length, tokens }] of Object.entries(runs)) {
      const request = (_, round) => ({ ids: promptOf(length, vocabSize, round + 1), tokens });
      const { answers } = await inTurns(workers, request, { ...bench.stepSettings, rounds });
      const figures = (name, read) => answers.get(name)?.map(read);
      const seconds = (name) => figures(name, (answer) => answer[`${what}Ms`] / 1000);
      const user = (name) => figures(name, (answer) => answer.userMs);
      const row = { kind: 'gguf', case: id, what, unit: 's', ours: spread(seconds('ours')), rivals: {} };
      row.model = testCase.shape ? `shape of ${testCase.shape}` : testCase.found.name;
      if (activations) row.rivals.exact = rivalOf(seconds('ours'), seconds('exact'));
      else row.format = quantize ?? format; // the table of formats has exact products
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
