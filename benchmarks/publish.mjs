// node benchmarks/publish.mjs FILE [NAME]: makes a results file of `npm run bench` the one that the README quotes. It is
// kept as results/NAME.json (default: bench-DATE) with its chart NAME.svg, and the README's block is written anew.
// node benchmarks/publish.mjs --formats FILE [NAME]: the same with the table of formats in the guide on memory.
// node benchmarks/publish.mjs --families FILE [NAME]: the same with the table of families in the guide on choosing a model.
// node benchmarks/publish.mjs --check: fails unless README, chart and guides say what the quoted files hold.
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chart } from './report/chart.mjs';
import { familiesSummary, withFamilies } from './report/families.mjs';
import { formatsSummary, quotedFormats, withFormats } from './report/formats.mjs';
import { summary, withSummary } from './report/readme.mjs';
import { resultsText } from './report/results_text.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const readme = 'README.md';
const guide = 'docs/guides/fit-into-memory.md';
const choice = 'docs/guides/which-model.md';
const read = (path) => readFileSync(join(root, path), 'utf8');

/** What each page quotes: the results file, and the contents of all files that follow from one, by their paths in the repository. */
const pages = {
  [readme]: {
    quoted: () => /\[all rows\]\((benchmarks\/results\/\S+\.json)\)/.exec(read(readme))?.[1],
    contents(results, path) {
      const svg = path.replace(/json$/, 'svg');
      return {
        [path]: resultsText(results),
        [svg]: chart(results),
        [readme]: withSummary(read(readme), summary(results, path, svg)),
      };
    },
  },
  [guide]: {
    quoted: () => quotedFormats(read(guide)),
    contents: (results, path) => ({
      [path]: resultsText(results),
      [guide]: withFormats(read(guide), formatsSummary(results, path)),
    }),
  },
  [choice]: {
    quoted: () => quotedFormats(read(choice)),
    contents: (results, path) => ({
      [path]: resultsText(results),
      [choice]: withFamilies(read(choice), familiesSummary(results, path)),
    }),
  },
};

/** The pages that a flag names. */
const flags = {
  '--formats': { page: guide, stem: 'formats' },
  '--families': { page: choice, stem: 'families' },
};
const flagOf = (page) => Object.keys(flags).find((flag) => flags[flag].page === page);

const args = process.argv.slice(2);
if (args[0] === undefined)
  throw new Error(
    'expected the results file of a run: node benchmarks/publish.mjs [--formats | --families] FILE [NAME]',
  );
if (args[0] === '--check') {
  for (const [page, { quoted, contents }] of Object.entries(pages)) {
    const path = quoted();
    if (path === undefined) throw new Error(`${page} quotes no results file`);
    for (const [file, text] of Object.entries(contents(JSON.parse(read(path)), path)))
      if (read(file) !== text)
        throw new Error(
          `${file} is not what ${path} gives: node benchmarks/publish.mjs ${flagOf(page) ? `${flagOf(page)} ` : ''}${path} ${basename(path, '.json')}`,
        );
    console.log(`${page} says what ${path} holds`);
  }
} else {
  const flag = flags[args[0]];
  const [file, given] = flag ? args.slice(1) : args;
  const results = JSON.parse(readFileSync(file, 'utf8'));
  const { page, stem } = flag ?? { page: readme, stem: 'bench' };
  const name = given ?? `${stem}-${results.date.slice(0, 10)}`;
  const all = pages[page].contents(results, `benchmarks/results/${name}.json`);
  for (const [path, text] of Object.entries(all)) writeFileSync(join(root, path), text);
  console.log(`commit ${page} and benchmarks/results/${name}.*`);
}
