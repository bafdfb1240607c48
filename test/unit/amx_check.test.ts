// scripts/amx-check.mjs: what it says where it cannot run. What it runs is native tests.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const folder = temporaryFolder();

function check(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, 'scripts/amx-check.mjs'), '--counts', join(folder, 'counts.json'), ...args],
    { cwd: root, encoding: 'utf8', env: { PATH: folder } },
  );
  return { status, stdout, stderr };
}

test('a machine without packages of Debian skips, for a reason that CI knows', () => {
  const { status, stdout, stderr } = check('--bochs');
  expect([status, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(/^avx3_spr: 0 passed, 0 failed, 1 skipped, for (no apt-get|no x86-64 Linux)\n$/);
  const counts = JSON.parse(readFileSync(join(folder, 'counts.json'), 'utf8')) as {
    skipped: number;
    skips: string[];
  };
  expect(counts).toMatchObject({ passed: 0, failed: 0, skipped: 1 });
  const known = JSON.parse(readFileSync(join(root, '.ci/skips.json'), 'utf8')) as {
    native: { title: string }[];
  };
  expect(counts.skips).toHaveLength(1);
  for (const skip of counts.skips)
    expect(known.native.filter(({ title }) => new RegExp(title).test(skip))).toHaveLength(1);
});

test('a limit that is no time is refused', () => {
  const { status, stderr } = check('--bochs', '--minutes', 'ten');
  expect(status).toBe(1);
  expect(stderr).toContain('expected --minutes to be a positive number but received ten');
});
