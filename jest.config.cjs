/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  transform: {
    // Modules alone, which Jest would not require.
    '/node_modules/hyparquet(-writer)?/.+\\.js$': [
      '@swc/jest',
      { jsc: { target: 'es2022' }, module: { type: 'commonjs' } },
    ],
    '\\.(iife\\.min|client|worker)\\.js$|\\.css$': '<rootDir>/test/support/text_asset.cjs',
    '^.+\\.ts$': [
      '@swc/jest',
      {
        jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
        module: { type: 'commonjs' },
        // In files of their own, where Jest looks for them. Inline they are three quarters of what each test file compiles anew.
        sourceMaps: true,
      },
    ],
  },
  transformIgnorePatterns: ['/node_modules/(?!uplot/|hyparquet/|hyparquet-writer/)'],
  moduleNameMapper: { '^lora-native$': '<rootDir>/lib/index.ts' },
  globalSetup: '<rootDir>/test/support/temporary_files.cjs',
  globalTeardown: '<rootDir>/test/support/remove_temporary_files.cjs',
  testSequencer: '<rootDir>/test/support/longest_first.cjs',
  testTimeout: 60_000,
  maxWorkers: 2,
};
