// Mutation tests of lib/ by StrykerJS: `npm run mutants` (scripts/mutants.mjs), which chooses the files and the sample.
import { readFileSync } from 'node:fs';
import all from './jest.config.cjs';
import tiers from './test/support/tiers.cjs';

/** @type {import('@stryker-mutator/api/core').PartialStrykerOptions} */
export default {
  mutate: JSON.parse(readFileSync(new URL('build/mutate.json', import.meta.url), 'utf8')),
  testRunner: 'by-file',
  jest: {
    enableFindRelatedTests: false, // jest's map of files holds test/ alone
    config: {
      ...all,
      testPathIgnorePatterns: ['/node_modules/', ...tiers.programs], // no mutant reaches dist/
    },
  },
  plugins: [
    '@stryker-mutator/jest-runner',
    './scripts/mutants/by_file.mjs',
    './scripts/mutants/sample.mjs',
    './scripts/mutants/sentences.mjs',
  ],
  checkers: ['sample'],
  ignorers: ['sentences'],
  coverageAnalysis: 'perTest',
  concurrency: 4, // half of them check, which is over soon: two run tests
  timeoutMS: 10_000,
  dryRunTimeoutMinutes: 90, // for all of lib/ half an hour of one core, and other work may share it
  ignoreStatic: true,
  // The sandbox needs the add-on, and finds ../shared through a link that scripts/mutants.mjs lays beside it.
  ignorePatterns: ['/build/*', '!/build/Release', '/dist', '/docs', '/native', '/prebuilds'],
  tempDirName: 'build/stryker',
  reporters: ['progress-append-only', 'json'],
  jsonReporter: { fileName: 'build/mutants.json' },
  allowConsoleColors: false,
};
