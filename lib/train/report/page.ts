/** The report of a run: one HTML file that needs nothing else. */
import { version } from '../../../package.json';
import {
  baseModelName,
  evaluationOf,
  grouped,
  resultFacts,
  settingFacts,
  subjectFacts,
  type Fact,
  type RunFacts,
} from '../facts';
import type { RunRecord } from '../record';
import {
  duration,
  factList,
  figure,
  megabytes,
  pairs,
  reportDocument,
  short,
  table,
  textBlock,
  type Chart,
  type ChartLine,
} from './document';
import { escapeHtml, generator } from './html';
import type { Written } from '../objectives/objective';
import type { Sample, Samples } from './samples';

export interface Memory {
  /** Of the whole process; undefined where the system does not tell. */
  readonly processBytes: number | undefined;
  /** Of the tensors of this package. */
  readonly tensorBytes: number;
}

export interface ReportContent extends RunFacts {
  readonly samples: Samples;
  readonly memory: Memory;
}

/** The figures that somebody looks for first. */
function headline(record: RunRecord, memory: Memory): string {
  const { lastStep, tokens, seconds, points } = record;
  const evaluation = evaluationOf(record);
  const facts: Fact[] = [
    ...(lastStep ? [['Training loss', short(lastStep.loss)] as const] : []),
    ...(evaluation ? [['Evaluation loss', short(evaluation.loss)] as const] : []),
    ...(points.length > 0
      ? [
          ['Time', duration(seconds)] as const,
          ['Throughput', `${grouped(tokens / Math.max(seconds, 1e-9))} tokens/s`] as const,
        ]
      : []),
    ...(memory.processBytes === undefined ? [] : [['Peak memory', megabytes(memory.processBytes)] as const]),
  ];
  const cells = facts.map(([name, value]) => `<div>${pairs([[name, value]])}</div>`);
  return `<dl class="figures">\n${cells.join('\n')}\n</dl>`;
}

const shownRows = 10;

function tables({ points, evaluations, stride }: RunRecord, isPerToken: boolean): string {
  const steps = points
    .slice(-shownRows)
    .map(({ step, loss, lr, gradNorm }) => [String(step), ...[loss, lr, gradNorm].map(short)]);
  const of = stride === 1 ? 'The last steps' : `The last points, each the mean of ${stride} steps`;
  const evaluated = evaluations
    .slice(-shownRows)
    .map(({ step, loss, tokens }) => [
      String(step),
      short(loss),
      ...(isPerToken ? [short(Math.exp(loss))] : []),
      grouped(tokens),
    ]);
  const columns = ['step', 'loss', ...(isPerToken ? ['perplexity'] : []), 'tokens'];
  return [
    table(of, ['step', 'loss', 'learning rate', 'gradient norm'], steps),
    ...(evaluated.length > 0 ? [table('The last evaluations', columns, evaluated)] : []),
  ].join('\n');
}

function sampleTexts({ samples, heldOut, missing }: Samples, { subject, objective }: RunFacts): string {
  const written = (who: string, { text, note }: Written): string =>
    textBlock(note === undefined ? who : `${who}: ${note}`, text);
  const article = ({ prompt, expected, before, after }: Sample): string =>
    [
      '<article>',
      textBlock('Prompt', prompt),
      ...(before === undefined ? [] : [written('The base model', before)]),
      written(subject.adapter === null ? 'The trained model' : 'With the adapter', after),
      ...(expected === undefined ? [] : [textBlock('In the data', expected)]),
      '</article>',
    ].join('\n');
  const from = heldOut ? 'held-out examples, which were not trained on' : 'examples that were trained on';
  const note = missing === undefined ? '' : `<p>Some samples are missing: ${escapeHtml(missing)}.</p>\n`;
  const intro =
    samples.length === 0
      ? ''
      : `<p>The first ${from}, with different prompts; ${objective.expected ? 'the labels that they got, with their scores' : objective.write ? 'drawn as in the training' : 'greedy'}.</p>\n`;
  return `${intro}${note}${samples.map(article).join('\n')}`;
}

/** How often held-out texts of each label got each label, in the evaluation of the adapter that is there in the end. */
function confusionOf(record: RunRecord): string {
  const { confusion } = evaluationOf(record) ?? {};
  if (confusion === undefined) return '';
  const { labels, counts } = confusion;
  const rows = labels.map((label, i) => [label, ...counts[i]!.map(grouped)]);
  return `<h2>Confusion matrix</h2>
${table('Held-out texts by their label (rows) and the label that they got (columns)', ['', ...labels], rows)}
`;
}

