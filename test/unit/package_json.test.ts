/** package.json as npm reads it: what the hooks around packing refuse, add and take out again. */
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const scratch = temporaryFolder();

interface Manifest {
  name: string;
  version: string;
  optionalDependencies?: Record<string, string>;
}
const read = (path: string): Manifest => JSON.parse(readFileSync(path, 'utf8')) as Manifest;

test('each entry gives objects of the main one, imported and required', () => {
  const program = `const main = require('lora-native');
    (async () => {
      const entries = {};
      for (const entry of ['serve', 'compare', 'train']) {
        const required = require('lora-native/' + entry);
        const imported = await import('lora-native/' + entry);
        entries[entry] = Object.keys(required);
        if (required.__esModule !== true) throw new Error(entry + ' has a default for bundlers');
        for (const [name, value] of Object.entries(required))
          if (value !== main[name] || value !== imported[name]) throw new Error('another ' + name);
      }
      const { default: _, ...esm } = await import('lora-native');
      console.log(JSON.stringify({ entries, main: Object.keys(main).filter((name) => esm[name] === main[name]) }));
    })();`;
  const { stdout, stderr } = spawnSync(process.execPath, ['-e', program], { cwd: root, encoding: 'utf8' });
  expect(stderr).toBe('');
  const { entries, main } = JSON.parse(stdout) as { entries: Record<string, string[]>; main: string[] };
  expect(entries).toEqual({
    serve: ['createOpenAIFetchHandler', 'createOpenAIHandler'],
    compare: ['compareMethods', 'sweep'],
    train: ['Trainer'],
  });
  expect(main).toEqual(expect.arrayContaining(['CausalLM', ...Object.values(entries).flat()]));
});

test('package.json has no optional dependencies: a pack that was interrupted would leave some', () => {
  expect(read(join(root, 'package.json')).optionalDependencies).toBeUndefined();
});

/** A clone that is built, with the hooks of this one. */
function clone(): {
  run: (hook: string) => { status: number | null; stderr: string };
  path: (file: string) => string;
} {
  const dir = mkdtempSync(join(scratch, 'clone-'));
  for (const folder of ['lib/native', 'lib/tensor', 'scripts', 'dist'])
    mkdirSync(join(dir, folder), { recursive: true });
  for (const file of [
    'package.json',
    'CHANGELOG.md',
    'tsup.config.ts',
    'lib/native/platforms.json',
    'scripts/npm-hooks.mjs',
    'scripts/esm-facade.mjs',
  ])
    copyFileSync(join(root, file), join(dir, file));
  const path = (file: string) => join(dir, file);
  writeFileSync(path('lib/tensor/tensor.ts'), '');
  const { version } = read(path('package.json'));
  for (const entry of ['index', 'serve', 'compare', 'train', 'ai-sdk', 'langchain'])
    for (const kind of ['js', 'mjs', 'd.ts', 'd.mts']) writeFileSync(path(`dist/${entry}.${kind}`), '');
  writeFileSync(path('dist/cli.js'), `console.log('${version}')`);
  return {
    path,
    run(hook) {
      const { status, stderr } = spawnSync(process.execPath, [path('scripts/npm-hooks.mjs'), hook], {
        encoding: 'utf8',
      });
      return { status, stderr };
    },
  };
}

test('packing adds the packages of all platforms with the same version, and takes them out again', () => {
  const { run, path } = clone();
  const before = readFileSync(path('package.json'), 'utf8');
  expect(run('prepack')).toEqual({ status: 0, stderr: '' });
  const { version, optionalDependencies } = read(path('package.json'));
  expect(optionalDependencies).toEqual({
    '@lora-native/linux-x64-gnu': version,
    '@lora-native/linux-arm64-gnu': version,
    '@lora-native/linux-x64-musl': version,
    '@lora-native/darwin-arm64': version,
    '@lora-native/win32-x64': version,
  });
  // The pack is interrupted here: the next one says so, and ends well.
  expect(run('prepack')).toEqual({
    status: 0,
    stderr: 'lora-native: an interrupted pack had left optionalDependencies in package.json\n',
  });
  expect(run('postpack')).toEqual({ status: 0, stderr: '' });
  expect(readFileSync(path('package.json'), 'utf8')).toBe(before);
  expect(run('postpack')).toEqual({ status: 0, stderr: '' });
  expect(readFileSync(path('package.json'), 'utf8')).toBe(before);
});

