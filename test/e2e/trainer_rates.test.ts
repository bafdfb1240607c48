/** lr: 'auto', which a rule gives, and what a LoRA does not hold. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  AdamW,
  CausalLM,
  Trainer,
  type AdapterConfigInput,
  type LoRAConfigInput,
  type TrainerOptions,
} from '../../lib/index';
import { resolveOptions } from '../../lib/train/options';
import { commandLine, jsonLines } from '../support/command_line';
import { expectReject, expectThrow } from '../support/errors';
import { freshRuns } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';
import { editCheckpoint, makeRows, trainingFixture } from '../support/training';

const fixture = trainingFixture();
const fresh = freshRuns();
const data = makeRows(6);
const auto = { maxSteps: 2, batchSize: 2, lr: 'auto' } as const;
/** The rule is not that of short runs. */
const long = { maxSteps: 101 };

const trainer = (more: Partial<TrainerOptions> = {}): Trainer =>
  new Trainer({ model: fixture.model, data, ...auto, ...more });
const rateOf = (more: Partial<TrainerOptions> = {}): { lr: number; lrReason: string | undefined } =>
  resolveOptions({ model: fixture.model, data, ...auto, ...more });

/** A model that says another family and width; what trains in it stays that of the fixture. */
function pretended(modelType: string, hiddenSize: number): CausalLM {
  const { model } = fixture;
  const config = { ...model.config, modelType, hiddenSize };
  return new Proxy(model, {
    get: (target, name) => {
      if (name === 'config') return config;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value;
    },
  });
}

describe('the rate', () => {
  // 5e-4 · (2000 / width)^e by hand, of two digits.
  test.each([
    ['llama', 2048, 4.9e-4],
    ['llama', 4096, 2.9e-4],
    ['llama', 576, 1.3e-3],
    ['qwen2', 896, 5.3e-4],
    ['qwen3_moe', 4096, 4.7e-4],
    // Of two rules the lower one.
    ['gemma3_text', 640, 5.5e-4],
    ['gemma3_text', 3840, 3.0e-4],
  ])('of LoRA in %s of width %d is %d', (family, width, lr) => {
    fixture.addAdapter('mine', { r: 16, loraAlpha: 32 });
    const { lr: own, lrReason } = rateOf({ ...long, model: pretended(family, width) });
    expect(own).toBe(lr);
    expect(lrReason).toContain(`(2000 / ${width})^`);
    expect(lrReason!.includes(`none is known for ${family}`)).toBe(family === 'gemma3_text');
  });

  test.each<[LoRAConfigInput, number]>([
    [{ r: 4, loraAlpha: 32 }, 1.3e-3],
    [{ r: 64, loraAlpha: 32, useDora: true }, 1.3e-3],
    [{ r: 8, loraAlpha: 8 }, 2.6e-3],
    [{ r: 64, loraAlpha: 128 }, 6.6e-4],
    // α/√r is what an α of 8·√16 gives without.
    [{ r: 16, loraAlpha: 8, useRslora: true }, 1.3e-3],
  ])('falls with the root of alpha, whatever the rank: %j', (config, lr) => {
    fixture.addAdapter('mine', config);
    expect(rateOf({ ...long, model: pretended('llama', 576) }).lr).toBe(lr);
  });

  test('is half as much again in a hundred steps, of LoRA', () => {
    fixture.addAdapter('mine', { r: 16, loraAlpha: 32 });
    const model = pretended('llama', 576);
    const of = (more: Partial<TrainerOptions>) => rateOf({ model, ...more });
    expect([of({ maxSteps: 100 }), of({ maxSteps: undefined, epochs: 33 })].map(({ lr }) => lr)).toEqual([
      2.0e-3, 2.0e-3,
    ]);
    expect(of({ maxSteps: 100 }).lrReason).toContain('15 for LoRA in 100 steps');
    const endless = { maxSteps: undefined, maxTokens: 9, schedule: 'constant' } as const;
    expect([of({ maxSteps: undefined, epochs: 34 }), of(endless)].map(({ lr }) => lr)).toEqual([
      1.3e-3, 1.3e-3,
    ]);
  });

  test('is a twentieth for preferences and rewards, and that of sft for other objectives', () => {
    fixture.addAdapter('mine', { r: 16, loraAlpha: 32 });
    const model = pretended('llama', 576);
    const of = (more: Partial<TrainerOptions>) => rateOf({ model, ...long, ...more });
    for (const objective of ['dpo', 'orpo', 'kto', 'cpo'] as const)
      expect(of({ objective, data: [] }).lr).toBe(6.6e-5);
    const grpo = { objective: 'grpo', rewards: [() => 1], data: [] } as const;
    expect(of(grpo).lr).toBe(6.6e-5);
    expect(of({ objective: 'contrastive', data: [] }).lr).toBe(1.3e-3);
  });

  test('of all weights is a tenth of LoRA’s', async () => {
    const dir = await tinyModel({ tokenizer: false });
    const model = await CausalLM.fromPretrained(dir);
    model.trainAll();
    const { lr, lrReason } = rateOf({ model });
    expect(lr).toBe(1.6e-3); // 5e-5 · (2000 / 24)^0.781
    expect(lrReason).not.toContain('for LoRA');
    await model.dispose();
    rmSync(dir, { recursive: true });
  });

  test.each<[AdapterConfigInput, string]>([
    [{ method: 'ia3' }, 'ia3'],
    [{ method: 'bottleneck', bottleneckSize: 2 }, 'bottleneck'],
    [{ method: 'prompt', numVirtualTokens: 2 }, 'prompt'],
  ])('is known for no other method: %j', (config, name) => {
    fixture.model.addAdapter(config, { name: 'mine' });
    expectThrow(
      () => trainer(),
      'ERR_ARGUMENT',
      `[Trainer] expected lr to be a number with ${name}, since a rule for 'auto' is known for lora, dora and full alone: lora-native compare --methods ${name} tries five`,
    );
  });

  test('is for AdamW with one rate', () => {
    const adapter = fixture.addAdapter('mine');
    const rule = 'since the rule of';
    expectThrow(
      () => trainer({ optimizer: 'lion' }),
      'ERR_ARGUMENT',
      new RegExp(`number with lion, ${rule}`),
    );
    const own = new AdamW(adapter.parameters(), { lr: 1 });
    expectThrow(() => trainer({ optimizer: own }), 'ERR_ARGUMENT', /with an optimizer of your own/);
    expectThrow(() => trainer({ loraPlusRatio: 16 }), 'ERR_ARGUMENT', new RegExp(`loraPlusRatio, ${rule}`));
    expect(rateOf({ optimizer: 'adamw8bit' }).lr).toBe(rateOf().lr);
  });
});

