// The user land of Debian 11 (glibc 2.31, GCC 10), for one architecture: what a binary is linked against so that it loads
// on every newer Linux, and in which it is then tried. Made once by mmdebstrap, about 120 MB, without running anything of
// it; kept in ${XDG_CACHE_HOME:-~/.cache}/lora-native.
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join, relative } from 'node:path';

export const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'lora-native');
const suite = 'bullseye';

/** The mirror that this machine's apt uses, if it is one of Debian's; mmdebstrap's own choice otherwise. */
function mirror() {
  if (process.env.LORA_DEBIAN_MIRROR) return [process.env.LORA_DEBIAN_MIRROR];
  const { stdout } = spawnSync('apt-get', ['indextargets', '--format', '$(SITE)'], { encoding: 'utf8' });
  return (stdout ?? '')
    .split('\n')
    .filter((site) => /^https?:.*\/debian\/?$/.test(site))
    .slice(0, 1);
}

/** Links inside a root that name an absolute path mean a file of the root, not of this machine. */
function makeLinksRelative(root, folder = root) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const stat = lstatSync(path);
    if (stat.isDirectory()) makeLinksRelative(root, path);
    if (!stat.isSymbolicLink()) continue;
    const target = readlinkSync(path);
    if (!isAbsolute(target)) continue;
    unlinkSync(path);
    symlinkSync(relative(dirname(path), join(root, target)) || '.', path);
  }
}

/** Makes the root where it is missing. `arch` is Debian's name: amd64, arm64. */
export function sysroot(arch) {
  const root = join(cache, `${suite}-${arch}`);
  if (existsSync(root)) return root;
  if (spawnSync('mmdebstrap', ['--version']).error)
    throw new Error('no mmdebstrap, which makes the sysroot: apt-get install mmdebstrap');
  const unfinished = `${root}.${process.pid}`;
  mkdirSync(cache, { recursive: true });
  console.log(`making ${root} (Debian ${suite}, ${arch})`);
  const { status, stderr } = spawnSync(
    'mmdebstrap',
    [
      '--variant=extract',
      `--architectures=${arch}`,
      '--include=libc6-dev,libstdc++-10-dev,libstdc++6',
      suite,
      unfinished,
      ...mirror(),
    ],
    { encoding: 'utf8' },
  );
  if (status !== 0) {
    rmSync(unfinished, { recursive: true, force: true });
    throw new Error(`mmdebstrap failed:\n${stderr}`);
  }
  for (const folder of ['dev', 'var', 'usr/share'])
    rmSync(join(unfinished, folder), { recursive: true, force: true });
  makeLinksRelative(unfinished);
  // Whole or not there; of two that make it at the same time the first one stays.
  try {
    renameSync(unfinished, root);
  } catch (cause) {
    rmSync(unfinished, { recursive: true, force: true });
    if (!existsSync(root)) throw cause;
  }
  return root;
}
