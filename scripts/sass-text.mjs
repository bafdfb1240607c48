// Prints the instructions of a cubin as `cuobjdump --dump-sass` does, as far as scripts/sass-mix.awk reads it:
//   nvcc -std=c++20 -O3 --expt-relaxed-constexpr -Inative -arch=sm_80 -cubin -o attention.cubin native/backend/cuda/attention.cu
//   node scripts/sass-text.mjs attention.cubin | awk -f scripts/sass-mix.awk | c++filt
import { readFileSync } from 'node:fs';
import { listing } from './cuda-report/sass.mjs';

process.stdout.write(listing(readFileSync(process.argv[2])));
