// Publishes what scripts/pack.mjs has packed, the platforms first, so that no install finds the main package without
// its binary: node scripts/publish.mjs [flags of npm publish, such as --provenance or --dry-run]
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const readJson = (path) => JSON.parse(readFileSync(join(root, path), 'utf8'));
const { version } = readJson('package.json');
const tarballs = [
  ...Object.keys(readJson('lib/native/platforms.json')).map((name) => `lora-native-${name}`),
  'lora-native',
].map((name) => join(root, 'build/packages', `${name}-${version}.tgz`));
const missing = tarballs.filter((path) => !existsSync(path));
if (missing.length > 0) {
  console.error(`publish: not packed: ${missing.join(', ')}. Run node scripts/pack.mjs --all`);
  process.exit(1);
}
for (const path of tarballs) {
  const args = ['publish', path, '--access', 'public', ...process.argv.slice(2)];
  const { status } = spawnSync('npm', args, { stdio: 'inherit', shell: process.platform === 'win32' });
  if (status !== 0) process.exit(status ?? 1);
}
