import { defineConfig, type Options } from 'tsup';
import { textAssets } from './scripts/text-assets.mjs';

// One CommonJS bundle; scripts/esm-facade.mjs writes the other entries, which re-export it, so that all give
// the same classes.
const main = {
  entry: { index: 'lib/index.ts', cli: 'lib/cli/main.ts' },
  format: ['cjs'],
  target: 'node20',
  dts: {
    entry: {
      index: 'lib/index.ts',
      serve: 'lib/serve/index.ts',
      compare: 'lib/compare/index.ts',
      train: 'lib/train/index.ts',
      'ai-sdk': 'lib/ai-sdk/index.ts',
      langchain: 'lib/langchain/index.ts',
    },
    compilerOptions: { stripInternal: true },
  },
  sourcemap: true,
  splitting: false,
  clean: true,
  // What a report inlines, and a thread runs: lib/train/report, lib/grammar.
  loader: textAssets,
  external: ['lora-native', /^@lora-native\//, 'node-gyp-build', '@mlc-ai/web-xgrammar'],
} satisfies Options;

/** Gives what an entry of its own uses of the library as the main bundle has it, so that there is one copy of each class. */
const ofMainBundle = (format: string) => ({
  name: 'of-main-bundle',
  setup(build: { onResolve: (options: { filter: RegExp }, resolve: () => object) => void }) {
    const path = format === 'esm' ? './index.mjs' : './index.js';
    build.onResolve({ filter: /^\.\.\// }, () => ({ path, external: true }));
  },
});

// What stands on optional packages cannot be part of the main bundle, which would ask for them. ES modules import those packages as such.
const integrations = (['cjs', 'esm'] as const).map((format): Options => ({
  entry: { 'ai-sdk': 'lib/ai-sdk/index.ts', langchain: 'lib/langchain/index.ts' },
  format: [format],
  target: 'node20',
  sourcemap: true,
  splitting: false,
  external: [/^@langchain\//],
  esbuildPlugins: [ofMainBundle(format)],
}));

export default defineConfig([main, ...integrations]);
