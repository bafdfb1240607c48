import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { buildSync } from 'esbuild';
import { LoRAError } from '../../lib/errors';
import platforms from '../../lib/native/platforms.json';
import {
  findBinary,
  here,
  loadBinary,
  packageRoot,
  platformName,
  platformPackage,
  thisHost,
  type Host,
} from '../../lib/native/loader';
import { expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';

const scratch = realpathSync(temporaryFolder());

function write(path: string, content: unknown = 'no binary'): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

/** An installed package in a folder of its own: what the loader sees, and where a test may add to it. */
function install(host: Partial<Host> = {}): { host: Host; app: string; root: string } {
  const app = mkdtempSync(join(scratch, 'app-'));
  const root = join(app, 'node_modules/lora-native');
  write(join(app, 'package.json'), { name: 'app' });
  write(join(root, 'package.json'), { name: 'lora-native', version: '1.2.3' });
  mkdirSync(join(root, 'dist'));
  return {
    app,
    root,
    host: {
      platform: 'linux',
      arch: 'x64',
      libc: 'glibc',
      libcVersion: '2.36',
      binary: undefined,
      prebuild: undefined,
      directory: join(root, 'dist'),
      ...host,
    },
  };
}

function addPlatform(app: string, name: string, version = '1.2.3'): string {
  const dir = join(app, 'node_modules', name);
  write(join(dir, 'package.json'), { name, version, main: './lora_native.node' });
  return write(join(dir, 'lora_native.node'));
}

const gnu = '@lora-native/linux-x64-gnu';

test('LORA_NATIVE_BINARY comes before a local build, and that before the platform package', () => {
  const { app, root, host } = install();
  const packaged = addPlatform(app, gnu);
  expect(findBinary(host)).toEqual({ path: packaged, source: gnu });
  const prebuilt = write(join(root, 'prebuilds/linux-x64/lora-native.napi.node'));
  // node-gyp-build's rules are about the system that it runs on.
  if (process.platform === 'linux' && process.arch === 'x64')
    expect(findBinary(host)).toEqual({ path: prebuilt, source: 'local build' });
  const built = write(join(root, 'build/Release/lora_native.node'));
  expect(findBinary(host)).toEqual({ path: built, source: 'local build' });
  const named = write(join(app, 'own.node'));
  expect(findBinary({ ...host, binary: named })).toEqual({ path: named, source: 'LORA_NATIVE_BINARY' });
});

test('a build that LORA_NATIVE_PREBUILD names is told from a local one, and must be there', () => {
  const { app, root, host } = install();
  const other = mkdtempSync(join(scratch, 'other-'));
  const elsewhere = { ...host, prebuild: other };
  write(join(root, 'build/Release/lora_native.node'));
  addPlatform(app, gnu);
  expectThrow(
    () => findBinary(elsewhere),
    'ERR_BINARY',
    `[native] expected LORA_NATIVE_PREBUILD to name a folder with build/Release, build/Debug or prebuilds but received ${other}`,
  );
  const path = write(join(other, 'build/Release/lora_native.node'));
  expect(findBinary(elsewhere)).toEqual({ path, source: 'LORA_NATIVE_PREBUILD' });
  expectThrow(
    () => loadBinary(elsewhere),
    'ERR_BINARY',
    /Set LORA_NATIVE_PREBUILD to a binary of this platform, or unset it$/,
  );
  // As doctor asks.
  process.env['LORA_NATIVE_PREBUILD'] = other;
  try {
    expect(findBinary()).toEqual({ path, source: 'LORA_NATIVE_PREBUILD' });
  } finally {
    delete process.env['LORA_NATIVE_PREBUILD'];
  }
});

test.each(['no JSON', 'null', '[]'])('a package.json of %s is not of this package', (text) => {
  const { app } = install();
  write(join(app, 'dist', 'package.json'), text);
  expect(packageRoot(join(app, 'dist'))).toBeUndefined();
});

test('a LORA_NATIVE_BINARY that is not there is an error: nothing else is taken for it', () => {
  const { app, host } = install({ binary: '/nowhere/x.node' });
  addPlatform(app, gnu);
  expectThrow(
    () => findBinary(host),
    'ERR_BINARY',
    '[native] expected LORA_NATIVE_BINARY to name a file but received /nowhere/x.node',
  );
});

test.each([
  ['linux', 'x64', 'glibc', 'linux-x64-gnu'],
  ['linux', 'arm64', 'glibc', 'linux-arm64-gnu'],
  ['linux', 'x64', 'musl', 'linux-x64-musl'],
  ['linux', 'x64', null, 'linux-x64-gnu'],
  ['darwin', 'arm64', null, 'darwin-arm64'],
  ['win32', 'x64', null, 'win32-x64'],
])('%s %s %s has the package @lora-native/%s', (platform, arch, libc, name) => {
  const { host } = install({ platform, arch, libc });
  expect(platformPackage(host)).toBe(`@lora-native/${name}`);
  const { message } = expectThrow(() => findBinary(host), 'ERR_BINARY', /is not installed/);
  expect(message).toContain(
    `expected a binary for ${name} but the package @lora-native/${name} is not installed`,
  );
  const other = install({ platform, arch, libc });
  const path = addPlatform(other.app, `@lora-native/${name}`);
  expect(findBinary(other.host)).toEqual({ path, source: `@lora-native/${name}` });
});

test('a missing package: the error says what was tried and both remedies, and has the cause', () => {
  const { root, host } = install();
  let error: unknown;
  try {
    findBinary(host);
  } catch (e) {
    error = e;
  }
  expect(error).toBeInstanceOf(LoRAError);
  const { message, cause } = error as LoRAError;
  for (const part of [
    'LORA_NATIVE_BINARY (not set)',
    `build/Release, build/Debug and prebuilds in ${root} (no binary there)`,
    `then ${gnu}`,
    'npm install --include=optional lora-native',
    'npx lora-native build',
  ])
    expect(message).toContain(part);
  expect(cause).toMatchObject({ code: 'MODULE_NOT_FOUND' });
});

test('a Linux whose C library is not known is taken for one with glibc', () => {
  expect(platformName(install({ libc: null }).host)).toBe('linux-x64-gnu');
});

test.each([
  ['darwin', 'x64', null, 'darwin-x64'],
  ['linux', 'arm64', 'musl', 'linux-arm64-musl'],
  ['freebsd', 'x64', null, 'freebsd-x64'],
])('%s %s %s: no package is published, and the error lists those that are', (platform, arch, libc, name) => {
  const { host } = install({ platform, arch, libc });
  expect(platformName(host)).toBe(name);
  expect(platformPackage(host)).toBeUndefined();
  expectThrow(
    () => findBinary(host),
    'ERR_BINARY',
    new RegExp(
      `expected a binary for ${name} but none is published: there are linux-x64-gnu, .*win32-x64\\. .*npx lora-native build`,
    ),
  );
});

test('a platform package of another version is refused', () => {
  const { app, host } = install();
  addPlatform(app, gnu, '1.2.4');
  expectThrow(
    () => findBinary(host),
    'ERR_BINARY',
    /expected @lora-native\/linux-x64-gnu of version 1\.2\.3, the version of lora-native, but .* has version 1\.2\.4: npm install lora-native@1\.2\.3/,
  );
});

test('in a bundle the error names the remedy, whatever lies above it', () => {
  const { app, host } = install();
  addPlatform(app, gnu);
  const remedy = /bundled into another program, .*external: \['lora-native'\].*LORA_NATIVE_BINARY/;
  const nothingAbove = mkdtempSync(join(scratch, 'bundle-'));
  for (const directory of [app, join(app, 'dist'), nothingAbove, undefined])
    expectThrow(() => findBinary({ ...host, directory }), 'ERR_BINARY', remedy);
  const named = write(join(app, 'own.node'));
  expect(findBinary({ ...host, directory: undefined, binary: named }).path).toBe(named);
});

test('the root of the package is recognized by its name', () => {
  const { app, root } = install();
  expect(packageRoot(join(root, 'dist'))).toBe(root);
  expect(packageRoot(join(root, 'lib/native'))).toBe(root);
  expect(packageRoot(app)).toBeUndefined();
  expect(packageRoot(here)).toBe(join(__dirname, '../..'));
});

test('a binary that does not load is ERR_BINARY with the cause; no other one is taken', () => {
  const { app, root, host } = install();
  const packaged = addPlatform(app, gnu);
  const failed = (at: string): Error => {
    const shown = expectThrow(
      () => loadBinary(host),
      'ERR_BINARY',
      /^\[native\] .* does not load on linux-x64-gnu: /,
    );
    expect(shown.message).toContain(at);
    return (shown as Error).cause as Error;
  };
  expect(failed(`${packaged} (${gnu})`).message).toBeTruthy();
  const built = write(join(root, 'build/Release/lora_native.node'));
  expect(failed(`${built} (local build)`).message).toBeTruthy();
});

test('a binary for a newer glibc: the error names both versions', () => {
  // A module that fails as dlopen does, since no real binary of a future glibc is at hand.
  const { app, host } = install();
  const message = "libc.so.6: version `GLIBC_2.99' not found (required by lora_native.node)";
  const binary = write(join(app, 'future.cjs'), `throw new Error(${JSON.stringify(message)})`);
  expectThrow(
    () => loadBinary({ ...host, binary }),
    'ERR_BINARY',
    /needs glibc 2\.99 or newer, and this system has 2\.36: use a newer system, or build it from source/,
  );
});

test('this process is described as its system is', () => {
  const host = thisHost();
  expect(host).toMatchObject({ platform: process.platform, arch: process.arch });
  expect(host.libc).toBe(
    process.platform !== 'linux'
      ? null
      : 'glibcVersionRuntime' in (process.report.getReport() as { header: object }).header
        ? 'glibc'
        : 'musl',
  );
});

describe('programs that take this one apart', () => {
  const entry = join(__dirname, '../../lib/index.ts');
  /** What tsup makes of the library, as an esbuild of somebody else finds it in node_modules. */
  function built(): string {
    const outfile = join(mkdtempSync(join(scratch, 'bundled-')), 'node_modules/lora-native/dist/index.js');
    const packages = {
      packages: 'external',
      loader: { '.worker.js': 'text', '.client.js': 'text', '.client.css': 'text' },
    } as const;
    buildSync({ entryPoints: [entry], outfile, bundle: true, platform: 'node', format: 'cjs', ...packages });
    return outfile;
  }

  test('find the name of every platform package as a literal, and copy the one that is installed', () => {
    const code = readFileSync(built(), 'utf8');
    for (const name of Object.keys(platforms))
      expect(code).toContain(`require.resolve("@lora-native/${name}")`);
  });

  test('an ES module that esbuild made of it says what to do', () => {
    const library = built();
    const program = join(dirname(library), 'program.mjs');
    writeFileSync(program, "import { tensor } from './index.js';\nconsole.log(tensor);\n");
    const outfile = join(dirname(library), 'out.mjs');
    buildSync({
      entryPoints: [program],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      packages: 'external',
      logLevel: 'silent',
    });
    const { stderr } = spawnSync(process.execPath, [outfile], { encoding: 'utf8' });
    expect(stderr).toContain('lora-native was bundled into another program');
    expect(stderr).toContain("code: 'ERR_BINARY'");
  });
});
