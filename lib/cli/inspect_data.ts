import { loadDataset } from '../data/dataset';
import { ignoredLabel } from '../data/example';
import { LoRAError } from '../errors';
import { sourceFolder } from '../hub/source';
import { Tokenizer } from '../text/tokenizer';
import type { Console } from './command';
import { countsOf, printJson } from './common';
import { hubOptions } from './hub_report';
import { printable } from './printable';

interface DataFlags {
  readonly model: string;
  readonly revision?: string | undefined;
  readonly offline: boolean;
  readonly maxLength: number;
  readonly trainOn?: 'completion' | 'all' | undefined;
  readonly json?: boolean | undefined;
}

/** The runs of tokens that count and that do not, in order. */
function runsOf(
  inputIds: readonly number[],
  labels: readonly number[],
): { counts: boolean; ids: number[] }[] {
  const runs: { counts: boolean; ids: number[] }[] = [];
  inputIds.forEach((id, i) => {
    const counts = labels[i] !== ignoredLabel;
    if (runs.at(-1)?.counts !== counts) runs.push({ counts, ids: [] });
    runs.at(-1)!.ids.push(id);
  });
  return runs;
}

/** Shows a data set as training reads it: its counts, and the first example with what counts in it. */
export async function inspectData(path: string, flags: DataFlags, console: Console): Promise<void> {
  const folder = await sourceFolder(flags.model, 'inspect', 'tokenizer', hubOptions(console, flags));
  const tokenizer = await Tokenizer.fromDirectory(folder);
  if (!tokenizer)
    throw new LoRAError('ERR_FILE', `[inspect] ${flags.model} has no tokenizer.json`, { op: 'inspect' });
  const { maxLength, trainOn } = flags;
  const data = await loadDataset(path, { tokenizer, maxLength, trainOn, signal: console.signal });
  const [first] = data;
  const { inputIds, labels } = first!; // a data set holds one at least
  const runs = runsOf(inputIds, labels);
  if (flags.json) {
    const counted = runs.filter(({ counts }) => counts).map(({ ids }) => tokenizer.decode(ids));
    const { length: examples, truncated, dropped, tokens } = data;
    const text = tokenizer.decode(inputIds);
    printJson(console, {
      kind: 'data',
      path,
      examples,
      truncated,
      dropped,
      tokens,
      first: { inputIds, labels, text, counted },
    });
    return;
  }
  const marked = runs.map(({ counts, ids }) => {
    const text = printable(tokenizer.decode(ids));
    return counts ? `[[${text}]]` : text;
  });
  console.stdout.write(
    `data ${printable(path)}\n${countsOf(data)}\nthe first example; what is in [[ ]] counts:\n${marked.join('')}\n`,
  );
}
