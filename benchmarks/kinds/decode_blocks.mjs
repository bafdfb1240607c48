// Decode steps with a layer in each format, on each instruction set that this machine has: a set must not be slower than one that it extends. A
// process has one set, the first the one that LORA_SIMD names.
import { join } from 'node:path';
import { addon } from '../addon.mjs';
import { Worker } from '../providers/worker.mjs';
import { checkClose, ratio, rivalOf, shareOfCeiling, spread } from '../stats.mjs';
import { inTurns, processes, stopAll } from './whole_model.mjs';

const startSet = (simd, settings) =>
  Worker.start(
    `decode_blocks.mjs on ${simd}`,
    process.execPath,
    [join(processes, 'decode_blocks.mjs'), JSON.stringify(settings)],
    { ...process.env, LORA_SIMD: simd },
  );

export async function runDecodeBlocks(testCase, bench) {
  const { dtype, layer, format, id } = testCase;
  const { target: best, targets } = addon().cpuInfo();
  const workers = new Map();
  try {
    for (const simd of targets.slice(targets.indexOf(best)))
      workers.set(simd, await startSet(simd, { layer, format, dtype, threads: bench.threads }));
    for (const rows of testCase.rows) await timeRows(rows, best, workers, { id: `${id} m=${rows}`, bench });
  } finally {
    await stopAll(workers);
  }
}

async function timeRows(rows, best, workers, { id, bench }) {
  await checkSets(id, workers, rows);
  const { rounds, budget, gap } = bench.settings;
  const request = () => ({ rows, ms: budget * 1000 });
  const read = bench.ceilings.of('read');
  const { answers, ceilings } = await inTurns(workers, request, { rounds, gap }, read);
  const all = (simd, what) => answers.get(simd).map((answer) => answer[what]);
  for (const [simd, { info }] of workers) {
    const ours = all(simd, 'seconds');
    const row = { kind: 'decode_blocks', case: id, what: simd, unit: 's', ours: spread(ours), rivals: {} };
    if (simd !== best) {
      row.rivals[best] = rivalOf(ours, all(best, 'seconds'));
      row.cpuOfRival = ratio(all(simd, 'cpu'), all(best, 'cpu'));
    }
    row.gbps = info.bytes / row.ours.median / 1e9;
    const rates = ours.map((seconds) => info.bytes / seconds / 1e9);
    row.share = shareOfCeiling('read', rates, ceilings);
    bench.add(row);
  }
}

/** Sets sum in other orders, and round y to the dtype. */
async function checkSets(id, workers, rows) {
  let first;
  for (const [simd, worker] of workers) {
    const { values } = await worker.ask({ rows, check: true });
    first ??= values;
    checkClose(`${id} on ${simd}`, { y: values }, { y: first }, 4e-3);
  }
}