test('prepack refuses what is not built, and says the command', () => {
  const refusal = (why: string) => ({
    status: 1,
    stderr: `lora-native: there is nothing to pack, because ${why}: npm run build:js\n`,
  });
  const { run, path } = clone();
  const before = readFileSync(path('package.json'), 'utf8');
  const later = Date.now() / 1000 + 60;
  expect(run('prepack').status).toBe(0);
  expect(run('postpack').status).toBe(0);
  utimesSync(path('lib/tensor/tensor.ts'), later, later);
  expect(run('prepack')).toEqual(refusal('dist/ is older than lib/tensor/tensor.ts'));
  expect(readFileSync(path('package.json'), 'utf8')).toBe(before);

  const other = clone();
  writeFileSync(other.path('dist/cli.js'), "console.log('9.9.9')");
  const { version } = read(other.path('package.json'));
  expect(other.run('prepack')).toEqual(refusal(`dist/ is of version 9.9.9, package.json of ${version}`));

  const bare = clone();
  rmSync(bare.path('dist/serve.d.ts'));
  expect(bare.run('prepack')).toEqual(refusal('dist/serve.d.ts is missing'));
});

test('publishing from the clone is refused, and so is a version without a heading in the change log', () => {
  const { run, path } = clone();
  expect(run('prepublishOnly').status).toBe(1);
  expect(run('prepublishOnly').stderr).toContain('node scripts/pack.mjs --all && node scripts/publish.mjs');
  expect(run('version')).toEqual({ status: 0, stderr: '' });
  writeFileSync(path('package.json'), JSON.stringify({ ...read(path('package.json')), version: '77.0.0' }));
  expect(run('version')).toEqual({
    status: 1,
    stderr: 'lora-native: CHANGELOG.md has no heading "## 77.0.0"\n',
  });
});

test('a link of a page, or a place that the types name, which leads to no file of the package is dead', () => {
  const dir = mkdtempSync(join(scratch, 'package-'));
  const files = {
    'README.md':
      '[a](docs/a.md#x) [web](https://a.example/b.md) [b](docs/b.md), [here](#x), [c](examples/), `[d](d.md)`\n```js\nx[0](y.md)\n```\n![e](e.svg)',
    'docs/a.md': '[up](../README.md) [out](../../elsewhere.md) [lib](../lib)',
    'lib/x.ts': '// docs/none.md',
    'dist/index.d.ts': '/** See docs/a.md, docs/c.md and examples/run.mjs. */',
    'examples/run.mjs': '',
  };
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), text);
  }
  const program = `const { deadLinks } = await import(${JSON.stringify(join(root, 'scripts/package-check/links.mjs'))});
    console.log(JSON.stringify(deadLinks(${JSON.stringify(dir)}, ${JSON.stringify(Object.keys(files))})));`;
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  expect(JSON.parse(stdout)).toEqual([
    'README.md: docs/b.md',
    'README.md: e.svg',
    'docs/a.md: ../../elsewhere.md',
    'dist/index.d.ts: docs/c.md',
  ]);
});

test('each platform has a package of the same version that npm chooses by os, cpu and libc', () => {
  const program = `const { platforms, platformManifest } = await import(${JSON.stringify(join(root, 'scripts/pack.mjs'))});
    console.log(JSON.stringify(Object.keys(platforms).map(platformManifest)));`;
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  const manifests = JSON.parse(stdout) as (Manifest & { os: string[]; cpu: string[]; libc?: string[] })[];
  const { version } = read(join(root, 'package.json'));
  expect(manifests.map(({ name, os, cpu, libc }) => [name, os, cpu, libc])).toEqual([
    ['@lora-native/linux-x64-gnu', ['linux'], ['x64'], ['glibc']],
    ['@lora-native/linux-arm64-gnu', ['linux'], ['arm64'], ['glibc']],
    ['@lora-native/linux-x64-musl', ['linux'], ['x64'], ['musl']],
    ['@lora-native/darwin-arm64', ['darwin'], ['arm64'], undefined],
    ['@lora-native/win32-x64', ['win32'], ['x64'], undefined],
  ]);
  for (const manifest of manifests)
    expect(manifest).toMatchObject({
      version,
      main: './lora_native.node',
      license: 'MIT',
      preferUnplugged: true,
    });
});
