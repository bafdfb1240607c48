/**
 * One target, in a process that scripts/fuzz.mjs watches: it says which input it is at before it reads it, so that the parent knows
 * what a process died of. Arguments: the target, the seed, the first index, how many, seconds, a folder.
 */
import { openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { LoRAError } from '../../lib/errors';
import { checkRun, peakKibibytes } from './check';
import { Kinds } from './kinds';
import { Dice } from './random';
import { freshFolder, targets } from './targets';

async function main(): Promise<void> {
  const [name = '', seed, first, count, seconds, folder = ''] = process.argv.slice(2);
  const target = targets[name];
  if (!target) throw new Error(`there is no target ${name}`);
  const dir = freshFolder(join(folder, name));
  const at = openSync(join(folder, `${name}.at`), 'w');
  const place = Buffer.alloc(8);
  const end = performance.now() + Number(seconds) * 1000;
  const fail = (fault: string): never => {
    process.stdout.write(`${JSON.stringify({ index, fault })}\n`);
    process.exit(3);
  };
  const kinds = new Kinds(target.neverAccepted);
  let refused = 0;
  let index = Number(first);
  let baseline = 0;
  for (; index < Number(first) + Number(count) && performance.now() < end; index++) {
    place.writeDoubleLE(index);
    writeSync(at, place, 0, 8, 0);
    const input = target.make(new Dice(Number(seed), index, name));
    const fault = await checkRun(() => target.run(input, dir), baseline);
    if (fault instanceof LoRAError) refused++;
    else if (fault !== undefined) fail(fault);
    if (target.kindOf) kinds.count(target.kindOf(input), fault !== undefined);
    // What the first inputs load and compile is no input's doing.
    if (index - Number(first) === 200) baseline = peakKibibytes();
  }
  const blind = kinds.blind();
  if (blind !== undefined) fail(blind);
  const inputs = index - Number(first);
  process.stdout.write(`${JSON.stringify({ inputs, refused, kinds: kinds.counts() })}\n`);
  process.exit(0);
}

process.on('unhandledRejection', (error) => {
  process.stdout.write(`${JSON.stringify({ fault: `a rejection that nobody handles: ${String(error)}` })}\n`);
  process.exit(3);
});
void main();
