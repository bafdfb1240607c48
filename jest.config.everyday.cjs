// `npm test`: the tests that read lib/ and answer soon. `npm run test:all` builds, and runs all; so do scripts/test.sh and .ci/run.
const all = require('./jest.config.cjs');
const leftOut = require('./test/support/left_out.cjs');

/** @type {import('jest').Config} */
module.exports = {
  ...all,
  testPathIgnorePatterns: ['/node_modules/', ...leftOut.programs, ...leftOut.slow],
  reporters: ['default', '<rootDir>/test/support/left_out.cjs'],
};
