// The platforms that have a package, and what their binaries may ask of a machine.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** glibc 2.31 is that of Debian 11, Ubuntu 20.04 and, with 2.34, RHEL 9. */
const glibc = {
  format: 'elf',
  newest: { GLIBC: '2.31' },
  libraries: /^(ld-linux-[a-z0-9-]+|libc|libm|libdl|libpthread|librt)\.so\.\d$/,
};

export const platforms = {
  'linux-x64-gnu': { debian: 'amd64', triple: 'x86_64-linux-gnu', processor: 'x86_64', asks: glibc },
  'linux-arm64-gnu': { debian: 'arm64', triple: 'aarch64-linux-gnu', processor: 'aarch64', asks: glibc },
  'linux-x64-musl': {
    host: 'linux-x64',
    linkerFlags: '-static-libstdc++ -static-libgcc',
    asks: { format: 'elf', newest: {}, libraries: /^(ld-musl-x86_64|libc\.musl-x86_64)\.so\.1$/ },
  },
  'darwin-arm64': { host: 'darwin-arm64' },
  'win32-x64': {
    triple: 'x86_64-w64-mingw32',
    system: 'Windows',
    processor: 'x86_64',
    asks: {
      format: 'pe',
      libraries: /^(KERNEL32|ADVAPI32|msvcrt|api-ms-win-crt-[a-z0-9-]+|node)\.(dll|exe)$/i,
    },
  },
};

function read(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    env: { ...process.env, LC_ALL: 'C' },
  });
  if (error || status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
  return stdout;
}

const compare = (a, b) => {
  const [x, y] = [a, b].map((text) => text.split('.').map(Number));
  for (let i = 0; i < Math.max(x.length, y.length); i++)
    if ((x[i] ?? 0) !== (y[i] ?? 0)) return (x[i] ?? 0) - (y[i] ?? 0);
  return 0;
};

/** The newest version of each kind (`GLIBC`, `GLIBCXX`, `GCC` …) in the versions that a binary asks for. */
export function newestVersions(versions) {
  const newest = {};
  for (const version of versions) {
    const [, kind, number] = /^([A-Z_]+?)_(\d[\d.]*)$/.exec(version) ?? ['', version, '0'];
    if (newest[kind] === undefined || compare(number, newest[kind]) > 0) newest[kind] = number;
  }
  return newest;
}

/** From `readelf -W --dynamic --dyn-syms`: needed libraries, versions asked for, unversioned undefined symbols, exports. */
export function readElf(text) {
  const found = { libraries: [], versions: [], unresolved: [], exported: [] };
  for (const line of text.split('\n')) {
    const needed = /\(NEEDED\).*\[(.*)\]/.exec(line);
    if (needed) found.libraries.push(needed[1]);
    const symbol =
      /^\s*\d+: \S+\s+\d+ \S+\s+(LOCAL|GLOBAL|WEAK|UNIQUE)\s+\S+\s+(\S+) ([^@\s]+)(?:@+(\S+))?/.exec(line);
    if (!symbol || symbol[1] === 'LOCAL') continue;
    const [, binding, section, name, version] = symbol;
    if (section !== 'UND') found.exported.push(name);
    else if (version) found.versions.push(version);
    else if (binding !== 'WEAK') found.unresolved.push(name);
  }
  return found;
}

/** What is wrong with a binary for this platform, in sentences, and what it asks for. */
export function judge(asks, found) {
  const wrong = [];
  for (const library of found.libraries)
    if (!asks.libraries.test(library)) wrong.push(`it needs the library ${library}`);
  const newest = newestVersions(found.versions ?? []);
  for (const [kind, number] of Object.entries(newest)) {
    const limit = asks.newest?.[kind];
    if (limit === undefined)
      wrong.push(`it asks for symbols of ${kind}_${number}, which are to be inside it`);
    else if (compare(number, limit) > 0)
      wrong.push(`it asks for ${kind}_${number}, newer than ${kind}_${limit}`);
  }
  for (const name of found.unresolved ?? [])
    if (!/^(napi|node_api)_/.test(name)) wrong.push(`nothing defines ${name}`);
  if (!found.exported.includes('napi_register_module_v1'))
    wrong.push('it does not export napi_register_module_v1');
  for (const name of found.exported)
    if (!/^(napi_register_module_v1|node_api_module_get_api_version_v1)$/.test(name))
      wrong.push(`it exports ${name}`);
  return { wrong, newest };
}

/** Checks a binary by its symbol table; the sentences to print, or an Error. */
export function checkBinary(name, file) {
  const { asks } = platforms[name];
  if (readFileSync(file).includes('injectFailure'))
    throw new Error(`${file} fails on demand, as tests want: build it with -DLORA_FAULTS=OFF`);
  if (!asks) return `${name}: not checked by its symbols (no table of them for this platform)`;
  const found =
    asks.format === 'elf' ? readElf(read('readelf', ['-W', '--dynamic', '--dyn-syms', file])) : readPe(file);
  const { wrong, newest } = judge(asks, found);
  if (wrong.length > 0) throw new Error(`${file} is no binary for ${name}:\n  ${wrong.join('\n  ')}`);
  const versions = Object.entries(newest).map(([kind, number]) => `${kind} ≤ ${number}`);
  return `${name}: needs ${found.libraries.join(', ')}${versions.length ? `; ${versions.join(', ')}` : ''}`;
}

function readPe(file) {
  const text = read(`${platforms['win32-x64'].triple}-objdump`, ['-p', file]);
  const libraries = [...text.matchAll(/DLL Name: (\S+)/g)].map(([, library]) => library);
  const table = text.slice(text.indexOf('[Ordinal/Name Pointer] Table'));
  const exported = [
    ...table.matchAll(/^\s*\[\s*\d+\](?: \+base\[\s*\d+\])?\s+(?:[0-9a-f]+\s+)?([A-Za-z_]\w*)\s*$/gm),
  ].map(([, name]) => name);
  return { libraries, exported };
}

/** Where a platform's binary is, as prebuildify names it and node-gyp-build finds it; what is not musl is 'glibc' to both. */
export function binaryOf(root, name) {
  const {
    os,
    cpu,
    libc = 'glibc',
  } = JSON.parse(readFileSync(join(root, 'lib/native/platforms.json'), 'utf8'))[name];
  return join(root, 'prebuilds', `${os}-${cpu}`, `lora-native.${libc}.node`);
}
