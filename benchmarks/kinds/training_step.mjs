// A training step of a whole model: its time and its peak memory, against PyTorch written lean and against
// torch.compile of that (../shared/baselines/train_step.py). Each is a process of its own, and they take turns.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { shared } from '../models.mjs';
import { rivalEnvironment, Worker } from '../providers/worker.mjs';
import { ratio, rivalOf, shareOfCeiling, spread } from '../stats.mjs';
import { inTurns, startOurs, stopAll } from './whole_model.mjs';

const script = join(shared, 'baselines/train_step.py');

/** Starts the rivals that there can be, and says why the others are left out. */
async function startRivals(testCase, bench, workers) {
  const { python, threads } = bench;
  const wanted = testCase.beside || testCase.model !== 'SmolLM2-135M' ? ['lean'] : ['lean', 'compile'];
  for (const impl of wanted) {
    const missing = !bench.torch
      ? bench.reasons.torch
      : existsSync(script)
        ? undefined
        : `${script} is absent`;
    const off = impl === 'compile' && bench.noCompile;
    if (missing || off) {
      bench.leaveOut(`${testCase.id}: PyTorch, ${impl}`, missing ?? off);
      continue;
    }
    const { batch, length, dtype } = testCase;
    const flags = { impl, dtype, batch, seq: length, rank: 16, threads };
    const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
    try {
      const command = [script, testCase.found.dir, ...args, '--serve'];
      workers.set(impl, await Worker.start(impl, python, command, rivalEnvironment(threads)));
    } catch (error) {
      bench.leaveOut(`${testCase.id}: PyTorch, ${impl}`, error.message);
    }
  }
}

/**
 * Throws where a rival trains something else: adapters begin at 0, so that the loss before the first step is the same; the rivals
 * tell it from the third step on, when the random numbers of the adapters have moved it by some percent.
 */
function checkLosses({ id }, answers) {
  const [ours] = answers.get('ours');
  for (const [name, [first]] of answers)
    if (!(Math.abs(first.loss - ours.loss) <= 0.1 * Math.abs(first.loss)))
      throw new Error(`${id}: our loss is ${ours.loss}, that of ${name} ${first.loss}`);
}

/**
 * Takes steps of ours, with `settings` beside those of the case, in turns with those of the rivals that `startRivals` starts. Where they do not
 * train the same, `checkStart` throws before the rounds, or `check` after them.
 */
export async function measureSteps(testCase, bench, { settings, startRivals, checkStart, check }) {
  const { kind, batch, length, dtype, beside } = testCase;
  const workers = new Map();
  let neighbor;
  try {
    const ofCase = { model: testCase.found.dir, dtype, batch, length, threads: bench.threads };
    workers.set('ours', await startOurs('train.mjs', { ...ofCase, ...settings }));
    await startRivals(testCase, bench, workers);
    checkStart?.(workers);
    if (beside) neighbor = spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' });
    const ceiling = bench.ceilings.of(dtype);
    const { answers, ceilings } = await inTurns(workers, () => ({}), bench.stepSettings, ceiling);
    check?.(answers);

    const times = (name) => answers.get(name).map(({ ms }) => ms / 1000);
    const ours = times('ours');
    const rivals = [...workers.keys()].filter((name) => name !== 'ours');
    const named = (of) => Object.fromEntries(rivals.map((name) => [`torch ${name}`, of(name)]));
    const { flops } = workers.get('ours').info;
    const row = { kind, case: testCase.id, what: 'step', unit: 's', ours: spread(ours) };
    row.rivals = named((name) => rivalOf(ours, times(name)));
    row.tokens = batch * length;
    row.gflops = flops / row.ours.median / 1e9;
    const rates = ours.map((seconds) => flops / seconds / 1e9);
    row.share = shareOfCeiling(dtype, rates, ceilings);
    const shares = (name) => answers.get('ours').map((answer) => answer[name]);
    row.js = spread(shares('js'));
    if (shares('jsAtWork')[0]) row.jsAtWork = spread(shares('jsAtWork'));
    const cpu = (name) => answers.get(name).map(({ userMs, systemMs }) => userMs + systemMs);
    if (answers.get('lean')?.[0].userMs) row.cpuOfRival = ratio(cpu('ours'), cpu('lean'));
    bench.add(row);
    if (beside) return;
    const peak = (name) => {
      const mib = workers.get(name).peakMiB();
      return mib === undefined ? undefined : [mib];
    };
    if (!peak('ours')) bench.leaveOut(`${testCase.id}: peak memory`, '/proc/PID/status is not there');
    else
      bench.add({
        kind,
        case: testCase.id,
        what: 'peak memory',
        unit: 'MiB',
        ours: spread(peak('ours')),
        rivals: named((name) => rivalOf(peak('ours'), peak(name))),
      });
  } finally {
    neighbor?.kill();
    await stopAll(workers);
  }
}

export const runTrainingStep = (testCase, bench) =>
  measureSteps(testCase, bench, {
    settings: {},
    startRivals,
    check: (answers) => checkLosses(testCase, answers),
  });
