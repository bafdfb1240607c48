import { defineConfig } from 'tsup';
import { textAssets } from './scripts/text-assets.mjs';

// One CommonJS bundle; scripts/esm-facade.mjs writes the other entries, which re-export it, so that all give
// the same classes.
export default defineConfig({
  entry: { index: 'lib/index.ts', cli: 'lib/cli/main.ts' },
  format: ['cjs'],
  target: 'node20',
  dts: {
    entry: {
      index: 'lib/index.ts',
      serve: 'lib/serve/index.ts',
      compare: 'lib/compare/index.ts',
      train: 'lib/train/index.ts',
    },
    compilerOptions: { stripInternal: true },
  },
  sourcemap: true,
  splitting: false,
  clean: true,
  // What a report inlines, and a thread runs: lib/train/report, lib/grammar.
  loader: textAssets,
  external: ['lora-native', /^@lora-native\//, 'node-gyp-build', '@mlc-ai/web-xgrammar'],
});
