import { sweep as sweepRates } from '../compare/compare';
import { valuesOf, flagsOf } from '../options/option';
import { sweepOptions } from '../options/compare';
import { defineCommand, type Flags } from './command';
import { modelFlags } from './common';
import { comparingFlags, follow, numbersOf, sharedOptions } from './compare';
import { refuseRanks } from './distributed';

const flags = {
  ...modelFlags,
  ...flagsOf(sweepOptions),
  outDir: { ...sweepOptions.outDir, default: 'sweep' },
  ...comparingFlags,
} as const satisfies Flags;

export const sweep = defineCommand({
  summary: 'Trains a model with several learning rates and ranks, and says which are best.',
  usage: '--model DIR --data FILE --eval-data FILE [flags]',
  flags,
  exclusive: [['budgetSteps', 'budgetMinutes']],
  json:
    'a line per event: { type: "start" | "step" | "variant" | "end", … }, as the events of sweep; ' +
    '"end" has the comparison: { rows, results, best, base, question, report, file }',

  async run(values, console) {
    refuseRanks('sweep', 'start it without mpirun');
    const options = {
      ...valuesOf(sweepOptions, values),
      ...(await sharedOptions(values, console)),
      method: values.method,
      learningRates: numbersOf('learningRates', values.learningRates, 'auto'),
    };
    await follow(() => sweepRates(options), values, console);
  },
});
