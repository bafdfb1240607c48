/** Training that is killed at random moments; scripts/soak.mjs does the same 200 times. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

const root = join(__dirname, '../..');

test('killed ten times and resumed, training ends with the bits of the undisturbed run', () => {
  if (!existsSync(join(root, 'dist/index.mjs'))) throw new Error('dist is missing: npm run build:js');
  const args = ['scripts/killed-training.mjs', '--kills', '10', '--seed', '5'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  const [, kills, resumed] =
    /^(\d+) kills, (\d+) resumed, [1-9]\d* runs ended with the bits of the undisturbed one$/m.exec(stdout) ??
    [];
  expect(Number(kills)).toBeGreaterThanOrEqual(10);
  expect(Number(resumed)).toBeGreaterThan(0);
}, 300_000);
