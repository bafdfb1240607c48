/** The report of a comparison: one HTML file that needs nothing else. */
import { version } from '../../package.json';
import { writeFileAtomic } from '../formats/atomic';
import { grouped, type Fact } from '../train/facts';
import {
  duration,
  factList,
  figure,
  reportDocument,
  short,
  table,
  textBlock,
  type Chart,
  type ChartLine,
} from '../train/report/document';
import { escapeHtml } from '../train/report/html';
import { reportPath } from '../train/report/report';
import { idOf } from './methods';
import { bestOf, middleOf, type Comparison, type ComparisonRow, type VariantResult } from './results';
import { columnsOf, spreadText } from './table';

const generator = '<meta name="generator" content="lora-native comparison">';

/** More lines than this in a chart are not told apart. */
const maxLines = 12;

/** Neighboring lines get hues that are far apart. */
const hueOf = (index: number): number => Math.round((index * 137.5 + 215) % 360);

const lossOf = (row: ComparisonRow): number => (row.loss ? middleOf(row, row.loss) : Infinity);

/** The row of each method with the lowest loss. */
function bestRows(rows: readonly ComparisonRow[]): ComparisonRow[] {
  const names = [...new Set(rows.map(({ method }) => method))];
  return names.map((name) => {
    const own = rows.filter(({ method }) => method === name);
    return bestOf(own) ?? own[0]!;
  });
}

/** The mean over the seeds of a setting, at the steps that any of them has. */
function meanCurve(results: readonly VariantResult[]): Map<number, number> {
  const at = new Map<number, number[]>();
  for (const { curve } of results)
    for (const [step, loss] of curve) at.set(step, [...(at.get(step) ?? []), loss]);
  return new Map([...at].map(([step, losses]) => [step, losses.reduce((a, b) => a + b, 0) / losses.length]));
}

/** A chart of lines whose points have places of their own. */
function chartOf(
  label: string,
  lines: readonly { label: string; points: ReadonlyMap<number, number> }[],
  more: Partial<Chart> = {},
): Chart {
  const at = [...new Set(lines.flatMap(({ points }) => [...points.keys()]))].sort((a, b) => a - b);
  return {
    label,
    at,
    lines: lines.map(({ label: name, points }, i): ChartLine => ({
      label: name,
      colour: hueOf(i),
      values: at.map((place) => points.get(place) ?? null),
    })),
    ...more,
  };
}

/** The held-out loss over one axis, a line for every combination of the others; undefined where no line has two points. */
function axisChart(
  label: string,
  rows: readonly ComparisonRow[],
  axis: { place: (row: ComparisonRow) => number | undefined; line: (row: ComparisonRow) => string },
): Chart | undefined {
  const lines = new Map<string, Map<number, number>>();
  for (const row of rows) {
    const place = axis.place(row);
    if (row.loss === undefined || place === undefined) continue;
    const name = axis.line(row);
    const points = lines.get(name) ?? new Map<number, number>();
    lines.set(name, points.set(place, middleOf(row, row.loss)));
  }
  const drawn = [...lines].filter(([, points]) => points.size > 1).slice(0, maxLines);
  if (drawn.length === 0) return undefined;
  return chartOf(
    label,
    drawn.map(([name, points]) => ({ label: name, points })),
    { doubling: true },
  );
}

/** α / rank, in as few digits as tell it; undefined of a method that has no α. */
const scaleOf = ({ alpha, rank }: ComparisonRow): number | undefined =>
  alpha === null || rank === null ? undefined : Number((alpha / rank).toPrecision(3));

/** The values of a line that a method has. */
const named = (...parts: readonly (string | undefined)[]): string =>
  parts.filter((part) => part !== undefined).join(', ');
/** As it was asked for. */
const rowRate = ({ rate, lr }: ComparisonRow): number | string => rate ?? lr;
const shown = (name: string, value: number | string | null | undefined): string | undefined =>
  value === null || value === undefined ? undefined : `${name} ${value}`;

interface Drawn {
  readonly id: string;
  readonly caption: string;
  readonly chart: Chart | undefined;
}

function chartsOf({ question, rows, results }: Omit<Comparison, 'report' | 'file'>): Drawn[] {
  const best = [...rows].sort((a, b) => lossOf(a) - lossOf(b)).slice(0, maxLines);
  const curves = best.map(({ id }) => ({
    label: id,
    points: meanCurve(results.filter((result) => idOf({ ...result, seed: undefined }) === id)),
  }));
  const few =
    best.length < rows.length ? `, of the ${best.length} settings with the lowest held-out loss` : '';
  const swept = question['swept'] !== undefined;
  const middle = swept ? 'median' : 'mean';
  const rateOf = (row: ComparisonRow): string | undefined =>
    swept ? shown('rate', rowRate(row)) : undefined;
  return [
    {
      id: 'curves',
      caption: `Training loss in nats a token over the steps, mean of the seeds${few}`,
      chart: chartOf('step', curves),
    },
    {
      id: 'rates',
      caption: `Held-out loss over the learning rate, ${middle} of the seeds`,
      chart: axisChart('learning rate', swept ? rows : [], {
        place: ({ lr }) => lr,
        line: (row) =>
          named(row.method, row.targets ?? undefined, shown('r', row.rank), shown('α', row.alpha)),
      }),
    },
    {
      id: 'ranks',
      caption: `Held-out loss over the rank, ${middle} of the seeds`,
      chart: axisChart('rank', rows, {
        place: ({ rank }) => rank ?? undefined,
        line: (row) => named(row.method, row.targets ?? undefined, shown('α/r', scaleOf(row)), rateOf(row)),
      }),
    },
    {
      id: 'alphas',
      caption: `Held-out loss over α/r, ${middle} of the seeds`,
      chart: axisChart('α/r', rows, {
        place: scaleOf,
        line: (row) => named(row.method, row.targets ?? undefined, shown('r', row.rank), rateOf(row)),
      }),
    },
  ];
}

