import { dataReport, type DataReport } from '../data/data_report';
import { loadFiles, type Dataset } from '../data/dataset';
import { dataFiles } from '../data/folders';
import type { MemoryDataset } from '../data/memory_dataset';
import { ignoredLabel, type DatasetCounts, type Example } from '../data/example';
import { loraError } from '../errors';
import { sourceFolder } from '../hub/source';
import { Tokenizer } from '../text/tokenizer';
import { UsageError, type Console } from './command';
import { dataColumns, countsOf, printJson } from './common';
import { dataHubOptions, hubOptions } from './hub_report';
import { printable } from './printable';

interface DataFlags {
  readonly model: string;
  readonly revision?: string | undefined;
  readonly offline: boolean;
  readonly maxLength: number;
  readonly trainOn?: 'completion' | 'all' | undefined;
  readonly allowSpecialTokens?: boolean | undefined;
  readonly columns: readonly string[];
  readonly split?: string | undefined;
  readonly maxRows?: number | undefined;
  readonly deduplicate: boolean;
  readonly report: boolean;
  readonly row?: string | undefined;
  readonly json?: boolean | undefined;
}

/** Examples that are shown at once. */
const maxRows = 1000;

/** The numbers of a list such as 1,5-7, in their order. */
function numbersOf(list: string): number[] {
  const wrong = (): never => {
    throw new UsageError(
      `--row needs numbers of at most ${maxRows} examples, from 1, such as 3 or 1,5-7, but received ${printable(list)}`,
    );
  };
  const numbers = new Set<number>();
  for (const part of list.split(',')) {
    const [, from, to = from] = /^(\d+)(?:-(\d+))?$/.exec(part.trim()) ?? wrong();
    if (Number(from) < 1 || Number(to) < Number(from) || Number(to) - Number(from) >= maxRows) wrong();
    for (let n = Number(from); n <= Number(to); n++) numbers.add(n);
    if (numbers.size > maxRows) wrong();
  }
  return [...numbers].sort((a, b) => a - b);
}

/** Examples of a data set by their numbers, from 1. */
function examplesOf(data: Dataset, numbers: readonly number[]): Map<number, Required<Example>> {
  const last = numbers.at(-1)!;
  if (last > data.length)
    throw loraError(
      'inspect',
      'ERR_ARGUMENT',
      `expected examples from 1 to ${data.length} but received ${last}`,
    );
  const found = new Map<number, Required<Example>>();
  let number = 0;
  for (const example of data) {
    if (numbers.includes(++number)) found.set(number, example);
    if (number === last) break;
  }
  return found;
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

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

/** The widest bar of a histogram, in characters. */
const barWidth = 40;

/** The report for people. */
function reportLines({ lengths, cut, counted, repeated }: DataReport): string[] {
  const { bins, mean } = lengths;
  const most = Math.max(...bins.map(({ examples }) => examples));
  const width = (texts: readonly string[]): number => Math.max(...texts.map(({ length }) => length));
  const ranges = bins.map(({ from, to }) => `${from}-${to}`);
  const counts = bins.map(({ examples }) => String(examples));
  const bars = bins.map(
    ({ examples }, i) =>
      `${ranges[i]!.padEnd(width(ranges))}  ${counts[i]!.padStart(width(counts))}  ${'#'.repeat(Math.ceil((barWidth * examples) / most))}`,
  );
  return [
    `lengths   shortest ${lengths.shortest}, median ${lengths.median}, mean ${mean.toFixed(1)}, 95 of 100 at most ${lengths.p95}, longest ${lengths.longest} tokens`,
    ...bars.map((line) => `          ${line.trimEnd()}`),
    cut.examples === 0
      ? 'cut       nothing'
      : `cut       ${cut.examples} examples lose ${cut.tokens} tokens (${percent(cut.share)}): --max-length ${cut.longest} would cut none`,
    `counts    ${counted.tokens} of ${counted.of} tokens (${percent(counted.share)}); in ${counted.withPrompt} examples a part alone; ${counted.dropped} rows left out because none of their tokens counts`,
    `repeated  ${repeated.examples} examples have the tokens of an earlier one${repeated.examples > 0 ? ' (--deduplicate leaves them out)' : ''}${repeated.leftOut > 0 ? `; ${repeated.leftOut} rows left out for that` : ''}`,
  ];
}

/** Shows a data set as training reads it: its counts, and examples with what counts in them. */
export async function inspectData(path: string, flags: DataFlags, console: Console): Promise<void> {
  const { maxLength, trainOn, allowSpecialTokens } = flags;
  const numbers = flags.row === undefined ? undefined : numbersOf(flags.row);
  const columns = dataColumns(flags.columns);
  const folder = await sourceFolder(flags.model, 'inspect', 'tokenizer', hubOptions(console, flags));
  const tokenizer = await Tokenizer.fromDirectory(folder);
  if (!tokenizer) throw loraError('inspect', 'ERR_FILE', `${flags.model} has no tokenizer`);
  const { split, maxRows: most, deduplicate } = flags;
  const found = await dataFiles(path, { ...dataHubOptions(console, flags), split });
  const data = (await loadFiles(found, {
    tokenizer,
    maxLength,
    trainOn,
    allowSpecialTokens,
    columns,
    maxRows: most,
    deduplicate,
    signal: console.signal,
  })) as unknown as DatasetCounts & MemoryDataset<Required<Example>>;
  const report = flags.report ? dataReport(data) : undefined;
  const shown = examplesOf(data, numbers ?? [1]); // a data set holds one at least
  if (flags.json) {
    const shownExample = ({ inputIds, labels }: Required<Example>): object => ({
      inputIds,
      labels,
      text: tokenizer.decode(inputIds),
      counted: runsOf(inputIds, labels)
        .filter(({ counts }) => counts)
        .map(({ ids }) => tokenizer.decode(ids)),
    });
    const { length: examples, truncated, dropped, duplicates, tokens } = data;
    const [first] = shown.get(1) ? [shown.get(1)!] : data;
    const rows = numbers && { rows: [...shown].map(([row, example]) => ({ row, ...shownExample(example) })) };
    printJson(console, {
      kind: 'data',
      path,
      examples,
      truncated,
      dropped,
      duplicates,
      tokens,
      first: shownExample(first!),
      ...rows,
      ...(report && { report }),
    });
    return;
  }
  const marked = [...shown].map(([number, { inputIds, labels }]) => {
    const text = runsOf(inputIds, labels).map(({ counts, ids }) => {
      const part = printable(tokenizer.decode(ids));
      return counts ? `[[${part}]]` : part;
    });
    const name = numbers ? `example ${number}` : 'the first example';
    return `${name}; what is in [[ ]] counts:\n${text.join('')}\n`;
  });
  console.stdout.write(
    `data ${printable(path)}\n${countsOf(data)}\n${report ? `${reportLines(report).join('\n')}\n` : ''}${marked.join('')}`,
  );
}
