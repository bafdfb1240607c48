// A program bundled with esbuild. lora-native stays external: it loads a native file by its place on disk.
//
//   node examples/bundle.mjs [OUT_FILE]
import { build } from 'esbuild';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const [outfile = 'bundled.mjs'] = process.argv.slice(2);
await build({
  entryPoints: [fileURLToPath(new URL('layer.mjs', import.meta.url))],
  outfile,
  bundle: true,
  platform: 'node',
  format: 'esm',
  external: ['lora-native'],
});
await import(pathToFileURL(resolve(outfile))); // runs it; node_modules must be there, as in a Docker image
