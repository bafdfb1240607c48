// Draws a random sample of the mutants. The same seed and sources give the same sample.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PluginKind, declareClassPlugin } from '@stryker-mutator/api/plugin';
import { Instrumenter } from '@stryker-mutator/instrumenter';

const share = Number(process.env.LORA_MUTANTS_SHARE ?? '1');
const seed = process.env.LORA_MUTANTS_SEED ?? '0';

/** Whether the sample has this mutant: a number in [0, 1) that depends on the mutant alone is below the share. */
function isDrawn({ fileName, location: { start, end }, mutatorName, replacement }) {
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
  return createHash('sha256').update(key.join('\0')).digest().readUInt32LE(0) / 2 ** 32 < share;
}

/**
 * What Stryker is to mutate for a sample: the files, or the places of the drawn mutants as `file:line:column-line:column`. Every mutant that
 * Stryker puts into the code makes all tests slower, drawn or not; with all 34,000 of them the first run takes half an hour.
 */
export async function placesOfSample(root, files) {
  if (share >= 1) return files;
  const instrumenter = new Instrumenter({ debug() {}, info() {}, isDebugEnabled: () => false });
  const sources = files.map((name) => ({
    name: join(root, name),
    content: readFileSync(join(root, name), 'utf8'),
    mutate: true,
  }));
  const { mutants } = await instrumenter.instrument(sources, {
    plugins: null,
    excludedMutations: [],
    ignorers: [],
  });
  return mutants.filter(isDrawn).map(({ fileName, location: { start, end } }) => {
    const place = ({ line, column }) => `${line + 1}:${column}`;
    return `${fileName.slice(root.length + 1)}:${place(start)}-${place(end)}`;
  });
}

/** Stryker plugin: lets the drawn mutants through. The others of a place are reported as compile errors, which Stryker neither runs nor counts. */
class Sample {
  async init() {}
  async check(mutants) {
    return Object.fromEntries(
      mutants.map((mutant) => [
        mutant.id,
        isDrawn(mutant) ? { status: 'passed' } : { status: 'compileError', reason: 'not in the sample' },
      ]),
    );
  }
  group(mutants) {
    return Promise.resolve([mutants.map(({ id }) => id)]);
  }
}

export const strykerPlugins = [declareClassPlugin(PluginKind.Checker, 'sample', Sample)];
