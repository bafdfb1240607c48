/** What estimateMemory() says, against what is allocated. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { fitOf } from '../../lib/cli/memory_fit';
import {
  CausalLM,
  estimateMemory,
  memoryUsage,
  quantizeModel,
  type LoRAConfigInput,
  type MemoryOptions,
} from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { parseModelConfig } from '../../lib/models/families';
import { collectGarbage } from '../support/garbage';
import { childReport } from '../support/child';
import { commandLine } from '../support/command_line';
import { expectThrow } from '../support/errors';
import { expectedTensors } from '../../lib/models/files/tensor_table';
import { publishedModels } from '../support/published_models';
import { quantize, quantized } from '../support/weight_format_cases';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';
import { temporaryFolder } from '../support/temporary';

const base = resolve('examples/base-model');
const config = JSON.parse(readFileSync(`${base}/config.json`, 'utf8')) as Record<string, unknown>;
const dir = temporaryFolder();

test.each<LoRAConfigInput>([
  {},
  { r: 3, targetModules: ['q_proj', 'down_proj'] },
  { r: 4, useDora: true, excludeModules: ['o_proj'] },
  { r: 4, targetModules: ['v_proj'], layersToTransform: [0], rankPattern: { v_proj: 7 } },
  { r: 2, targetModules: ['v_proj'], modulesToSave: ['lm_head'] },
])('the trained values of %j are those of an adapter', async (options) => {
  const model = await CausalLM.fromPretrained(base);
  const adapter = model.addAdapter(options);
  const values = adapter.parameters().reduce((sum, { numel }) => sum + numel, 0);
  const { adapters, optimizer } = estimateMemory(model.config, options);
  expect({ adapters, optimizer }).toEqual({ adapters: 8 * values, optimizer: 8 * values });
  expect(estimateMemory(config, options)).toEqual(estimateMemory(model.config, options));
  await model.dispose();
});

describe('a model with a head of classes', () => {
  const classifier = {
    ...config,
    architectures: ['LlamaForSequenceClassification'],
    id2label: { 0: 'a', 1: 'b', 2: 'c' },
  };

  test('has logits of each text and label, none of the vocabulary', () => {
    const batch = { batchSize: 5, length: 100 };
    for (const options of [
      batch,
      { ...batch, gradientCheckpointing: true },
      { ...batch, dtype: 'f32' as const },
    ])
      expect(estimateMemory(classifier, options).logits).toBe(4 * 5 * 3);
    expect(estimateMemory(classifier, { streams: 7 }).logits).toBe(4 * 7 * 3);
    const share = (wide: number): number => {
      const { total, runtime, weights } = estimateMemory(
        { ...classifier, vocab_size: wide },
        { ...batch, train: 'all' },
      );
      return total - runtime - weights;
    };
    // The embedding has its master and two moments, and a gradient where activations were; nothing else grows with the vocabulary.
    expect(share(4000) - share(2000)).toBe(12 * 2000 * (config['hidden_size'] as number));
  });

  test.each<LoRAConfigInput>([{ r: 3 }, { r: 3, modulesToSave: ['score'] }])(
    'trains it beside an adapter of %j',
    async (options) => {
      const head = { type: 'classify', labels: ['a', 'b', 'c'] } as const;
      const model = await CausalLM.fromPretrained(base, { head });
      const adapter = model.addAdapter(options);
      const values = adapter.parameters().reduce((sum, { numel }) => sum + numel, 0);
      const { adapters, optimizer } = estimateMemory(model.config, options);
      expect({ adapters, optimizer }).toEqual({ adapters: 8 * values, optimizer: 8 * values });
      const other = estimateMemory(classifier, options);
      expect(other.adapters).toBe(adapters);
      await model.dispose();
    },
  );
});

test('f32 activations keep the weights of a file in 16 bits', async () => {
  await collectGarbage();
  const before = memoryUsage().bytes;
  const model = await CausalLM.fromPretrained(base, { dtype: 'f32' });
  const { weights } = estimateMemory(config, { dtype: 'f32' });
  expect(weights / (memoryUsage().bytes - before)).toBeGreaterThan(0.95);
  expect(weights / (memoryUsage().bytes - before)).toBeLessThan(1.01);
  await model.dispose();
});

const { targets } = binding().cpuInfo();
/** What is said of the workspace on an instruction set. */
const workspaceOf = (simd: string, options: MemoryOptions): number =>
  childReport(
    `report(lora.estimateMemory(${JSON.stringify(config)}, ${JSON.stringify(options)}).workspace);`,
    { env: { LORA_SIMD: simd } },
  ) as number;

