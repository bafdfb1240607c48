/** The check of a platform's binary by its symbol table (scripts/platforms.mjs), on tables in readelf's words. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { findBinary, thisHost } from '../../lib/native/loader';
import { temporaryFolder } from '../support/temporary';

interface Verdict {
  wrong: string[];
  newest: Record<string, string>;
}

const root = join(__dirname, '../..');
const clone = temporaryFolder();
const script = (name: string): string => JSON.stringify(pathToFileURL(join(root, 'scripts', name)).href);

/** The scripts are ES modules, which jest would not load: in a Node of their own. Gives the last line that it prints. */
function run(program: string, env: NodeJS.ProcessEnv = process.env): unknown {
  const args = ['--input-type=module', '-e', program];
  const output = execFileSync(process.execPath, args, { encoding: 'utf8', env, stdio: 'pipe' });
  return JSON.parse(output.trim().split('\n').at(-1)!);
}

const judge = (table: string): Verdict =>
  run(`
    import { judge, platforms, readElf } from ${script('platforms.mjs')};
    console.log(JSON.stringify(judge(platforms['linux-x64-gnu'].asks, readElf(${JSON.stringify(table)}))));`) as Verdict;

const good = [
  ' 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]',
  ' 0x0000000000000001 (NEEDED)             Shared library: [ld-linux-x86-64.so.2]',
  '     1: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND exp@GLIBC_2.29 (4)',
  '     2: 0000000000000000     0 NOTYPE  WEAK   DEFAULT  UND __gmon_start__',
  '     3: 0000000000000000     0 NOTYPE  GLOBAL DEFAULT  UND napi_create_object',
  '     4: 000000000002b9a0    43 FUNC    GLOBAL DEFAULT   12 napi_register_module_v1',
].join('\n');

test('a binary that asks for no more than the platform has', () => {
  expect(judge(good)).toEqual({ wrong: [], newest: { GLIBC: '2.29' } });
});

test.each([
  [
    'a newer glibc',
    '     5: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND __isoc23_strtol@GLIBC_2.38 (4)',
    'it asks for GLIBC_2.38, newer than GLIBC_2.31',
  ],
  [
    'the C++ library of the machine',
    '     5: 0000000000000000     0 OBJECT  GLOBAL DEFAULT  UND _ZTVSt9exception@GLIBCXX_3.4 (2)',
    'it asks for symbols of GLIBCXX_3.4, which are to be inside it',
  ],
  [
    'another library',
    ' 0x0000000000000001 (NEEDED)             Shared library: [libhwy.so.1]',
    'it needs the library libhwy.so.1',
  ],
  [
    'a function that nothing has',
    '     5: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND _ZN3hwy5AbortEPKciS1_z',
    'nothing defines _ZN3hwy5AbortEPKciS1_z',
  ],
  [
    'a template that others could bind to',
    '     5: 000000000003b9a0    43 FUNC    WEAK   DEFAULT   12 _ZNSt6vectorIiE4pushEv',
    'it exports _ZNSt6vectorIiE4pushEv',
  ],
])('a binary with %s is refused', (_, line, sentence) => {
  expect(judge(`${good}\n${line}`).wrong).toEqual([sentence]);
});

test('versions are compared as numbers: 2.4 is older than 2.31', () => {
  expect(judge(good.replace('GLIBC_2.29', 'GLIBC_2.4')).wrong).toEqual([]);
});

test('a library without the entry of an add-on is refused', () => {
  expect(judge(good.replace('napi_register_module_v1', 'main')).wrong).toContain(
    'it does not export napi_register_module_v1',
  );
});

test('each platform has a binary of its own, where node-gyp-build looks for it', () => {
  const names = Object.keys(
    JSON.parse(readFileSync(join(root, 'lib/native/platforms.json'), 'utf8')) as object,
  );
  const found = run(`
    import { binaryOf } from ${script('platforms.mjs')};
    const names = ${JSON.stringify(names)};
    console.log(JSON.stringify(names.map((name) => binaryOf(${JSON.stringify(root)}, name))));`) as string[];
  expect(found.map((path) => path.slice(root.length + 1))).toEqual([
    'prebuilds/linux-x64/lora-native.glibc.node',
    'prebuilds/linux-arm64/lora-native.glibc.node',
    'prebuilds/linux-x64/lora-native.musl.node',
    'prebuilds/darwin-arm64/lora-native.glibc.node',
    'prebuilds/win32-x64/lora-native.glibc.node',
  ]);
});

test('a binary that fails on demand, as tests have it, is refused', () => {
  const sentence = (content: string): unknown => {
    const file = join(clone, 'some.node');
    writeFileSync(file, content);
    return run(`
      import { checkBinary } from ${script('platforms.mjs')};
      let message;
      try { message = checkBinary('darwin-arm64', ${JSON.stringify(file)}); } catch (error) { message = error.message; }
      console.log(JSON.stringify(message.replace(${JSON.stringify(file)}, 'FILE')));`);
  };
  expect(sentence('\0injectFailure\0')).toBe(
    'FILE fails on demand, as tests want: build it with -DLORA_FAULTS=OFF',
  );
  expect(sentence('\0setThreads\0')).toMatch(/^darwin-arm64: not checked by its symbols/);
});

const python = spawnSync('python3', ['--version']).status === 0;
(python ? test : test.skip)(
  `prebuildify builds through binding.gyp, without a network${python ? '' : ' (skipped: no python3 for node-gyp)'}`,
  () => {
    // A clone whose build is quick.
    for (const folder of ['cmake', 'native/test', 'scripts', 'dist', 'build'])
      mkdirSync(join(clone, folder), { recursive: true });
    for (const file of ['binding.gyp', 'package.json', 'CMakeLists.txt'])
      copyFileSync(join(root, file), join(clone, file));
    symlinkSync(join(root, 'node_modules'), join(clone, 'node_modules'));
    writeFileSync(join(clone, 'build/kept'), 'of another build');
    writeFileSync(
      join(clone, 'scripts/build.mjs'),
      `import { copyFileSync, mkdirSync } from 'node:fs';
       if (process.env.LORA_CUDA_BUILD !== 'off' || process.env.LORA_SIMD_BUILD !== 'all') throw new Error('the environment is lost');
       mkdirSync('build/Release', { recursive: true });
       copyFileSync(${JSON.stringify(join(root, 'build/Release/lora_native.node'))}, 'build/Release/lora_native.node');`,
    );
    const paths = [clone, join(clone, 'build/platforms/here')].map((path) => JSON.stringify(path)).join(', ');
    run(
      `
      import { prebuild } from ${script('prebuild.mjs')};
      prebuild(${paths}, { LORA_CUDA_BUILD: 'off' });
      console.log('null');`,
      // Where a header would be asked for, nobody answers.
      { ...process.env, npm_config_disturl: 'http://127.0.0.1:9/', npm_config_offline: 'true' },
    );
    const { platform, arch, libc } = thisHost();
    const path = join(clone, 'prebuilds', `${platform}-${arch}`, `lora-native.${libc ?? 'glibc'}.node`);
    expect(findBinary({ ...thisHost(), binary: undefined, directory: join(clone, 'dist') })).toEqual({
      path,
      source: 'local build',
    });
    expect(existsSync(join(clone, 'build/kept'))).toBe(true);
    // build.mjs compiles injected failures where the tests are.
    expect(existsSync(join(clone, 'build/platforms/here/native'))).toBe(true);
    expect(existsSync(join(clone, 'build/platforms/here/native/test'))).toBe(false);
  },
);
