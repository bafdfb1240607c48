// The last lines of .ci/run: which tests were skipped and why, where AVX3_SPR ran, and `N passed, N failed, N skipped` of jest and ctest,
// standard and deep, ctest under sanitizers and on AVX3_SPR. A skipped test that .ci/skips.json has no reason for counts as failed, and so
// does each failed step.
//   node scripts/ci-summary.mjs FAILED_STEPS
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const read = (path) =>
  existsSync(join(root, path)) ? JSON.parse(readFileSync(join(root, path), 'utf8')) : undefined;

const allowed = read('.ci/skips.json');
const total = { passed: 0, failed: 0, skipped: 0 };

/** Adds one runner's counts; `skips` are the titles that it left out. */
function add(runner, counts, skips) {
  for (const key of Object.keys(total)) total[key] += counts[key];
  for (const title of skips) {
    const known = allowed[runner].find((entry) => new RegExp(entry.title).test(title));
    console.log(known ? `skipped: ${title}: ${known.why}` : `skipped, and not in .ci/skips.json: ${title}`);
    if (!known) total.failed++;
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
}
for (const which of ['', '-deep', '-sanitize', '-amx']) {
  const path = `build/ctest${which}.json`;
  const counts = read(path);
  if (!counts) continue;
  add('native', counts, counts.skips);
  if (counts.passed > 0 && counts.where) console.log(`AVX3_SPR ran ${counts.where}`);
}
for (const runner of ['jest', 'jest-deep', 'ctest', 'ctest-deep'])
  if (!existsSync(join(root, `build/${runner}.json`))) total.failed++; // it left no counts, so it did not run
total.failed = Math.max(total.failed, Number(process.argv[2]));
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 ? 1 : 0;
