// What the README says of a results file: nothing that the file does not hold.
import { digits, figure, percent, ratioTo, shareOf, shareOfBest } from './numbers.mjs';

const markers = ['<!-- benchmark: written by benchmarks/publish.mjs -->', '<!-- /benchmark -->'];

const cells = (list) => `| ${list.join(' | ')} |`;

function table(heads, lines) {
  return [cells(heads), `|${heads.map(() => '---|').join('')}`, ...lines.map(cells)].join('\n');
}

/** Whether nothing else was at work before the run: a busy neighbor changes ratios too, since rivals suffer unequally. */
export const isQuiet = ({ load, machine }) => load[0] <= machine.threads / 2;

/** The block for a results file that lies at `path` in the repository, with its chart beside it; of a noisy run no figures. */
export function summary(results, path, svg) {
  const { machine, versions, rivals, rows, ceilings } = results;
  const torch = rivals.torch ? `PyTorch ${rivals.torch.version} (${rivals.torch.blas})` : 'no PyTorch';
  const about = `${machine.threads} threads of ${machine.cpu} (${machine.instructions}), ${torch}, Node ${versions.node}, ${results.date.slice(0, 10)}, commit ${results.commit}: [all rows](${path}).`;
  if (!isQuiet(results))
    return `${about} Other programs were at work then (load ${digits(results.load[0])}), so that its figures compare nothing: run it where nothing else runs.`;
  const parts = [about, `![The training step in tokens per second, and layers against PyTorch](${svg})`];
  const of = (kind, what) => rows.filter((row) => row.kind === kind && row.what === what);
  const steps = of('training_step', 'step').filter((row) => !row.case.includes('busy'));
  if (steps.length > 0) {
    const memory = (row) => of('training_step', 'peak memory').find((other) => other.case === row.case);
    const value = (row, of) => (of ? figure(row, of.median).replace(/ .*/, '') : '–');
    const lines = steps.map((row) => {
      const peak = memory(row);
      const all = [row.ours, row.rivals['torch lean'], row.rivals['torch compile']];
      const peaks = peak ? [peak.ours, peak.rivals['torch lean'], peak.rivals['torch compile']] : [];
      const share = shareOf(row);
      return [
        row.case,
        ...all.map((one) => value(row, one)),
        peaks.map((one) => value(peak, one)).join(' / '),
        share === undefined ? '–' : `${percent(share)}, ${percent(shareOfBest(row, ceilings))}`,
      ];
    });
    const heads = [
      'training step, tokens/s',
      'lora-native',
      'PyTorch',
      'torch.compile',
      'peak MiB of each',
      'share of FMA peak: in the same rounds, of the best of the run',
    ];
    parts.push(table(heads, lines));
  }
  const layers = of('lora_linear', 'step').filter(({ rivals: r }) => r.torch);
  if (layers.length > 0) {
    const forward = (row) => of('lora_linear', 'forward').find((other) => other.case === row.case);
    const ratio = (row, name) => (row?.rivals[name] ? digits(ratioTo(row, row.rivals[name])) : '–');
    const chosen = layers.filter(({ case: id }) =>
      /^(SmolLM2-135M gate\+up|Llama-3.2-1B o) .*m=(1|512) r=16$/.test(id),
    );
    const lines = chosen.map((row) => [
      row.case,
      ratio(forward(row), 'torch'),
      ratio(row, 'torch'),
      ratio(row, 'torch, frozen layer'),
      digits(row.cost.fused),
    ]);
    const heads = [
      'our time ÷ PyTorch’s',
      'forward',
      'forward + backward',
      '÷ its frozen layer',
      'LoRA ÷ our frozen layer',
    ];
    parts.push(table(heads, lines));
  }
  return parts.join('\n\n');
}

/** The README with the block in its place. */
export function withSummary(readme, block) {
  const [begin, end] = markers.map((marker) => readme.indexOf(marker));
  if (begin < 0 || end < begin) throw new Error(`expected README.md to hold ${markers.join(' and ')}`);
  return `${readme.slice(0, begin)}${markers[0]}\n\n${block}\n\n${readme.slice(end)}`;
}
