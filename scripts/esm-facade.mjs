// Finishes dist/ after tsup: writes the entries beside the CommonJS bundle index.js, which re-export it, so that import and
// require and all entries give the same classes, and makes the declarations stand on their own.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';

const dist = new URL('../dist/', import.meta.url);
const write = (file, text) => writeFileSync(new URL(file, dist), text);
const all = Object.keys(createRequire(import.meta.url)('../dist/index.js')).sort();

/** The values that a file of lib/ exports. */
function valuesOf(source) {
  const entryPoints = [fileURLToPath(new URL(`../lib/${source}`, import.meta.url))];
  const { metafile } = buildSync({
    entryPoints,
    format: 'esm',
    metafile: true,
    write: false,
    outdir: 'dist',
  });
  return Object.values(metafile.outputs)[0].exports;
}

const entries = { index: all };
for (const entry of ['serve', 'compare', 'train']) {
  const names = valuesOf(`${entry}/index.ts`);
  const missing = names.filter((name) => !all.includes(name));
  if (missing.length > 0)
    throw new Error(`lib/index.ts does not export ${missing.join(', ')} of lora-native/${entry}`);
  entries[entry] = names;
  const lines = [
    `Object.defineProperty(exports, '__esModule', { value: true });`,
    `const bundle = require('./index.js');`,
    ...names.map((name) => `exports.${name} = bundle.${name};`),
  ];
  write(`${entry}.js`, `${lines.join('\n')}\n`);
}
// Entries on optional packages, which tsup bundles themselves, as ES modules too.
for (const entry of ['ai-sdk', 'langchain']) write(`${entry}.d.mts`, `export * from './${entry}.js';\n`);
for (const [entry, names] of Object.entries(entries)) {
  write(
    `${entry}.mjs`,
    `import bundle from './index.js';\nexport const {\n${names.map((n) => `  ${n},\n`).join('')}} = bundle;\n`,
  );
  write(`${entry}.d.mts`, `export * from './${entry}.js';\n`);
}

for (const file of readdirSync(dist).filter((name) => name.endsWith('.d.ts'))) {
  const declarations = new URL(file, dist);
  const text = readFileSync(declarations, 'utf8')
    // What node's inspect() calls is nobody else's business, and its type is the only one from @types/node.
    .replaceAll(/^import (?:\{ inspect \} from )?'node:util';\n|^ +\[inspect\.custom\]\(\): string;\n/gm, '');
  const code = text.replaceAll(/\/\*[\s\S]*?\*\//g, ''); // examples in comments may import what they like
  if (/'node:|\bNodeJS\.|\bBuffer\b/.test(code))
    throw new Error(`dist/${file} names a type of @types/node, which a program need not have`);
  // __esModule: without it TypeScript lets CommonJS programs import a default, which is undefined when they run.
  const own = Object.hasOwn(entries, file.slice(0, -'.d.ts'.length))
    ? '\nexport declare const __esModule: true;\n'
    : '';
  writeFileSync(declarations, `/// <reference lib="esnext.disposable" />\n${text}${own}`);
}
