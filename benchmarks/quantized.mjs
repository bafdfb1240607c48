// A base in few bits against the same base in 16 bits, each row in one run with both sides in turns; a results file.
//
//   node benchmarks/quantized.mjs [--rows step,memory,decode,load,losses,7b] [--model DIR] [--7b DIR] [--out FILE] [--rounds 5]
//
// step, memory: a training step of SmolLM2-135M on 1×512 tokens, bf16 activations. decode, load: the shape of Llama-3.2-1B. losses: 50 steps
// on the NF4 base and on its dequantized f32 values. 7b: a step of the shape of Llama-2-7B with random NF4 weights, under
// LORA_MEMORY_LIMIT=8GiB and 9.5 GiB of addresses.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { AdamW, CausalLM, estimateMemory, memoryUsage } from 'lora-native';
import { defaultThreads, facts } from './machine.mjs';
import { findModel } from './models.mjs';
import { peakBytes } from './processes/peak.mjs';
import { writeRandomModel } from './random_model.mjs';
import { resultsText } from './report/results_text.mjs';
import { ratio, spread } from './stats.mjs';

const all = ['step', 'memory', 'decode', 'load', 'losses', '7b'];
const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: all.join(',') },
    model: { type: 'string' },
    '7b': { type: 'string' }, // a directory that writeRandomModel made
    out: { type: 'string', default: 'benchmarks/results/local-quantized.json' },
    rounds: { type: 'string', default: '5' },
    child: { type: 'string' }, // a part with a process of its own: JSON of its settings
  },
});
const rounds = Number(values.rounds);
const small =
  values.model === undefined ? findModel('SmolLM2-135M') : { dir: values.model, name: values.model };
const MiB = 2 ** 20;

const ids = (count, vocabulary) => Array.from({ length: count }, (_, i) => (i * 7919 + 17) % vocabulary);

/** A model with an adapter and its optimizer, and a training step of it. */
async function trained(dir, { dtype, quantize, lr = 1e-4, gradientCheckpointing = false }) {
  const model = await CausalLM.fromPretrained(dir, { dtype, quantize });
  const adapter = model.addAdapter({ r: 16, loraAlpha: 32, targetModules: 'all-linear' });
  const optimizer = new AdamW(adapter.parameters(), { lr });
  const step = async (rows) => {
    const { loss } = model.forward(rows, { labels: rows, gradientCheckpointing });
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    const value = await loss.item();
    loss.dispose();
    return value;
  };
  return { model, step };
}

async function timed(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** Both sides in turns; the first round of each warms up. */
async function inTurns(nf4, bf16) {
  const times = [[], []];
  for (let round = 0; round <= rounds; round++)
    for (const [side, work] of [nf4, bf16].entries()) {
      const seconds = await timed(() => work(round));
      if (round > 0) times[side].push(seconds);
    }
  return { nf4: spread(times[0]), bf16: spread(times[1]), ratio: ratio(times[0], times[1]) };
}

/** Runs a part of this file in a process of its own. */
function inChild(settings, { limits = '', environment = {} } = {}) {
  const self = fileURLToPath(import.meta.url);
  const quoted = [process.execPath, self, '--child', JSON.stringify(settings)]
    .map((word) => `'${word.replaceAll("'", "'\\''")}'`)
    .join(' ');
  const { status, stdout, stderr } = spawnSync('bash', ['-c', `${limits}${quoted}`], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
    maxBuffer: 2 ** 26,
  });
  if (status !== 0)
    throw new Error(`${JSON.stringify(settings)} ended with ${status}: ${stderr.slice(-2000)}`);
  return JSON.parse(stdout.trim().split('\n').at(-1));
}

const children = {
  /** Loads, and takes training steps; tells the seconds of each and the peaks. */
  async train({ dir, dtype, quantize, steps, gradientCheckpointing }) {
    const load = {};
    load.seconds = await timed(async () => {
      load.side = await trained(dir, { dtype, quantize, gradientCheckpointing });
    });
    const { model, step } = load.side;
    const loaded = peakBytes();
    const rows = [ids(512, model.config.vocabSize)];
    const seconds = [];
    const losses = [];
    for (let i = 0; i < steps; i++) seconds.push(await timed(async () => losses.push(await step(rows))));
    return { loadSeconds: load.seconds, loadedBytes: loaded, seconds, losses, peakBytes: peakBytes() };
  },
  /** Loads only; tells what the weights take and the peak over what the process had before. */
  async load({ dir, dtype, quantize }) {
    const before = peakBytes();
    const result = {};
    const seconds = await timed(async () => {
      result.model = await CausalLM.fromPretrained(dir, { dtype, quantize });
    });
    return { seconds, bytes: memoryUsage().bytes, peak: peakBytes() - before };
  },
};

