// Peak memory (resident set) of loading, generating with, training and serving a model: one process per figure, a Markdown table.
//
//   node benchmarks/memory.mjs [--dtype bf16] [--batch-size 1] [--length 256] [--r 16] [--gradient-checkpointing] [--packing]
//     [--quantize nf4] [--streams 8] [--parts load,generate,train] [--json] MODEL…
//
// MODEL is a Hugging Face directory, or one of the shapes of random_model.mjs or family_models.mjs, which is then filled with random weights: memory depends
// on the shape and not on the values. With --streams so many texts are written at once, instead of training. The last column is what
// estimateMemory() says of the last part.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CausalLM, estimateMemory, Trainer } from 'lora-native';
import { familyShapes, writeFamilyModel } from './family_models.mjs';
import { peakBytes } from './processes/peak.mjs';
import { shapes, writeRandomModel } from './random_model.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dtype: { type: 'string', default: 'bf16' },
    'batch-size': { type: 'string', default: '1' },
    length: { type: 'string', default: '256' },
    r: { type: 'string', default: '16' },
    'gradient-checkpointing': { type: 'boolean', default: false },
    packing: { type: 'boolean', default: false },
    quantize: { type: 'string' },
    streams: { type: 'string' },
    parts: { type: 'string' },
    json: { type: 'boolean', default: false },
    child: { type: 'string' }, // load, generate, train or serve: measures itself
  },
});
const { dtype, quantize, packing } = values;
const gradientCheckpointing = values['gradient-checkpointing'];
const batchSize = Number(values['batch-size']);
const length = Number(values.length);
const r = Number(values.r);
const streams = values.streams === undefined ? undefined : Number(values.streams);
const newTokens = 8;

/** Runs one part in this process and prints its peak. */
async function measure(part, dir) {
  const model = await CausalLM.fromPretrained(dir, { dtype, quantize });
  const { vocabSize } = model.config;
  const ids = (n, seed) => Array.from({ length: n }, (_, i) => (7919 * (i + seed) + seed) % vocabSize);
  const write = (n, seed) => model.generate(ids(n, seed), { maxNewTokens: newTokens, ignoreEos: true });
  if (part === 'generate') await write(length, 1);
  if (part === 'serve')
    await Promise.all(Array.from({ length: streams }, (_, i) => write(length - newTokens, i + 1)));
  if (part === 'train') {
    model.addAdapter({ r, loraAlpha: 2 * r, targetModules: 'all-linear' });
    const perRow = packing ? 2 : 1;
    const data = Array.from({ length: 2 * batchSize * perRow }, (_, i) => ({
      inputIds: ids(length / perRow, i + 1),
    }));
    const rows = packing ? { packing, packLength: length } : {};
    const options = { batchSize, maxSteps: 2, lr: 1e-5, gradientCheckpointing, ...rows };
    await new Trainer({ model, data, ...options }).run();
  }
  console.log(JSON.stringify({ bytes: peakBytes(), parameters: model.parameterCount }));
}

/** The peaks of the parts, and the estimate of the last one. */
function peaksOf(dir, parts) {
  const flags = Object.entries(values).flatMap(([key, value]) =>
    value === true ? [`--${key}`] : value === false ? [] : [`--${key}`, value],
  );
  let parameters = 0;
  const peaks = parts.map((part) => {
    const args = [fileURLToPath(import.meta.url), ...flags, '--child', part, dir];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
    const report = JSON.parse(stdout);
    parameters = report.parameters;
    return report.bytes;
  });
  const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
  const options = { batchSize, length, r, dtype, quantize, gradientCheckpointing, streams };
  return { parameters, peaks, estimate: estimateMemory(config, options).total };
}

const gigabytes = (bytes) => (bytes / 1e9).toFixed(2);
if (values.child !== undefined) await measure(values.child, positionals[0]);
else {
  const last = streams === undefined ? 'train' : 'serve';
  const parts = values.parts?.split(',') ?? ['load', 'generate', last];
  if (!values.json) {
    const rows = packing ? 'packed rows of' : '×';
    const what = `batch ${batchSize} ${rows} ${length} tokens, r ${r} on all linear layers`;
    console.log(`${streams === undefined ? what : `${streams} texts of ${length} tokens`}\n`);
    console.log(
      `| model | parameters | dtype | ${parts.map((part) => `${part}, GB`).join(' | ')} | estimate, GB |`,
    );
    console.log(`|---|---|---|${'---|'.repeat(parts.length)}---|`);
  }
  for (const name of positionals) {
    const known = { ...shapes, ...familyShapes };
    if (!(name in known) && !existsSync(join(name, 'config.json')))
      throw new Error(`${name} is no model directory and none of ${Object.keys(known).join(', ')}`);
    const write = name in shapes ? writeRandomModel : writeFamilyModel;
    const dir = name in known ? await write(mkdtempSync(join(tmpdir(), 'lora-memory-')), name) : name;
    try {
      const { parameters, peaks, estimate } = peaksOf(dir, parts);
      const kept = quantize === undefined ? dtype : `${dtype}, ${quantize}`;
      const cells = [name, `${(parameters / 1e6).toFixed(1)}M`, kept, ...peaks.map(gigabytes)];
      if (values.json) console.log(JSON.stringify({ model: name, peaks, estimate }));
      else console.log(`| ${cells.join(' | ')} | ${gigabytes(estimate)} |`);
    } finally {
      if (dir !== name) rmSync(dir, { recursive: true });
    }
  }
}
