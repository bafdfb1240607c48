/** What a run tells in its folder, beside what it trains. */
import type { Options } from './option';

export const logOptions = {
  log: {
    type: 'names',
    value: 'LIST',
    own: true,
    needs: { outDir: true },
    rare: true,
    help: 'tensorboard, jsonl: logs in --out-dir',
    defaultText: 'none',
  },
  report: { type: 'boolean', needs: { outDir: true }, rare: true, help: 'report.html in --out-dir' },
} as const satisfies Options;
