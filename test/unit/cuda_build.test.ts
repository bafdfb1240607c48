/** Which GPUs a build compiles for: LORA_CUDA_BUILD and the GPUs that are there, as definitions of CMake. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const scratch = temporaryFolder();

interface Case {
  asked?: string;
  /** Compute capabilities. */
  gpus: string[];
  gives: string[] | string;
}
const off = ['-DLORA_CUDA=OFF'];
const cases: Case[] = [
  { gpus: [], gives: off },
  { gpus: ['7.5'], gives: off },
  { gpus: ['8.6'], gives: ['-DLORA_CUDA=AUTO', '-DLORA_CUDA_ARCHITECTURES=86'] },
  // Two of a kind, one that CMake has no number for, one that is too old.
  {
    gpus: ['12.1', '9.0', '9.0', '8.7', '6.1'],
    gives: ['-DLORA_CUDA=AUTO', '-DLORA_CUDA_ARCHITECTURES=86;90;120'],
  },
  { asked: 'off', gpus: ['8.6'], gives: off },
  {
    asked: 'all',
    gpus: [],
    gives: ['-DLORA_CUDA=ON', '-DLORA_CUDA_ARCHITECTURES=all', '-DLORA_CUDA_KEEP=ON'],
  },
  { asked: 'native', gpus: ['8.0'], gives: ['-DLORA_CUDA=ON', '-DLORA_CUDA_ARCHITECTURES=80'] },
  {
    asked: 'native',
    gpus: [],
    gives:
      '[build] expected a GPU for LORA_CUDA_BUILD=native but nvidia-smi names no GPU: LORA_CUDA_BUILD=all needs none',
  },
  {
    asked: 'native',
    gpus: ['7.5'],
    gives:
      '[build] expected a GPU for LORA_CUDA_BUILD=native but nvidia-smi names only GPUs of compute capability 7.5, and 8.0 is the least: LORA_CUDA_BUILD=all needs none',
  },
  {
    asked: 'ON',
    gpus: [],
    gives: '[build] expected LORA_CUDA_BUILD to be all, native or off but received "ON"',
  },
];

/** The scripts are ES modules, which jest would not load: in a Node of their own. */
function evaluate(expression: string, env: NodeJS.ProcessEnv = process.env): unknown {
  const module = pathToFileURL(join(root, 'scripts/cuda-build.mjs')).href;
  const program = `
    import { cudaBuild } from ${JSON.stringify(module)};
    const attempt = (...args) => { try { return cudaBuild(...args).definitions; } catch (error) { return error.message; } };
    console.log(JSON.stringify(${expression}));`;
  const args = ['--input-type=module', '-e', program];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8', env }));
}

test('LORA_CUDA_BUILD and the GPUs give the definitions of CMake', () => {
  const table = JSON.stringify(cases.map(({ asked = null, gpus }) => [asked, gpus]));
  const given = evaluate(`${table}.map(([asked, gpus]) => attempt(asked ?? undefined, () => gpus))`);
  expect(given).toEqual(cases.map(({ gives }) => gives));
});

test('the GPUs are those that nvidia-smi names; where it fails there are none', () => {
  const answers = (name: string, program: string) => {
    const folder = join(scratch, name);
    mkdirSync(folder);
    writeFileSync(join(folder, 'nvidia-smi'), `#!/bin/sh\n${program}\n`);
    chmodSync(join(folder, 'nvidia-smi'), 0o755);
    const PATH = [folder, process.env['PATH']].join(delimiter);
    return evaluate('attempt(undefined)', { ...process.env, PATH });
  };
  expect(answers('two', 'printf "8.6\\n8.9\\n"')).toEqual([
    '-DLORA_CUDA=AUTO',
    '-DLORA_CUDA_ARCHITECTURES=86',
  ]);
  expect(answers('failing', 'echo "NVIDIA-SMI has failed"; exit 9')).toEqual(off);
});

test('a build is for the instruction sets of this machine unless it asks for all', () => {
  const module = pathToFileURL(join(root, 'scripts/cuda-build.mjs')).href;
  const code = `import { simdBuild } from ${JSON.stringify(module)};
    console.log(JSON.stringify([undefined, '', 'native', 'all'].map((asked) => simdBuild(asked).definitions)));`;
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  const native = ['-DLORA_SIMD_BUILD=native'];
  expect(JSON.parse(stdout)).toEqual([native, native, native, ['-DLORA_SIMD_BUILD=all']]);
});

test.each([
  ['LORA_CUDA_BUILD', 'on', 'all, native or off'],
  ['LORA_SIMD_BUILD', 'avx2', 'all or native'],
])('a build that cannot be made says so in one sentence, before it compiles: %s', (name, value, choices) => {
  const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts/build.mjs')], {
    encoding: 'utf8',
    env: { ...process.env, LORA_CUDA_BUILD: 'off', [name]: value },
  });
  expect({ status, stderr }).toEqual({
    status: 1,
    stderr: `[build] expected ${name} to be ${choices} but received "${value}"\n`,
  });
});
