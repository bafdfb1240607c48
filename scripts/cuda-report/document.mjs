// The tables of docs/internals/cuda-kernels.md.
import { execFileSync } from 'node:child_process';
import { decodeLoops } from './decode_gates.mjs';
import { demangle } from './names.mjs';
import { blocksOf, lowRankLaunches } from './occupancy.mjs';
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
 * forms, `assembled` who takes which of them; `classes` of instructions; `code` what the machine code of each kernel is.
 */
export function document(report) {
  const { files, total, rows, results, spilling, architectures, real, held, assembled } = report;
  const blocks = occupancies(report.root, rows);
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

## Loops of the products
`,
    loops(report),
    '\n## Loops of decoding\n',
    decoding(report),
    '\n## Order of fences\n',
    fences(report),
    '\n## Bytes of a weight in a decode step\n',
    bytesOfWeights(report),
    '\n## Blocks of a multiprocessor\n',
    blocksByShared(report, blocks),
    '',
    lowRank(report),
    `
## Registers

Registers of a thread and, behind the colon, blocks that a multiprocessor holds, by architecture of the code. They follow from registers, threads and
shared memory (\`native/backend/cuda/occupancy.h\`). The column of shared memory has the bytes of a block, which a launch asks for; static ones, which its code
has, stand behind a plus. Of the low-rank products they depend on the call (above), and blocks here are those that registers and threads allow.
`,
  ];
  for (const { name, rows: mine } of results) {
    if (mine.length === 0) continue;
    const symbols = [...new Set(mine.map(({ symbol }) => symbol))];
    const body = symbols
      .map((symbol) => {
        const of = (arch) => mine.find((row) => row.symbol === symbol && row.arch === arch);
        const first = of(80);
        return [
          `\`${first.name}\``,
          first.threads,
          first.shared > 0 ? `${first.dynamic} + ${first.shared}` : first.dynamic,
          ...architectures.map((arch) => `${of(arch).registers}: ${blocks.get(of(arch)).held}`),
        ];
      })
      .sort((a, b) => (a[0] < b[0] ? -1 : 1));
    parts.push(
      `### ${name}.cu\n`,
      table(['kernel', 'threads', 'shared', ...architectures.map((arch) => `${arch}`)], body),
      '',
    );
  }
  return `${parts.join('\n').trimEnd()}\n`;
}

/** Of each row the blocks that a multiprocessor holds, `held`, and those it would hold without shared memory, `allowed`. */
function occupancies(root, rows) {
  const ask = (sharedOf) =>
    blocksOf(
      root,
      rows.map((row) => ({ ...row, shared: sharedOf(row) })),
    );
  const held = ask(({ shared, dynamic }) => shared + (dynamic === 'by call' ? 0 : dynamic));
  const allowed = ask(() => 0);
  return new Map(rows.map((row, i) => [row, { held: held[i], allowed: allowed[i] }]));
}

/** Kernels of which shared memory lets fewer blocks run than registers do. */
function blocksByShared({ rows, real }, blocks) {
  const bound = rows.filter(
    (row) => real.includes(row.arch) && blocks.get(row).held < blocks.get(row).allowed,
  );
  const body = [...new Set(bound.map(({ symbol }) => symbol))]
    .map((symbol) => {
      const of = (arch) => rows.find((row) => row.symbol === symbol && row.arch === arch);
      const cells = real.map((arch) => {
        const { held, allowed } = blocks.get(of(arch));
        return held < allowed ? `${held} of ${allowed}` : `${held}`;
      });
      return [`\`${of(80).name}\``, of(80).dynamic + of(80).shared, ...cells];
    })
    .sort((a, b) => (a[0] < b[0] ? -1 : 1));
  return `Kernels whose shared memory lets fewer blocks run at once than registers and threads allow, which stand behind "of".

${table(['kernel', 'shared', ...real.map((arch) => `sm_${arch}`)], body)}`;
}

