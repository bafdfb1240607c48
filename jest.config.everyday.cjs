// `npm test`: the tests that read lib/. The others run programs on dist/ in processes of their own, run kernels on the emulator, or test
// scripts/ and the documentation, or wait for threads that compile grammars. They take more than half of the time, and most of them see a change in lib/ only after a build.
// `npm run test:all` builds, and runs all; so do scripts/test.sh and .ci/run.
const all = require('./jest.config.cjs');

/** @type {import('jest').Config} */
module.exports = {
  ...all,
  testPathIgnorePatterns: [
    '/node_modules/',
    '/test/docs/',
    '/test/e2e/(acceptance|benchmark|chat_terminal|cli|cuda_\\w+|examples)\\.test\\.ts',
    '/test/lifecycle/',
    '/test/unit/(cuda_build|grammars|json_schema_values|native_mutants|package_json|platforms|workflows)\\.test\\.ts',
  ],
  reporters: ['default', '<rootDir>/test/support/left_out.cjs'],
};
