/** What estimateMemory() says of a GPU, against LORA_CUDA_MEMORY_LIMIT: training fits into a fiftieth more and not into a fiftieth less, on the emulated GPU. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fitOf, fitText } from '../../lib/cli/memory_fit';
import { devices, estimateMemory, type MemoryOptions } from '../../lib/index';
import { parseModelConfig } from '../../lib/models/families';
import { expectedTensors } from '../../lib/models/files/tensor_table';
import { lossBytes, lossScratch } from '../../lib/models/gpu_loss';
import { blockBytes, GpuMemory } from '../../lib/models/gpu_memory';
import { linearScratch } from '../../lib/models/gpu_step';
import { runChild } from '../support/child';
import { commandLine } from '../support/command_line';
import { gpu, onGpu } from '../support/emulated';
import { expectThrow } from '../support/errors';
import { publishedModels } from '../support/published_models';
import { temporaryFolder } from '../support/temporary';
import { tinyConfig, tinyModel } from '../support/tiny_model';

const shape = {
  ...{ hidden_size: 64, head_dim: 16, num_attention_heads: 4, num_key_value_heads: 2 },
  ...{ intermediate_size: 384, num_hidden_layers: 3, vocab_size: 272, torch_dtype: 'bfloat16' },
};
const qwen3 = { architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3' };

type Environment = Partial<Record<'LORA_CUDA_LOSS_BYTES' | 'LORA_CUDA_EXPANSION_BYTES', string>>;

interface Case {
  readonly config?: object;
  readonly env?: Environment;
  readonly options: MemoryOptions;
}

/** What f gives where these variables are set. */
function within<T>(env: Environment, f: () => T): T {
  const before = Object.keys(env).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, env);
  try {
    return f();
  } finally {
    for (const [name, value] of before)
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
  }
}

const models = new Map<string, Promise<string>>();
function modelOf(config: object): Promise<string> {
  const key = JSON.stringify(config);
  if (!models.has(key)) models.set(key, tinyModel({ config: { ...shape, ...config }, dtype: 'BF16' }));
  return models.get(key)!;
}

/** Trains a step under a limit; gives what went wrong. */
function trained(dir: string, { options, env }: Case, limit: number): string {
  const { dtype, quantize, batchSize = 1, length, gradientCheckpointing, optimizer, ...lora } = options;
  const { status, stderr, report } = runChild(
    `
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)}, ${JSON.stringify({ dtype, quantize, device: gpu })});
    model.addAdapter(${JSON.stringify(lora)});
    const row = (i) => ({ inputIds: Array.from({ length: ${length} }, (_, j) => (i * 7 + j * 3) % 250) });
    const data = Array.from({ length: ${batchSize} }, (_, i) => row(i));
    await new lora.Trainer({ model, data, maxSteps: 1, ...${JSON.stringify({ batchSize, gradientCheckpointing, optimizer })} }).run();
    report('trained');`,
    {
      env: { LORA_CUDA_MEMORY_LIMIT: String(Math.round(limit)), ...env },
      timeout: 110_000,
    },
  );
  if (status === 0) return String(report);
  return /ERR_OUT_OF_MEMORY/.exec(stderr)?.[0] ?? stderr;
}

const cases: readonly (readonly [what: string, Case])[] = [
  ['bf16', { options: { dtype: 'bf16', r: 8, batchSize: 2, length: 64 } }],
  [
    'bf16 with gradient checkpointing',
    { options: { dtype: 'bf16', r: 8, batchSize: 2, length: 64, gradientCheckpointing: true } },
  ],
  [
    'NF4 whose loss takes the most',
    { config: { vocab_size: 500 }, options: { dtype: 'bf16', quantize: 'nf4', r: 4, length: 128 } },
  ],
  [
    'NF4 with gradient checkpointing, and a high rank',
    {
      options: {
        ...{ dtype: 'bf16', quantize: 'nf4', r: 16, batchSize: 3, length: 40 },
        gradientCheckpointing: true,
      },
    },
  ],
  ['f32', { options: { dtype: 'f32', r: 8, length: 96 } }],
  [
    'f32 in int8 with gradient checkpointing',
    { options: { dtype: 'f32', quantize: 'int8', r: 8, length: 96, gradientCheckpointing: true } },
  ],
  ['norms over heads', { config: qwen3, options: { dtype: 'bf16', r: 8, length: 96, optimizer: 'lion' } }],
  [
    'norms over heads with gradient checkpointing',
    {
      config: qwen3,
      options: { dtype: 'bf16', quantize: 'nf4', r: 8, length: 128, gradientCheckpointing: true },
    },
  ],
  [
    'adapters of some layers, and moments in 8 bits',
    {
      options: {
        ...{ dtype: 'bf16', r: 8, length: 96, optimizer: 'adamw8bit' },
        ...{ targetModules: ['down_proj'], layersToTransform: [1, 2] },
      },
    },
  ],
  [
    'a loss in chunks, and a head of its own that is expanded in slices',
    {
      config: { vocab_size: 2048, tie_word_embeddings: false },
      env: { LORA_CUDA_LOSS_BYTES: '60 KiB' },
      options: {
        ...{ dtype: 'bf16', quantize: { format: 'nf4', embedding: true }, r: 4, length: 192 },
        gradientCheckpointing: true,
      },
    },
  ],
  [
    'gate and up that are expanded in turn',
    {
      config: { intermediate_size: 1536 },
      env: { LORA_CUDA_EXPANSION_BYTES: '200KiB' },
      options: { dtype: 'bf16', quantize: 'int8', r: 4, length: 128 },
    },
  ],
];

