/** Methods beside LoRA: IA³, bottleneck adapters and prompt tuning in forward, training, files, merging and generation. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  noGrad,
  parameter,
  readAdapter,
  setThreads,
  tensor,
  Trainer,
  type Adapter,
  type AdapterConfigInput,
  type Device,
  type TensorValues,
} from '../../lib/index';
import { bottleneckKind } from '../../lib/linear/bottleneck';
import type { OutputDelta } from '../../lib/linear/delta';
import { watchPeak } from '../../lib/native/device';
import { commandLine } from '../support/command_line';
import { expectReject, expectThrow } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { bits, relativeError } from '../support/numbers';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';
import { makeRows } from '../support/training';

const rows = [
  [256, 72, 101, 108, 3, 4],
  [97, 98, 99],
];
const configs = {
  ia3: { method: 'ia3' },
  houlsby: { method: 'bottleneck', placement: 'houlsby', bottleneckSize: 5, activation: 'gelu' },
  pfeiffer: { method: 'bottleneck', reductionFactor: 4, activation: 'silu' },
  prompt: { method: 'prompt', numVirtualTokens: 3 },
} as const satisfies Record<string, AdapterConfigInput>;
type Name = keyof typeof configs;
const all = Object.keys(configs) as Name[];

const models: CausalLM[] = [];
let made = 0;
const out = temporaryFolder();
beforeAll(() => setThreads(1)); // tiny matrices
afterAll(async () => {
  for (const model of models) {
    await model.dispose();
    rmSync(model.directory, { recursive: true, force: true });
  }
});

/** A small model with biases in q, k and v. */
async function load(device: Device = 'cpu', dtype: 'f32' | 'bf16' = 'f32'): Promise<CausalLM> {
  const config = { model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'] };
  const model = await CausalLM.fromPretrained(await tinyModel({ config }), { device, dtype });
  models.push(model);
  return model;
}

function add(model: CausalLM, name: Name, changes: object = {}): Adapter {
  const config: AdapterConfigInput = { ...configs[name], ...changes };
  const adapter = model.addAdapter(config, { name, seed: 2 });
  fillAdapter(adapter, 3, 0.5);
  return adapter;
}

async function logitsOf(
  model: CausalLM,
  ids: number[][],
  adapter?: string | null | (string | null)[],
): Promise<TensorValues> {
  const { logits } = model.forward(ids, { logits: true, adapter });
  const values = await logits.data();
  logits.dispose();
  return values;
}

async function gradientsOf(model: CausalLM, adapter: Adapter, options = {}): Promise<TensorValues[]> {
  const { loss } = model.forward(rows, { labels: rows, adapter, ...options });
  loss.backward();
  const values: TensorValues[] = [];
  for (const p of adapter.parameters()) {
    values.push(await p.grad!.data());
    p.grad!.dispose();
    p.grad = null;
  }
  return values;
}

test.each(all.filter((name) => name !== 'prompt'))(
  '%s changes nothing at first, and nothing at scale 0',
  async (name) => {
    const model = await load();
    const config: AdapterConfigInput = configs[name];
    const adapter = model.addAdapter(config, { name });
    const [base, fresh] = [await logitsOf(model, rows, null), await logitsOf(model, rows, name)];
    expect(relativeError(fresh, base)).toBeLessThan(1e-6);
    fillAdapter(adapter, 3, 0.5);
    expect(relativeError(await logitsOf(model, rows, name), base)).toBeGreaterThan(1e-2);
    adapter.scale = 0;
    expect(relativeError(await logitsOf(model, rows, name), base)).toBeLessThan(1e-6);
  },
);

test('what it is stands in its properties', async () => {
  const model = await load();
  const [ia3, houlsby, pfeiffer, prompt] = all.map((name) => add(model, name)) as [
    Adapter,
    Adapter,
    Adapter,
    Adapter,
  ];
  expect([ia3.method, ia3.mergeable, ia3.targets.length]).toEqual(['ia3', true, 9]);
  expect([houlsby.method, houlsby.mergeable, houlsby.targets.length]).toEqual(['bottleneck', false, 6]);
  expect(pfeiffer.config).toEqual({
    placement: 'pfeiffer',
    bottleneckSize: 6,
    activation: 'silu',
    dropout: 0,
  });
  expect([prompt.method, prompt.mergeable, prompt.targets, prompt.virtualTokens]).toEqual([
    'prompt',
    false,
    [],
    3,
  ]);
  expect([ia3.toString(), houlsby.toString(), prompt.toString()]).toEqual([
    `Adapter('ia3', method ia3, 9 layers, trainable)`,
    `Adapter('houlsby', method houlsby, size 5, 6 layers, trainable)`,
    `Adapter('prompt', method prompt, virtualTokens 3, trainable)`,
  ]);
});

describe.each(all)('%s', (name) => {
  test('gives the logits and gradients of the reference on the CPU, with the same bits when blocks are recomputed', async () => {
    const [cpu, reference] = [await load(), await load('reference')];
    const [mine, want] = [add(cpu, name), add(reference, name)];
    expect(
      relativeError(await logitsOf(cpu, rows, name), await logitsOf(reference, rows, name)),
    ).toBeLessThan(1e-5);
    const gradients = await gradientsOf(cpu, mine);
    const wanted = await gradientsOf(reference, want);
    for (const [i, gradient] of gradients.entries())
      expect(relativeError(gradient, wanted[i]!)).toBeLessThan(1e-4);
    expect(await gradientsOf(cpu, mine, { gradientCheckpointing: true })).toEqual(gradients);
  });

  test('in bf16 is near f32', async () => {
    const [narrow, wide] = [await load('cpu', 'bf16'), await load()];
    const [a, b] = [add(narrow, name), add(wide, name)];
    expect(relativeError(await logitsOf(narrow, rows, name), await logitsOf(wide, rows, name))).toBeLessThan(
      0.05,
    );
    const wanted = await gradientsOf(wide, b);
    for (const [i, gradient] of (await gradientsOf(narrow, a)).entries())
      expect(relativeError(gradient, wanted[i]!)).toBeLessThan(0.1);
  });

  test('comes back from its file, and is refused where another method is expected', async () => {
    const model = await load();
    const adapter = add(model, name);
    const dir = join(out, name);
    await adapter.save(dir);
    const again = await model.loadAdapter(dir, { name: 'again', method: adapter.method });
    expect(again.config).toEqual(adapter.config);
    expect(bits(...again.parameters())).toBe(bits(...adapter.parameters()));
    await again.save(join(out, `${name}-again`));
    expect(await readAdapter(join(out, `${name}-again`))).toEqual(await readAdapter(dir));
    await expectReject(
      model.loadAdapter(dir, { name: 'other', method: 'lora' }),
      'ERR_ADAPTER',
      /^\[loadAdapter\] expected an adapter of method 'lora' but received one of method '(ia3|bottleneck|prompt)' \(peft_type (IA3|BOTTLENECK|PROMPT_TUNING)\)$/,
    );
  });

  test('a run that was stopped goes on to the same bits', async () => {
    const model = await load();
    const dropout = name === 'houlsby' || name === 'pfeiffer' ? { dropout: 0.3 } : {};
    const options = { model, data: makeRows(9), batchSize: 2, lr: 0.01, seed: 4 };
    const trained = async (runs: object[]): Promise<string> => {
      let result = '';
      for (const run of runs) {
        const adapter = model.addAdapter({ ...configs[name], ...dropout } as AdapterConfigInput, {
          name: 'run',
          seed: runs.indexOf(run) * 5, // a checkpoint brings its own
        });
        if (run === runs[0]) fillAdapter(adapter, 3, 0.5);
        await new Trainer({ ...options, ...run }).run();
        result = bits(...adapter.parameters());
        await model.removeAdapter('run');
      }
      return result;
    };
    const dir = join(out, `${name}-run`);
    const whole = await trained([{ maxSteps: 4, schedule: 'constant' }]);
    const parts = await trained([
      { maxSteps: 2, schedule: 'constant', outDir: dir, saveEvery: 2 },
      { maxSteps: 4, schedule: 'constant', outDir: dir, resume: true },
    ]);
    expect(parts).toBe(whole);
  });
});

test.each(['houlsby', 'pfeiffer'] as const)(
  '%s: dropout changes what training computes, each time',
  async (name) => {
    const model = await load();
    const pass = async (train: boolean): Promise<TensorValues> => {
      const { logits } = model.forward(rows, { logits: true, adapter: name, train });
      return logits.data();
    };
    add(model, name);
    expect(await pass(true)).toEqual(await pass(true));
    await model.removeAdapter(name);
    add(model, name, { dropout: 0.5 });
    expect(await pass(true)).not.toEqual(await pass(true));
    expect(await pass(false)).toEqual(await pass(false));
  },
);

test('each layer of a bottleneck adapter has masks of its own', async () => {
  const spec = { r: 1, scale: 1, stream: 0 };
  const values = {
    downWeight: [[0, 0, 0, 0]],
    downBias: [0],
    upWeight: [[0], [0], [0], [0]],
    upBias: [1, 1, 1, 1],
  };
  const parameters = new Map(Object.entries(values).map(([key, value]) => [key, parameter(value)]));
  const y = tensor(new Float32Array(64), { shape: [16, 4] });
  const added = async (layer: number): Promise<TensorValues> => {
    const delta = bottleneckKind('relu').make({ ...spec, layer }, parameters) as OutputDelta;
    return noGrad(() => delta.output(y, { scale: 1, dropout: { p: 0.5, seed: 1, forward: 0 } })).data();
  };
  expect(await added(1)).toEqual(await added(1));
  expect(await added(1)).not.toEqual(await added(2));
});

test('the inputs that IA³ scales are freed layer by layer', async () => {
  const config = { num_hidden_layers: 6, intermediate_size: 1024 };
  const model = await CausalLM.fromPretrained(await tinyModel({ config }), { dtype: 'f32' });
  models.push(model);
  model.addAdapter({ method: 'ia3' }, { name: 'ia3' });
  const ids = [Array.from({ length: 100 }, (_, i) => i)];
  const peakOf = async (adapter: string | null): Promise<number> => {
    const peak = watchPeak();
    const { logits } = noGrad(() => model.forward(ids, { logits: true, adapter }));
    await logits.data();
    logits.dispose();
    return peak();
  };
  await peakOf(null);
  const scaled = 4 * 100 * 1024;
  expect((await peakOf('ia3')) - (await peakOf(null))).toBeLessThan(2.5 * scaled);
});

test('a reductionFactor beyond the width leaves a bottleneck of one number', async () => {
  const model = models[0] ?? (await load());
  const { config } = model.addAdapter({ method: 'bottleneck', reductionFactor: 1000 }, { name: 'narrow' });
  expect(config).toMatchObject({ bottleneckSize: 1 });
  await model.removeAdapter('narrow');
});

test('rows with all methods, LoRA and none are what each is alone', async () => {
  const model = await load();
  all.forEach((name) => add(model, name));
  fillAdapter(model.addAdapter({ r: 3 }, { name: 'lora' }), 5, 0.5);
  const who = [...all, null, 'lora', 'ia3'];
  const ids = who.map(() => rows[0]!);
  for (const recorded of [true, false]) {
    const run = <T>(body: () => Promise<T>): Promise<T> => (recorded ? body() : noGrad(body));
    const together = await run(() => logitsOf(model, ids, who));
    const width = together.length / who.length;
    for (const [i, name] of who.entries()) {
      const alone = await run(() => logitsOf(model, [rows[0]!], name));
      expect(relativeError(together.subarray(i * width, (i + 1) * width), alone)).toBeLessThan(1e-5);
    }
  }
});

test('texts do not depend on the company in which they are generated', async () => {
  const model = await load();
  all.forEach((name) => add(model, name));
  fillAdapter(model.addAdapter({ r: 3 }, { name: 'lora' }), 5, 0.5);
  const who = [...all, null, 'lora', ...all, 'ia3'];
  const generate = async (adapter: string | null) => {
    const options = { maxNewTokens: 8, temperature: 0, ignoreEos: true, logprobs: 1, adapter } as const;
    const tokens: [number, number][] = [];
    for await (const { id, logprob } of model.generate(rows[0]!, options)) tokens.push([id, logprob!]);
    return tokens;
  };
  const alone = new Map<string | null, [number, number][]>();
  for (const name of new Set(who)) alone.set(name, await generate(name));
  const together = await Promise.all(who.map(generate));
  who.forEach((name, i) => expect(together[i]).toEqual(alone.get(name)));
});

test.each([1, 0.5])('IA³ at scale %d becomes part of weights and biases, and leaves them', async (scale) => {
  const model = await load();
  const adapter = add(model, 'ia3', {
    targetModules: ['q_proj', 'k_proj', 'v_proj', 'up_proj', 'down_proj'],
  });
  adapter.scale = scale;
  const [base, want] = [await logitsOf(model, rows, null), await logitsOf(model, rows, 'ia3')];
  const dir = join(out, `merged-${scale}`);
  await model.save(dir, { merge: 'ia3' });
  const saved = await CausalLM.fromPretrained(dir);
  models.push(saved);
  expect(relativeError(await logitsOf(saved, rows, null), want)).toBeLessThan(1e-5);
  await model.merge('ia3');
  expect(relativeError(await logitsOf(model, rows), want)).toBeLessThan(1e-5);
  await model.unmerge();
  expect(await logitsOf(model, rows, null)).toEqual(base);
});

test.each(all)('lora-native train --adapter trains %s on', async (name) => {
  const model = await load();
  const dir = join(out, `${name}-begun`);
  await add(model, name).save(dir);
  const data = join(out, 'rows.jsonl');
  writeFileSync(data, '{"prompt": "a", "completion": "bc"}\n'.repeat(4));
  const run = join(out, `${name}-trained`);
  const { status, err } = await commandLine([
    ...['train', '--model', model.directory, '--data', data, '--adapter', dir, '--out-dir', run],
    ...['--max-steps', '2', '--device', 'cpu', '--no-report'],
  ]);
  expect(status === 0 ? '' : err).toBe('');
  const [begun, trained] = [await readAdapter(dir), await readAdapter(run)];
  expect(trained.config).toEqual(begun.config);
  expect(trained.tensors).not.toEqual(begun.tensors);
  const card = readFileSync(join(run, 'README.md'), 'utf8');
  expect(card.includes('With PEFT')).toBe(name === 'ia3' || name === 'prompt');
  const titles = { ia3: 'IA³', houlsby: 'Bottleneck', pfeiffer: 'Bottleneck', prompt: 'Prompt tuning' };
  expect(card).toContain(`# ${titles[name]} adapter of`);
});

test('lora-native train --adapter drops by the seed that is given', async () => {
  const model = await load();
  const dir = join(out, 'dropping');
  const adapter = model.addAdapter({ r: 2, loraDropout: 0.5 }, { name: 'dropping' });
  fillAdapter(adapter, 3, 0.5);
  await adapter.save(dir);
  const data = join(out, 'same.jsonl'); // whose order does not matter
  writeFileSync(data, '{"prompt": "a", "completion": "bcdef"}\n'.repeat(4));
  const trained = async (seed: string): Promise<unknown> => {
    const run = join(out, `dropping-${made++}`);
    const { status, err } = await commandLine([
      ...['train', '--model', model.directory, '--data', data, '--adapter', dir, '--out-dir', run],
      ...['--max-steps', '2', '--device', 'cpu', '--no-report', '--seed', seed],
    ]);
    expect(status === 0 ? '' : err).toBe('');
    return (await readAdapter(run)).tensors;
  };
  const first = await trained('1');
  expect(await trained('1')).toEqual(first);
  expect(await trained('2')).not.toEqual(first);
});

test('bottleneck adapters are not merged', async () => {
  const model = await load();
  add(model, 'houlsby');
  const message = (op: string): string =>
    `[${op}] adapter 'houlsby' cannot be merged: what it adds behind a layer is no matrix that a weight could hold`;
  await expectReject(model.merge('houlsby'), 'ERR_UNSUPPORTED', message('merge'));
  await expectReject(model.save(join(out, 'no'), { merge: 'houlsby' }), 'ERR_UNSUPPORTED', message('save'));
});

test.each<[object, string]>([
  [
    { method: 'ia4' },
    `[addAdapter] expected method to be 'lora', 'ia3', 'bottleneck', 'prompt' but received 'ia4'`,
  ],
  [{ method: 'ia3', r: 4 }, `[IA3Config] unknown option 'r'; the options are targetModules, `],
  [
    { method: 'ia3', targetModules: ['k_proj'], feedforwardModules: ['down_proj'] },
    '[IA3Config] expected feedforwardModules to be names that are among those of the targets but received ',
  ],
  [
    { method: 'bottleneck', placement: 'above' },
    `[BottleneckConfig] expected placement to be 'houlsby' or 'pfeiffer' but received 'above'`,
  ],
  [
    { method: 'bottleneck', bottleneckSize: 0 },
    '[BottleneckConfig] expected bottleneckSize to be a positive integer but received 0',
  ],
  [
    { method: 'bottleneck', bottleneckSize: 4, reductionFactor: 4 },
    '[BottleneckConfig] expected reductionFactor to be nothing beside bottleneckSize but received 4',
  ],
])('%j is refused', async (config, message) => {
  const model = models[0] ?? (await load());
  expectThrow(
    () => model.addAdapter(config as AdapterConfigInput, { name: 'wrong' }),
    'ERR_ARGUMENT',
    new RegExp(`^${message.replace(/[[\]().]/g, '\\$&')}`),
  );
});

describeWithData('adapters of float64', 'golden-methods', (dir) => {
  test.each(['ia3', 'houlsby', 'pfeiffer', 'prompt'])('%s: a file keeps every field', async (name) => {
    const model = await CausalLM.fromPretrained(join(dir, '../models/stories260K'), { dtype: 'f32' });
    const adapter = await model.loadAdapter(join(dir, name, 'adapter_final'), { name });
    await adapter.save(join(out, `golden-${name}`));
    const [saved, given] = [
      await readAdapter(join(out, `golden-${name}`)),
      await readAdapter(join(dir, name, 'adapter_final')),
    ];
    expect(saved.config).toMatchObject(given.config);
    expect(new Set(saved.tensors.keys())).toEqual(new Set(given.tensors.keys()));
    await model.dispose();
  });
});