test('f32 training takes copies where tile registers multiply them, with the instruction set that was chosen', () => {
  const [d, kv, ff] = [128, 64, 352]; // of the bundled model; it has as many numbers in q as in d
  const forward = d + ff;
  // Three parts of bf16 for each number that a call reads, and some padding. A block of memory serves the calls of one size.
  for (const [options, numbers] of [
    [{ dtype: 'f32', batchSize: 2, length: 128 }, 256 * (forward + (d + 2 * kv) + 2 * ff)],
    [{ dtype: 'f32', streams: 3, length: 512 }, 256 * forward], // a part of a prompt
  ] as const) {
    const vectors = workspaceOf(targets.at(-1)!, options);
    for (const simd of targets.slice(0, 2)) {
      const more = workspaceOf(simd, options) - vectors;
      const expected = simd === 'avx3_spr' ? 6 * numbers : 0;
      expect(more).toBeGreaterThanOrEqual(expected);
      expect(more).toBeLessThanOrEqual(1.1 * expected);
    }
  }
});

test('the weights are those of the file in its dtype', () => {
  const values = 805_120; // of the bundled model, which is stored in bf16
  const { weights } = estimateMemory(config, { dtype: 'bf16' });
  expect(weights).toBeGreaterThan(1.98 * values);
  expect(weights).toBeLessThan(2.02 * values);
  expect(estimateMemory({ ...config, torch_dtype: 'float32', dtype: 'float32' }).weights).toBe(2 * weights);
});

test.each([true, false])('the weights of int8 rows are those in memory, a tied head: %j', async (tied) => {
  const head = { tie_word_embeddings: tied };
  const int8: TinyModelOptions = {
    config: { ...quantized(), ...head },
    edit: (tensors) => quantize(tensors, true),
  };
  const model = await CausalLM.fromPretrained(await tinyModel(int8), { dtype: 'f32' });
  const plain = await CausalLM.fromPretrained(await tinyModel({ config: head }), { dtype: 'f32' });
  const [less, more] = [model, plain].map((one) => estimateMemory(one.config, { dtype: 'f32' }).weights);
  let saved = 0;
  for (const [name, [out, inside]] of expectedTensors(plain.config))
    if (name.includes('_proj.weight')) saved += 3 * out! * inside! - 4 * out!;
  expect(more! - less!).toBe(saved);
  await model.dispose();
  await plain.dispose();
});

