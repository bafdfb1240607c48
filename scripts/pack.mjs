// Packs the main package and those of the platforms into build/packages/*.tgz:
//   node scripts/pack.mjs                 the platforms that scripts/build-platform.mjs has built
//   node scripts/pack.mjs --all           an error where one is missing
//   node scripts/pack.mjs --local         this machine's platform, from build/Release (for tests: it needs this system)
// A platform package is made here from the table in lib/native/platforms.json and the main package.json, so their versions
// are always equal. docs/internals/packaging.md has the limits on sizes, and why they are.
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { familySync } from 'detect-libc';
import { binaryOf } from './platforms.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const out = join(root, 'build/packages');
const limits = { 'linux-x64-gnu': 12.75e6, everything: 20e6 }; // bytes packed; everything: with the main package
const binaryName = 'lora_native.node';
const systems = { linux: 'Linux', darwin: 'macOS', win32: 'Windows' };

const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));
export const platforms = readJson(join(root, 'lib/native/platforms.json'));

/** The platform of this machine; undefined where there is no package for it. */
export const localPlatform = Object.keys(platforms).find((name) => {
  const { os, cpu, libc } = platforms[name];
  return os === process.platform && cpu === process.arch && (libc ?? null) === familySync();
});

/** package.json of a platform's package. */
export function platformManifest(name) {
  const main = readJson(join(root, 'package.json'));
  const { os, cpu, libc } = platforms[name];
  const { version, license, engines, author, repository, homepage, bugs } = main;
  return {
    name: `@lora-native/${name}`,
    version,
    description: `The native binary of lora-native for ${systems[os]} on ${cpu}${libc ? ` with ${libc}` : ''}`,
    license,
    ...JSON.parse(JSON.stringify({ author, repository, homepage, bugs })),
    main: `./${binaryName}`,
    exports: { '.': `./${binaryName}`, './package.json': './package.json' },
    engines,
    os: [os],
    cpu: [cpu],
    ...(libc && { libc: [libc] }),
    preferUnplugged: true,
    publishConfig: { access: 'public' },
  };
}

/** Runs `npm pack` on a folder; gives the tarball's path, size and files. */
function npmPack(folder, destination, flags = []) {
  const args = ['pack', '--json', '--pack-destination', destination, ...flags];
  // What npm's hooks print is for people, and so is not on standard output.
  const options = { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] };
  const { status, stdout: text } = spawnSync('npm', args, {
    ...options,
    shell: process.platform === 'win32',
  });
  if (status !== 0) throw new Error(`npm pack failed in ${folder}`); // npm has said why
  const [{ filename, size, unpackedSize, files }] = JSON.parse(text.slice(text.indexOf('[\n')));
  return { path: join(destination, filename), size, unpackedSize, files: files.map(({ path }) => path) };
}

export function packMain(destination = out) {
  mkdirSync(destination, { recursive: true });
  try {
    return npmPack(root, destination);
  } finally {
    // Does nothing after npm's own postpack; an interrupted npm has not run that.
    execFileSync(process.execPath, [join(root, 'scripts/npm-hooks.mjs'), 'postpack'], { stdio: 'inherit' });
  }
}

/** `from` is the binary; without one, the package is packed empty, which only tests want. */
export function packPlatform(name, from, destination = out) {
  const folder = join(destination, name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const manifest = platformManifest(name);
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(
    join(folder, 'README.md'),
    `# ${manifest.name}\n\n${manifest.description}. npm installs it with lora-native where it fits; no program depends on it by itself.\n`,
  );
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
  writeFileSync(join(folder, 'THIRD_PARTY.md'), thirdParty());
  if (from !== undefined) copyFileSync(from, join(folder, binaryName));
  return npmPack(folder, destination, ['--ignore-scripts']);
}

/** Licenses of what is compiled into the binary. Their texts come from the packages that have them here. */
function thirdParty() {
  const text = (path) => readFileSync(join(root, 'node_modules', path), 'utf8').trim();
  return `# Parts of the binary that others wrote

- Google Highway, copyright Google LLC, under the Apache License 2.0 (below) or the 3-clause BSD license.
- node-addon-api, under the MIT license (below).
- The C++ runtime library of GCC, under the GPL 3 with the GCC Runtime Library Exception, where it is linked in.
- On Linux x64: NVIDIA's CUDA runtime, which the license agreement of the CUDA toolkit lets programs distribute.

## node-addon-api

${text('node-addon-api/LICENSE.md')}

## Apache License 2.0

${text('detect-libc/LICENSE')}
`;
}

/** The binary of a platform that was built; undefined where none was. */
export function builtBinary(name, local = false) {
  const binary = local ? join(root, 'build/Release', binaryName) : binaryOf(root, name);
  return existsSync(binary) ? binary : undefined;
}

const mb = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
export const sizes = ({ size, unpackedSize, files }) =>
  `${mb(size)} packed, ${mb(unpackedSize)} unpacked, ${files.length} files`;

/** Throws where a package is larger than a user would like to wait for. */
export function checkSizes(main, byPlatform) {
  for (const [name, { size }] of Object.entries(byPlatform)) {
    if (size > (limits[name] ?? limits.everything))
      throw new Error(`@lora-native/${name} has ${mb(size)}, expected at most ${mb(limits[name])}`);
    if (main.size + size > limits.everything)
      throw new Error(
        `lora-native with its binary for ${name} has ${mb(main.size + size)}, expected at most 20 MB`,
      );
  }
}

function main() {
  const { values } = parseArgs({ options: { all: { type: 'boolean' }, local: { type: 'boolean' } } });
  const names = values.local ? [localPlatform] : Object.keys(platforms);
  const found = names.filter((name) => name !== undefined && builtBinary(name, values.local));
  const missing = names.filter((name) => !found.includes(name));
  if (found.length === 0 || (values.all && missing.length > 0)) {
    const what = values.local
      ? 'build/Release (npm run build:native)'
      : 'prebuilds (node scripts/build-platform.mjs NAME)';
    console.error(`pack: no binary for ${missing.join(', ')} in ${what}`);
    process.exitCode = 1;
    return;
  }
  rmSync(out, { recursive: true, force: true });
  const packedMain = packMain();
  console.log(`lora-native: ${sizes(packedMain)}`);
  const packed = {};
  for (const name of found) {
    packed[name] = packPlatform(name, builtBinary(name, values.local));
    console.log(`@lora-native/${name}: ${sizes(packed[name])}`);
  }
  for (const name of missing) console.log(`@lora-native/${name}: not built`);
  checkSizes(packedMain, packed);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main();
  } catch (error) {
    console.error(`pack: ${error.message}`);
    process.exitCode = 1;
  }
}
