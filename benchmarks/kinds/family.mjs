// Families whose layers are not all attention, or have experts: a training step of packed texts against PyTorch, and tokens that are written, against PyTorch and
// node-llama-cpp on a GGUF file of the same weights. The models are made here, in the layout of the published ones.
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { convertModel } from 'lora-native';
import { writeFamilyModel } from '../family_models.mjs';
import { shared } from '../models.mjs';
import { startLlamaCpp } from '../providers/llama_cpp.mjs';
import { rivalEnvironment, Worker } from '../providers/worker.mjs';
import { rivalOf, spread } from '../stats.mjs';
import { promptOf } from './generation.mjs';
import { inTurns, startOurs, stopAll } from './whole_model.mjs';

const script = join(dirname(fileURLToPath(import.meta.url)), '../providers/family_worker.py');
const baselines = join(shared, 'baselines');

/** PyTorch for steps, or for tokens. @throws where it cannot run */
function startTorch({ dtype, length, text }, bench, dir, what) {
  if (!bench.torch) throw new Error(bench.reasons.torch);
  if (!existsSync(join(baselines, 'llama_lora.py'))) throw new Error(`${baselines} is absent`);
  const { threads, python } = bench;
  const args = [script, threads, baselines, dir, dtype, length / text, text, what].map(String);
  return Worker.start(`PyTorch, ${what}`, python, args, rivalEnvironment(threads));
}

/** Adds a rival, or says why it is left out. */
async function addRival(workers, name, id, bench, start) {
  try {
    if (bench.noRivals) throw new Error(bench.noRivals);
    workers.set(name, await start());
  } catch (error) {
    bench.leaveOut(`${id}: ${name}`, error.message);
  }
}

/** A packed row of ours has the texts that PyTorch has as a batch: no text reaches another one, and no place is padding. */
async function measureStep(testCase, bench, dir) {
  const { id, dtype, length, text } = testCase;
  const workers = new Map();
  try {
    const settings = { model: dir, dtype, batch: 1, length, text, threads: bench.threads };
    workers.set('ours', await startOurs('train.mjs', settings));
    await addRival(workers, 'torch', id, bench, () => startTorch(testCase, bench, dir, 'step'));
    const [ours, theirs] = ['ours', 'torch'].map((name) => workers.get(name)?.info.loss);
    if (theirs !== undefined && !(Math.abs(ours - theirs) <= (dtype === 'f32' ? 1e-3 : 3e-2) * theirs))
      throw new Error(`${id}: our first loss is ${ours}, that of PyTorch ${theirs}`);
    const { answers } = await inTurns(workers, () => ({ do: 'step' }), bench.stepSettings);
    const seconds = (name) => answers.get(name)?.map(({ ms }) => ms / 1000);
    const row = {
      kind: 'family',
      case: id,
      what: 'step',
      unit: 's',
      ours: spread(seconds('ours')),
      rivals: {},
    };
    if (workers.has('torch')) row.rivals.torch = rivalOf(seconds('ours'), seconds('torch'));
    row.tokens = length;
    bench.add(row);
    const [own, other] = [...workers.values()].map((worker) => worker.peakMiB());
    if (own === undefined) return;
    const peak = { kind: 'family', case: id, what: 'peak memory of steps', unit: 'MiB', rivals: {} };
    peak.ours = spread([own]);
    if (other !== undefined) peak.rivals.torch = rivalOf([own], [other]);
    bench.add(peak);
  } finally {
    await stopAll(workers);
  }
}

async function measureTokens(testCase, bench, { dir, file, format }) {
  const { id, dtype, prompt, tokens } = testCase;
  const workers = new Map();
  const settings = { model: file, dtype, threads: bench.threads, contextSize: 1024 };
  try {
    workers.set('ours', await startOurs('generate.mjs', settings));
    if (format === 'bf16')
      await addRival(workers, 'torch', id, bench, () => startTorch(testCase, bench, dir, 'decode'));
    await addRival(workers, 'node-llama-cpp', id, bench, () =>
      startLlamaCpp('generate_llama_cpp.mjs', settings),
    );
    const { vocabSize } = workers.get('ours').info;
    const request = (length, round) => ({ do: 'decode', ids: promptOf(length, vocabSize, round), tokens });
    // Takes the memory, and runs both kinds of steps once.
    for (const worker of workers.values()) await worker.ask({ ...request(prompt, 0), tokens: 4 });
    const { answers } = await inTurns(workers, (_, round) => request(prompt, round + 1), bench.stepSettings);
    const seconds = (name) => answers.get(name)?.map(({ decodeMs }) => decodeMs / 1000);
    const row = { kind: 'family', case: `${id}, ${format}`, what: 'decode', unit: 's', rivals: {} };
    row.ours = spread(seconds('ours'));
    row.tokens = tokens - 1;
    for (const name of workers.keys())
      if (name !== 'ours') row.rivals[name] = rivalOf(seconds('ours'), seconds(name));
    row.sameFirst = Object.fromEntries(
      Object.keys(row.rivals).map((name) => {
        const same = answers.get(name).filter(({ ids }, i) => ids[0] === answers.get('ours')[i].ids[0]);
        return [name, `${same.length} of ${answers.get(name).length}`];
      }),
    );
    bench.add(row);
  } finally {
    await stopAll(workers);
  }
}

export async function runFamily(testCase, bench) {
  const folder = mkdtempSync(join(tmpdir(), 'lora-bench-'));
  try {
    const dir = await writeFamilyModel(join(folder, 'model'), testCase.model);
    for (const name of ['tokenizer.json', 'tokenizer_config.json'])
      copyFileSync(join(testCase.found.dir, name), join(dir, name));
    await measureStep(testCase, bench, dir);
    for (const format of testCase.formats) {
      const file = join(folder, `${format}.gguf`);
      await convertModel(dir, file, { format });
      await measureTokens(testCase, bench, { dir, file, format });
      rmSync(file);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