test.each<[MemoryOptions['quantize'], TinyModelOptions]>([
  ['nf4', {}],
  ['int8', { config: { tie_word_embeddings: false } }],
  [{ format: 'fp4', doubleQuant: true, embedding: true }, {}],
  [
    { format: 'nf4', skip: ['lm_head', 'layers.0.mlp.up_proj', 'o_proj'] },
    { config: { tie_word_embeddings: false } },
  ],
])(
  'the weights of %j, a model %j, are those in memory, asked for or in the files',
  async (quantize, options) => {
    const whole = await tinyModel({
      ...options,
      config: { hidden_size: 64, head_dim: 16, intermediate_size: 256, ...options.config },
    });
    await collectGarbage();
    const before = memoryUsage().bytes;
    const model = await CausalLM.fromPretrained(whole, { device: 'reference', quantize });
    const { weights } = estimateMemory(model.config, { quantize });
    expect(weights / (memoryUsage().bytes - before)).toBeGreaterThan(0.97);
    expect(weights / (memoryUsage().bytes - before)).toBeLessThan(1.01);
    const out = `${whole}-quantized`;
    await quantizeModel(whole, out, typeof quantize === 'string' ? { format: quantize } : quantize!);
    const written = JSON.parse(readFileSync(`${out}/config.json`, 'utf8')) as Record<string, unknown>;
    expect(estimateMemory(written).weights).toBe(weights);
    expectThrow(
      () => estimateMemory(written, { quantize: 'nf4' }),
      'ERR_ARGUMENT',
      /is quantized already \(\w+\): leave quantize out$/,
    );
    await model.dispose();
  },
);

let wide: Promise<string> | undefined;
test.each(['nf4', 'int8'])(
  'a base that is quantized to %s while it is loaded takes the result and two matrices at most',
  async (format) => {
    const config = { hidden_size: 64, head_dim: 16, intermediate_size: 2048, num_hidden_layers: 6 };
    wide ??= tinyModel({ config });
    const dir = await wide;
    const [peak, held] = childReport(`
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)}, { quantize: '${format}' });
    const { peakBytes, bytes } = lora.memoryUsage();
    report([peakBytes, bytes]);`) as [number, number];
    expect(peak - held).toBeLessThan(2 * 4 * 64 * 2048); // of eighteen as large, one of which may still be queued
  },
);

test('modules that transformers leaves whole count as such', () => {
  const of = (more: object): number =>
    estimateMemory({
      ...config,
      tie_word_embeddings: false,
      quantization_config: {
        quant_method: 'bitsandbytes',
        load_in_4bit: true,
        bnb_4bit_quant_type: 'nf4',
        ...more,
      },
    }).weights;
  const head = 2 * Number(config['vocab_size']) * Number(config['hidden_size']);
  const saved = head - head / 4 - head / 2 / 16;
  expect(of({}) - of({ llm_int8_skip_modules: [] })).toBeCloseTo(saved, -1);
  expect(of({ llm_int8_skip_modules: null })).toBe(of({}));
  const linears = [...expectedTensors(parseModelConfig(config))].filter(
    ([name, shape]) => name.startsWith('model.layers.1.') && shape.length === 2,
  );
  const values = linears.reduce((sum, [, [rows, columns]]) => sum + rows! * columns!, 0);
  expect(linears.length).toBe(7);
  expect(of({ llm_int8_skip_modules: ['lm_head', 'layers.1'] }) - of({})).toBeCloseTo(
    2 * values - values / 2 - (4 * values) / 64,
    -1,
  );
});

test('the flag that would make it fit: quantize where nothing else does, and for serving', () => {
  const large = parseModelConfig({
    ...config,
    hidden_size: 4096,
    intermediate_size: 11008,
    num_hidden_layers: 32,
  });
  const remedy = (options: MemoryOptions, free: number): string | undefined =>
    fitOf(large, options, free * 1e9).remedy;
  expect(remedy({ length: 256 }, 7)).toBe('--quantize nf4');
  expect(remedy({ batchSize: 8, length: 512 }, 6)).toBe('--quantize nf4 --gradient-checkpointing');
  expect(remedy({ length: 256 }, 1)).toBeUndefined();
  expect(remedy({ length: 256, quantize: 'int8' }, 1)).toBeUndefined();
  expect(remedy({ streams: 1, length: 256 }, 7)).toBe('--quantize nf4');
  // Weights that are trained are not quantized.
  expect(remedy({ train: 'all', length: 256 }, 7)).toBeUndefined();
});

