// Finishes dist/ after tsup: writes the ESM entry, which re-exports the CommonJS bundle, so that import and require
// give the same classes, and makes index.d.ts stand on its own.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const dist = new URL('../dist/', import.meta.url);
const names = Object.keys(createRequire(import.meta.url)('../dist/index.js')).sort();
writeFileSync(
  new URL('index.mjs', dist),
  `import bundle from './index.js';\nexport const {\n${names.map((n) => `  ${n},\n`).join('')}} = bundle;\n`,
);
writeFileSync(new URL('index.d.mts', dist), "export * from './index.js';\n");

const declarations = new URL('index.d.ts', dist);
const text = readFileSync(declarations, 'utf8')
  // What node's inspect() calls is nobody else's business, and its type is the only one from @types/node.
  .replaceAll(/^import \{ inspect \} from 'node:util';\n|^ +\[inspect\.custom\]\(\): string;\n/gm, '');
const code = text.replaceAll(/\/\*[\s\S]*?\*\//g, ''); // examples in comments may import what they like
if (/from 'node:|\bNodeJS\.|\bBuffer\b/.test(code))
  throw new Error('dist/index.d.ts names a type of @types/node, which a program need not have');
writeFileSync(
  declarations,
  // __esModule: without it TypeScript lets CommonJS programs import a default, which is undefined when they run.
  `/// <reference lib="esnext.disposable" />\n${text}\nexport declare const __esModule: true;\n`,
);