/** Products that are split for lack of tiles have partial sums, which the estimate does not count: they depend on the GPU. */
const split: typeof cases = [
  [
    'NF4, and a loss with many columns',
    { config: { vocab_size: 1024 }, options: { dtype: 'bf16', quantize: 'nf4', r: 4, length: 128 } },
  ],
  [
    'f32 in NF4 with gradient checkpointing',
    { options: { dtype: 'f32', quantize: 'nf4', r: 8, length: 96, gradientCheckpointing: true } },
  ],
];

describe.each([
  ['takes what the estimate says, within 2%', cases, 1.02],
  ['whose products are split takes at most 5% more', split, 1.05],
] as const)('training on a GPU %s', (_, all, most) => {
  for (const [what, one] of all)
    onGpu(what, async () => {
      const dir = await modelOf(one.config ?? {});
      const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>;
      const estimate = (): number => {
        const { total, runtime } = estimateMemory(config, { ...one.options, device: 'cuda' });
        return total - runtime;
      };
      const need = within(one.env ?? {}, estimate);
      if (one.env) expect(need).toBeLessThan(estimate());
      expect([trained(dir, one, most * need), trained(dir, one, 0.98 * need)]).toEqual([
        'trained',
        'ERR_OUT_OF_MEMORY',
      ]);
    });
});

const trainFolder = temporaryFolder();

onGpu('train says whether a run fits into a GPU, before the weights are read', async () => {
  const base = JSON.parse(readFileSync('examples/base-model/config.json', 'utf8')) as object;
  const dir = trainFolder;
  writeFileSync(join(dir, 'data.jsonl'), '{"text":"a"}\n');
  const said = async (changes: object, ...flags: string[]): Promise<string> => {
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...base, ...changes }));
    const paths = ['--model', dir, '--data', join(dir, 'data.jsonl'), '--out-dir', join(dir, 'out')];
    const { status, err } = await commandLine(['train', ...paths, '--device', gpu, ...flags]);
    expect(status).not.toBe(0); // there are no weights
    return err;
  };
  const large = { hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32 };
  expect(await said(large)).toMatch(
    /the weights of .* take 9\.0 GB, and 2\.\d GB of memory are free \(LORA_CUDA_MEMORY_LIMIT, or what the GPU has\)/,
  );
  const small = { hidden_size: 1024, intermediate_size: 2816, num_hidden_layers: 16 };
  const missing = await said(small, '--batch-size', '16');
  expect(missing).toMatch(
    /about \d\.\d GB of memory for tensors on the GPU, 2\.\d GB are free: it may not fit; with --\S+.* it would\n/,
  );
  expect(missing).toMatch(/model\.safetensors/);
  // What is not estimated is not refused.
  const other = await said(small, '--use-dora');
  expect(other).toMatch(/model\.safetensors/);
  expect(other).not.toMatch(/memory/);
});

const config = { ...tinyConfig, ...shape };
const ministral3 = {
  ...{ architectures: ['Ministral3ForCausalLM'], model_type: 'ministral3', rope_scaling: undefined },
  rope_parameters: {
    ...{ rope_type: 'yarn', rope_theta: 10000, factor: 4, original_max_position_embeddings: 32 },
    llama_4_scaling_beta: 0.1,
  },
};

