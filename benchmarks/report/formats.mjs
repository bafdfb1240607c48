// Tokens per second by format, as the guide on memory shows them: nothing that the results file does not hold.
import { digits } from './numbers.mjs';
import { isQuiet } from './readme.mjs';

const markers = ['<!-- formats: written by benchmarks/publish.mjs -->', '<!-- /formats -->'];

const cells = (list) => `| ${list.join(' | ')} |`;
const names = { q8_0: 'GGUF Q8_0', q4_0: 'GGUF Q4_0', q4_k: 'GGUF Q4_K', nf4: 'NF4', int8: 'int8' };

/** The block for a results file that lies at `path` in the repository; of a noisy run no figures. */
export function formatsSummary(results, path) {
  const { machine, rows, date, commit } = results;
  const about = `${machine.threads} threads of ${machine.cpu} (${machine.instructions}), ${date.slice(0, 10)}, commit ${commit}: [all rows](../../${path}).`;
  if (!isQuiet(results))
    return `${about} Other programs were at work then (load ${digits(results.load[0])}), so that its figures compare nothing.`;
  const listed = rows.filter(({ kind, format }) => kind === 'gguf' && format);
  const keys = [...new Set(listed.map(({ model, format }) => `${model} ${format}`))];
  const lines = keys.map((key) => {
    const of = (what) => listed.find((row) => `${row.model} ${row.format}` === key && row.what === what);
    const rate = (row, one) => (row && one ? digits(row.tokens / one.median) : '–');
    const [decode, prefill] = [of('decode'), of('prefill')];
    const rival = (row) => rate(row, row?.rivals['node-llama-cpp']);
    const { model, format } = decode ?? prefill;
    return [
      model,
      names[format] ?? format,
      rate(decode, decode?.ours),
      rival(decode),
      rate(prefill, prefill?.ours),
      rival(prefill),
    ];
  });
  const heads = [
    'model',
    'format',
    'writing, tokens/s',
    'node-llama-cpp',
    'reading 512, tokens/s',
    'node-llama-cpp',
  ];
  return [about, [cells(heads), `|${heads.map(() => '---|').join('')}`, ...lines.map(cells)].join('\n')].join(
    '\n\n',
  );
}

/** The file of the results that a page quotes; undefined where it quotes none. */
export const quotedFormats = (page) =>
  /\[all rows\]\(\.\.\/\.\.\/(benchmarks\/results\/\S+\.json)\)/.exec(page)?.[1];

/** The page with the block in its place. */
export function withFormats(page, block) {
  const [begin, end] = markers.map((marker) => page.indexOf(marker));
  if (begin < 0 || end < begin) throw new Error(`expected the page to hold ${markers.join(' and ')}`);
  return `${page.slice(0, begin)}${markers[0]}\n\n${block}\n\n${page.slice(end)}`;
}
