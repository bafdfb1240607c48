// The tables of docs/internals/cuda-kernels.md.
import { execFileSync } from 'node:child_process';
import { occupancy, sharedBytes } from './occupancy.mjs';
import { weightBytes } from './weight_bytes.mjs';

function table(head, body) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...body.map(line)].join('\n');
}
function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/**
 * The text of docs/internals/cuda-kernels.md. `results` are those of the files, each with the rows of its kernels; `rows` all of these, `spilling`
 * those that spill, `total` the kernels; `architectures` what they were assembled for, `real` what the binary has code for, `held` its intermediate
 * forms, `assembled` who takes which of them; `classes` of instructions, and `demangle` for names.
 */
export function document(report) {
  const { files, total, rows, results, spilling, architectures, real, held, assembled } = report;
  const version = /release ([\d.]+), V([\d.]+)/.exec(
    execFileSync('nvcc', ['--version'], { encoding: 'utf8' }),
  )[2];
  const parts = [
    `# What the compiler makes of the CUDA kernels

Written by \`node scripts/cuda-report.mjs --write\` with nvcc ${version}; not measured on a device. ${files} files hold ${total}
kernels; each was assembled for ${architectures.map((arch) => `sm_${arch}`).join(', ')} (${rows.length} in all) with
\`-Werror all-warnings -Xptxas -warn-spills,-warn-lmem-usage\`: **stack 0, spill stores 0, spill loads 0 bytes in every one** that a binary holds${
      spilling.length
        ? ` (${spilling.length} of those that are only assembled spill up to ${Math.max(...spilling.map((r) => r.stores + r.loads))} bytes, on sm_${[...new Set(spilling.map((r) => r.arch))].join(', sm_')})`
        : ''
    }. The binary
has code for ${real.map((arch) => `sm_${arch}`).join(', ')} and PTX for compute_${held.join(' and ')}; ${Object.keys(
      assembled,
    )
      .map((arch) => `sm_${arch}`)
      .join(', ')} are
assembled from that PTX here as a driver would that has no code for them.

## The main GEMM
`,
    gemm(report),
    '\n## Bytes of a weight in a decode step\n',
    bytesOfWeights(report),
    `
## Registers

Registers per thread of each kernel, by architecture of the code; static shared memory is 0 in all but those that say so (dynamic shared memory is chosen at
launch). The last two columns: blocks that registers and threads let one multiprocessor hold, and the share of its threads, on sm_80 and sm_90.
`,
  ];
  for (const { name, rows: mine } of results) {
    if (mine.length === 0) continue;
    const symbols = [...new Set(mine.map(({ symbol }) => symbol))];
    const body = symbols
      .map((symbol) => {
        const of = (arch) => mine.find((row) => row.symbol === symbol && row.arch === arch);
        const first = of(80);
        const occupied = [80, 90].map((arch) => {
          const { blocks, share } = occupancy(arch, { ...of(arch), shared: of(arch).shared });
          return `${blocks}, ${percent(share)}`;
        });
        const note = first.shared > 0 ? ` (${first.shared} bytes shared)` : '';
        return [
          `\`${first.name}\`${note}`,
          first.threads,
          ...architectures.map((arch) => of(arch).registers),
          ...occupied,
        ];
      })
      .sort((a, b) => (a[0] < b[0] ? -1 : 1));
    parts.push(
      `### ${name}.cu\n`,
      table(['kernel', 'threads', ...architectures.map((arch) => `${arch}`), 'held, 80', 'held, 90'], body),
      '',
    );
  }
  return `${parts.join('\n').trimEnd()}\n`;
}

function gemm({ rows, results, real, classes, demangle }) {
  const gemms = rows.filter(({ name }) => sharedBytes(name) !== undefined);
  if (gemms.length === 0) return 'There is none yet.';
  const symbols = [...new Set(gemms.map(({ symbol }) => symbol))];
  const occupied = symbols
    .map((symbol) => {
      const mine = gemms.filter((row) => row.symbol === symbol);
      const shared = sharedBytes(mine[0].name);
      return [
        `\`${mine[0].name}\``,
        mine[0].threads,
        `${shared / 1024} KiB`,
        ...real.map((arch) => {
          const row = mine.find((r) => r.arch === arch);
          const { blocks, share } = occupancy(arch, { ...row, shared });
          return `${row.registers}: ${blocks}, ${percent(share)}`;
        }),
      ];
    })
    .sort((a, b) => (a[0] < b[0] ? -1 : 1));
  const text = [
    'Registers per thread, blocks that one multiprocessor holds, and the share of its threads (registers, threads and dynamic shared memory counted):\n',
    table(['kernel', 'threads', 'shared', ...real.map((arch) => `sm_${arch}`)], occupied),
  ];
  // The inner loop: the one with the most mma.sync.
  const mixes = [];
  for (const symbol of symbols) {
    const mix = results.find((result) => result.mix?.[symbol])?.mix[symbol];
    const inner = mix && new Map(mix);
    if (inner?.get('mma.sync')) mixes.push([demangle(symbol), inner]);
  }
  if (mixes.length) {
    const names = [...classes.map(([name]) => name), 'others'].filter((name) =>
      mixes.some(([, mix]) => mix.has(name)),
    );
    text.push(
      `
Instructions of one pass through the loop over k (one stage of 32), in PTX for compute_80, on the path for operands at multiples of 16 bytes. ptxas still folds
addresses and moves into other instructions:
`,
      table(
        ['kernel', ...names, 'all', 'mma.sync'],
        mixes
          .map(([name, mix]) => {
            const all = [...mix.values()].reduce((a, b) => a + b, 0);
            return [
              `\`${name}\``,
              ...names.map((n) => mix.get(n) ?? 0),
              all,
              percent((mix.get('mma.sync') ?? 0) / all),
            ];
          })
          .sort((a, b) => (a[0] < b[0] ? -1 : 1)),
      ),
    );
  }
  return text.join('\n');
}

/** Packed bytes are read again by each launch; other matrices are multiplied by all rows at once. */
function bytesOfWeights({ root }) {
  const { perLaunch, most, formats } = weightBytes(root);
  const body = formats.map(({ name, decoded, stored, expanded }) => {
    const once = decoded ? stored : stored + 2 * expanded; // scratch is written and read
    const launches = decoded ? Math.ceil(most / perLaunch) : 1;
    const way = decoded ? 'packed bytes, in registers' : expanded ? 'expanded to scratch first' : 'as it is';
    return [`\`${name}\``, way, ...[stored, once, launches * once].map((bytes) => bytes.toFixed(3))];
  });
  return `Of each weight of a matrix of 4096², scales among them, under bf16 activations: what it takes in memory, and what \`lora_linear\` reads and
writes of it for rows that are no chunk of a prompt. Computed from the table of formats (\`native/core/maths/weight_format.h\`) and the rule of
\`native/backend/cuda/skinny.h\`: packed bytes are read by \`Decode<BF16, 2, true>\`, once for each ${perLaunch} rows and for at most ${most} rows.

${table(['format', 'read', 'stored', `1 to ${perLaunch} rows`, `${most} rows`], body)}`;
}
