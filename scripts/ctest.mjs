// Builds and runs the native tests (no Node in them): node scripts/ctest.mjs [--sanitize | --standard | --deep] [-R regex]
// Those of a tier (test/support/tiers.cjs), or all. Leaves the counts of doctest cases in build/ctest[-sanitize|-deep].json.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import tiers from '../test/support/tiers.cjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const sanitize = args.includes('--sanitize');
const tier = ['standard', 'deep'].find((name) => args.includes(`--${name}`));
const rest = args.filter((argument) => !/^--(sanitize|standard|deep)$/.test(argument));
// Without sanitizers the tests share the add-on's build tree, so that nothing is compiled twice.
const dir = join(root, 'build', sanitize ? 'sanitize' : 'cmake');
const jobs = String(availableParallelism());

function run(command, commandArgs, options = {}) {
  const result = spawnSync(command, commandArgs, { cwd: root, stdio: 'inherit', ...options });
  if (result.error) throw result.error;
  return result;
}
function must(command, commandArgs) {
  const { status } = run(command, commandArgs);
  if (status !== 0) process.exit(3); // of a build; tests that fail end with 1
}

if (sanitize)
  must('cmake', ['-S', '.', '-B', dir, '-DLORA_NODE=OFF', '-DLORA_TESTS=ON', '-DLORA_SANITIZE=ON']);
else {
  // Only deep tests run kernels that are compiled a second time.
  const contracted = tier ? [`-DLORA_CONTRACTED=${tier === 'deep' ? 'ON' : 'OFF'}`] : [];
  must(process.execPath, ['scripts/build.mjs', '-DLORA_TESTS=ON', ...contracted]);
}
if (sanitize) must('cmake', ['--build', dir, '--parallel', jobs]);
const tests = run('ctest', [
  '--test-dir',
  dir,
  '--output-on-failure',
  '--parallel',
  jobs,
  ...tiers.ctestOf(tier),
  ...rest,
]);

// ctest counts files; what a reader wants is the number of test cases in them. Those that doctest calls skipped are of the
// program's other files, each of which is a test of its own.
const log = join(dir, 'Testing/Temporary/LastTest.log');
const counts = { passed: 0, failed: 0, skipped: 0, skips: [], failures: [] };
/** The program and the first lines of its output that name a failed case, an error or a crash. */
const failureOf = (section) =>
  [section.split('\n', 1)[0], ...(section.match(/^.*(TEST CASE|ERROR|FATAL|Exception|Timeout).*$/gm) ?? [])]
    .slice(0, 4)
    .map((line) => line.trim())
    .join(' | ');
const emulated = { files: 0, cases: 0, seconds: 0 }; // the emulator's own tests, and CUDA kernels on it
if (existsSync(log))
  for (const section of readFileSync(log, 'utf8')
    .split(/^\d+\/\d+ Testing: /m)
    .slice(1)) {
    const found = /test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed\s*\|\s*(\d+) skipped/.exec(
      section,
    );
    if (!found) {
      const why = /^skipped: (.*)/m.exec(section);
      if (!why && !section.includes('Test Passed.')) counts.failures.push(failureOf(section)); // it crashed, or took too long
      if (!why) continue;
      counts.skipped++;
      counts.skips.push(section.split('\n', 1)[0]);
      console.log(`${section.split('\n', 1)[0]} skipped: ${why[1]}`);
      continue;
    }
    counts.passed += Number(found[2]);
    counts.failed += Number(found[3]);
    if (Number(found[3]) > 0) counts.failures.push(failureOf(section));
    if (Number(found[2]) + Number(found[3]) === 0) {
      console.log(`${section.split('\n', 1)[0]} has no test case`);
      counts.failed++;
    }
    if (!/^(cuda|simt)_/.test(section)) continue;
    emulated.files++;
    emulated.cases += Number(found[2]);
    emulated.seconds += Number(/^Test time =\s*([\d.]+)/m.exec(section)?.[1] ?? 0);
  }
if (tests.status !== 0 && counts.failed === 0) counts.failed = 1; // a crash prints no counts
if (counts.passed === 0 && rest.length === 0) counts.failed = Math.max(counts.failed, 1); // nothing ran
const which = sanitize ? '-sanitize' : tier === 'deep' ? '-deep' : '';
writeFileSync(join(root, 'build', `ctest${which}.json`), JSON.stringify(counts));
console.log(`native tests: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
if (emulated.files > 0)
  console.log(
    `of these on the emulated GPU: ${emulated.cases} passed in ${emulated.files} files, ${emulated.seconds.toFixed(0)} s`,
  );
process.exitCode = counts.failed > 0 ? 1 : (tests.status ?? 1);
