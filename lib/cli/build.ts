import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { mpiShim } from '../distributed/mpi';
import { findBinary, here, packageRoot } from '../native/loader';
import { defineCommand, helpFlag } from './command';
import { note, printJson } from './common';

export const build = defineCommand({
  summary: 'Compiles the native binary from the source in this package, for this machine.',
  usage: [
    '[--cuda all|native|off] | --mpi\n',
    'Needs a C++20 compiler, CMake 3.25 and Highway 1.2 (Debian: g++ cmake libhwy-dev); for GPUs also',
    'nvcc 12.8. From then on this binary is taken instead of the one in the platform package.',
  ].join('\n'),
  flags: {
    cuda: {
      type: 'string',
      value: 'WHEN',
      choices: ['all', 'native', 'off'],
      help: 'kernels for all GPUs, those here, or none; default: those here',
    },
    mpi: {
      type: 'boolean',
      help: 'only what training on several machines needs, with the mpicc of this system',
    },
    json: { type: 'boolean', help: 'the path of the binary as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { binary }, the path of the binary',
  exclusive: [['cuda', 'mpi']],
  async run({ cuda, mpi, json }, console) {
    // The same script that builds a clone. It installs the packages that it builds with where they are missing.
    const script = join(packageRoot(here)!, 'scripts/build.mjs');
    const child = spawn(process.execPath, [script, ...(mpi ? ['--mpi'] : [])], {
      env: { ...process.env, ...(cuda !== undefined && { LORA_CUDA_BUILD: cuda }) },
      stdio: ['inherit', 2, 2], // standard output is for results
      signal: console.signal, // ends it
    });
    const [status] = (await once(child, 'exit').catch((error: unknown) => {
      console.signal.throwIfAborted();
      throw error;
    })) as [number | null];
    if (status !== 0) return 1;
    const { path } = mpi ? mpiShim() : findBinary();
    if (json) printJson(console, { binary: path });
    else note(console, `built ${path}`);
    return 0;
  },
});