function ratesTable({ rates }: Pick<Comparison, 'rates'>): string {
  const rows = rates.flatMap(({ method, lr, trials, atEdge }) =>
    trials.map((trial) => [
      method,
      String(trial.lr),
      trial.loss === null ? 'no number' : short(trial.loss),
      trial.lr === lr ? `chosen${atEdge ? ', at the edge of those tried' : ''}` : '',
    ]),
  );
  if (rows.length === 0) return '<p>The learning rates were given; none was tried.</p>';
  return table('Held-out loss of the trials', ['method', 'learning rate', 'loss', ''], rows);
}

function samplesOf({ base, rows, results }: Omit<Comparison, 'report' | 'file'>): string {
  const best = bestRows(rows).map(({ id }) => ({
    id,
    samples: results.find((one) => one.seed === 0 && idOf({ ...one, seed: undefined }) === id)?.samples ?? [],
  }));
  return base.samples
    .map(({ prompt, expected, text }, i) => {
      const texts = best.map(({ id, samples }) => textBlock(id, samples[i]?.text ?? ''));
      const blocks = [
        textBlock('Prompt', prompt),
        textBlock('In the data', expected),
        textBlock('The base model', text),
      ];
      return `<article>\n${[...blocks, ...texts].join('\n')}\n</article>`;
    })
    .join('\n');
}

function headline({ rows }: Pick<Comparison, 'rows'>): string {
  const facts = bestRows(rows).map((row): Fact => [
    `${row.rate === undefined ? 'Best of its method' : 'Best'}: ${row.id}`,
    row.loss ? spreadText(row, row.loss, short) : 'no number',
  ]);
  return factList(facts);
}

function questionFacts({ question, baseParameters, results }: Omit<Comparison, 'report' | 'file'>): Fact[] {
  const { base, device, dtype, quantize, budget, seeds, batchSize, data, evalData } = question as {
    [name: string]: unknown;
    budget: { steps?: number; minutes?: number };
    data: { file?: string; examples: number };
    evalData: { file?: string; examples: number };
  };
  const source = ({ file, examples }: { file?: string; examples: number }): string =>
    `${file === undefined ? '' : `${file}, `}${grouped(examples)} examples`;
  const seconds = results.reduce((sum, result) => sum + result.seconds, 0);
  return [
    ['Base model', `${String(base)}, ${grouped(baseParameters)} parameters`],
    [
      'Device',
      `${String(device)}, ${String(dtype)}${quantize === null ? '' : `, ${JSON.stringify(quantize)}`}`,
    ],
    ['Trained on', source(data)],
    ['Measured on', source(evalData)],
    ['Budget', budget.steps === undefined ? `${budget.minutes} minutes` : `${grouped(budget.steps)} steps`],
    ['Seeds', String(seeds)],
    ['Batch', `${String(batchSize)} examples, ${String(question['gradientAccumulationSteps'])} a step`],
    ['Time', `${duration(seconds)} of training steps`],
    ['Written by', `lora-native ${version}`],
  ];
}

/** The whole page. */
export function comparisonPage(found: Omit<Comparison, 'report' | 'file'>): string {
  const drawn = chartsOf(found).filter(({ chart }) => chart !== undefined);
  const columns = columnsOf(found.rows);
  const swept = found.question['swept'] !== undefined;
  const more = swept
    ? ''
    : `<h2>Learning rates</h2>
${ratesTable(found)}
<h2>Samples</h2>
<p>The first held-out examples with different prompts; greedy. Of each method, the setting with the lowest loss, seed 0.</p>
${samplesOf(found)}
`;
  const body = `${headline(found)}
<h2>Settings</h2>
<p>Each number is the ${swept ? 'median' : 'mean'} over the seeds; in parentheses the lowest and the highest of them.</p>
${table(
  'All settings',
  columns.map(({ head }) => head),
  found.rows.map((row) => columns.map(({ cell }) => cell(row))),
)}
<p>The base alone: held-out loss ${escapeHtml(short(found.base.loss))}${found.base.exactMatch === undefined ? '' : `, exact match ${(100 * found.base.exactMatch).toFixed(1)} %`}.</p>
<h2>Curves</h2>
<noscript><p>The charts need JavaScript; the table above has their values.</p></noscript>
${drawn.map(({ id, caption }) => figure(id, caption)).join('\n')}
${more}<h2>How it was measured</h2>
${factList(questionFacts(found))}`;
  return reportDocument({
    title: `${swept ? 'Learning rates and ranks tried' : 'Methods compared'} on ${String(found.question['base'])}`,
    generator,
    body,
    charts: Object.fromEntries(drawn.map(({ id, chart }) => [id, chart!])),
  });
}

/** Writes it; gives its path. */
export async function writeComparisonPage(
  dir: string,
  found: Omit<Comparison, 'report' | 'file'>,
): Promise<string> {
  const path = await reportPath(dir, 'comparison.html', generator);
  await writeFileAtomic(path, comparisonPage(found));
  return path;
}
