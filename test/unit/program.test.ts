// Recorded programs on the devices of the CPU; cuda_emulated.test.ts has them on a GPU.
import { programCases } from '../support/program_cases';

for (const device of ['cpu', 'reference'] as const)
  programCases(device, (title, body) => void test(title, body));
