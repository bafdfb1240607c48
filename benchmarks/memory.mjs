// Peak memory (resident set) of loading, generating with and training a model: one process per figure, a Markdown table.
//
//   node benchmarks/memory.mjs [--dtype bf16] [--batch-size 1] [--length 256] [--r 16] [--gradient-checkpointing] MODEL…
//
// MODEL is a Hugging Face directory, or one of the shapes below, which is then filled with random weights: memory depends
// on the shape and not on the values. The last column is what estimateMemory() says of training.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CausalLM, estimateMemory, Trainer, writeSafetensors } from 'lora-native';
import { peakBytes } from './processes/peak.mjs';

/** [layers, hidden, feed-forward, heads, key heads, vocabulary] of models with tied embeddings. */
const shapes = {
  'SmolLM2-135M': [30, 576, 1536, 9, 3, 49152],
  'SmolLM2-360M': [32, 960, 2560, 15, 5, 49152],
  'Llama-3.2-1B': [16, 2048, 8192, 32, 8, 128256],
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dtype: { type: 'string', default: 'bf16' },
    'batch-size': { type: 'string', default: '1' },
    length: { type: 'string', default: '256' },
    r: { type: 'string', default: '16' },
    'gradient-checkpointing': { type: 'boolean', default: false },
    child: { type: 'string' }, // load, generate or train: measures itself
  },
});
const dtype = values.dtype;
const batchSize = Number(values['batch-size']);
const length = Number(values.length);
const r = Number(values.r);

/** Writes a model of random weights in bf16. */
async function make(name) {
  const [layers, hidden, ff, heads, kvHeads, vocab] = shapes[name];
  const dir = mkdtempSync(join(tmpdir(), 'lora-memory-'));
  const config = {
    model_type: 'llama',
    hidden_size: hidden,
    intermediate_size: ff,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    vocab_size: vocab,
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
  };
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  const kv = (hidden / heads) * kvHeads;
  const tensors = new Map();
  // Numbers between 2⁻⁷ and 2⁻⁵ of both signs.
  const noise = Uint16Array.from({ length: 65521 }, (_, i) => 0x3c00 + ((i * 40503) & 0x80ff));
  const add = (path, ...shape) => {
    const words = new Uint16Array(shape.reduce((a, b) => a * b)).fill(0x3f80); // norms are 1
    if (shape.length > 1)
      for (let i = 0; i < words.length; i += noise.length)
        words.set(noise.subarray(0, Math.min(noise.length, words.length - i)), i);
    tensors.set(path, { dtype: 'BF16', shape, bytes: new Uint8Array(words.buffer) });
  };
  add('model.embed_tokens.weight', vocab, hidden);
  for (let i = 0; i < layers; i++) {
    const layer = `model.layers.${i}.`;
    add(`${layer}input_layernorm.weight`, hidden);
    add(`${layer}post_attention_layernorm.weight`, hidden);
    for (const key of ['q', 'k', 'v'])
      add(`${layer}self_attn.${key}_proj.weight`, key === 'q' ? hidden : kv, hidden);
    add(`${layer}self_attn.o_proj.weight`, hidden, hidden);
    for (const key of ['gate', 'up']) add(`${layer}mlp.${key}_proj.weight`, ff, hidden);
    add(`${layer}mlp.down_proj.weight`, hidden, ff);
  }
  add('model.norm.weight', hidden);
  await writeSafetensors(join(dir, 'model.safetensors'), tensors, { format: 'pt' });
  return dir;
}

/** Runs one part in this process and prints its peak. */
async function measure(part, dir) {
  const model = await CausalLM.fromPretrained(dir, { dtype });
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
    const dir = name in shapes ? await make(name) : name;
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
      const { total } = estimateMemory(config, { batchSize, length, r, dtype, gradientCheckpointing });
      const cells = [name, `${(parameters / 1e6).toFixed(1)}M`, dtype, ...peaks.map(gigabytes)];
      console.log(`| ${cells.join(' | ')} | ${gigabytes(total)} |`);
    } finally {
      if (dir !== name) rmSync(dir, { recursive: true });
    }
  }
}
