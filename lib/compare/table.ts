/** The columns of the table of a comparison, which the terminal and the page show. */
import { grouped } from '../train/facts';
import type { ComparisonRow, Spread } from './results';

interface Column {
  readonly head: string;
  readonly cell: (row: ComparisonRow) => string;
}

const mebi = 2 ** 20;

/** The mean, and where seeds differ the lowest and the highest. */
export function spreadText({ mean, least, most }: Spread, show: (value: number) => string): string {
  return least === most ? show(mean) : `${show(mean)} (${show(least)}–${show(most)})`;
}

const spread = (value: Spread | undefined, show: (value: number) => string): string =>
  value === undefined ? '' : spreadText(value, show);
const percent = (share: number): string => (100 * share).toFixed(1);

const all: readonly Column[] = [
  { head: 'method', cell: ({ method }) => method },
  { head: 'rank', cell: ({ rank }) => rank?.toString() ?? '' },
  { head: 'alpha', cell: ({ alpha }) => alpha?.toString() ?? '' },
  { head: 'targets', cell: ({ targets }) => targets ?? '' },
  { head: 'learning rate', cell: ({ lr }) => String(lr) },
  { head: 'trained', cell: ({ trainableParameters }) => grouped(trainableParameters) },
  { head: 'of all %', cell: ({ share }) => (100 * share).toFixed(3) },
  { head: 'peak MiB', cell: ({ peakBytes }) => (peakBytes / mebi).toFixed(1) },
  { head: 'tokens/s', cell: ({ tokensPerSecond }) => spread(tokensPerSecond, grouped) },
  { head: 'held-out loss', cell: ({ loss }) => spread(loss, (value) => value.toFixed(4)) },
  { head: 'exact match %', cell: ({ exactMatch }) => spread(exactMatch, percent) },
  {
    head: 'file MiB',
    cell: ({ fileBytes }) => (fileBytes === undefined ? '' : (fileBytes / mebi).toFixed(2)),
  },
  { head: 'without scores', cell: ({ failed }) => failed ?? '' },
];

/** Those that a row has something for. */
export const columnsOf = (rows: readonly ComparisonRow[]): readonly Column[] =>
  all.filter(({ cell }) => rows.some((row) => cell(row) !== ''));