test.each<[dtype: 'f32' | 'bf16', MemoryOptions]>([
  ['f32', { batchSize: 4, length: 256, quantize: 'nf4' }],
  ['bf16', { batchSize: 4, length: 256, quantize: 'nf4', gradientCheckpointing: true }],
  ['f32', { batchSize: 4, length: 256 }],
  ['bf16', { batchSize: 8, length: 128, optimizer: 'lion' }],
  ['f32', { batchSize: 8, length: 256, gradientCheckpointing: true }],
])(
  'the peak of tensors in training in %s, %j',
  (dtype, options) => {
    const program = `
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(base)}, { dtype: '${dtype}', quantize: ${JSON.stringify(options.quantize)} });
    model.addAdapter({ r: 16 });
    const { length, quantize, ...options } = ${JSON.stringify(options)};
    const row = (i) => ({ inputIds: Array.from({ length }, (_, j) => (i * 7 + j * 3) % 250) });
    const data = Array.from({ length: 2 * options.batchSize }, (_, i) => row(i));
    await new lora.Trainer({ model, data, maxSteps: 2, ...options }).run();
    report(lora.memoryUsage().peakBytes);`;
    const peak = Number(childReport(program, { timeout: 120_000 }));
    const { total, runtime, workspace } = estimateMemory(config, { dtype, ...options });
    expect((total - runtime) / peak).toBeGreaterThan(0.8);
    // The copies for tile registers are not all held at once: the allocator keeps their blocks.
    const vectors =
      targets[0] === 'avx3_spr' ? workspaceOf(targets.at(-1)!, { dtype, ...options }) : workspace;
    expect((total - runtime - (workspace - vectors)) / peak).toBeLessThan(1.3);
  },
  130_000,
);

test('other methods count as a LoRA of the layers that they stand behind', () => {
  const adapter = { method: 'bottleneck', placement: 'houlsby', bottleneckSize: 4 } as const;
  const lora = { r: 4, targetModules: ['o_proj', 'down_proj'] };
  expect(estimateMemory(config, { adapter })).toEqual(estimateMemory(config, lora));
});

test('a model that is served takes its weights, whatever would be trained', () => {
  const streams = { streams: 2, length: 64 };
  expect(estimateMemory(config, { train: 'all', ...streams })).toEqual(estimateMemory(config, streams));
});

test('the exponentials of a loss are those of a chunk of rows', () => {
  const rows = (vocab: number, length: number): number =>
    estimateMemory({ ...config, vocab_size: vocab }, { length, dtype: 'f32' }).logits / (4 * vocab);
  expect([rows(1000, 100), rows(1000, 600), rows(100_000, 600), rows(2_000_000, 600)]).toEqual([
    100, 512, 251, 16,
  ]);
});

test('each option changes its part', () => {
  const of = (options: MemoryOptions) => estimateMemory(config, { length: 256, ...options });
  const plain = of({});
  expect(of({ batchSize: 2 }).activations).toBe(2 * plain.activations);
  expect(of({ gradientCheckpointing: true }).activations).toBeLessThan(plain.activations / 2);
  expect(of({ optimizer: 'adamw8bit' }).optimizer).toBeLessThan(plain.optimizer / 3);
  expect(of({ optimizer: 'lion' }).optimizer).toBe(plain.optimizer / 2);
  expect(of({ optimizer: 'sgd' }).optimizer).toBe(0);
  // The gradients of all weights fill what activations and logits give back, which of a large batch is a small part.
  const [all, adapter] = [of({ train: 'all', batchSize: 64 }), of({ batchSize: 64 })];
  for (const part of ['activations', 'logits'] as const) {
    expect(all[part]).toBeGreaterThan(0.8 * adapter[part]);
    expect(all[part]).toBeLessThan(adapter[part]);
  }
  const served = of({ streams: 8 });
  expect(served).toMatchObject({ adapters: 0, optimizer: 0, activations: 0 });
  expect(of({ streams: 16 }).kvCache).toBe(2 * served.kvCache);
  const { total, ...parts } = plain;
  expect(Object.values(parts).reduce((sum, bytes) => sum + bytes, 0)).toBe(total);
});

