/** The columns of the table of a comparison, which the terminal and the page show. */
import { grouped } from '../train/facts';
import { middleOf, type ComparisonRow, type Spread } from './results';

interface Column {
  readonly head: string;
  readonly cell: (row: ComparisonRow) => string;
}

const mebi = 2 ** 20;

/** The mean, of a sweep the median, and where seeds differ the lowest and the highest. */
export function spreadText(row: ComparisonRow, value: Spread, show: (value: number) => string): string {
  const { least, most } = value;
  const middle = show(middleOf(row, value));
  return least === most ? middle : `${middle} (${show(least)}–${show(most)})`;
}

const spread = (
  row: ComparisonRow,
  name: 'tokensPerSecond' | 'loss' | 'exactMatch',
  show: (value: number) => string,
): string => {
  const value = row[name];
  return value === undefined ? '' : spreadText(row, value, show);
};
const percent = (share: number): string => (100 * share).toFixed(1);

const all: readonly Column[] = [
  { head: 'method', cell: ({ method }) => method },
  { head: 'rank', cell: ({ rank }) => rank?.toString() ?? '' },
  { head: 'alpha', cell: ({ alpha }) => alpha?.toString() ?? '' },
  { head: 'targets', cell: ({ targets }) => targets ?? '' },
  { head: 'learning rate', cell: ({ lr, rate }) => `${lr}${rate === 'auto' ? ' (auto)' : ''}` },
  { head: 'trained', cell: ({ trainableParameters }) => grouped(trainableParameters) },
  { head: 'of all %', cell: ({ share }) => (100 * share).toFixed(3) },
  { head: 'peak MiB', cell: ({ peakBytes }) => (peakBytes / mebi).toFixed(1) },
  { head: 'tokens/s', cell: (row) => spread(row, 'tokensPerSecond', grouped) },
  { head: 'held-out loss', cell: (row) => spread(row, 'loss', (value) => value.toFixed(4)) },
  { head: 'exact match %', cell: (row) => spread(row, 'exactMatch', percent) },
  {
    head: 'file MiB',
    cell: ({ fileBytes }) => (fileBytes === undefined ? '' : (fileBytes / mebi).toFixed(2)),
  },
  { head: 'without scores', cell: ({ failed }) => failed ?? '' },
];

/** Those that a row has something for. */
export const columnsOf = (rows: readonly ComparisonRow[]): readonly Column[] =>
  all.filter(({ cell }) => rows.some((row) => cell(row) !== ''));
