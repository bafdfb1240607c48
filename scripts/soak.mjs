// What is too slow for every change, in named parts:  node scripts/soak.mjs [NAME …] [--list]
// Without a name, all of them. Each part is a command; its last line says what it counted.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** name → what it shows, and its commands in order. */
const parts = {
  'old-userland': {
    what: 'linux-x64-gnu trains inside Debian 11 (glibc 2.31), with a Node 20 from npm',
    commands: [
      ['node', 'scripts/build-platform.mjs', 'linux-x64-gnu'],
      ['npm', 'run', '--silent', 'build:js'],
      ['node', 'scripts/try-platform.mjs', 'linux-x64-gnu', 'step'],
    ],
  },
  qemu: {
    what: 'linux-arm64-gnu: all native tests and training steps under qemu, with NEON and NEON bf16',
    commands: [
      ['node', 'scripts/build-platform.mjs', 'linux-arm64-gnu'],
      ['npm', 'run', '--silent', 'build:js'],
      ['node', 'scripts/try-platform.mjs', 'linux-arm64-gnu', 'step', 'tests'],
    ],
  },
  windows: {
    what: 'win32-x64 compiles with every instruction set, links, and asks for no other DLLs',
    commands: [['node', 'scripts/build-platform.mjs', 'win32-x64']],
  },
  'package-source': {
    what: 'an installed package builds its binary from the source in it, and runs the benchmark',
    commands: [['node', 'scripts/package-check.mjs', '--local', '--build']],
  },
  fuzz: {
    what: 'a million inputs that are nearly right, for every reader of files',
    commands: [['node', 'scripts/fuzz.mjs', '--count', '1000000']],
  },
  'fuzz-binding': {
    what: 'a million calls of the native binding that are nearly right, on an add-on with ASan and UBSan',
    commands: [['node', 'scripts/fuzz.mjs', 'binding', '--count', '1000000', '--sanitize', '--kinds']],
  },
  grammars: {
    what: 'ten thousand JSON Schemas: texts drawn from their grammars are valid by Ajv, and valid values can be written',
    commands: [
      ['npx', 'jest', 'test/unit/json_schema_values.test.ts', '--globals', JSON.stringify({ pairs: 10_000 })],
    ],
  },
  mutants: {
    what: 'single faults in all of lib/: which of them the tests notice',
    commands: [['node', 'scripts/mutants.mjs', '--all']],
  },
  'native-mutants': {
    what: 'single faults in 200 places of native/: which of them the tests notice',
    commands: [['node', 'scripts/native-mutants.mjs', 'native', '--count', '200']],
  },
  stress: {
    what: 'ten minutes of random work in four threads while allocations and ops fail: as a calm run, and nothing left',
    commands: [
      ['npm', 'run', '--silent', 'build'],
      ['node', 'scripts/stress.mjs', '--minutes', '10'],
    ],
  },
  'killed-training': {
    what: 'training killed at 200 random moments and resumed: the bits of the undisturbed run',
    commands: [
      ['npm', 'run', '--silent', 'build'],
      ['node', 'scripts/killed-training.mjs', '--kills', '200'],
    ],
  },
  'long-training': {
    what: 'ten thousand steps of training: memory and native objects of each kind as after the first thousand',
    commands: [
      ['npm', 'run', '--silent', 'build'],
      ['node', 'scripts/long-training.mjs'],
    ],
  },
  histories: {
    what: 'ten thousand random histories of an engine: every text is that of its request alone',
    commands: [['env', 'LORA_HISTORIES=10000', 'npx', 'jest', 'test/e2e/engine_histories']],
  },
  'serving-tiny': {
    what: 'ten thousand requests near the memory limit, one by one and 16 at once: none fails, memory is flat (stories260K)',
    commands: [
      ['npm', 'run', '--silent', 'build'],
      ['node', 'scripts/serving-soak.mjs', '--model', '../shared/data/models/stories260K'],
    ],
  },
  serving: {
    what: 'five hundred requests to SmolLM2-135M within 320 MB, where its weights take 269: none fails, memory is flat',
    commands: [
      ['npm', 'run', '--silent', 'build'],
      ['python3', '../shared/data/models/smollm2-135m/make.py', 'build/smollm2-135m'],
      [
        ...['node', 'scripts/serving-soak.mjs', '--model', 'build/smollm2-135m'],
        ...['--requests', '500', '--limit', '320MB'],
      ],
    ],
  },
  'serve-http': {
    what: '64 connections to the server for a minute (SmolLM2-135M): no error, flat memory; first tokens, /health, gaps of the event loop',
    commands: [
      ['npm', 'run', '--silent', 'build'],
      ['python3', '../shared/data/models/smollm2-135m/make.py', 'build/smollm2-135m'],
      ['npm', 'install', '--no-save', '--no-audit', '--no-fund', '--prefix', 'build/clients', 'autocannon'],
      ['node', 'scripts/http-soak.mjs', '--model', 'build/smollm2-135m'],
    ],
  },
  loops: {
    what: 'ten thousand rounds each of loading, training, every method, GGUF, converting, quantizing and evaluating: flat',
    commands: [
      ['npm', 'run', '--silent', 'build'],
      ['node', 'scripts/loops.mjs'],
    ],
  },
  clang: {
    what: 'every native file without a warning of clang, for x86-64 and for 64-bit ARM as on macOS',
    commands: [['bash', 'scripts/clang-check.sh']],
  },
};

const names = process.argv.slice(2);
const unknown = names.filter((name) => name !== '--list' && !Object.hasOwn(parts, name));
if (names.includes('--list') || unknown.length > 0) {
  for (const name of unknown) console.error(`there is no part ${name}`);
  for (const [name, { what }] of Object.entries(parts)) console.log(`${name.padEnd(14)}  ${what}`);
  process.exit(unknown.length > 0 ? 2 : 0);
}

const failed = [];
for (const name of names.length > 0 ? names : Object.keys(parts)) {
  console.log(`== ${name}: ${parts[name].what}`);
  const begin = Date.now();
  const good = parts[name].commands.every(([command, ...args]) => {
    const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
    if (error) console.error(error.message);
    return status === 0;
  });
  console.log(`-- ${name}: ${good ? 'ok' : 'FAILED'} (${Math.round((Date.now() - begin) / 1000)} s)`);
  if (!good) failed.push(name);
}
if (failed.length > 0) {
  console.error(`failed: ${failed.join(', ')}`);
  process.exitCode = 1;
}
