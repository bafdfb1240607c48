/**
 * Finds and loads the native binary, and is the only file that requires it. The first of these that exists is taken,
 * and it must load: a broken one is an error, so that nobody runs another binary than they think.
 *
 * 1. the file that LORA_NATIVE_BINARY names;
 * 2. a build in the folder that LORA_NATIVE_PREBUILD names, else in this package, by node-gyp-build's rules (build/Release,
 *    build/Debug, prebuilds; and prebuilds beside the program that runs JavaScript);
 * 3. the package of this platform, `@lora-native/linux-x64-gnu` and the like.
 */
import { familySync, GLIBC, versionSync } from 'detect-libc';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve, sep } from 'node:path';
import { LoRAError, loraError } from '../errors';
import { bundledSentence } from './bundled';
import platforms from './platforms.json';
import { isRecord } from '../validate';

/** What the search depends on; tests put values of their own here. */
export interface Host {
  platform: string;
  arch: string;
  /** 'glibc' or 'musl' on Linux, else null. */
  libc: string | null;
  /** Of the C library. */
  libcVersion: string | null;
  /** LORA_NATIVE_BINARY. */
  binary: string | undefined;
  /** LORA_NATIVE_PREBUILD, which is node-gyp-build's own. */
  prebuild: string | undefined;
  /** `here`. */
  directory: string | undefined;
}

export interface Binary {
  path: string;
  /** Which place it is from: the name of a variable, 'local build' for one in this package, 'prebuilds of the runtime', or the name of a package. */
  source: string;
}

interface Manifest {
  name?: unknown;
  version?: unknown;
  main?: unknown;
}

/** The folder of this file; undefined where a bundler made an ES module of it. */
export const here = typeof __dirname === 'undefined' ? undefined : __dirname;

/** The C library is looked at when it is asked for: the other places need not know it. */
export function thisHost(): Host {
  return {
    platform: process.platform,
    arch: process.arch,
    get libc() {
      return familySync();
    },
    get libcVersion() {
      return versionSync();
    },
    binary: process.env['LORA_NATIVE_BINARY'] || undefined,
    prebuild: process.env['LORA_NATIVE_PREBUILD'] || undefined,
    directory: here,
  };
}

/** One that cannot be read is like one that names nothing: it is not ours. */
function readManifest(path: string): Manifest {
  try {
    const manifest: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return isRecord(manifest) ? manifest : {};
  } catch {
    return {};
  }
}

/**
 * The folder of this package: the nearest one upwards with a package.json, which must be ours. undefined in a
 * bundled program, above which is another package.json or none.
 */
export function packageRoot(directory: string | undefined): string | undefined {
  for (let dir = directory; dir !== undefined; dir = dirname(dir) === dir ? undefined : dirname(dir)) {
    const path = join(dir, 'package.json');
    if (existsSync(path)) return readManifest(path).name === 'lora-native' ? dir : undefined;
  }
  return undefined;
}

/** The name of a platform as packages have it, such as 'linux-x64-gnu'; there need be no package for it. */
export function platformName({ platform, arch, libc }: Host): string {
  const suffix = platform !== 'linux' ? '' : libc === null || libc === GLIBC ? '-gnu' : `-${libc}`;
  return `${platform}-${arch}${suffix}`;
}

/**
 * The packages that hold binaries. Programs that copy what another program needs (Next.js, Vercel, @vercel/nft) look for names that are
 * literal, and copy the package which is installed; findBinary() looks from the package's own folder.
 */
const packages: Readonly<Record<keyof typeof platforms, () => string>> = {
  'linux-x64-gnu': () => require.resolve('@lora-native/linux-x64-gnu'),
  'linux-arm64-gnu': () => require.resolve('@lora-native/linux-arm64-gnu'),
  'linux-x64-musl': () => require.resolve('@lora-native/linux-x64-musl'),
  'darwin-arm64': () => require.resolve('@lora-native/darwin-arm64'),
  'win32-x64': () => require.resolve('@lora-native/win32-x64'),
};

/** The package that holds this platform's binary; undefined where none is published. */
export function platformPackage(host: Host): string | undefined {
  const name = platformName(host);
  return Object.hasOwn(packages, name) ? `@lora-native/${name}` : undefined;
}

