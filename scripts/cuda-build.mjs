// What LORA_CUDA_BUILD asks for, as definitions of CMake:
//   all      code for every architecture of the published binary; an error where there is no nvcc
//   native   code for the GPUs of this machine; an error where there is none, or no nvcc
//   off      no CUDA backend
// Unset, a build is native where there are a GPU and nvcc, and off elsewhere: kernels take two thirds of a build, and
// nothing on a machine without a GPU runs them. And what LORA_SIMD_BUILD asks for:
//   all      every instruction set of the published binary
//   native   the default: the best of this CPU and the lowest (cmake/highway.cmake)
import { spawnSync } from 'node:child_process';

// As in cmake/cuda.cmake.
const architectures = [80, 86, 90, 100, 120];

/** Of the GPUs here, in the words of their driver: '8.6'. */
function computeCapabilities() {
  const query = ['--query-gpu=compute_cap', '--format=csv,noheader'];
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8' });
  return status === 0 ? (stdout.match(/^\d+\.\d+$/gm) ?? []) : [];
}

/** Code for this very GPU where CMake knows its number, else of the nearest below: newer ones take the PTX. */
const architectureOf = (capability) =>
  architectures.findLast((architecture) => architecture <= Number(capability.replace('.', '')));

/** Gives the definitions, and a line that says what they mean. `gpus` asks for the GPUs' compute capabilities. */
export function cudaBuild(asked, gpus = computeCapabilities) {
  const definitions = (when, codes) => [
    `-DLORA_CUDA=${when}`,
    ...(codes ? [`-DLORA_CUDA_ARCHITECTURES=${codes}`] : []),
  ];
  if (asked === 'off')
    return { definitions: definitions('OFF'), meaning: 'no CUDA, as LORA_CUDA_BUILD=off asks' };
  if (asked === 'all')
    return {
      definitions: [...definitions('ON', 'all'), '-DLORA_CUDA_KEEP=ON'],
      meaning: 'CUDA for all architectures, as LORA_CUDA_BUILD=all asks',
    };
  if (asked && asked !== 'native')
    throw new Error(
      `[build] expected LORA_CUDA_BUILD to be all, native or off but received ${JSON.stringify(asked)}`,
    );
  const found = gpus();
  const codes = [...new Set(found.map(architectureOf).filter(Boolean))].sort((a, b) => a - b).join(';');
  if (codes !== '')
    return {
      definitions: definitions(asked ? 'ON' : 'AUTO', codes),
      meaning: `CUDA for the GPUs of this machine (compute capability ${found.join(', ')})`,
    };
  const which =
    found.length === 0
      ? 'no GPU'
      : `only GPUs of compute capability ${found.join(', ')}, and 8.0 is the least`;
  if (asked)
    throw new Error(
      `[build] expected a GPU for LORA_CUDA_BUILD=native but nvidia-smi names ${which}: LORA_CUDA_BUILD=all needs none`,
    );
  return {
    definitions: definitions('OFF'),
    meaning: `no CUDA, since nvidia-smi names ${which}; LORA_CUDA_BUILD=all compiles it all the same`,
  };
}

/** The same of instruction sets. Those that this machine would not choose are half of a build's work, or more. */
export function simdBuild(asked) {
  if (asked === 'all') return { definitions: ['-DLORA_SIMD_BUILD=all'], meaning: 'all instruction sets' };
  if (asked && asked !== 'native')
    throw new Error(
      `[build] expected LORA_SIMD_BUILD to be all or native but received ${JSON.stringify(asked)}`,
    );
  return {
    definitions: ['-DLORA_SIMD_BUILD=native'],
    meaning: 'the best instruction set of this machine and the lowest; LORA_SIMD_BUILD=all compiles all',
  };
}
