/** An HTML file that needs nothing else: its parts, its charts, and the policy that lets nothing else run in it. */
import type { Fact } from '../facts';
import { grouped } from '../facts';
import charts from './charts.client.js';
import colours from './colours.client.css';
import { escapeHtml, policyHash, scriptJson } from './html';
import style from './page.client.css';
import { uPlot, uPlotLicense } from './uplot';

/** A curve of a chart. */
export interface ChartLine {
  readonly label: string;
  /** One of the two colours of the style, or the angle of a hue where there are more lines. */
  readonly colour: 'first' | 'second' | number;
  /** A value for each place of the chart; null where there is none. */
  readonly values: readonly (number | null)[];
  /** Whether each value is marked, also where there are many. */
  readonly marked?: boolean;
}

export interface Chart {
  /** What the places are: steps, ranks. */
  readonly label: string;
  /** The places, in rising order. */
  readonly at: readonly number[];
  readonly lines: readonly ChartLine[];
  /** Whether each doubling of a place is as wide as the next; the places themselves are then the marks of the axis. */
  readonly doubling?: boolean;
}

/** Digits enough to tell neighbors apart, and no more. */
export const short = (value: number): string => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-2 || size >= 1e5) ? value.toExponential(2) : value.toFixed(4);
};

export const megabytes = (bytes: number): string => `${grouped(bytes / 2 ** 20)} MiB`;

export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${seconds.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

export const pairs = (facts: readonly Fact[]): string =>
  facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('\n');
export const factList = (facts: readonly Fact[]): string => `<dl class="facts">\n${pairs(facts)}\n</dl>`;

export function table(
  caption: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  const cells = (tag: string, row: readonly string[]): string =>
    `<tr>${row.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<div class="scroll"><table class="values">
<caption>${escapeHtml(caption)}</caption>
<thead>${cells('th', head)}</thead>
<tbody>${rows.map((row) => cells('td', row)).join('\n')}</tbody>
</table></div>`;
}

const cut = (text: string): string => (text.length > 2000 ? `${text.slice(0, 2000)}…` : text);

/** A text under its title, in the letters in which it was written. */
export const textBlock = (title: string, text: string): string =>
  `<h3>${escapeHtml(title)}</h3>\n<pre>${escapeHtml(cut(text)) || ' '}</pre>`;

/** The place of a chart in the page. */
export const figure = (id: string, caption: string): string =>
  `<figure><div class="chart" id="${id}"></div><figcaption>${escapeHtml(caption)}</figcaption></figure>`;

/** The whole file. `body` is HTML, with a figure() for each of the charts. */
export function reportDocument({
  title,
  generator,
  body,
  charts: drawn,
}: {
  title: string;
  /** The element by which the file is known as one of ours. */
  generator: string;
  body: string;
  charts: Readonly<Record<string, Chart>>;
}): string {
  const styles = `${uPlot.style}\n${colours}${style}`;
  const scripts = [uPlot.script, charts];
  const policy = `default-src 'none'; style-src ${policyHash(styles)}; script-src ${scripts.map(policyHash).join(' ')}; base-uri 'none'; form-action 'none'`;
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
${body}
<script type="application/json" id="numbers">${scriptJson({ charts: drawn })}</script>
<!--
${uPlotLicense}
-->
${scripts.map((script) => `<script>${script}</script>`).join('\n')}
</body>
</html>
`;
}
