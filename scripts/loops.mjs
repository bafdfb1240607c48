// Ten thousand rounds of one thing each leave the process as large as the first thousand did.
//
//   node scripts/loops.mjs [NAME …] [--rounds 10000]
//
// Each loop runs in a process of its own. Between the first tenth of the rounds, which fill caches, and the last looks no kind of native
// object may become more, and neither heap nor resident memory may grow by more than `allowed`.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as lora from 'lora-native';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '10000' }, loop: { type: 'string' } },
});
const rounds = Number(values.rounds);
const mebi = 2 ** 20;
const allowed = { heap: 2 * mebi, resident: 16 * mebi };

const data = Array.from({ length: 3 }, (_, i) => ({ inputIds: [1, 2 + i, 3, 4 + i] }));
const few = { batchSize: 1, maxSteps: 2 };
const text = { maxNewTokens: 2, ignoreEos: true };

/** name → what prepares it, which gives a round. */
const loops = {
  load:
    async ({ dir }) =>
    async () => {
      const model = await lora.CausalLM.fromPretrained(dir);
      await model.dispose();
    },
  train:
    async ({ model }) =>
    async () => {
      model.addAdapter({ r: 2, loraDropout: 0.1 });
      await new lora.Trainer({ model, data, ...few }).run();
      await model.removeAdapter('default');
    },
  methods:
    async ({ model }) =>
    async (round) => {
      const configs = [
        { method: 'ia3' },
        { method: 'bottleneck', bottleneckSize: 2, dropout: 0.1 },
        { method: 'prompt', numVirtualTokens: 2, promptTuningInit: 'sample_vocab' },
        { r: 2, useDora: true },
      ];
      const config = configs[round % configs.length];
      model.addAdapter(config, { activate: true });
      await new lora.Trainer({ model, data, ...few }).run();
      await model.generate([1, 2], text);
      await model.removeAdapter('default');
    },
  full:
    async ({ dir }) =>
    async () => {
      const model = await lora.CausalLM.fromPretrained(dir);
      model.trainAll();
      await new lora.Trainer({ model, data, ...few }).run();
      await model.dispose();
    },
  adapters: async ({ model, scratch }) => {
    await model.addAdapter({ r: 2 }, { name: 'made' }).save(join(scratch, 'adapter'));
    model.setAdapter(null); // while another is merged, none may be active
    return async () => {
      await model.loadAdapter(join(scratch, 'adapter'), { name: 'a' });
      await model.loadAdapter(join(scratch, 'adapter'), { name: 'b' });
      await model.combineAdapters(['a', 'b'], { name: 'both', weights: [0.5, 0.5], method: 'linear' });
      await model.generate([1, 2], { ...text, adapter: 'both' });
      await model.merge('both');
      await model.generate([1, 2], text);
      await model.unmerge();
      for (const name of ['a', 'b', 'both']) await model.removeAdapter(name);
    };
  },
  gguf: async ({ dir, scratch }) => {
    const file = join(scratch, 'model.gguf');
    await lora.convertModel(dir, file, { format: 'f16' });
    return async () => {
      const model = await lora.CausalLM.fromPretrained(file);
      await model.generate([1, 2], text);
      await model.dispose();
    };
  },
  convert:
    async ({ dir, scratch }) =>
    async (round) => {
      const file = join(scratch, `model-${round % 2}.gguf`);
      rmSync(file, { force: true });
      await lora.convertModel(dir, file, { format: 'f16' });
    },
  quantize:
    async ({ dir, scratch }) =>
    async () => {
      const to = join(scratch, 'quantized');
      rmSync(to, { recursive: true, force: true });
      await lora.quantizeModel(dir, to, { format: 'nf4' });
      const model = await lora.CausalLM.fromPretrained(to);
      await model.generate([1, 2], text);
      await model.dispose();
    },
  evaluate:
    async ({ model }) =>
    async () => {
      await model.evaluate(data, { batchSize: 2 });
      await model.evaluateTask(data, { generate: false });
    },
};

