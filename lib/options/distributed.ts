/** A run of several processes. */
import type { Options } from './option';

export const distributedOptions = {
  distributed: {
    type: 'string',
    value: 'HOW',
    choices: ['mpi'],
    own: true,
    rare: true,
    help: 'with the other processes that mpirun has started',
    defaultText: 'alone',
  },
  distributedTimeout: {
    type: 'number',
    value: 'S',
    above: 0,
    default: 600,
    rare: true,
    help: 'without progress of another process, before the run ends',
  },
  distributedDtype: {
    type: 'string',
    value: 'T',
    choices: ['f32', 'bf16'],
    default: 'f32',
    rare: true,
    help: 'of the gradients that cross the network',
  },
} as const satisfies Options;
