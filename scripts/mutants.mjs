// Mutation tests of lib/: Stryker puts single faults into it and looks whether a test fails.
//   npm run mutants                        the files of lib/ that differ from main, and what is not committed
//   npm run mutants -- lib/data lib/optim  these files and folders
//   npm run mutants -- --all --share 0.1   a tenth of the mutants of all files, drawn by --seed (0)
// Prints the survivors and a table of scores by folder; the whole report is build/mutants.json. Faults in what also runs when a file is
// loaded are only counted: Stryker asks no test about them but those few that load the file again.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    all: { type: 'boolean', default: false },
    base: { type: 'string', default: 'main' },
    share: { type: 'string', default: '1' },
    seed: { type: 'string', default: '0' },
  },
});
const git = (...args) =>
  execFileSync('git', args, { cwd: root, encoding: 'utf8' }).split('\n').filter(Boolean);
const isSource = (file) => /^lib\/.*\.ts$/.test(file) && existsSync(join(root, file));

function chosenFiles() {
  if (values.all) return git('ls-files', 'lib').filter(isSource);
  if (positionals.length > 0)
    return positionals.flatMap((path) =>
      statSync(join(root, path)).isDirectory() ? git('ls-files', path).filter(isSource) : [path],
    );
  return [
    ...new Set([
      ...git('diff', '--name-only', `${values.base}...HEAD`),
      ...git('diff', '--name-only', 'HEAD'),
      ...git('ls-files', '--others', '--exclude-standard'),
    ]),
  ].filter(isSource);
}

const files = chosenFiles();
if (files.length === 0) {
  console.log(`no file of lib/ differs from ${values.base}: name files or folders, or use --all`);
  process.exit(0);
}
if (!existsSync(join(root, 'build/Release/lora_native.node'))) {
  console.error('the add-on is missing: run npm run build first');
  process.exit(1);
}

// Sandboxes lie in build/stryker; tests look for ../shared from there.
const sandboxes = join(root, 'build/stryker');
rmSync(sandboxes, { recursive: true, force: true });
mkdirSync(sandboxes, { recursive: true });
if (existsSync(join(root, '../shared'))) symlinkSync(join(root, '../shared'), join(sandboxes, 'shared'));

// The module and Stryker's processes read these when they load it.
process.env.LORA_MUTANTS_SEED = values.seed;
process.env.LORA_MUTANTS_SHARE = values.share;
const { placesOfSample } = await import('./mutants/sample.mjs');
writeFileSync(join(root, 'build/mutate.json'), JSON.stringify(await placesOfSample(root, files)));
const { status } = spawnSync(
  process.execPath,
  [join(root, 'node_modules/@stryker-mutator/core/bin/stryker.js'), 'run'],
  { cwd: root, stdio: 'inherit' },
);
rmSync(sandboxes, { recursive: true, force: true });
if (status !== 0) process.exit(status ?? 1);
report();

function report() {
  const { files: reported } = JSON.parse(readFileSync(join(root, 'build/mutants.json'), 'utf8'));
  const rows = new Map();
  let whileLoading = 0;
  for (const [file, { mutants, source }] of Object.entries(reported)) {
    const lines = source.split('\n');
    const folder = dirname(file);
    const row = rows.get(folder) ?? { noticed: 0, survived: 0, uncovered: 0 };
    rows.set(folder, row);
    for (const { status: fate, static: loads, location, replacement, mutatorName } of mutants) {
      if (loads) whileLoading += ['Killed', 'Timeout', 'Survived'].includes(fate) ? 1 : 0;
      else if (fate === 'Killed' || fate === 'Timeout') row.noticed++;
      else if (fate === 'Survived' || fate === 'NoCoverage') {
        row[fate === 'Survived' ? 'survived' : 'uncovered']++;
        const { line, column } = location.start;
        console.log(
          `${fate === 'Survived' ? 'survived' : 'not run'} ${file}:${line}:${column} ${mutatorName}`,
        );
        console.log(`  - ${lines[line - 1].trim()}\n  + ${(replacement ?? '').split('\n')[0]}`);
      }
    }
  }
  const total = { noticed: 0, survived: 0, uncovered: 0 };
  console.log(
    '\n| folder | mutants | noticed | survived | not run by a test | score |\n|---|---|---|---|---|---|',
  );
  const print = (name, { noticed, survived, uncovered }) => {
    const all = noticed + survived + uncovered;
    if (all > 0)
      console.log(
        `| ${name} | ${all} | ${noticed} | ${survived} | ${uncovered} | ${((100 * noticed) / all).toFixed(0)}% |`,
      );
  };
  for (const [folder, row] of [...rows].sort(([a], [b]) => (a < b ? -1 : 1))) {
    print(folder, row);
    for (const key of Object.keys(total)) total[key] += row[key];
  }
  print('all', total);
  console.log(`\n${whileLoading} others run also when their file is loaded`);
}
