// The table that a run prints, row by row.
import { digits, percent, ratios, shareOf, time, withSpread } from './numbers.mjs';

const headings = {
  lora_linear: 'lora_linear: layers that read one x, M = m rows; "step" is forward + backward',
  lora_linear_cold: 'lora_linear with weights that no cache holds',
  decode_blocks:
    'decode steps with a layer in each format, by instruction set, with weights that no cache holds',
  attention: 'attention, causal and grouped, of one sequence',
  delta_rule: 'the gated delta rule of one sequence, and attention of the same width',
  family:
    'models made in the layout of published ones: a step of packed texts, and writing; PyTorch, and node-llama-cpp on a GGUF file of the same weights',
  short_conv: 'short convolutions of one sequence, with their gates',
  overhead: 'what a call of the public API costs beyond its arithmetic',
  training_step: 'a training step of a whole model, r = 16 on all linear layers',
  full_step: 'a full fine-tuning step: all weights of a model are trained',
  generation: 'reading a prompt (prefill) and writing (decode)',
  gguf: 'the same with a model in each format, and node-llama-cpp on the same GGUF file',
  embedding: 'many short texts as vectors',
  speculation: 'texts with speculation, and without',
  rewards: 'a step of training on rewards, and its parts apart',
  serving: 'streams that write at the same time, and a prompt of 64 tokens that arrives while 8 write',
  serving_http: 'the same streams through lora-native serve; rivals in their own process',
  loading: 'loading a model',
};

/** One line: ours, its rates and shares, the ratios to the rivals, and what else the row has. */
export function line(row) {
  const facts = [];
  if (row.gflops) facts.push(`${digits(row.gflops)} GFLOP/s`);
  if (row.gbps) facts.push(`${digits(row.gbps)} GB/s`);
  const share = shareOf(row);
  if (share !== undefined)
    facts.push(`${percent(share)} of ${row.share.of === 'read' ? 'read' : `${row.share.of} FMA`}`);
  const atWork = row.jsAtWork ? `, ${percent(row.jsAtWork.median)} at work` : '';
  if (row.js) facts.push(`JavaScript ${percent(row.js.median)}${atWork}`);
  if (row.userOfRival) facts.push(`${digits(row.userOfRival.median)} of its user CPU time`);
  if (row.cpuOfRival) facts.push(`${digits(row.cpuOfRival.median)} of its CPU time`);
  if (row.ofFile) facts.push(`${digits(row.ofFile.median)} × the file beyond Node`);
  if (row.cost) facts.push(`LoRA ×${digits(row.cost.fused)} (least ${digits(row.cost.least)})`);
  if (row.ofPlain)
    facts.push(
      `${digits(row.ofPlain.median)} of the time without, ${digits(row.userOfPlain.median)} of the user CPU time`,
      `${row.speculation.steps} steps instead of ${row.speculation.plainSteps}`,
    );
  if (row.ofParts)
    facts.push(
      `${digits(row.ofParts.median)} of generating (${time(row.parts.generate.median)}) and training (${time(row.parts.train.median)}) apart`,
      `${digits(row.memoryOfTraining)} of the peak memory of training`,
    );
  if (row.textsPerSecond) facts.push(`${digits(row.textsPerSecond)} texts/s`);
  if (row.ofOne) facts.push(`×${digits(row.ofOne)} of one stream`);
  if (row.ofAdapter) facts.push(`a token takes ×${digits(row.ofAdapter)} of that with one adapter`);
  if (row.steps) facts.push(`${digits(row.steps)} steps of 8 streams`);
  if (row.ragged) facts.push(`×${digits(row.ragged)} of the full shape`);
  const rivals = Object.entries(ratios(row)).map(([name, ratio]) => `${digits(ratio)} of ${name}`);
  return `${row.case.padEnd(46)} ${row.what.padEnd(11)} ${withSpread(row, row.ours).padStart(28)}  ${[rivals.join(', '), ...facts].filter(Boolean).join(' · ')}`;
}

export class Table {
  #kind;
  constructor(print) {
    this.print = print;
  }
  add(row) {
    if (row.kind !== this.#kind) this.print(`\n${headings[row.kind] ?? row.kind}`);
    this.#kind = row.kind;
    this.print(line(row));
  }
}

/** What the columns mean; printed at the end. */
export const legend =
  'Medians of interleaved rounds (smallest–largest). "0.60 of torch": our time (or memory) ÷ that of the rival in its best form, lower is better. ' +
  '"of FMA" and "of read": of what this machine reached in the same rounds in multiply-adds on registers, and in reading memory. docs/internals/benchmarks.md explains every row.';
