// Peak memory (resident set) of loading, generating with and training a model: one process per figure, a Markdown table.
//
//   node benchmarks/memory.mjs [--dtype bf16] [--batch-size 1] [--length 256] [--r 16] [--gradient-checkpointing]
//     [--quantize nf4] MODEL…
//
// MODEL is a Hugging Face directory, or one of the shapes of random_model.mjs, which is then filled with random weights: memory depends
// on the shape and not on the values. The last column is what estimateMemory() says of training.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CausalLM, estimateMemory, Trainer } from 'lora-native';
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
    quantize: { type: 'string' },
    child: { type: 'string' }, // load, generate or train: measures itself
  },
});
const { dtype, quantize } = values;
const batchSize = Number(values['batch-size']);
const length = Number(values.length);
const r = Number(values.r);

/** Runs one part in this process and prints its peak. */
async function measure(part, dir) {
  const model = await CausalLM.fromPretrained(dir, { dtype, quantize });
  const { vocabSize } = model.config;
  const ids = (n, seed) => Array.from({ length: n }, (_, i) => (7919 * (i + seed) + seed) % vocabSize);
  if (part === 'generate') await model.generate(ids(length, 1), { maxNewTokens: 8, ignoreEos: true });
  if (part === 'train') {
    model.addAdapter({ r, loraAlpha: 2 * r, targetModules: 'all-linear' });
    const data = Array.from({ length: 2 * batchSize }, (_, i) => ({ inputIds: ids(length, i + 1) }));
    const gradientCheckpointing = values['gradient-checkpointing'];
    await new Trainer({ model, data, batchSize, maxSteps: 2, lr: 1e-5, gradientCheckpointing }).run();
  }
  console.log(JSON.stringify({ bytes: peakBytes(), parameters: model.parameterCount }));
}

const gigabytes = (bytes) => (bytes / 1e9).toFixed(2);
if (values.child !== undefined) await measure(values.child, positionals[0]);
else {
  console.log(`batch ${batchSize} × ${length} tokens, r ${r} on all linear layers\n`);
  console.log('| model | parameters | dtype | load, GB | generate, GB | train, GB | estimate, GB |');
  console.log('|---|---|---|---|---|---|---|');
  for (const name of positionals) {
    if (!(name in shapes) && !existsSync(join(name, 'config.json')))
      throw new Error(`${name} is no model directory and none of ${Object.keys(shapes).join(', ')}`);
    const dir =
      name in shapes ? await writeRandomModel(mkdtempSync(join(tmpdir(), 'lora-memory-')), name) : name;
    try {
      let parameters = 0;
      const peaks = ['load', 'generate', 'train'].map((part) => {
        const flags = Object.entries(values).flatMap(([key, value]) =>
          value === true ? [`--${key}`] : value === false ? [] : [`--${key}`, value],
        );
        const args = [fileURLToPath(import.meta.url), ...flags, '--child', part, dir];
        const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
        if (status !== 0) throw new Error(stderr);
        const report = JSON.parse(stdout);
        parameters = report.parameters;
        return report.bytes;
      });
      const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
      const gradientCheckpointing = values['gradient-checkpointing'];
      const options = { batchSize, length, r, dtype, quantize, gradientCheckpointing };
      const { total } = estimateMemory(config, options);
      const kept = quantize === undefined ? dtype : `${dtype}, ${quantize}`;
      const cells = [name, `${(parameters / 1e6).toFixed(1)}M`, kept, ...peaks.map(gigabytes)];
      console.log(`| ${cells.join(' | ')} | ${gigabytes(total)} |`);
    } finally {
      if (dir !== name) rmSync(dir, { recursive: true });
    }
  }
}
