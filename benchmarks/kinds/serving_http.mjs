// Streams of `lora-native serve` over HTTP against those of node-llama-cpp in its own process, on the same weights, in bf16 or in the blocks
// of one GGUF file. It is no dependency: where NODE_PATH names a folder with it, it is a rival.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { convertModel } from 'lora-native';
import { startLlamaCpp } from '../providers/llama_cpp.mjs';
import { ratio, rivalOf, spread } from '../stats.mjs';
import { inTurns, startOurs, stopAll } from './whole_model.mjs';

const most = 16;
const runs = {
  '1 stream': { streams: 1 },
  '8 streams': { streams: 8 },
  [`${most} streams`]: { streams: most },
  newcomer: { streams: 8, newcomer: 8 },
};

export async function runServingHttp(testCase, bench) {
  const { dtype, format, found, tokens, id } = testCase;
  const folder = mkdtempSync(join(tmpdir(), 'lora-bench-'));
  const servers = new Map();
  try {
    const { vocab_size: vocabulary } = JSON.parse(readFileSync(join(found.dir, 'config.json'), 'utf8'));
    const file = join(folder, 'model.gguf');
    await convertModel(found.dir, file, { format: format ?? 'bf16' });
    const settings = { model: format ? file : found.dir, dtype, threads: bench.threads, vocabulary };
    servers.set('ours', await startOurs('serve_http.mjs', settings));
    try {
      if (bench.noRivals) throw new Error(bench.noRivals);
      servers.set(
        'node-llama-cpp',
        await startLlamaCpp('serve_llama_cpp.mjs', { ...settings, model: file, most }),
      );
    } catch (error) {
      bench.leaveOut(`${id}: node-llama-cpp`, error.message);
    }
    // Each run of each server is a turn, so that all of a round meet the same machine.
    const turns = new Map(
      Object.keys(runs).flatMap((run) => [...servers].map(([name, worker]) => [`${name}, ${run}`, worker])),
    );
    const request = (turn) => ({ tokens, ...runs[turn.slice(turn.indexOf(', ') + 2)] });
    await inTurns(turns, request, { ...bench.stepSettings, rounds: 1 }); // records the steps, takes the memory
    const { answers } = await inTurns(turns, request, bench.stepSettings);
    const figures = (name, run, what) => answers.get(`${name}, ${run}`)?.map((answer) => answer[what]);
    const add = (what, run, figure, more) => {
      const ours = figures('ours', run, figure);
      const theirs = figures('node-llama-cpp', run, figure);
      const { version } = servers.get('node-llama-cpp')?.info ?? {};
      const rivals = theirs ? { 'node-llama-cpp': { version, ...rivalOf(ours, theirs) } } : {};
      bench.add({ kind: 'serving_http', case: id, what, unit: 's', ours: spread(ours), rivals, ...more });
    };
    const eight = figures('ours', '8 streams', 'perToken');
    for (const run of Object.keys(runs)) if (!runs[run].newcomer) add(run, run, 'perToken', { tokens: 1 });
    const steps = ratio(figures('ours', 'newcomer', 'first'), eight).median / 8;
    add('first token', 'newcomer', 'first', { steps });
  } finally {
    await stopAll(servers);
    rmSync(folder, { recursive: true, force: true });
  }
}