test.each<[string, MemoryOptions, RegExp, unknown?]>([
  ['no configuration', {}, /^\[estimateMemory\] expected the content of config\.json/, null],
  ['no sequences', { batchSize: 0 }, /^\[estimateMemory\] expected batchSize/],
  ['f16', { dtype: 'f16' as never }, /^\[estimateMemory\] expected dtype to be 'auto', 'f32' or 'bf16'/],
  [
    'a foreign optimizer',
    { optimizer: 'adam' as never },
    /^\[estimateMemory\] expected optimizer to be one of adamw/,
  ],
  ['an unknown option', { steps: 1 } as never, /^\[estimateMemory\] .*steps/],
])('%s is ERR_ARGUMENT', (_, options, sentence, given = config) => {
  expectThrow(() => estimateMemory(given as never, options), 'ERR_ARGUMENT', sentence);
});

test('the command says it, from config.json alone', async () => {
  const { status, out } = await commandLine(['estimate', '--model', base, '--batch-size', '1', '--json']);
  expect(status).toBe(0);
  const { free, fits, ...estimate } = JSON.parse(out) as Record<string, unknown>;
  expect(estimate).toEqual(estimateMemory(config, { batchSize: 1 }));
  expect([free, fits]).toEqual([expect.any(Number), true]);
  const lines = (await commandLine(['estimate', '--model', base, '--streams', '2'])).out.trim().split('\n');
  expect(lines.map((line) => line.split(' ')[0])).toEqual([
    ...['weights', 'logits', 'kvCache', 'workspace', 'runtime', 'total', 'about'],
  ]);
});

test('a model whose weights do not fit is refused before they are read, and what would fit is named', () => {
  const large = { ...config, hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32 };
  const run = (limit: string, changes: object, flags: string[]) => {
    const program = `
      const { mkdirSync, writeFileSync } = await import('node:fs');
      const { spawnSync } = await import('node:child_process');
      const dir = ${JSON.stringify(dir)} + '/m';
      mkdirSync(dir, { recursive: true });
      writeFileSync(dir + '/config.json', ${JSON.stringify(JSON.stringify({ ...large, ...changes }))});
      writeFileSync(dir + '/data.jsonl', '{"text":"a"}\\n');
      const flags = ['--model', dir, '--data', dir + '/data.jsonl', '--out-dir', dir + '/out', ...${JSON.stringify(flags)}];
      const env = { ...process.env, LORA_MEMORY_LIMIT: '${limit}' };
      const { stderr } = spawnSync(process.execPath, [${JSON.stringify(resolve('dist/cli.js'))}, 'train', ...flags], { env, encoding: 'utf8' });
      report(stderr);`;
    return String(childReport(program, { timeout: 60_000 }));
  };
  expect(run('2GiB', {}, [])).toMatch(/the weights of .* take 8\.8 GB, and 2\.\d GB of memory are free/);
  const small = { hidden_size: 1024, intermediate_size: 2816, num_hidden_layers: 16 };
  const said = run('1GiB', small, ['--batch-size', '8']);
  expect(said).toMatch(
    /about \d\.\d GB of memory for tensors, 1\.\d GB are free: it may not fit; with --\S+.* it would\n/,
  );
  expect(said).toMatch(/model\.safetensors/); // the weights, which are not there, come after it
}, 130_000);

