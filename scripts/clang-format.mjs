// Formats (or with --check: verifies) every C++ file of native/.
import { execFileSync, spawnSync } from 'node:child_process';

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', 'native'], {
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => /\.(h|cc|cu|cuh)$/.test(file));
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
