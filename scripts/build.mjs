// Builds build/Release/lora_native.node: CMake is the build of truth, cmake-js drives it with headers from
// npm. Arguments are passed on as CMake definitions: node scripts/build.mjs -DLORA_TESTS=ON
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/package.json');
const definitions = process.argv.slice(2).map((argument) => argument.replace(/^-D/, '--CD'));
const { status, error } = spawnSync(
  process.execPath,
  [
    join(dirname(cmakeJs), 'bin/cmake-js'),
    'compile',
    '--out',
    'build/cmake',
    '--parallel',
    String(availableParallelism()),
    ...definitions,
  ],
  { cwd: root, stdio: 'inherit' },
);
if (error) throw error;
process.exitCode = status ?? 1;