/** The config.json of published models, as far as weights depend on it, and the bytes of their bf16 weights, added up by hand. */
test.each<[string, Record<string, unknown>, number]>([
  [
    'Gemma 3 1B',
    {
      ...{ model_type: 'gemma3_text', vocab_size: 262144, hidden_size: 1152, intermediate_size: 6912 },
      ...{ num_hidden_layers: 26, num_attention_heads: 4, num_key_value_heads: 1, head_dim: 256 },
      ...{ max_position_embeddings: 32768, sliding_window: 512, sliding_window_pattern: 6 },
      ...{ rms_norm_eps: 1e-6, rope_theta: 1_000_000, rope_local_base_freq: 10_000 },
      ...{ query_pre_attn_scalar: 256, hidden_activation: 'gelu_pytorch_tanh', torch_dtype: 'bfloat16' },
    },
    // The embedding, which is the head too; q and o, k and v, the MLP, four norms, those of q and k; the last norm.
    2 *
      (262144 * 1152 + 26 * (2 * 1024 * 1152 + 2 * 256 * 1152 + 3 * 6912 * 1152 + 4 * 1152 + 2 * 256) + 1152),
  ],
  [
    'Phi-4-mini',
    {
      ...{ model_type: 'phi3', vocab_size: 200064, hidden_size: 3072, intermediate_size: 8192 },
      ...{ num_hidden_layers: 32, num_attention_heads: 24, num_key_value_heads: 8 },
      ...{ max_position_embeddings: 131072, original_max_position_embeddings: 4096 },
      ...{ partial_rotary_factor: 0.75, rms_norm_eps: 1e-5, rope_theta: 10_000, sliding_window: 262144 },
      rope_scaling: {
        type: 'longrope',
        ...{ long_factor: Array<number>(48).fill(2), short_factor: Array<number>(48).fill(1) },
      },
      ...{ tie_word_embeddings: true, torch_dtype: 'bfloat16', hidden_act: 'silu' },
    },
    // qkv is one matrix, gate and up are one.
    2 *
      (200064 * 3072 +
        32 * ((3072 + 2 * 1024) * 3072 + 3072 * 3072 + 2 * 8192 * 3072 + 8192 * 3072 + 2 * 3072) +
        3072),
  ],
  [
    'SmolLM3 3B',
    {
      ...{ model_type: 'smollm3', vocab_size: 128256, hidden_size: 2048, intermediate_size: 11008 },
      ...{ num_hidden_layers: 36, num_attention_heads: 16, num_key_value_heads: 4 },
      ...{ max_position_embeddings: 65536, rms_norm_eps: 1e-6, rope_theta: 5_000_000 },
      ...{ no_rope_layer_interval: 4, use_sliding_window: false, sliding_window: null },
      ...{ attention_bias: false, mlp_bias: false, hidden_act: 'silu', torch_dtype: 'bfloat16' },
    },
    2 * (128256 * 2048 + 36 * (2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 11008 * 2048 + 2 * 2048) + 2048),
  ],
])('the weights of %s are those of its files', (_, published, bytes) => {
  const { weights, total } = estimateMemory(published, { length: 512 });
  expect(weights).toBe(bytes);
  expect(total).toBeGreaterThan(weights);
  const served = estimateMemory(published, { length: 512, streams: 1 });
  expect(served.weights).toBe(bytes);
  expect(served.kvCache).toBeGreaterThan(0);
});

test('Qwen3-30B-A3B in NF4 is 18.2 GB: all experts are in memory, embedding and routers as in the file', () => {
  const json = publishedModels['Qwen3-30B-A3B']!;
  const { total, weights } = estimateMemory(json, {
    quantize: 'nf4',
    streams: 1,
    length: 2048,
    dtype: 'bf16',
  });
  const [d, layers, vocabulary] = [2048, 48, 151936];
  const matrices = layers * (128 * 3 * d * 768 + 2 * d * 4096 + 2 * d * 512) + vocabulary * d;
  const floats = vocabulary * d + layers * 128 * d;
  const expected = (4.5 / 8) * matrices + 2 * floats;
  expect(weights / expected).toBeGreaterThan(1);
  expect(weights / expected).toBeLessThan(1.001);
  expect({ weights: (weights / 1e9).toFixed(2), total: (total / 1e9).toFixed(1) }).toEqual({
    ...{ weights: '17.64', total: '18.2' },
  });
});