/** The low-rank products, whose shared memory depends on the call. */
function lowRank({ root, rows, real }) {
  const names = ['kDown', 'kUp', 'kGradient'];
  const launches = lowRankLaunches(root).filter(({ arch }) => real.includes(arch));
  const kernels = launches.map(({ form, arch, shared }) => {
    const row = rows.find((one) => one.arch === arch && one.name === `Skinny<(SkinnyForm)${form}, BF16>`);
    return { ...row, shared };
  });
  const held = blocksOf(root, kernels);
  const cells = new Map();
  launches.forEach(({ form, ranks, stages }, i) => {
    const key = `${form} ${ranks}`;
    cells.set(key, [...(cells.get(key) ?? []), `${stages}: ${held[i]}`]);
  });
  const body = [...cells].map(([key, row]) => {
    const [form, ranks] = key.split(' ');
    return [`\`Skinny<${names[form]}, BF16>\``, ranks, ...row];
  });
  return `The low-rank products take two or three stages of shared memory, by what ranks the adapters have together that share a block, and by the device
(\`SkinnyStages\`). Stages, and the blocks that a multiprocessor holds, in bf16 without dropout:

${table(['kernel', 'ranks', ...real.map((arch) => `sm_${arch}`)], body)}`;
}

function loops({ rows, results, classes }) {
  const symbols = [...new Set(rows.filter(({ name }) => /^GemmMma/.test(name)).map(({ symbol }) => symbol))];
  if (symbols.length === 0) return 'There is none yet.';
  const text = [];
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
      `Instructions of one pass through the loop over k (one stage of 32), in PTX for compute_80, on the path for operands at multiples of 16 bytes. ptxas still folds
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

/** Decode kernels on tensor cores: what a pass of a warp issues, in machine code. */
function decoding({ code, real }) {
  const body = code
    .flatMap(({ name, arch, passes }) =>
      (decodeLoops(name, passes) ?? []).map((loop) => ({ name, arch, ...loop })),
    )
    .sort((a, b) =>
      a.name < b.name ? -1 : a.name > b.name ? 1 : real.indexOf(a.arch) - real.indexOf(b.arch),
    )
    .map(({ name, arch, reads, bytes, perByte, most, pass }) => [
      ...[`\`${name}\``, `sm_${arch}`, reads, bytes, pass.pass, perByte.toFixed(3), most],
      ...[pass.S2UR, pass.I2F, pass.predicated],
    ]);
  return `Instructions that a warp issues in one pass through its loop, of all paths on the one with all loads; for a byte of the weight, scales among them; and at most as many
(\`scripts/cuda-report/decode_gates.mjs\`), above which this report fails. Of them S2UR computes the base of shared memory anew, I2F converts integers, and predicated ones
take a slot also where they do nothing.

${table(['kernel', 'code', 'reads', 'bytes', 'instructions', 'for a byte', 'at most', 'S2UR', 'I2F', 'predicated'], body)}`;
}

/** How much of the code the checks of fences have looked at. */
function fences({ code, real }) {
  const count = (of, arch) =>
    code.filter((row) => row.arch === arch).reduce((sum, row) => sum + of(row.checked), 0);
  const body = [
    ['arrivals at counters', ...real.map((arch) => count(({ arrivals }) => arrivals, arch))],
    ['kernels that wait', ...real.map((arch) => count(({ waits }) => Math.min(waits, 1), arch))],
  ];
  return `In the machine code of every kernel (\`scripts/cuda-report/lint.mjs\`): an arrival at a counter (ATOMG of \`LastToArrive\`) has a MEMBAR between it and the stores before it, a CCTL before
anything is loaded behind it, and no non-coherent load (LDG.CONSTANT) anywhere behind it; and a kernel that waits for the launch ahead of it (ACQBULK) stores nothing
on any way before that. Looked at:

${table(['', ...real.map((arch) => `sm_${arch}`)], body)}`;
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
\`native/backend/cuda/skinny.h\`: packed bytes are read by \`Decode<BF16, 1, true>\` or \`DecodeBlocks<1, …>\` for up to 8 rows and else by
\`Decode<BF16, 2, true>\` or \`DecodeBlocks<2, …>\`, once for each ${perLaunch} rows and for at most ${most} rows.

${table(['format', 'read', 'stored', `1 to ${perLaunch} rows`, `${most} rows`], body)}`;
}
