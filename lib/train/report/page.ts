/** The report of a run: one HTML file that needs nothing else. */
import { createHash } from 'node:crypto';
import { version } from '../../../package.json';
import type { EvalEvent } from '../events';
import {
  baseModelName,
  evaluationOf,
  grouped,
  resultFacts,
  settingFacts,
  subjectFacts,
  type Fact,
  type RunSubject,
} from '../facts';
import type { CurvePoint, RunRecord } from '../record';
import charts from './charts.client.js';
import { escapeHtml, generator, scriptJson } from './html';
import style from './page.client.css';
import type { Sample, Samples } from './samples';
import { uPlot, uPlotLicense } from './uplot';

export interface Memory {
  /** Of the whole process; undefined where the system does not tell. */
  readonly processBytes: number | undefined;
  /** Of the tensors of this package. */
  readonly tensorBytes: number;
}

export interface ReportContent extends RunSubject {
  readonly samples: Samples;
  readonly memory: Memory;
}

/** Digits enough to tell neighbours apart, and no more. */
const short = (value: number): string => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-2 || size >= 1e5) ? value.toExponential(2) : value.toFixed(4);
};

const megabytes = (bytes: number): string => `${grouped(bytes / 2 ** 20)} MiB`;

function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${seconds.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

const pairs = (facts: readonly Fact[]): string =>
  facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('\n');
const factList = (facts: readonly Fact[]): string => `<dl class="facts">\n${pairs(facts)}\n</dl>`;

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

function table(caption: string, head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]): string =>
    `<tr>${row.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<div class="scroll"><table class="values">
<caption>${escapeHtml(caption)}</caption>
<thead>${cells('th', head)}</thead>
<tbody>${rows.map((row) => cells('td', row)).join('\n')}</tbody>
</table></div>`;
}

const shownRows = 10;

function tables(points: readonly CurvePoint[], evaluations: readonly EvalEvent[], stride: number): string {
  const steps = points
    .slice(-shownRows)
    .map(({ step, loss, lr, gradNorm }) => [String(step), ...[loss, lr, gradNorm].map(short)]);
  const of = stride === 1 ? 'The last steps' : `The last points, each the mean of ${stride} steps`;
  const evaluated = evaluations
    .slice(-shownRows)
    .map(({ step, loss, perplexity, tokens }) => [
      String(step),
      short(loss),
      short(perplexity),
      grouped(tokens),
    ]);
  return [
    table(of, ['step', 'loss', 'learning rate', 'gradient norm'], steps),
    ...(evaluated.length > 0
      ? [table('The last evaluations', ['step', 'loss', 'perplexity', 'tokens'], evaluated)]
      : []),
  ].join('\n');
}

const cut = (text: string): string => (text.length > 2000 ? `${text.slice(0, 2000)}…` : text);

function sampleTexts({ samples, heldOut, missing }: Samples): string {
  const block = (title: string, text: string): string =>
    `<h3>${title}</h3>\n<pre>${escapeHtml(cut(text)) || ' '}</pre>`;
  const article = ({ prompt, expected, before, after }: Sample): string =>
    `<article>
${block('Prompt', prompt)}
${block('The base model', before)}
${block('With the adapter', after)}
${block('In the data', expected)}
</article>`;
  const from = heldOut ? 'held-out examples, which were not trained on' : 'examples that were trained on';
  const note = missing === undefined ? '' : `<p>Some samples are missing: ${escapeHtml(missing)}.</p>\n`;
  const intro = samples.length === 0 ? '' : `<p>The first ${from}, with different prompts; greedy.</p>\n`;
  return `${intro}${note}${samples.map(article).join('\n')}`;
}

const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

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

/** The whole page. */
export function reportPage({ samples, memory, ...subject }: ReportContent): string {
  const { record } = subject;
  const { points, evaluations, stride } = record;
  const title = `LoRA adapter of ${baseModelName(subject.model.directory)}`;
  const numbers = {
    points: points.map(({ step, loss, lr, gradNorm }) => [step, loss, lr, gradNorm]),
    evaluations: evaluations.map(({ step, loss }) => [step, loss]),
  };
  const styles = `${uPlot.style}\n${style}`;
  const scripts = [uPlot.script, charts];
  const policy = `default-src 'none'; style-src ${hash(styles)}; script-src ${scripts.map(hash).join(' ')}; base-uri 'none'; form-action 'none'`;
  const memoryFacts: Fact[] = [
    ['Tokens', `${grouped(record.tokens)} in ${duration(record.seconds)}, evaluations and saves included`],
    [
      'Peak memory',
      `${memory.processBytes === undefined ? '' : `${megabytes(memory.processBytes)} of the process, `}${megabytes(memory.tensorBytes)} of its tensors`,
    ],
    ['Device', subject.model.device],
    ['Written by', `lora-native ${version}`],
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
${generator}
<title>${escapeHtml(title)}</title>
<style>${styles}</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
${scope(record)}
${headline(record, memory)}
<h2>Curves</h2>
<noscript><p>The charts need JavaScript; the last values stand in the tables below.</p></noscript>
<figure><div class="chart" id="loss"></div><figcaption>Loss in nats a token${evaluations.length > 0 ? ', in training and on the held-out data' : ''}</figcaption></figure>
<div class="pair">
<figure><div class="chart" id="lr"></div><figcaption>Learning rate</figcaption></figure>
<figure><div class="chart" id="norm"></div><figcaption>Norm of the gradient before clipping</figcaption></figure>
</div>
<h2>What was trained</h2>
${factList([...subjectFacts(subject), ...resultFacts(subject)])}
<h2>Settings</h2>
${factList(settingFacts(subject))}
<h2>Samples</h2>
${sampleTexts(samples)}
<h2>Values</h2>
${tables(points, evaluations, stride)}
<h2>Machine</h2>
${factList(memoryFacts)}
<script type="application/json" id="numbers">${scriptJson(numbers)}</script>
<!--
${uPlotLicense}
-->
${scripts.map((script) => `<script>${script}</script>`).join('\n')}
</body>
</html>
`;
}
