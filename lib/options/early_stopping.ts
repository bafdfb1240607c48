import type { Options } from './option';

/** When a run stops before its end. */
export const earlyStoppingOptions = {
  patience: {
    type: 'integer',
    minimum: 1,
    needs: { evalEvery: true },
    rare: true,
    help: 'stop after so many evaluations without a better one',
  },
  minDelta: { type: 'number', minimum: 0, default: 0 },
} as const satisfies Options;
