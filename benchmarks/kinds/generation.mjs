// Tokens that are read (prefill) and written (decode) by whole models. The prefill's rival is the lean Llama of
// ../shared/baselines in PyTorch.
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { shared } from '../models.mjs';
import { rivalEnvironment, Worker } from '../providers/worker.mjs';
import { median, rivalOf, shareOfCeiling, spread } from '../stats.mjs';
import { inTurns, processes, startOurs, stopAll } from './whole_model.mjs';

/** Ids of a prompt; of another one in each round, since the engine knows the beginnings that it has read. */
export const promptOf = (length, vocabulary, round) =>
  Array.from({ length }, (_, i) => (i === 0 ? 17 * round : i * 7919) % vocabulary);

async function startPrefill(testCase, bench, workers) {
  const baselines = join(shared, 'baselines');
  const missing = existsSync(join(baselines, 'llama_lora.py')) ? undefined : `${baselines} is absent`;
  const reason = bench.torch ? missing : bench.reasons.torch;
  if (reason) return bench.leaveOut(`${testCase.id}: PyTorch`, reason);
  const { threads, python } = bench;
  const args = [String(threads), baselines, testCase.found.dir, testCase.dtype];
  const command = [join(processes, '../providers/prefill_worker.py'), ...args];
  workers.set('torch', await Worker.start('prefill', python, command, rivalEnvironment(threads)));
}

export async function runGeneration(testCase, bench) {
  const { dtype, tokens, prompt: length, do: what, found } = testCase;
  const workers = new Map();
  try {
    const ours = await startOurs('generate.mjs', { model: found.dir, dtype, threads: bench.threads });
    workers.set('ours', ours);
    const decode = what === 'decode';
    if (!decode) await startPrefill(testCase, bench, workers);
    const { vocabSize, kvWidth } = ours.info;
    const request = (_, round) => ({ ids: promptOf(length, vocabSize, decode ? 0 : round + 1), tokens });
    // Takes the memory, and reads the prompt of decode; a prefill is timed with prompts that are new.
    const warmUp = { ids: promptOf(length, vocabSize, 0), tokens };
    for (const worker of workers.values()) await worker.ask(warmUp);
    const ceiling = decode ? bench.ceilings.of('read') : undefined;
    const { answers, ceilings } = await inTurns(workers, request, bench.stepSettings, ceiling);

    const row = { kind: 'generation', case: testCase.id, what, unit: 's', rivals: {} };
    const seconds = answers.get('ours').map((answer) => answer[`${what}Ms`] / 1000);
    row.ours = spread(seconds);
    row.tokens = decode ? tokens - 1 : length;
    const rival = answers.get('torch');
    if (rival) {
      const theirs = rival.map(({ ms }) => ms / 1000);
      row.rivals.torch = rivalOf(seconds, theirs);
      checkIds(testCase, answers);
    }
    if (decode) {
      // Each token reads the weights once, as they are in the file, and the keys and values before it.
      const weights = statSync(join(found.dir, 'model.safetensors')).size;
      const cache = kvWidth * (length + tokens / 2) * (dtype === 'f32' ? 4 : 2);
      const rates = seconds.map((time) => ((weights + cache) * row.tokens) / time / 1e9);
      row.gbps = median(rates);
      row.share = shareOfCeiling('read', rates, ceilings);
    }
    bench.add(row);
  } finally {
    await stopAll(workers);
  }
}

/** Most of the next ids are the same: bf16 rounds in other places, which may change a close choice. */
function checkIds({ id, dtype }, answers) {
  const pairs = answers.get('torch').map((answer, i) => [answer.id, answers.get('ours')[i].ids[0]]);
  const same = pairs.filter(([theirs, own]) => theirs === own).length;
  if (same < pairs.length / 2 || (dtype === 'f32' && same < pairs.length))
    throw new Error(`${id}: the next ids (PyTorch's, ours) are ${JSON.stringify(pairs)}`);
}
