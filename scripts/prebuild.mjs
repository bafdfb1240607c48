// Builds this machine's binary as addons are usually built, by prebuildify, node-gyp and binding.gyp, into
// prebuilds/<os>-<cpu>/lora-native.<libc>.node, where node-gyp-build finds it. scripts/build-platform.mjs calls it for the
// platforms whose binaries are compiled on such a machine; the others have the same names there.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';

const sources = ['binding.gyp', 'package.json', 'CMakeLists.txt', 'cmake', 'native', 'scripts'];

/**
 * `folder` is filled with the sources of `root`, and built in: node-gyp begins by removing build/, which in a clone holds more than
 * its own. `env` reaches CMake.
 */
export function prebuild(root, folder, env = {}) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const filter = (from) => from !== join(root, 'native/test'); // with which build.mjs takes it for a clone
  for (const name of sources) cpSync(join(root, name), join(folder, name), { recursive: true, filter });
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'), 'junction');
  // Node's own headers, which node-gyp would download: it asks for them before it reads that binding.gyp compiles nothing.
  const nodedir = dirname(dirname(process.execPath));
  const headers = existsSync(join(nodedir, 'include/node/common.gypi')) && { npm_config_nodedir: nodedir };
  // npm brings the node-gyp that prebuildify calls.
  const command = ['exec', '--no', '--', 'prebuildify', '--napi', '--strip', '--tag-libc'];
  const { status, error } = spawnSync('npm', [...command, '--cwd', folder, '--out', root], {
    cwd: root,
    env: { ...process.env, LORA_SIMD_BUILD: 'all', ...headers, ...env }, // for the CPUs of others
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
  if (error) throw error;
  if (status !== 0) throw new Error(`prebuildify failed (${status})`);
}