const rows = {
  async step() {
    const [nf4, bf16] = [
      await trained(small.dir, { dtype: 'bf16', quantize: 'nf4' }),
      await trained(small.dir, { dtype: 'bf16' }),
    ];
    const batch = [ids(512, nf4.model.config.vocabSize)];
    const result = await inTurns(
      () => nf4.step(batch),
      () => bf16.step(batch),
    );
    await nf4.model.dispose();
    await bf16.model.dispose();
    return { what: 'training step, 1×512, bf16 activations', model: small.name, unit: 's', ...result };
  },
  memory() {
    const of = (quantize) => inChild({ part: 'train', dir: small.dir, dtype: 'bf16', quantize, steps: 2 });
    const [nf4, bf16] = [of('nf4'), of(undefined)];
    const mebibytes = ({ peakBytes: bytes }) => Math.round(bytes / MiB);
    return { what: 'peak memory of that step', unit: 'MiB', nf4: mebibytes(nf4), bf16: mebibytes(bf16) };
  },
  async decode(scratch) {
    const dir = await writeRandomModel(join(scratch, '1b'), 'Llama-3.2-1B');
    const sides = [];
    for (const quantize of ['nf4', undefined])
      sides.push(await CausalLM.fromPretrained(dir, { dtype: 'bf16', quantize }));
    const tokens = 24;
    const prompt = ids(16, sides[0].config.vocabSize);
    const generate = (model) => () =>
      model.generate(prompt, { maxNewTokens: tokens, ignoreEos: true, temperature: 0 });
    const times = await inTurns(generate(sides[0]), generate(sides[1]));
    for (const model of sides) await model.dispose();
    return { what: `decode of the 1B shape, ${tokens} tokens`, unit: 's', ...times };
  },
  async load(scratch) {
    const dir = await writeRandomModel(join(scratch, '1b'), 'Llama-3.2-1B');
    const results = [[], []];
    for (let round = 0; round <= rounds; round++)
      for (const [side, quantize] of ['nf4', undefined].entries()) {
        const result = inChild({ part: 'load', dir, dtype: 'bf16', quantize });
        if (round > 0) results[side].push(result);
      }
    const [nf4, bf16] = results.map((list) => list.map(({ seconds }) => seconds));
    const peaks = results[0].map(({ peak, bytes }) => peak / bytes);
    return {
      what: 'loading the 1B shape: quantized to NF4 ÷ as bf16, and peak ÷ result',
      unit: 's',
      ...{ nf4: spread(nf4), bf16: spread(bf16), ratio: ratio(nf4, bf16), peakOverResult: spread(peaks) },
    };
  },
  async losses(scratch) {
    const dir = join(scratch, 'dequantized');
    const whole = await CausalLM.fromPretrained(small.dir, { dtype: 'f32', quantize: 'nf4' });
    await whole.save(dir);
    await whole.dispose();
    const steps = 50;
    const losses = [];
    for (const [from, quantize] of [
      [small.dir, 'nf4'],
      [dir, undefined],
    ]) {
      const { model, step } = await trained(from, { dtype: 'f32', quantize, lr: 1e-3 });
      const vocabulary = model.config.vocabSize;
      const list = [];
      for (let i = 0; i < steps; i++)
        list.push(await step([ids(64, vocabulary).map((id) => (id + i) % vocabulary)]));
      losses.push(list);
      await model.dispose();
    }
    const differences = losses[0].map((loss, i) => Math.abs(loss - losses[1][i]) / losses[1][i]);
    return {
      what: `largest relative difference of ${steps} losses: NF4 base, its values in f32`,
      model: small.name,
      first: losses[0][0],
      last: losses[0].at(-1),
      largest: Math.max(...differences),
    };
  },
  async '7b'(scratch) {
    const dir =
      values['7b'] ?? (await writeRandomModel(join(scratch, '7b'), 'Llama-2-7B', { quantized: true }));
    const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
    const settings = { batchSize: 1, length: 512, r: 16, dtype: 'bf16', gradientCheckpointing: true };
    const estimate = estimateMemory(config, { ...settings, targetModules: 'all-linear' });
    const result = inChild(
      { part: 'train', dir, dtype: 'bf16', steps: 1, gradientCheckpointing: true },
      { limits: `ulimit -v ${9.5 * 2 ** 20}; `, environment: { LORA_MEMORY_LIMIT: '8GiB' } },
    );
    return {
      what: 'a training step of the 7B shape in NF4, r 16 on all linear layers, 1×512, gradient checkpointing, AdamW',
      unit: 's',
      ...result,
      peakGiB: result.peakBytes / 2 ** 30,
      estimateGiB: estimate.total / 2 ** 30,
    };
  },
};

if (values.child !== undefined) {
  const { part, ...settings } = JSON.parse(values.child);
  console.log(JSON.stringify(await children[part](settings)));
  process.exit(0);
}
const wanted = values.rows.split(',');
const unknown = wanted.filter((row) => !all.includes(row));
if (unknown.length > 0) throw new Error(`there are the rows ${all.join(', ')}, not ${unknown.join(', ')}`);
if (small.dir === undefined) throw new Error(small.reason);
const scratch = mkdtempSync(join(tmpdir(), 'lora-quantized-'));
const report = { ...facts(defaultThreads()), rows: {} };
try {
  for (const row of wanted) {
    report.rows[row] = await rows[row](scratch);
    console.log(row, JSON.stringify(report.rows[row], null, 1));
    writeFileSync(values.out, resultsText(report)); // what is measured is kept
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
