// node benchmarks/publish.mjs FILE [NAME]: makes a results file of `npm run bench` the one that the README quotes. It is
// kept as results/NAME.json (default: bench-DATE) with its chart NAME.svg, and the README's block is written anew.
// node benchmarks/publish.mjs --check: fails unless the README and the chart say what the quoted file holds.
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chart } from './report/chart.mjs';
import { summary, withSummary } from './report/readme.mjs';
import { resultsText } from './report/results_text.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const readme = join(root, 'README.md');
const read = (file) => readFileSync(file, 'utf8');

/** The contents of the three files, by their paths in the repository. */
function contents(results, name) {
  const path = (extension) => `benchmarks/results/${name}.${extension}`;
  return {
    [path('json')]: resultsText(results),
    [path('svg')]: chart(results),
    'README.md': withSummary(read(readme), summary(results, path('json'), path('svg'))),
  };
}

const [file, given] = process.argv.slice(2);
if (file === undefined)
  throw new Error('expected the results file of a run: node benchmarks/publish.mjs FILE [NAME]');
const check = file === '--check';
const quoted = /\[all rows\]\((benchmarks\/results\/\S+\.json)\)/.exec(read(readme))?.[1];
if (check && quoted === undefined) throw new Error('the README quotes no results file');
const results = JSON.parse(read(check ? join(root, quoted) : file));
const name = check ? basename(quoted, '.json') : (given ?? `bench-${results.date.slice(0, 10)}`);
for (const [path, text] of Object.entries(contents(results, name))) {
  if (!check) writeFileSync(join(root, path), text);
  else if (read(join(root, path)) !== text)
    throw new Error(`${path} is not what ${quoted} gives: node benchmarks/publish.mjs ${quoted} ${name}`);
}
console.log(
  check ? `README.md says what ${quoted} holds` : `commit README.md and benchmarks/results/${name}.*`,
);