/** The base model's configuration and tokenizer with the smallest weights that make a model. */
async function smallest(dir) {
  const base = join(root, 'examples/base-model');
  const config = JSON.parse(readFileSync(join(base, 'config.json'), 'utf8'));
  const small = {
    ...config,
    ...{ hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, head_dim: 4, torch_dtype: 'float32' },
    ...{ num_attention_heads: 2, num_key_value_heads: 1, tie_word_embeddings: true },
  };
  writeFileSync(join(dir, 'config.json'), JSON.stringify(small));
  const tokenizer = JSON.parse(readFileSync(join(base, 'tokenizer.json'), 'utf8'));
  // GPT-2's, which GGUF files have a word for.
  const pre_tokenizer = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify({ ...tokenizer, pre_tokenizer }));
  writeFileSync(join(dir, 'tokenizer_config.json'), readFileSync(join(base, 'tokenizer_config.json')));
  const shapes = {
    'model.embed_tokens.weight': [config.vocab_size, 8],
    'model.norm.weight': [8],
    'model.layers.0.input_layernorm.weight': [8],
    'model.layers.0.post_attention_layernorm.weight': [8],
    ...Object.fromEntries(
      [
        ['self_attn.q_proj', [8, 8]],
        ['self_attn.k_proj', [4, 8]],
        ['self_attn.v_proj', [4, 8]],
        ['self_attn.o_proj', [8, 8]],
        ['mlp.gate_proj', [8, 8]],
        ['mlp.up_proj', [8, 8]],
        ['mlp.down_proj', [8, 8]],
      ].map(([name, shape]) => [`model.layers.0.${name}.weight`, shape]),
    ),
  };
  const tensors = new Map(
    Object.entries(shapes).map(([name, shape]) => {
      const count = shape.reduce((product, size) => product * size, 1);
      const numbers = Float32Array.from({ length: count }, (_, i) => Math.sin(i + 1) / 4);
      return [name, { dtype: 'F32', shape, bytes: new Uint8Array(numbers.buffer) }];
    }),
  );
  await lora.writeSafetensors(join(dir, 'model.safetensors'), tensors);
}

const native = createRequire(import.meta.url)('node-gyp-build')(root); // the add-on that the package has loaded

/** What is there when garbage has been collected and its finalizers have run. */
async function look(collect, round) {
  for (let i = 0; i < 5; i++) {
    collect();
    await new Promise((done) => setTimeout(done, 5));
  }
  const { rss: resident, heapUsed: heap } = process.memoryUsage();
  const seen = { round, resident, heap, objects: native.liveObjects() };
  const objects = Object.entries(seen.objects).map(([kind, count]) => `${kind} ${count}`);
  console.log(
    `round ${String(round).padStart(6)}  resident ${(resident / mebi).toFixed(1)} MiB  heap ${(heap / mebi).toFixed(2)} MiB  ${objects.join(', ')}`,
  );
  return seen;
}

/** Runs a loop here; gives whether it is flat. */
async function run(name) {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  const scratch = mkdtempSync(join(tmpdir(), 'loops-'));
  const seen = [];
  try {
    const dir = mkdtempSync(join(scratch, 'model-'));
    await smallest(dir);
    const model = await lora.CausalLM.fromPretrained(dir);
    const round = await loops[name]({ dir, model, scratch });
    for (let i = 1; i <= rounds; i++) {
      await round(i);
      if (i % Math.ceil(rounds / 20) === 0) seen.push(await look(collect, i));
    }
    await model.dispose();
  } finally {
    rmSync(scratch, { recursive: true });
  }
  const first = seen.find((one) => one.round >= rounds / 10);
  const last = seen.at(-1);
  /** Of the last three looks the least: a finalizer may run late. */
  const least = (what) => Math.min(...seen.slice(-3).map(what));
  const grown = [
    ...Object.keys(last.objects).filter(
      (kind) => least(({ objects }) => objects[kind]) > first.objects[kind],
    ),
    ...Object.keys(allowed).filter((what) => least((one) => one[what]) - first[what] > allowed[what]),
  ];
  const change = (what) => `${what} ${((last[what] - first[what]) / mebi).toFixed(2)} MiB`;
  console.log(
    `${name}: rounds ${first.round} to ${last.round}: ${change('resident')}, ${change('heap')}; ` +
      (grown.length === 0 ? 'no kind of object became more' : `grown: ${grown.join(', ')}`),
  );
  return grown.length === 0;
}

if (values.loop !== undefined) process.exitCode = (await run(values.loop)) ? 0 : 1;
else {
  const unknown = positionals.find((name) => !Object.hasOwn(loops, name));
  if (unknown !== undefined) {
    console.error(`there is no loop ${unknown}; there are ${Object.keys(loops).join(', ')}`);
    process.exit(2);
  }
  for (const name of positionals.length > 0 ? positionals : Object.keys(loops)) {
    const args = [fileURLToPath(import.meta.url), '--loop', name, '--rounds', values.rounds];
    if (spawnSync(process.execPath, args, { stdio: 'inherit' }).status !== 0) process.exitCode = 1;
  }
}
