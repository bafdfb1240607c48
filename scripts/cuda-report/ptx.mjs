// What the intermediate form (PTX) of a file's kernels says: their threads, and what the loop around their products consists of.

/** PTX → { symbol: { threads, body } }. */
export function parsePtx(text) {
  const entries = {};
  for (const [, symbol, directives, body] of text.matchAll(
    /\.entry (\w+)\([^)]*\)\s*((?:\.\w+ [^\n]*\n)*)\{([\s\S]*?)\n\}/g,
  ))
    entries[symbol] = { threads: Number(/\.maxntid (\d+)/.exec(directives)?.[1] ?? 0), body };
  return entries;
}

/** The smallest loop of a PTX body that holds a product, from its label to the branch back; or undefined. */
function productLoop(body) {
  const lines = body.split('\n');
  const labels = new Map();
  const found = [];
  lines.forEach((line, i) => {
    const label = /^\s*(\$L\w+):/.exec(line);
    if (label) labels.set(label[1], i);
    const branch = /\bbra(?:\.uni)?\s+(\$L\w+);/.exec(line);
    const begin = branch ? labels.get(branch[1]) : undefined;
    if (begin !== undefined) found.push(lines.slice(begin, i + 1));
  });
  return found
    .filter((loop) => loop.some((line) => instructionClass(line) === 'mma.sync'))
    .sort((a, b) => a.length - b.length)[0];
}
/**
 * The instructions of one pass through a loop, on the path for aligned operands: of all paths the one with the most
 * products, ldmatrix, barriers and copies of 16 bytes, and then with the fewest others. Inner loops are passed once or not at all.
 */
function alignedPath(loop) {
  const blocks = [];
  const labels = new Map();
  let block;
  for (const line of loop) {
    const label = /^\s*(\$L\w+):/.exec(line);
    if (label || block === undefined) {
      blocks.push((block = { lines: [], next: undefined, falls: true }));
      if (label) labels.set(label[1], blocks.length - 1);
    }
    block.lines.push(line);
    const branch = /^\s*(@!?%p\d+\s+)?bra(?:\.uni)?\s+(\$L\w+);/.exec(line);
    if (branch) {
      block.next = branch[2];
      block.falls = branch[1] !== undefined;
      block = undefined;
    }
  }
  const wanted = new Set(['mma.sync', 'ldmatrix', 'cp.async of 16 bytes', 'barriers']);
  const best = new Array(blocks.length).fill(undefined); // of the paths from here to the end of the loop
  for (let i = blocks.length - 1; i >= 0; i--) {
    const target = labels.get(blocks[i].next);
    const next = [...(blocks[i].falls ? [i + 1] : []), ...(target > i ? [target] : [])]
      .map((j) => best[j])
      .filter(Boolean)
      .sort((a, b) => b.score - a.score)[0];
    if (next === undefined && i !== blocks.length - 1) continue;
    let score = next?.score ?? 0;
    for (const line of blocks[i].lines) {
      const name = instructionClass(line);
      if (name) score += wanted.has(name) ? 1e6 : -1;
    }
    best[i] = { score, lines: [...blocks[i].lines, ...(next?.lines ?? [])] };
  }
  return best[0].lines;
}
/** The classes of instructions, by what a name begins with. */
export const classes = [
  ['mma.sync', /^mma\.sync/],
  ['ldmatrix', /^ldmatrix/],
  ['cp.async of 16 bytes', /^cp\.async\.cg/],
  ['cp.async of less', /^cp\.async\.ca/],
  ['cp.async commit, wait', /^cp\.async/],
  ['barriers', /^(bar|barrier)\b/],
  ['ld.shared, st.shared', /^(ld|st)\.shared/],
  ['ld.global, st.global', /^(ld|st)\.(global|volatile)/],
  ['f32 arithmetic', /^(fma|add|mul|sub|max|min)\.(rn\.)?(ftz\.)?f32/],
  [
    'integers and addresses',
    /^(add|sub|mul|mad|shl|shr|and|or|xor|min|max|cvt|cvta|rem|div|prmt|bfe|lop3|shf|selp|abs|neg)\b/,
  ],
  ['branches, predicates', /^(bra|setp)/],
  ['moves', /^mov/],
];
/** undefined for what is no instruction. */
function instructionClass(line) {
  const text = line
    .trim()
    .replace(/^\{\s*/, '')
    .replace(/^@!?%p\d+\s+/, '');
  if (text === '' || /^(\/\/|\$L|\.|#|\}|\{|%|\[)/.test(text)) return undefined;
  return classes.find(([, pattern]) => pattern.test(text))?.[0] ?? 'others';
}
/** How many instructions of each class one pass of the loop around products has; undefined for a body without one. */
export function loopMix(body) {
  const loop = productLoop(body);
  if (!loop) return undefined;
  const mix = new Map();
  for (const line of alignedPath(loop)) {
    const name = instructionClass(line);
    if (name) mix.set(name, (mix.get(name) ?? 0) + 1);
  }
  return mix;
}
