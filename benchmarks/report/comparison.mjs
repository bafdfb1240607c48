// The tables of docs/concepts/comparison.md, from results files of benchmarks/comparison.mjs.
import { digits } from './numbers.mjs';
import { isQuiet } from './readme.mjs';

const cells = (list) => `| ${list.join(' | ')} |`;
const table = (heads, lines) =>
  [cells(heads), `|${heads.map(() => '---|').join('')}`, ...lines.map(cells)].join('\n');

const spread = ({ mean, least, most }, write) => `${write(mean)} (${write(least)}–${write(most)})`;
const three = (x) => x.toFixed(3);
const wholePercent = (x) => `${(100 * x).toFixed(0)}%`;
const share = (x) => `${Number((100 * x).toPrecision(2))}%`;
const atEdge = ({ rates }, method) => (rates.find((rate) => rate.method === method)?.atEdge ? '*' : '');
const losses = (row) => (row.loss ? spread(row.loss, three) : row.failed);

/** A row for each setting: what it costs, and how good it is. The speed stands there if nothing else was at work. */
function costsAndScores(results) {
  const quiet = isQuiet(results);
  const fastest = Math.max(...results.rows.map(({ tokensPerSecond }) => tokensPerSecond.mean));
  const lines = results.rows.map((row) => [
    row.id,
    row.trainableParameters,
    share(row.share),
    (row.peakBytes / 2 ** 20).toFixed(1),
    ...(quiet ? [digits(row.tokensPerSecond.mean / fastest)] : []),
    `${row.lr}${atEdge(results, row.method)}`,
    losses(row),
    row.exactMatch ? spread(row.exactMatch, wholePercent) : '–',
    row.fileBytes ? (row.fileBytes / 1024).toFixed(0) : '–',
  ]);
  const costs = ['setting', 'trained numbers', 'of all', 'peak MiB', ...(quiet ? ['speed ÷ fastest'] : [])];
  return table([...costs, 'learning rate', 'held-out loss', 'exactly right', 'file KiB'], lines);
}

/** Held-out loss: a row for each rank, a column for each α and each choice of layers. */
function lossByRank({ rows }) {
  const column = ({ targets, alpha, rank }) => `${targets}, α = ${alpha === rank ? 'r' : `${alpha / rank}r`}`;
  const columns = [...new Set(rows.map(column))];
  const ranks = [...new Set(rows.map(({ rank }) => rank))];
  const lines = ranks.map((rank) => [
    rank,
    ...columns.map((name) => losses(rows.find((row) => row.rank === rank && column(row) === name))),
  ]);
  return table(['r', ...columns], lines);
}

const tables = { methods: costsAndScores, ranks: lossByRank, smollm2: costsAndScores };

const edgeNote = '\\* the lowest or highest rate that was tried: one further out may be better.';

function about(name, { base, steps, seeds, machine, versions, date, commit }) {
  const right = base.exactMatch === undefined ? '' : `, ${wholePercent(base.exactMatch)} exactly right`;
  const parts = [
    `The base alone: loss ${three(base.loss)}${right}; ${base.parameters} numbers. ${steps} steps, ${seeds} seeds: mean (least–most).`,
    `${machine.threads} ${machine.threads === 1 ? 'thread' : 'threads'} of ${machine.cpu} (${machine.instructions}), Node ${versions.node}, ${date.slice(0, 10)}, commit ${commit}: [all figures](../../benchmarks/results/comparison-${name}.json).`,
  ];
  return parts.join(' ');
}

/** The page with the tables of `results`, by the names of the questions, in their places. */
export function withTables(page, results) {
  for (const [name, result] of Object.entries(results)) {
    const markers = [`<!-- results: ${name} -->`, `<!-- /results: ${name} -->`];
    const [begin, end] = markers.map((marker) => page.indexOf(marker));
    if (begin < 0 || end < begin) throw new Error(`expected the page to hold ${markers.join(' and ')}`);
    const rows = tables[name](result);
    const note = rows.includes('*') ? `\n\n${edgeNote}` : '';
    const block = `${rows}\n\n${about(name, result)}${note}`;
    page = `${page.slice(0, begin)}${markers[0]}\n\n${block}\n\n${page.slice(end)}`;
  }
  return page;
}