test.each<[what: string, options: MemoryOptions, received: RegExp, given?: object]>([
  ['serving', { streams: 2 }, /but received streams$/],
  ['training all', { train: 'all' }, /but received train: 'all'$/],
  ['DoRA', { r: 4, useDora: true }, /but received dora of model\.layers\.0\.self_attn\.q_proj$/],
  ['a trained copy', { r: 4, modulesToSave: ['lm_head'] }, /but received a trained copy of lm_head$/],
  ['another method', { adapter: { method: 'ia3' } }, /but received an adapter of ia3$/],
  [
    'a head of classes',
    { r: 4 },
    /but received a head of classes$/,
    { architectures: ['LlamaForSequenceClassification'], id2label: { 0: 'a', 1: 'b' } },
  ],
  ['another family', { r: 4 }, /but received a model of olmo2$/, { model_type: 'olmo2' }],
  ['factors on queries', { r: 4 }, /but received a model of ministral3$/, ministral3],
])('%s is not estimated of a GPU', (_, options, received, more = {}) => {
  expectThrow(
    () => estimateMemory({ ...config, ...more }, { ...options, device: 'cuda' }),
    'ERR_UNSUPPORTED',
    received,
  );
});

test('a device, or a variable with bytes, that is none is ERR_ARGUMENT', () => {
  expectThrow(
    () => estimateMemory(config, { device: 'gpu' as never }),
    'ERR_ARGUMENT',
    /^\[estimateMemory\] expected device to be 'cpu', 'cuda' but received 'gpu'/,
  );
  for (const name of ['LORA_CUDA_LOSS_BYTES', 'LORA_CUDA_EXPANSION_BYTES'] as const)
    expectThrow(
      () => within({ [name]: '7 gigs' }, () => estimateMemory(config, { device: 'cuda', quantize: 'nf4' })),
      'ERR_ARGUMENT',
      new RegExp(`^\\[device\\] expected ${name} to be a size such as 2GiB but received "7 gigs"$`),
    );
});

test('sizes are read as the add-on reads them', () => {
  for (const [text, bytes] of [
    ['512', 512],
    ['1.5k', 1536],
    ['2 MiB', 2 * 2 ** 20],
    ['2 MB', 2e6],
    ['.5g', 2 ** 29],
    ['', 160 * 2 ** 20],
  ] as const)
    expect(within({ LORA_CUDA_LOSS_BYTES: text }, lossBytes)).toBe(bytes);
});

test('blocks are reused where they are at most a quarter larger, the smallest first', () => {
  expect([1, 64, 65, 512, 513, 1025, 65_537].map(blockBytes)).toEqual([64, 64, 128, 512, 576, 1152, 73_728]);
  const memory = new GpuMemory();
  const blocks = [1024, 1280, 1536].map((bytes) => memory.hold('workspace', bytes));
  memory.drop(...blocks);
  expect(memory.atMost.workspace).toBe(1024 + 1280 + 1536);
  expect([1100, 1000, 1000].map((bytes) => memory.hold('logits', bytes).bytes)).toEqual([1280, 1024, 1024]);
});

test('scratch of a call is what the plan of the add-on asks for', () => {
  // In bytes as the emulated GPU's allocator was asked for them, of 192 tokens and matrices in NF4 with adapters of rank 8.
  const step = { tokens: 192, size: 2 };
  const [d, kv, ff] = [128, 64, 352];
  const matrix = (out: number, inside: number) => ({ out, in: inside, rank: 8, format: 'nf4' as const });
  const wide = [matrix(ff, d), matrix(ff, d)];
  const scratch = [
    linearScratch(step, [matrix(d, d), matrix(kv, d), matrix(kv, d)], 'out'),
    linearScratch(step, [matrix(d, d)], 'out'),
    linearScratch(step, wide, 'out'),
    linearScratch(step, [matrix(d, ff)], 'in'),
  ];
  expect(scratch).toEqual([40_960, 14_336, 35_840, 108_032]);
  const of4 = wide.map((each) => ({ ...each, rank: 4 }));
  expect(
    linearScratch(
      { tokens: 128, size: 2 },
      of4.map((each) => ({ ...each, out: 384, in: 64 })),
      'out',
    ),
  ).toBe(28_672);
  const plain = { ...step, hiddenSize: d, vocabSize: 1024, expandedHead: false };
  expect(lossScratch(plain)).toBe(581_632);
});

