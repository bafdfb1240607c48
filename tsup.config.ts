import { defineConfig } from 'tsup';
import { textAssets } from './scripts/text-assets.mjs';

// One CommonJS bundle; scripts/esm-facade.mjs writes the ESM entry that re-exports it, so that both give
// the same classes.
export default defineConfig({
  entry: { index: 'lib/index.ts', cli: 'lib/cli/main.ts' },
  format: ['cjs'],
  target: 'node20',
  dts: { entry: { index: 'lib/index.ts' }, compilerOptions: { stripInternal: true } },
  sourcemap: true,
  splitting: false,
  clean: true,
  // What a report inlines, and a thread runs: lib/train/report, lib/grammar.
  loader: textAssets,
  external: ['lora-native', /^@lora-native\//, 'node-gyp-build', '@mlc-ai/web-xgrammar'],
});
