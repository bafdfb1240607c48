// Builds the binary of a platform's package, prebuilds/<os>-<cpu>/lora-native.<libc>.node, and checks by its symbol table
// that it loads where it must:  node scripts/build-platform.mjs PLATFORM [--check] [-DNAME=VALUE …]
// --check asks only whether it compiles and links: without optimization, with fewer instruction sets, into build/check.
//
// linux-x64-gnu and linux-arm64-gnu are compiled by this machine's GCC against Debian 11's libraries (sysroot.mjs), with
// GCC 10's C++ library inside: the newest static one itself asks for a newer glibc. win32-x64 is compiled by mingw-w64.
// linux-x64-musl and darwin-arm64 are built on such machines, by prebuildify (prebuild.mjs), which takes no -D.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cudaBuild } from './cuda-build.mjs';
import { binaryOf, checkBinary, platforms } from './platforms.mjs';
import { prebuild } from './prebuild.mjs';
import { sysroot } from './sysroot.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) throw error;
  if (status !== 0) throw new Error(`${command} failed (${status})`);
}

/** CMake's view of an older Linux, seen from this one. */
function olderLinux(name, tree) {
  const { debian, triple, processor } = platforms[name];
  const old = sysroot(debian);
  const gcc = join(old, 'usr/lib/gcc', triple, '10');
  const cxx = join(old, 'usr/include/c++/10');
  // These two and nothing else of GCC 10: the compiler's own libgcc.a must answer for code that this compiler made.
  const libraries = join(tree, 'static');
  mkdirSync(libraries, { recursive: true });
  for (const name of ['libstdc++.a', 'libgcc_eh.a']) {
    rmSync(join(libraries, name), { force: true });
    symlinkSync(join(gcc, name), join(libraries, name));
  }
  // All folders are named, for Debian's cross compilers search those of their own libc before the sysroot's.
  const compiler = name === 'linux-x64-gnu' ? 'c++' : `${triple}-g++`;
  const own = spawnSync(compiler, ['-print-file-name=include'], { encoding: 'utf8' });
  if (own.error) throw new Error(`no ${compiler}: ${own.error.message}`);
  const headers = [
    cxx,
    join(old, 'usr/include', triple, 'c++/10'),
    join(cxx, 'backward'),
    own.stdout.trim(),
    join(old, 'usr/include', triple),
    join(old, 'usr/include'),
  ];
  const folders = [libraries, join(old, 'lib', triple), join(old, 'usr/lib', triple)];
  return [
    '-DLORA_OLDER_LIBSTDCXX=ON',
    '-DCMAKE_SYSTEM_NAME=Linux',
    `-DCMAKE_SYSTEM_PROCESSOR=${processor}`,
    `-DCMAKE_SYSROOT=${old}`,
    `-DCMAKE_CXX_FLAGS=${[
      // GCC 12 and 14 take the moves of GCC 10's std::function for reads of what nothing wrote, and its
      // joined strings for writes beyond their end.
      '-Wno-uninitialized -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-array-bounds -Wno-restrict',
      `-include ${root}/cmake/older_libstdcxx.h -nostdinc`,
      ...headers.map((folder) => `-isystem ${folder}`),
    ].join(' ')}`,
    ...['EXE', 'MODULE', 'SHARED'].map(
      (kind) =>
        `-DCMAKE_${kind}_LINKER_FLAGS=-static-libstdc++ -static-libgcc -B${join(old, 'usr/lib', triple)} ${folders.map((folder) => `-L${folder}`).join(' ')}`,
    ),
  ];
}

/** The arguments that make CMake build for a platform in `tree`. */
export function configuration(name, tree) {
  const platform = platforms[name];
  const out = ['-S', root, '-B', tree];
  // As cmake-js chooses for the ordinary build: ccache sees where a command runs.
  if (!spawnSync('ninja', ['--version']).error) out.push('-G', 'Ninja');
  if (platform.host) return [...out, '-DLORA_CUDA=OFF'];
  // Only headers of Highway are used, and they are the same for every platform.
  const highway = process.env.LORA_HIGHWAY ?? '/usr/include';
  out.push(`-DLORA_HIGHWAY=${highway}`);
  if (platform.system === 'Windows')
    return [
      ...out,
      '-DCMAKE_SYSTEM_NAME=Windows',
      `-DCMAKE_SYSTEM_PROCESSOR=${platform.processor}`,
      `-DCMAKE_CXX_COMPILER=${platform.triple}-g++-posix`,
      '-DCMAKE_MODULE_LINKER_FLAGS=-static',
      '-DLORA_CUDA=OFF',
    ];
  out.push(...olderLinux(name, tree));
  // The compiler of the ordinary build, whose ccache then has the CUDA kernels.
  if (name === 'linux-x64-gnu')
    return [...out, ...cudaBuild(process.env.LORA_CUDA_BUILD ?? 'all').definitions];
  return [...out, `-DCMAKE_CXX_COMPILER=${platform.triple}-g++`, '-DLORA_CUDA=OFF'];
}

/** Configures and builds; `targets` for tests of a cross build. Returns the build tree. */
export function build(name, { check = false, definitions = [], targets = ['lora_native'] }) {
  // As deep as build/cmake: ccache compares commands with paths relative to the tree.
  const tree = join(root, 'build', check ? `check-${name}` : name);
  mkdirSync(tree, { recursive: true });
  const quick = check ? ['-DCMAKE_BUILD_TYPE=Debug', '-DLORA_FEW_TARGETS=ON'] : [];
  run('cmake', [...configuration(name, tree), ...quick, ...definitions]);
  run('cmake', ['--build', tree, '--parallel', String(availableParallelism()), '--target', ...targets]);
  return tree;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [name, ...rest] = process.argv.slice(2);
  const check = rest.includes('--check');
  const definitions = rest.filter((text) => text !== '--check');
  if (!Object.hasOwn(platforms, name ?? '') || definitions.some((text) => !text.startsWith('-D'))) {
    console.error(
      `usage: node scripts/build-platform.mjs PLATFORM [--check] [-DNAME=VALUE …]\n  PLATFORM: ${Object.keys(platforms).join(', ')}`,
    );
    process.exit(2);
  }
  try {
    const { host, linkerFlags } = platforms[name];
    const here = `${process.platform}-${process.arch}`;
    if (host && host !== here) throw new Error(`${name} is built on ${host}, and this is ${here}`);
    const output = join(root, 'build', check ? 'check' : 'platforms', name);
    const file = check ? join(output, 'lora_native.node') : binaryOf(root, name);
    rmSync(file, { force: true });
    if (host && !check) {
      prebuild(root, output, {
        LORA_CUDA_BUILD: 'off',
        LDFLAGS: linkerFlags ?? '',
        ...(process.env.LORA_HIGHWAY && { CMAKE_INCLUDE_PATH: process.env.LORA_HIGHWAY }),
      });
    } else {
      const built = join(output, 'lora_native.node');
      rmSync(built, { force: true });
      build(name, { check, definitions: [`-DLORA_OUTPUT=${output}`, ...definitions] });
      if (!existsSync(built)) throw new Error(`the build left no ${built}`);
      mkdirSync(dirname(file), { recursive: true });
      renameSync(built, file);
    }
    console.log(checkBinary(name, file));
    console.log(`${file}: ${(statSync(file).size / 1e6).toFixed(2)} MB`);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
