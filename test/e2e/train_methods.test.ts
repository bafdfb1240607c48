/** lora-native train --method: an adapter of each method, and a whole model. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, estimateMemory, readAdapter, setThreads } from '../../lib/index';
import { commandLine, type Outcome } from '../support/command_line';
import { expectThrow } from '../support/errors';
import { bits } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const out = temporaryFolder();
let model: CausalLM;
let made = 0;
const fresh = (): string => join(out, `run-${made++}`);
const rowsFile = join(out, 'rows.jsonl');

beforeAll(async () => {
  setThreads(1); // tiny matrices
  writeFileSync(rowsFile, '{"prompt": "a", "completion": "bc"}\n'.repeat(4));
  model = await CausalLM.fromPretrained(await tinyModel());
});
afterAll(async () => {
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});

const train = (outDir: string, ...flags: string[]): Promise<Outcome> =>
  commandLine([
    ...['train', '--model', model.directory, '--data', rowsFile, '--out-dir', outDir, '--max-steps', '2'],
    ...['--device', 'cpu', '--no-report', ...flags],
  ]);

test('full writes a model, and says what is trained', async () => {
  const outDir = fresh();
  const { status, err } = await train(outDir, '--method', 'full', '--save-every', '1');
  expect(status === 0 ? '' : err).toBe('');
  expect(err).toContain(`training ${model.parameterCount} parameters (100.00%)`);
  expect(err).toContain(`done: ${join(outDir, 'model.safetensors')}`);
  const again = await CausalLM.fromPretrained(outDir);
  expect(bits(...again.trainAll())).not.toBe(bits(...model.trainAll()));
  model.freeze();
  await again.dispose();
  const card = readFileSync(join(outDir, 'README.md'), 'utf8');
  expect(card).toMatch(/^library_name: transformers$/m);
  expect(card).toContain('It is a whole model.');
  // A checkpoint is shown as the model that it is.
  const shown = await commandLine(['inspect', join(outDir, 'checkpoint-2'), '--json']);
  expect(JSON.parse(shown.out)).toMatchObject({ kind: 'model', parameters: model.parameterCount });
  const resumed = await train(outDir, '--method', 'full', '--resume', '--max-steps', '2');
  expect(resumed.status === 0 ? '' : resumed.err).toBe('');
  expect((await train(outDir, '--method', 'full')).err).toContain('holds a run already');
});

test('estimate tells what all weights take', async () => {
  const parts = async (...flags: string[]): Promise<Record<string, number>> => {
    const { out: json } = await commandLine(['estimate', '--model', model.directory, '--json', ...flags]);
    return JSON.parse(json) as Record<string, number>;
  };
  const [full, lora] = [await parts('--method', 'full'), await parts()];
  expect(full['adapters']).toBe(8 * model.parameterCount);
  expect(full['optimizer']).toBe(8 * model.parameterCount);
  expect(full['total']).toBeGreaterThan(lora['total']!);
  // The embedding alone has a copy beside its master.
  expect(full['weights']).toBe(4 * model.config.vocabSize * model.config.hiddenSize);
  expect(full['weights']).toBe(2 * (await parts('--method', 'full', '--dtype', 'bf16'))['weights']!);
  const { status, err } = await commandLine([
    ...['estimate', '--model', model.directory, '--method', 'full', '--quantize', 'nf4'],
  ]);
  expect([status, err]).toEqual([2, expect.stringContaining('those cannot be trained')]);
});

test.each([
  ['dora', 'LORA', { use_dora: true }],
  ['ia3', 'IA3', {}],
  ['prompt', 'PROMPT_TUNING', {}],
  ['bottleneck', 'BOTTLENECK', { placement: 'pfeiffer' }],
  ['houlsby', 'BOTTLENECK', { placement: 'houlsby' }],
  ['pfeiffer', 'BOTTLENECK', { placement: 'pfeiffer' }],
])('%s writes an adapter of that method', async (method, type, more) => {
  const outDir = fresh();
  const { status, err } = await train(outDir, '--method', method);
  expect(status === 0 ? '' : err).toBe('');
  expect((await readAdapter(outDir)).config).toMatchObject({ peft_type: type, ...more });
});

test.each([
  [
    'prompt',
    ['--num-virtual-tokens', '3', '--prompt-tuning-init-text', 'ab'],
    { num_virtual_tokens: 3, prompt_tuning_init: 'TEXT', prompt_tuning_init_text: 'ab' },
  ],
  ['prompt', ['--prompt-tuning-init', 'sample_vocab'], { prompt_tuning_init: 'SAMPLE_VOCAB' }],
  [
    'houlsby',
    ['--reduction-factor', '8', '--activation', 'silu', '--dropout', '0.1'],
    { placement: 'houlsby', bottleneck_size: 3, activation: 'silu', dropout: 0.1 },
  ],
  ['bottleneck', ['--bottleneck-size', '5'], { placement: 'pfeiffer', bottleneck_size: 5 }],
  [
    'ia3',
    ['--target-modules', 'v_proj,up_proj', '--feedforward-modules', 'up_proj'],
    { target_modules: ['v_proj', 'up_proj'], feedforward_modules: ['up_proj'] },
  ],
  ['dora', ['--r', '2', '--target-modules', 'q_proj'], { use_dora: true, r: 2, target_modules: ['q_proj'] }],
])('%s takes %j', async (method, flags, expected) => {
  const outDir = fresh();
  const { status, err } = await train(outDir, '--method', method, ...flags);
  expect(status === 0 ? '' : err).toBe('');
  expect((await readAdapter(outDir)).config).toMatchObject(expected);
});

test('full trains what --only names, and bf16 without f32 masters', async () => {
  const outDir = fresh();
  const flags = ['--only', '*norm,model.embed_tokens', '--dtype', 'bf16', '--stochastic-rounding'];
  const { status, err } = await train(outDir, '--method', 'full', ...flags);
  expect(status === 0 ? '' : err).toBe('');
  const card = readFileSync(join(outDir, 'README.md'), 'utf8');
  expect(card).toContain('full fine-tuning, bf16 with stochastic rounding');
  const again = await CausalLM.fromPretrained(outDir);
  expect(again.dtype).toBe('bf16');
  await again.dispose();
  const wide = await train(fresh(), '--method', 'full', '--dtype', 'f32', '--stochastic-rounding');
  expect(wide.status).not.toBe(0);
  expect(wide.err).toContain('expected stochasticRounding with');
});

test('estimate knows the methods, and the vectors before each text', async () => {
  const parts = async (...flags: string[]): Promise<Record<string, number>> => {
    const { out: json } = await commandLine(['estimate', '--model', model.directory, '--json', ...flags]);
    return JSON.parse(json) as Record<string, number>;
  };
  const few = ['--batch-size', '2', '--max-length', '30'];
  const one = await parts('--method', 'prompt', '--num-virtual-tokens', '2', ...few);
  const more = await parts('--method', 'prompt', '--num-virtual-tokens', '20', ...few);
  expect(one['adapters']).toBe(8 * 2 * model.config.hiddenSize);
  expect(more['adapters']).toBe(10 * one['adapters']!);
  expect(more['workspace']).toBeCloseTo((one['workspace']! * 50) / 32, 3);
  const served = await parts('--method', 'prompt', '--num-virtual-tokens', '70', '--streams', '1', ...few);
  expect(served['kvCache']).toBe(2 * (await parts('--streams', '1', ...few))['kvCache']!);
  const size = async (...flags: string[]) => (await parts(...flags))['adapters'];
  expect(await size('--method', 'houlsby')).toBeGreaterThan((await size('--method', 'pfeiffer'))!);
  expect(await size('--method', 'dora')).toBeGreaterThan((await size())!);
  expect(await size('--method', 'ia3')).toBeLessThan((await size())!);
  const rounded = ['--method', 'full', '--dtype', 'bf16', '--stochastic-rounding'];
  expect(await size(...rounded)).toBe(6 * model.parameterCount);
  const adapter = { peft_type: 'PROMPT_TUNING', num_virtual_tokens: 2 };
  const { workspace } = estimateMemory(model.config, { batchSize: 2, length: 30, adapter });
  expect(workspace).toBe(one['workspace']);
  expectThrow(
    () => estimateMemory(model.config, { r: 4, adapter }),
    'ERR_ARGUMENT',
    '[estimateMemory] expected adapter or r but received both',
  );
});

test('rows are cut to what the context holds behind the vectors of prompt tuning', async () => {
  const long = join(out, 'long.jsonl');
  writeFileSync(long, `{"prompt": "a", "completion": "${'b'.repeat(200)}"}\n`.repeat(4));
  const { status, err } = await commandLine([
    ...['train', '--model', model.directory, '--data', long, '--out-dir', fresh(), '--max-steps', '2'],
    ...['--device', 'cpu', '--no-report', '--method', 'prompt'],
  ]);
  expect(status === 0 ? '' : err).toBe('');
  expect(err).toContain('4 examples, 468 tokens count, 4 of them cut to the maximum length');
});

test('flags of LoRA beside another method, and a method beside an adapter, are refused', async () => {
  const { status, err } = await train(fresh(), '--method', 'full', '--r', '4');
  expect([status, err]).toEqual([
    2,
    expect.stringContaining('train takes --r with --method lora, not with --method full'),
  ]);
  for (const [method, flag, value, of] of [
    ['lora', '--num-virtual-tokens', '3', 'prompt'],
    ['prompt', '--bottleneck-size', '3', 'bottleneck'],
    ['houlsby', '--target-modules', 'q_proj', 'lora'],
    ['ia3', '--only', '*', 'full'],
  ] as const)
    expect((await train(fresh(), '--method', method, flag, value)).err).toContain(
      `train takes ${flag} with --method ${of}, not with --method ${method}`,
    );
  const other = await train(fresh(), '--method', 'lora2');
  expect([other.status, other.err]).toEqual([
    2,
    expect.stringMatching(/expected --method to be one of lora, .*full but received "lora2"/),
  ]);
  const both = await train(fresh(), '--method', 'ia3', '--adapter', 'somewhere');
  expect([both.status, both.err]).toEqual([2, expect.stringContaining('--adapter or --method, not both')]);
});
