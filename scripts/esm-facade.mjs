// Writes the ESM entry: it re-exports the CommonJS bundle, so that import and require give the same classes.
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const dist = new URL('../dist/', import.meta.url);
const names = Object.keys(createRequire(import.meta.url)('../dist/index.js')).sort();
writeFileSync(
  new URL('index.mjs', dist),
  `import bundle from './index.js';\nexport const {\n${names.map((n) => `  ${n},\n`).join('')}} = bundle;\nexport default bundle;\n`,
);
writeFileSync(new URL('index.d.mts', dist), "export * from './index.js';\n");
