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

function cmakeJsRun(command) {
  const { status, error } = spawnSync(
    process.execPath,
    [
      join(dirname(cmakeJs), 'bin/cmake-js'),
      command,
      '--out',
      'build/cmake',
      '--parallel',
      String(availableParallelism()),
      ...definitions,
    ],
    { cwd: root, stdio: 'inherit' },
  );
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

// `compile` configures only a tree that is new: definitions must reach one that is there.
if (definitions.length > 0) cmakeJsRun('configure');
cmakeJsRun('compile');