const binaryError = (message: string, cause?: unknown): LoRAError =>
  loraError('native', 'ERR_BINARY', message, cause);

const fromSource = 'build it from source: npx lora-native build';

/** Throws ERR_BINARY with what was tried and what to do. Nothing is loaded. */
export function findBinary(host: Host = thisHost()): Binary {
  if (host.binary !== undefined) {
    if (!existsSync(host.binary))
      throw binaryError(`expected LORA_NATIVE_BINARY to name a file but received ${host.binary}`);
    return { path: resolve(host.binary), source: 'LORA_NATIVE_BINARY' };
  }
  const root = packageRoot(host.directory);
  if (root === undefined) throw new LoRAError('ERR_BINARY', bundledSentence, { op: 'native' });
  const local = localBuild(host.prebuild ?? root);
  if (host.prebuild !== undefined) {
    if (local === undefined || !isInside(local, host.prebuild))
      throw binaryError(
        `expected LORA_NATIVE_PREBUILD to name a folder with build/Release, build/Debug or prebuilds but received ${host.prebuild}`,
      );
    return { path: local, source: 'LORA_NATIVE_PREBUILD' };
  }
  if (local !== undefined)
    return { path: local, source: isInside(local, root) ? 'local build' : 'prebuilds of the runtime' };

  const tried = `Tried LORA_NATIVE_BINARY (not set) and build/Release, build/Debug and prebuilds in ${root} (no binary there)`;
  const name = platformPackage(host);
  if (name === undefined)
    throw binaryError(
      `expected a binary for ${platformName(host)} but none is published: there are ${Object.keys(platforms).join(', ')}. ` +
        `${tried}. You can ${fromSource}`,
    );
  let manifestPath: string;
  try {
    manifestPath = createRequire(join(root, 'package.json')).resolve(`${name}/package.json`);
  } catch (cause) {
    throw binaryError(
      `expected a binary for ${platformName(host)} but the package ${name} is not installed. ${tried}, then ${name}. ` +
        `It is an optional dependency, which npm leaves out with --omit=optional, or when node_modules or the lock file ` +
        `come from another system: npm install --include=optional lora-native, on this system. Or ${fromSource}`,
      cause,
    );
  }
  const manifest = readManifest(manifestPath);
  const { version } = readManifest(join(root, 'package.json'));
  if (manifest.version !== version)
    throw binaryError(
      `expected ${name} of version ${String(version)}, the version of lora-native, but ${dirname(manifestPath)} has ` +
        `version ${String(manifest.version)}: npm install lora-native@${String(version)}`,
    );
  return { path: join(dirname(manifestPath), String(manifest.main)), source: name };
}

const isInside = (path: string, folder: string): boolean => resolve(path).startsWith(resolve(folder) + sep);

function localBuild(root: string): string | undefined {
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- CommonJS without types
  const builds = require('node-gyp-build') as { path(root: string): string };
  try {
    return builds.path(root);
  } catch {
    return undefined; // it throws if and only if there is no build
  }
}

/** Throws ERR_BINARY where there is no binary, or where the one that was found does not load. */
export function loadBinary<T>(host: Host = thisHost()): T {
  return requireBinary(findBinary(host), host);
}

export function requireBinary<T>({ path, source }: Binary, host: Host = thisHost()): T {
  try {
    return createRequire(path)(path) as T;
  } catch (cause) {
    const { message } = cause as Error;
    throw binaryError(
      `${path} (${source}) does not load on ${platformName(host)}: ${message}. ${advice(message, source, host)}`,
      cause,
    );
  }
}

function advice(message: string, source: string, host: Host): string {
  const needed = /`?GLIBC_([\d.]+)'? not found/.exec(message)?.[1];
  if (needed !== undefined)
    return `It needs glibc ${needed} or newer, and this system has ${host.libcVersion ?? 'another C library'}: use a newer system, or ${fromSource}`;
  if (source.startsWith('LORA_NATIVE_')) return `Set ${source} to a binary of this platform, or unset it`;
  if (!source.startsWith('@')) return `Remove it, or build it again: npx lora-native build`;
  return `Install it again on this system: npm install --force ${source}, or ${fromSource}`;
}