test('the run takes it, and tells it with its reason', async () => {
  fixture.addAdapter('mine', { r: 2, loraAlpha: 32 });
  const outDir = fresh();
  const lrs: number[] = [];
  let told: unknown;
  for await (const event of trainer({ outDir, schedule: 'constant', log: ['jsonl'] }).run()) {
    if (event.type === 'start') told = event.autoRate;
    if (event.type === 'step') lrs.push(event.lr);
  }
  const { lr, lrReason: reason } = rateOf();
  expect(lr).toBe(0.024); // in two steps
  expect([told, lrs]).toEqual([{ lr, reason }, [lr, lr]]);
  expect(readFileSync(join(outDir, 'README.md'), 'utf8')).toContain('Learning rate by');
  const [settings] = jsonLines({ out: readFileSync(join(outDir, 'log.jsonl'), 'utf8') });
  expect(settings).toMatchObject({ settings: { lr, lrReason: reason } });
});

describe('a resumed run', () => {
  /** Stops after two of four steps, with a checkpoint. */
  async function stopped(more: Partial<TrainerOptions> = {}): Promise<string> {
    fixture.addAdapter('mine', { loraDropout: 0 });
    const outDir = fresh();
    const run = trainer({ outDir, maxSteps: 4, schedule: 'constant', saveEvery: 1, ...more }).run();
    for await (const event of run) if (event.type === 'checkpoint' && event.step === 2) break;
    await fixture.model.removeAdapter('mine');
    fixture.addAdapter('mine', { loraDropout: 0 });
    return outDir;
  }
  const again = { maxSteps: 4, schedule: 'constant', resume: true } as const;

  test('goes on with the rate that it began with, also where the rule is another one now', async () => {
    const outDir = await stopped();
    await editCheckpoint(join(outDir, 'checkpoint-2'), (states) => {
      const saved = JSON.parse(states['settings']!.value as string) as object;
      states['settings']!.value = JSON.stringify({ ...saved, lr: 0.0625, lrReason: 'an older rule' });
    });
    const lrs: number[] = [];
    let told: unknown;
    for await (const event of trainer({ ...again, outDir }).run()) {
      if (event.type === 'start') told = event.autoRate;
      if (event.type === 'step') lrs.push(event.lr);
    }
    expect([told, lrs]).toEqual([{ lr: 0.0625, reason: 'an older rule' }, [0.0625, 0.0625]]);
  });

  test('may be given the number that it has, and is refused another', async () => {
    const outDir = await stopped();
    await expectReject(
      trainer({ ...again, outDir, lr: 0.5 }).run(),
      'ERR_ARGUMENT',
      /other settings: lr was .* and is 0.5/,
    );
    const { step } = await trainer({ ...again, outDir, lr: rateOf().lr }).run();
    expect(step).toBe(4);
  });

  test('that began with a number is not given another by the rule', async () => {
    const outDir = await stopped({ lr: 0.5 });
    await expectReject(
      trainer({ ...again, outDir }).run(),
      'ERR_ARGUMENT',
      /other settings: lr was 0.5 and is /,
    );
  });
});

