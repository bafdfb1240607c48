// What loading a model takes: seconds, and the peak of memory over the size of its files.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { processes } from './whole_model.mjs';
import { spread } from '../stats.mjs';

export async function runLoading(testCase, bench) {
  if (!existsSync('/proc/self/status')) return bench.leaveOut(testCase.id, '/proc/self/status is not there');
  const { dir } = testCase.found;
  const loads = Array.from({ length: Math.min(bench.stepSettings.rounds, 3) }, () => {
    const args = [join(processes, 'load.mjs'), JSON.stringify({ model: dir, dtype: testCase.dtype })];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${testCase.id}: ${stderr}`);
    return JSON.parse(stdout);
  });
  const files = readdirSync(dir).filter((name) => name.endsWith('.safetensors'));
  const bytes = files.reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  const row = { kind: 'loading', case: testCase.id, rivals: {} };
  bench.add({ ...row, what: 'time', unit: 's', ours: spread(loads.map(({ seconds }) => seconds)) });
  const peaks = spread(loads.map(({ peak }) => peak / 2 ** 20));
  // Without what Node and the add-on have before.
  const ofFile = spread(loads.map(({ peak, before }) => (peak - before) / bytes));
  bench.add({ ...row, what: 'peak memory', unit: 'MiB', ours: peaks, ofFile });
}
