// Speeds of families made in the layout of published models, as the guide on choosing one shows them: nothing that the results file does not hold.
import { digits } from './numbers.mjs';
import { isQuiet } from './readme.mjs';

const markers = ['<!-- families: written by benchmarks/publish.mjs -->', '<!-- /families -->'];

const cells = (list) => `| ${list.join(' | ')} |`;

/** The block for a results file that lies at `path` in the repository; of a noisy run only ratios, which compare the same rounds. */
export function familiesSummary(results, path) {
  const { machine, rows, rivals, date, commit } = results;
  const torch = rivals.torch ? `PyTorch ${rivals.torch.version}` : 'no PyTorch';
  const about = `${machine.threads} threads of ${machine.cpu} (${machine.instructions}), ${torch}, ${date.slice(0, 10)}, commit ${commit}: [all rows](../../${path}).`;
  const quiet = isQuiet(results);
  const family = rows.filter(({ kind }) => kind === 'family');
  const shapes = [...new Set(family.map((row) => row.case.replace(/, \w+$/, '')))];
  const lines = shapes.map((shape) => {
    const row = (what, end = '') => family.find((one) => one.case === `${shape}${end}` && one.what === what);
    const rate = (of, rival) => {
      const spread = rival ? of?.rivals[rival] : of?.ours;
      return spread ? digits(of.tokens / spread.median) : '–';
    };
    const ratio = (of, rival) => (of?.rivals[rival] ? digits(of.rivals[rival].ratio.median) : '–');
    const [step, bf16, q8] = [row('step'), row('decode', ', bf16'), row('decode', ', q8_0')];
    const named = shape.replace(/^shape of (\S+) .*$/, '$1');
    if (!quiet)
      return [
        named,
        ratio(step, 'torch'),
        `${ratio(bf16, 'torch')}, ${ratio(bf16, 'node-llama-cpp')}`,
        ratio(q8, 'node-llama-cpp'),
      ];
    return [
      named,
      `${rate(step)}, ${rate(step, 'torch')}`,
      `${rate(bf16)}, ${rate(bf16, 'torch')}, ${rate(bf16, 'node-llama-cpp')}`,
      `${rate(q8)}, ${rate(q8, 'node-llama-cpp')}`,
    ];
  });
  const heads = quiet
    ? [
        'layout of',
        'training, tokens/s: ours, PyTorch',
        'writing in bf16: ours, PyTorch, node-llama-cpp',
        'in Q8_0: ours, node-llama-cpp',
      ]
    : [
        'layout of',
        'training ÷ PyTorch',
        'writing in bf16 ÷ PyTorch, ÷ node-llama-cpp',
        'in Q8_0 ÷ node-llama-cpp',
      ];
  const noise = `Other programs were at work then (load ${digits(results.load[0])}), so that only ratios count: our time ÷ the rival's in the same rounds, of which lower is better.`;
  const delta = rows.filter(({ kind }) => kind === 'delta_rule');
  const ratios = delta.map(({ case: id, what, rivals: { attention } }) => {
    const pass = what === 'step' ? 'forward and backward' : 'forward';
    return `${digits(attention.ratio.median)} (${id.replace(/^\S+ (\S+) .*$/, '$1')}, ${pass})`;
  });
  return [
    quiet ? about : `${about} ${noise}`,
    [cells(heads), `|${heads.map(() => '---|').join('')}`, ...lines.map(cells)].join('\n'),
    ...(ratios.length > 0
      ? [
          `The gated delta rule takes of the time of attention as wide, at 2,048 tokens: ${ratios.join(', ')}.`,
        ]
      : []),
  ].join('\n\n');
}

/** The page with the block in its place. */
export function withFamilies(page, block) {
  const [begin, end] = markers.map((marker) => page.indexOf(marker));
  if (begin < 0 || end < begin) throw new Error(`expected the page to hold ${markers.join(' and ')}`);
  return `${page.slice(0, begin)}${markers[0]}\n\n${block}\n\n${page.slice(end)}`;
}