test('weights, trained values, moments and tables are blocks of their own', () => {
  const of = (options: MemoryOptions, given: object = config) =>
    estimateMemory(given as never, {
      dtype: 'bf16',
      r: 3,
      targetModules: ['q_proj'],
      device: 'cuda',
      ...options,
    });
  const shapes = [...expectedTensors(parseModelConfig(config)).values()];
  const held = (list: readonly number[]): number => list.reduce((sum, bytes) => sum + blockBytes(bytes), 0);
  expect(of({}).weights).toBe(held(shapes.map((shape) => 2 * shape.reduce((a, b) => a * b))));
  const values = 3 * 2 * 3 * 64; // up and down of three layers
  const blocks = 3 * 2; // of 192 values each, with a scale for 256
  const optimizers = ['adamw', 'lion', 'sgd', 'adamw8bit'] as const;
  expect(optimizers.map((optimizer) => of({ optimizer }).optimizer)).toEqual([
    held([4 * values, 4 * values]),
    held([4 * values]),
    0,
    held([256 * blocks, 256 * blocks, 4 * blocks, 4 * blocks]),
  ]);
  // cos and sin of heads of 16 numbers: of 1,024 positions for 576, or of 256 for less.
  expect(of({ length: 576 }).workspace - of({ batchSize: 3, length: 192 }).workspace).toBe(2 * 4 * 768 * 8);
  // A head that is tied to a quantized embedding is expanded for the loss.
  const large = { ...config, vocab_size: 4096 };
  const packed = of({ length: 64, quantize: { format: 'nf4', embedding: true } }, large).logits;
  expect(packed - of({ length: 64, quantize: 'nf4' }, large).logits).toBeGreaterThanOrEqual(
    (2 * 64 * 4096) / 2,
  );
});

test('the command says it of a GPU, which need not be there', async () => {
  const args = ['estimate', '--model', 'examples/base-model', '--device', 'cuda', '--batch-size', '1'];
  const base = JSON.parse(readFileSync('examples/base-model/config.json', 'utf8')) as Record<string, unknown>;
  const { free, fits, ...estimate } = JSON.parse((await commandLine([...args, '--json'])).out) as Record<
    string,
    unknown
  >;
  expect(estimate).toEqual(estimateMemory(base, { batchSize: 1, device: 'cuda' }));
  const known = devices().some(({ id }) => id === 'cuda');
  expect([free, fits]).toEqual(known ? [expect.any(Number), true] : [null, null]);
  const { out } = await commandLine(args);
  expect(out).toMatch(known ? /on the GPU, .* are free\n$/ : /there is no GPU here to compare with\n$/);
});

test('what would make a model fit into a GPU', () => {
  const large = parseModelConfig(publishedModels['Llama-3.1-8B']!);
  const options = { dtype: 'bf16', quantize: 'nf4', device: 'cuda' } as const;
  const of = (free: number) => fitOf(large, options, free);
  expect(of(8.2e9)).toMatchObject({ fits: true, remedy: undefined });
  expect(of(7e9)).toMatchObject({ fits: false, remedy: '--gradient-checkpointing' });
  expect(fitText(of(7e9))).toMatch(
    /^about 8\.\d GB of memory for tensors on the GPU, 7\.0 GB are free: it may not fit; with --gradient-checkpointing it would$/,
  );
});

test('the table of the page is what is estimated', () => {
  const page = readFileSync('docs/start/memory.md', 'utf8');
  const [, section = ''] = page.split('<!-- gpu-memory -->');
  const lines = section.split('<!-- /gpu-memory -->')[0]!.trim().split('\n').slice(2);
  expect(lines.length).toBeGreaterThan(5);
  for (const line of lines) {
    const [batch, how] = line.split(' | ').map((cell) => cell.replace(/^\| /, ''));
    const env: Environment = Object.fromEntries(
      [...how!.matchAll(/(LORA_CUDA_\w+)=(\w+)/g)].map(([, name, bytes]) => [name, bytes]),
    );
    const { total, weights, activations, logits } = within(env, () =>
      estimateMemory(publishedModels['Llama-3.1-8B']!, {
        ...{ dtype: 'bf16', quantize: 'nf4', device: 'cuda', r: 16, length: 512, batchSize: Number(batch) },
        gradientCheckpointing: how!.includes('gradient checkpointing'),
        optimizer: how!.includes('AdamW in 8 bits') ? 'adamw8bit' : 'adamw',
      }),
    );
    const cells = [total, weights, activations, logits].map((bytes) => (bytes / 1e9).toFixed(2));
    expect(line).toBe(`| ${[batch, how, ...cells].join(' | ')} |`);
  }
});
