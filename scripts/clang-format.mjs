// Formats (or with --check: verifies) every C++ file of native/.
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', 'native'], {
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => /\.(c|h|cc|cu|cuh)$/.test(file));
const tool = ['clang-format-19', 'clang-format'].find(
  (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
);
if (!tool) {
  console.error('clang-format is missing: apt-get install clang-format-19');
  process.exit(1);
}
const mode = process.argv.includes('--check') ? ['--dry-run', '--Werror'] : ['-i'];
process.exitCode = files.length
  ? (spawnSync(tool, [...mode, ...files], { stdio: 'inherit' }).status ?? 1)
  : 0;

// Comments are not reflowed, because that breaks formulas and tables; so their width is checked here.
for (const file of files) {
  readFileSync(file, 'utf8')
    .split('\n')
    .forEach((line, i) => {
      if ([...line].length <= 100 || !line.includes('//')) return;
      console.error(`${file}:${i + 1}: a comment of more than 100 columns`);
      process.exitCode = 1;
    });
}
