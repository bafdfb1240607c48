// A full fine-tuning step: its time and its peak memory, against PyTorch with the lean Llama of ../shared/baselines/llama_lora.py, whose
// tensors providers/full_step_worker.py trains with PyTorch's fused AdamW. PyTorch itself has no 8-bit AdamW and no stochastic rounding.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { shared } from '../models.mjs';
import { rivalEnvironment, Worker } from '../providers/worker.mjs';
import { measureSteps } from './training_step.mjs';

const script = join(dirname(fileURLToPath(import.meta.url)), '../providers/full_step_worker.py');
const baselines = join(shared, 'baselines');

async function startRival({ id, found, dtype, batch, length }, bench, workers) {
  const { python, threads } = bench;
  try {
    if (!bench.torch) throw new Error(bench.reasons.torch);
    if (!existsSync(join(baselines, 'llama_lora.py'))) throw new Error(`${baselines} is absent`);
    const args = [script, threads, baselines, found.dir, dtype, batch, length].map(String);
    workers.set('lean', await Worker.start('lean', python, args, rivalEnvironment(threads)));
  } catch (error) {
    bench.leaveOut(`${id}: PyTorch, lean`, error.message);
  }
}

/**
 * Throws where a rival trains something else: the loss before the first update depends on the weights and the ids alone. In bf16 it rounds the
 * logits, ours does not: 10.27 and 10.40 in SmolLM2-135M.
 */
function checkLosses({ id, dtype }, workers) {
  const ours = workers.get('ours').info.loss;
  const bound = dtype === 'f32' ? 1e-3 : 3e-2;
  for (const [name, { info }] of workers)
    if (!(Math.abs(info.loss - ours) <= bound * ours))
      throw new Error(`${id}: our first loss is ${ours}, that of ${name} ${info.loss}`);
}

export const runFullStep = (testCase, bench) =>
  measureSteps(testCase, bench, {
    settings: {
      train: 'all',
      optimizer: testCase.optimizer,
      stochasticRounding: testCase.stochasticRounding,
      lr: 1e-5,
    },
    startRivals: startRival,
    checkStart: (workers) => checkLosses(testCase, workers),
  });
