/** Gives an input of a target again, to be kept or to be run alone. Arguments: --list, or the target, the seed, the index, save or run. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LoRAError } from '../../lib/errors';
import { checkRun } from './check';
import { Dice } from './random';
import { targets } from './targets';

async function main(): Promise<void> {
  const [name = '', seed, index, what, folder = ''] = process.argv.slice(2);
  if (name === '--list') return console.log(Object.keys(targets).join('\n'));
  const target = targets[name]!;
  const input = target.make(new Dice(Number(seed), Number(index), name));
  if (what === 'save') {
    const path = join(folder, `${name}-${seed}-${index}`);
    writeFileSync(path, input);
    return console.log(target.kindOf ? `${path}: ${Buffer.from(input).toString()}` : path);
  }
  console.log(Buffer.from(input).toString().slice(0, 4000));
  const fault = await checkRun(() => target.run(input, mkdtempSync(join(tmpdir(), 'fuzz-'))), 0);
  console.log(fault instanceof LoRAError ? `${fault.code} ${fault.message}` : (fault ?? 'no error'));
}
void main();
