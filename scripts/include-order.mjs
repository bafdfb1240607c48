// Fails on an #include in native/ against the order of its folders, and on files that include each other in a circle.
//   node scripts/include-order.mjs [FOLDER]      native by default
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

// A place includes from itself, from those before it in its list, and from all of the first list. A file belongs to the longest name that
// it begins with. Tests include anything. docs/internals/architecture.md says what each holds.
const lists = [
  ['core/runtime/platform', 'core', 'core/maths', 'core/ops', 'core/runtime', 'core/io'],
  ['backend/reference'],
  [
    ...['kernels.h', 'runtime', 'simd', 'elementwise', 'optimizers', 'formats', 'layers', 'product'].map(
      (name) => `backend/cpu/${name}`,
    ),
    ...['backend/cpu/lora', 'backend/cpu/attention', 'backend/cpu/logits', 'backend/cpu', 'bench'],
  ],
  [
    // What kernels see of the emulator, which is written on their primitives.
    ...['buffer', 'location', 'numerics', 'simt', 'primitives_host', 'queue', 'hook'].map(
      (name) => `simt/${name}.h`,
    ),
    ...['backend/cuda/device', 'backend/cuda', 'simt'],
  ],
  ['backend/no_cuda'],
  ['node'],
];
const places = lists.flatMap((list, branch) => list.map((name, height) => ({ name, branch, height })));
places.sort((a, b) => b.name.length - a.name.length);
const placeOf = (file) => places.find(({ name }) => file === name || file.startsWith(`${name}/`));

const mayInclude = (from, to) =>
  to.branch === from.branch ? to.height <= from.height : to.branch === 0 && from.branch !== 0;

const root = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '../native');
const sources = readdirSync(root, { recursive: true })
  .map((file) => file.replaceAll('\\', '/'))
  .filter((file) => /\.(h|cc|cu|cuh)$/.test(file) && !file.startsWith('test/'))
  .sort();
/** By file: the sources that it includes, with the line. */
const includes = new Map(sources.map((file) => [file, new Map()]));
const faults = [];
for (const [file, found] of includes) {
  const from = placeOf(file);
  if (!from) faults.push(`${file}: its folder has no place in the order (scripts/include-order.mjs)`);
  readFileSync(join(root, file), 'utf8')
    .split('\n')
    .forEach((line, i) => {
      const name = /^#include "([^"]+)"/.exec(line)?.[1];
      if (!includes.has(name)) return;
      found.set(name, i + 1);
      const to = placeOf(name);
      if (from && to && !mayInclude(from, to))
        faults.push(`${file}:${i + 1}: ${from.name} must not include ${name}, which is in ${to.name}`);
    });
}

const done = new Set();
function visit(file, path) {
  if (path.includes(file))
    return void faults.push(`a circle: ${[...path.slice(path.indexOf(file)), file].join(' → ')}`);
  if (done.has(file)) return;
  for (const name of includes.get(file).keys()) visit(name, [...path, file]);
  done.add(file);
}
for (const file of sources) visit(file, []);

for (const fault of faults) console.error(fault);
console.log(`${sources.length} files of native/, ${faults.length} includes against the order or in a circle`);
process.exitCode = faults.length > 0 || sources.length === 0 ? 1 : 0;