test('train --lr auto prints it, and goes on with it', async () => {
  const dir = await tinyModel();
  const file = `${fresh()}.jsonl`;
  writeFileSync(file, '{"text":"Mia finds three red apples."}\n');
  const out = fresh();
  const argv = ['train', '--model', dir, '--device', 'cpu', '--data', file, '--out-dir', out, '--no-report'];
  const { status, err } = await commandLine([
    ...argv,
    '--lr',
    'auto',
    '--max-steps',
    '1',
    '--save-every',
    '1',
  ]);
  expect([status, err]).toEqual([0, expect.stringMatching(/^learning rate 0\.024: .* · 15 for LoRA/m)]);
  const more = await commandLine([...argv, '--resume', '--max-steps', '2']);
  expect([more.status, more.err]).toEqual([0, expect.stringMatching(/^learning rate 0\.024: /m)]);
  const wrong = await commandLine([...argv, '--lr', 'automatic']);
  expect(wrong.err).toContain(
    `expected --lr to be a number of at least 0 or 'auto' but received "automatic"`,
  );
  rmSync(dir, { recursive: true });
});

test.each([
  [['--optimizer', 'lion'], 'lion'],
  [['--lora-plus-ratio', '4'], 'loraPlusRatio'],
  [['--method', 'ia3'], 'ia3'],
  [['--method', 'prompt'], 'prompt'],
])('train --lr auto %j is refused before a model is read', async (flags, name) => {
  const file = `${fresh()}.jsonl`;
  writeFileSync(file, '{"text":"Mia finds three red apples."}\n');
  const argv = ['train', '--model', fresh(), '--data', file, '--out-dir', fresh(), '--lr', 'auto', ...flags];
  const { status, err } = await commandLine(argv);
  expect(status).not.toBe(0);
  expect(err).toContain(`to be a number with ${name}, since`);
});

describe('a warning', () => {
  /** Rows that say how many tokens count. */
  const counted = (tokens: number) => Object.assign(makeRows(6), { tokens });
  async function warned(more: Partial<TrainerOptions>): Promise<[code: unknown, message: string][]> {
    const spy = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    await trainer({ maxSteps: 3, lr: 0, ...more }).run();
    const calls = spy.mock.calls.map(([message, options]): [unknown, string] => [
      (options as { code?: string }).code,
      String(message),
    ]);
    spy.mockRestore();
    return calls;
  }

  test('tells of more tokens than the rank holds, and which rank does', async () => {
    const adapter = fixture.addAdapter('mine', { r: 2 });
    const numbers = adapter.parameters().reduce((sum, { numel }) => sum + numel, 0);
    expect(await warned({ data: counted(2 * numbers) })).toEqual([]);
    const [[code, message] = []] = await warned({ data: counted(6 * numbers) });
    expect(code).toBe('LORA_RANK_SMALL');
    expect(message).toMatch(
      /^\[Trainer\] the [\d,]+ tokens that count bring about .* parameters of rank 2 hold/,
    );
    expect(message).toContain('r of 6 holds them');
    // Two of six rows are read, and once.
    expect(await warned({ data: counted(6 * numbers), maxSteps: 1 })).toEqual([]);
    expect(await warned({ data: counted(2 * numbers), maxSteps: 9 })).toEqual([]);
    const few = { maxSteps: undefined, maxTokens: 5, schedule: 'constant' } as const;
    expect(await warned({ data: counted(6 * numbers), ...few })).toEqual([]);
  });

  test('tells of more than 32 examples a step, of LoRA in supervised fine-tuning alone', async () => {
    fixture.addAdapter('mine');
    const batch = { batchSize: 8, gradientAccumulationSteps: 4, data: makeRows(80), maxSteps: 1 };
    expect(await warned(batch)).toEqual([]);
    const more = { ...batch, gradientAccumulationSteps: 5 };
    const [[code, message] = []] = await warned(more);
    expect([code, message]).toEqual([
      'LORA_BATCH_LARGE',
      expect.stringMatching(/a step has 40 examples: with/),
    ]);
    const pairs = [{ promptIds: [1, 2], chosenIds: [3], rejectedIds: [4] }];
    const preferences = { objective: 'dpo', data: pairs, batchSize: 40, maxSteps: 1 } as const;
    expect(await warned(preferences)).toEqual([]);
    await fixture.model.removeAdapter('mine');
    fixture.model.addAdapter({ method: 'ia3' }, { name: 'other' });
    expect(await warned({ ...more, lr: 1e-3 })).toEqual([]);
  });
});