/** What of the run the page does not show. */
function scope({ resumedAt, stride }: RunRecord): string {
  const parts = [
    ...(resumedAt > 0
      ? [`This run continued one of ${grouped(resumedAt)} steps; what follows are the steps since then.`]
      : []),
    ...(stride > 1 ? [`Each point of a curve is the mean of ${stride} steps.`] : []),
  ];
  return parts.map((part) => `<p>${part}</p>`).join('\n');
}

/** The figures beside the loss that a run told. */
const metricNames = ({ points, evaluations }: Pick<RunRecord, 'points' | 'evaluations'>): string[] => [
  ...new Set([...points, ...evaluations].flatMap(({ metrics = {} }) => Object.keys(metrics))),
];

function metricFigures(names: readonly string[]): string {
  if (names.length === 0) return '';
  const figures = names.map((name, i) => figure(`metric-${i}`, name));
  return `<div class="pair">\n${figures.join('\n')}\n</div>\n`;
}

/** The curves over the steps, of which each has a value where there is a point or an evaluation. */
function chartsOf({ points, evaluations }: RunRecord): Record<string, Chart> {
  const at = [...new Set([...points, ...evaluations].map(({ step }) => step))].sort((a, b) => a - b);
  const column = <Row extends { step: number }>(
    rows: readonly Row[],
    value: (row: Row) => number | undefined,
  ) => {
    const values = new Map(rows.map((row) => [row.step, value(row)]));
    return at.map((step) => values.get(step) ?? null);
  };
  const chart = (...lines: ChartLine[]): Chart => ({ label: 'step', at, lines });
  const line = (label: string, name: 'loss' | 'lr' | 'gradNorm'): ChartLine => ({
    label,
    colour: 'first',
    values: column(points, (point) => point[name]),
  });
  const evaluation: ChartLine = {
    label: 'evaluation',
    colour: 'second',
    values: column(evaluations, ({ loss }) => loss),
    marked: true,
  };
  const metric = (name: string): Chart => {
    const evaluated = column(evaluations, ({ metrics }) => metrics?.[name]);
    return chart(
      { label: name, colour: 'first', values: column(points, ({ metrics }) => metrics?.[name]) },
      ...(evaluations.length > 0 ? [{ ...evaluation, values: evaluated }] : []),
    );
  };
  const metrics = metricNames({ points, evaluations }).map(
    (name, i) => [`metric-${i}`, metric(name)] as const,
  );
  return {
    loss: chart(line('loss', 'loss'), ...(evaluations.length > 0 ? [evaluation] : [])),
    lr: chart(line('learning rate', 'lr')),
    norm: chart(line('gradient norm', 'gradNorm')),
    ...Object.fromEntries(metrics),
  };
}

/** The whole page. */
export function reportPage({ samples, memory, ...run }: ReportContent): string {
  const { record } = run;
  const { isPerToken } = run.objective;
  const { evaluations } = record;
  const metrics = metricNames(record);
  const memoryFacts: Fact[] = [
    ['Tokens', `${grouped(record.tokens)} in ${duration(record.seconds)}, evaluations and saves included`],
    [
      'Peak memory',
      `${memory.processBytes === undefined ? '' : `${megabytes(memory.processBytes)} of the process, `}${megabytes(memory.tensorBytes)} of its tensors`,
    ],
    ['Device', run.model.device],
    ['Written by', `lora-native ${version}`],
  ];
  const lossCaption = `Loss${isPerToken ? ' in nats a token' : ''}${evaluations.length > 0 ? ', in training and on the held-out data' : ''}`;
  const body = `${scope(record)}
${headline(record, memory)}
<h2>Curves</h2>
<noscript><p>The charts need JavaScript; the last values stand in the tables below.</p></noscript>
${figure('loss', lossCaption)}
<div class="pair">
${figure('lr', 'Learning rate')}
${figure('norm', 'Norm of the gradient before clipping')}
</div>
${metricFigures(metrics)}<h2>What was trained</h2>
${factList([...subjectFacts(run), ...resultFacts(run)])}
<h2>Settings</h2>
${factList(settingFacts(run))}
<h2>Samples</h2>
${sampleTexts(samples, run)}
${confusionOf(record)}<h2>Values</h2>
${tables(record, isPerToken)}
<h2>Machine</h2>
${factList(memoryFacts)}`;
  const title = `${run.subject.facts.title} of ${baseModelName(run.model.directory)}`;
  return reportDocument({ title, generator, body, charts: chartsOf(record) });
}
