// Stryker plugin: Stryker's jest runner, one test file at a time. For a mutant that runner loads every test file and runs all tests that reach the
// mutant, also when one has failed. Here only the files with such tests are loaded, the quick ones first, up to the first that fails.
// A test that fails without a mutant (it needs dist/, or bounds a time that counting what runs makes longer) tells nothing of one: it is
// named, and then left out.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { PluginKind, commonTokens, declareFactoryPlugin } from '@stryker-mutator/api/plugin';
import { DryRunStatus, TestStatus } from '@stryker-mutator/api/test-runner';
import { strykerPlugins as jestPlugins } from '@stryker-mutator/jest-runner';

const jest = jestPlugins.find(({ kind, name }) => kind === PluginKind.TestRunner && name === 'jest').factory;

/** Of the sandbox, which is the working directory: one process makes the dry run, all of them run mutants. */
const table = resolve('build/tests-by-file.json');

/** test id → { file, ms } */
let known;
const tests = () => (known ??= new Map(JSON.parse(readFileSync(table, 'utf8'))));

function byFile(ids) {
  const files = new Map();
  for (const id of ids) {
    const { file, ms } = tests().get(id);
    const entry = files.get(file) ?? { file, ids: [], ms: 0 };
    files.set(file, entry);
    entry.ids.push(id);
    entry.ms += ms;
  }
  return [...files.values()].sort((a, b) => a.ms - b.ms);
}

/** The result of the first run without its failed tests, each of which is named. */
function withoutFailed(result, log) {
  if (result.status !== DryRunStatus.Complete) return result;
  const failed = result.tests.filter(({ status }) => status === TestStatus.Failed);
  for (const { id, name } of failed) {
    log.warn(`left out, since it fails without a mutant: ${name}`);
    if (result.mutantCoverage) delete result.mutantCoverage.perTest[id];
  }
  return { ...result, tests: result.tests.filter((test) => !failed.includes(test)) };
}

function factory(injector) {
  const runner = jest(injector);
  const log = injector.resolve(commonTokens.getLogger)('by-file');
  const { dryRun, mutantRun, run } = runner;
  let testFiles;
  runner.run = (settings) => run.call(runner, testFiles ? { ...settings, testFiles } : settings);

  runner.dryRun = async (options) => {
    const result = withoutFailed(await dryRun.call(runner, options), log);
    const rows = (result.tests ?? []).map(({ id, fileName, timeSpentMs }) => [
      id,
      { file: fileName, ms: timeSpentMs },
    ]);
    mkdirSync(dirname(table), { recursive: true });
    writeFileSync(table, JSON.stringify(rows));
    return result;
  };

  runner.mutantRun = async (options) => {
    if (!options.testFilter) return mutantRun.call(runner, options);
    let result;
    let nrOfTests = 0;
    for (const { file, ids } of byFile(options.testFilter)) {
      testFiles = [file];
      result = await mutantRun.call(runner, { ...options, testFilter: ids });
      nrOfTests += result.nrOfTests ?? 0;
      if (result.status !== 'survived') break;
    }
    return 'nrOfTests' in result ? { ...result, nrOfTests } : result;
  };
  return runner;
}
factory.inject = jest.inject;

export const strykerPlugins = [declareFactoryPlugin(PluginKind.TestRunner, 'by-file', factory)];
