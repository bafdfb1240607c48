// Stryker plugin: lets a random sample of the mutants through. What is left out is reported as a compile error, which
// Stryker neither runs nor counts. The same seed and sources give the same sample.
import { createHash } from 'node:crypto';
import { PluginKind, declareClassPlugin } from '@stryker-mutator/api/plugin';

const share = Number(process.env.LORA_MUTANTS_SHARE ?? '1');
const seed = process.env.LORA_MUTANTS_SEED ?? '0';

/** A number in [0, 1) that depends on the mutant alone. */
function draw({ fileName, location: { start, end }, mutatorName, replacement }) {
  const key = [
    seed,
    fileName.split('/lib/').at(-1),
    start.line,
    start.column,
    end.line,
    end.column,
    mutatorName,
    replacement,
  ];
  return createHash('sha256').update(key.join('\0')).digest().readUInt32LE(0) / 2 ** 32;
}

class Sample {
  async init() {}
  async check(mutants) {
    return Object.fromEntries(
      mutants.map((mutant) => [
        mutant.id,
        draw(mutant) < share ? { status: 'passed' } : { status: 'compileError', reason: 'not in the sample' },
      ]),
    );
  }
  group(mutants) {
    return Promise.resolve([mutants.map(({ id }) => id)]);
  }
}

export const strykerPlugins = [declareClassPlugin(PluginKind.Checker, 'sample', Sample)];
