/** The last lines of .ci/run, of counts that runners left. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const clone = temporaryFolder();
const write = (name: string, value: object): void =>
  writeFileSync(join(clone, 'build', name), JSON.stringify(value));
const jestCounts = (title: string): object => ({
  numPassedTests: 100,
  numFailedTests: 0,
  numPendingTests: 1,
  testResults: [{ assertionResults: [{ status: 'pending', fullName: title }] }],
});

function summary(...failedSteps: string[]): { status: number | null; last: string | undefined; all: string } {
  const script = join(clone, 'scripts/ci-summary.mjs');
  const { status, stdout } = spawnSync(process.execPath, [script, ...failedSteps], { encoding: 'utf8' });
  return { status, last: stdout.trimEnd().split('\n').at(-1), all: stdout };
}

beforeAll(() => {
  for (const folder of ['scripts', '.ci', 'build']) mkdirSync(join(clone, folder));
  for (const file of ['scripts/ci-summary.mjs', '.ci/skips.json'])
    copyFileSync(join(root, file), join(clone, file));
});
beforeEach(() => {
  for (const which of ['', '-deep']) {
    write(`jest${which}.json`, jestCounts('llama.cpp (skipped: node-llama-cpp is not installed) writes'));
    write(`ctest${which}.json`, { passed: 10, failed: 0, skipped: 1, skips: ['gpu_check'] });
  }
});

test('standard and deep tests of both runners are counted, and skips with a reason are no failures', () => {
  expect(summary()).toMatchObject({ status: 0, last: '220 passed, 0 failed, 4 skipped' });
});

test.each(['jest', 'jest-deep', 'ctest', 'ctest-deep'])('%s that left no counts did not run', (runner) => {
  rmSync(join(clone, `build/${runner}.json`));
  expect(summary()).toMatchObject({ status: 1, last: expect.stringContaining(' 1 failed') as string });
});

test('a skip of deep tests without a reason, and a failed step, are failures', () => {
  write('jest-deep.json', jestCounts('forgotten'));
  expect(summary()).toMatchObject({ status: 1, last: '220 passed, 1 failed, 4 skipped' });
  expect(summary().all).toContain('not in .ci/skips.json: forgotten');
  const { last, all } = summary('lint', 'types');
  expect(last).toBe('220 passed, 2 failed, 4 skipped');
  expect(all).toContain('failed step: lint\nfailed step: types\n');
});

test('tests that failed are named after all skips, with the beginning of what they said', () => {
  write('jest.json', {
    ...jestCounts('llama.cpp (skipped: node-llama-cpp is not installed) writes'),
    numFailedTests: 1,
    testResults: [
      {
        name: join(clone, 'test/a.test.ts'),
        message: 'all of it',
        assertionResults: [
          { status: 'failed', fullName: 'one is two', failureMessages: ['Expected: 2\nReceived: 1'] },
        ],
      },
      { name: join(clone, 'test/b.test.ts'), message: 'Cannot find module', assertionResults: [] },
    ],
  });
  write('ctest-deep.json', {
    passed: 9,
    failed: 1,
    skipped: 0,
    skips: [],
    failures: ['cuda_gemm | ERROR: 1'],
  });
  expect(summary().all.split('\n').slice(-5)).toEqual([
    'failed: one is two: Expected: 2 | Received: 1',
    'failed: test/b.test.ts: Cannot find module',
    'failed: cuda_gemm | ERROR: 1',
    '219 passed, 2 failed, 3 skipped',
    '',
  ]);
});
