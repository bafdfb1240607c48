// Many short texts as vectors, the mean of their tokens: ours in the order in which they come, PyTorch's sorted by length in padded batches.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import inputsOf from '../inputs.cjs';
import { shared } from '../models.mjs';
import { rivalEnvironment, Worker } from '../providers/worker.mjs';
import { checkClose, rivalOf, spread } from '../stats.mjs';
import { inTurns, startOurs, stopAll } from './whole_model.mjs';

const script = join(dirname(fileURLToPath(import.meta.url)), '../providers/embed_worker.py');
const baselines = join(shared, 'baselines');

/** @throws where it cannot run */
function startTorch({ found, dtype }, { torch, reasons, noRivals, threads, python }) {
  if (noRivals) throw new Error(noRivals);
  if (!torch) throw new Error(reasons.torch);
  if (!existsSync(join(baselines, 'llama_lora.py'))) throw new Error(`${baselines} is absent`);
  const args = [script, threads, baselines, found.dir, dtype].map(String);
  return Worker.start('PyTorch, embed', python, args, rivalEnvironment(threads));
}

export async function runEmbedding(testCase, bench) {
  const { id, found, dtype, texts: count, lengths } = testCase;
  const workers = new Map();
  try {
    const settings = { model: found.dir, dtype, threads: bench.threads };
    workers.set('ours', await startOurs('embed.mjs', settings));
    try {
      workers.set('torch', await startTorch(testCase, bench));
    } catch (error) {
      bench.leaveOut(`${id}: torch`, error.message);
    }
    const texts = inputsOf.shortTexts(count, lengths, workers.get('ours').info.vocabSize);
    // Warms both up; PyTorch also finds its fastest batch.
    const first = new Map();
    for (const [name, worker] of workers) first.set(name, await worker.ask({ texts }));
    const [ours, torch] = ['ours', 'torch'].map((name) => first.get(name));
    if (torch) checkClose(id, ours, { vectors: torch.vectors }, dtype === 'f32' ? 1e-4 : 3e-2);
    const { answers } = await inTurns(workers, () => ({ texts }), bench.stepSettings);
    const seconds = (name) => answers.get(name).map(({ ms }) => ms / 1000);
    const row = { kind: 'embedding', case: id, what: 'embed', unit: 's', rivals: {} };
    row.ours = spread(seconds('ours'));
    row.tokens = texts.flat().length;
    row.textsPerSecond = count / row.ours.median;
    if (torch) row.rivals.torch = { ...rivalOf(seconds('ours'), seconds('torch')), batch: torch.batch };
    bench.add(row);
  } finally {
    await stopAll(workers);
  }
}
