import js from '@eslint/js';
import tseslint from 'typescript-eslint';
import prettier from 'eslint-config-prettier';

const node = Object.fromEntries(
  [
    'process',
    'console',
    'Buffer',
    'URL',
    'setTimeout',
    'setImmediate',
    'clearTimeout',
    'AbortController',
    'AbortSignal',
    'structuredClone',
    'performance',
    'globalThis',
    'require',
    'module',
    '__dirname',
    'queueMicrotask',
    'Response',
    'TextDecoder',
    'TextEncoder',
    'Request',
  ].map((name) => [name, 'readonly']),
);

const browser = Object.fromEntries(
  [
    'document',
    'navigator',
    'localStorage',
    'matchMedia',
    'getSelection',
    'innerHeight',
    'addEventListener',
    'requestAnimationFrame',
    'fetch',
    'Option',
    'TextDecoderStream',
  ].map((name) => [name, 'readonly']),
);

export default tseslint.config(
  { ignores: ['dist/', 'build/', 'prebuilds/', 'node_modules/', 'coverage/'] },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { project: './tsconfig.json', tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/require-await': 'off',
    },
  },
  {
    // A longer file or function holds two ideas.
    files: ['lib/**/*.ts'],
    rules: { 'max-lines': ['error', 450], 'max-lines-per-function': ['error', 80] },
  },
  // The public methods of a model, of which most lines are doc comments.
  {
    files: ['lib/models/causal_lm.ts'],
    rules: { 'max-lines': ['error', { max: 450, skipComments: true }] },
  },
  {
    files: ['test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
    },
  },
  { files: ['**/*.mjs', '**/*.cjs', '**/*.js'], languageOptions: { globals: node } },
  {
    files: ['scripts/docs/client/**/*.js', '**/*.client.js'],
    languageOptions: { globals: { ...browser, uPlot: 'readonly', getComputedStyle: 'readonly' } },
  },
  prettier,
);
