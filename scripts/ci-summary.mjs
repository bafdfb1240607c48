// The last lines of .ci/run: which tests were skipped and why, where AVX3_SPR ran, which steps and tests failed, and `N passed, N failed,
// N skipped` of jest and ctest, standard and deep, ctest under sanitizers and on AVX3_SPR. A skipped test that .ci/skips.json has no reason
// for counts as failed, and so does each failed step.
//   node scripts/ci-summary.mjs [FAILED_STEP …]
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const read = (path) =>
  existsSync(join(root, path)) ? JSON.parse(readFileSync(join(root, path), 'utf8')) : undefined;

const allowed = read('.ci/skips.json');
const total = { passed: 0, failed: 0, skipped: 0 };
const failedSteps = process.argv.slice(2);
const failures = failedSteps.map((step) => `failed step: ${step}`); // what a reader of the last lines alone needs to know

const firstLines = (text) => text.trim().split('\n').slice(0, 4).join(' | ').slice(0, 600);

/** Adds one runner's counts; `skips` are the titles that it left out. */
function add(runner, counts, skips) {
  for (const key of Object.keys(total)) total[key] += counts[key];
  for (const title of skips) {
    const known = allowed[runner].find((entry) => new RegExp(entry.title).test(title));
    if (known) console.log(`skipped: ${title}: ${known.why}`);
    else {
      total.failed++;
      failures.push(`skipped, and not in .ci/skips.json: ${title}`);
    }
  }
}

for (const path of ['build/jest.json', 'build/jest-deep.json']) {
  const jest = read(path);
  if (!jest) continue;
  add(
    'jest',
    { passed: jest.numPassedTests, failed: jest.numFailedTests, skipped: jest.numPendingTests },
    jest.testResults
      .flatMap(({ assertionResults }) => assertionResults)
      .filter(({ status }) => status !== 'passed' && status !== 'failed')
      .map(({ fullName }) => fullName),
  );
  for (const { name, message, assertionResults } of jest.testResults) {
    const failed = assertionResults.filter(({ status }) => status === 'failed');
    for (const { fullName, failureMessages } of failed)
      failures.push(`failed: ${fullName}: ${firstLines(failureMessages.join('\n'))}`);
    // A file that did not load has no test to name.
    if (failed.length === 0 && message)
      failures.push(`failed: ${relative(root, name)}: ${firstLines(message)}`);
  }
}
for (const which of ['', '-deep', '-sanitize', '-amx']) {
  const path = `build/ctest${which}.json`;
  const counts = read(path);
  if (!counts) continue;
  add('native', counts, counts.skips);
  failures.push(...(counts.failures ?? []).map((failure) => `failed: ${failure}`));
  if (counts.passed > 0 && counts.where) console.log(`AVX3_SPR ran ${counts.where}`);
}
for (const runner of ['jest', 'jest-deep', 'ctest', 'ctest-deep']) {
  if (existsSync(join(root, `build/${runner}.json`))) continue;
  total.failed++;
  failures.push(`left no counts, so it did not run: ${runner}`);
}
total.failed = Math.max(total.failed, failedSteps.length);
for (const failure of failures) console.log(failure);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 ? 1 : 0;
