/** Full fine-tuning: gradients of all weights, runs that go on, files, and what a model refuses meanwhile. */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  AdamW,
  AdamW8bit,
  CausalLM,
  Lion,
  loadCheckpoint,
  LoRAError,
  memoryUsage,
  noGrad,
  setThreads,
  tensor,
  Trainer,
  type Parameter,
  type TrainerOptions,
} from '../../lib/index';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { ModelSubject } from '../../lib/train/model_subject';
import { expectReject, expectThrow } from '../support/errors';
import { bits, relativeError } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';
import { collect, makeRows } from '../support/training';

/** Biases in q, k and v; norms of heads and a head of its own. */
const families = {
  llama: {},
  qwen2: { model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'] },
  qwen3: { model_type: 'qwen3', architectures: ['Qwen3ForCausalLM'], tie_word_embeddings: false },
} as const;

const rows = [
  [256, 72, 101, 108, 3, 4, 72],
  [97, 98, 99, 97],
];
const data = makeRows(11);
const models: CausalLM[] = [];
const out = temporaryFolder();
let made = 0;
const fresh = (): string => join(out, `run-${made++}`);

beforeAll(() => setThreads(1)); // tiny matrices
afterAll(async () => {
  for (const model of models) {
    await model.dispose();
    rmSync(model.directory, { recursive: true, force: true });
  }
});

async function load(
  options: TinyModelOptions = {},
  as: Parameters<typeof CausalLM.fromPretrained>[1] = {},
): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(await tinyModel(options), as);
  models.push(model);
  return model;
}
const lossOf = async (model: CausalLM, options = {}): Promise<number> =>
  noGrad(async () => model.forward(rows, { labels: rows, ...options }).loss.item());

/** One backward pass; the gradients stay. */
function backward(model: CausalLM, options = {}): void {
  model.forward(rows, { labels: rows, ...options }).loss.backward();
}
function step(model: CausalLM, optimizer: AdamW | Lion | AdamW8bit): void {
  backward(model);
  optimizer.step();
  optimizer.zeroGrad();
}
const clear = (parameters: readonly Parameter[]): void => {
  for (const p of parameters) {
    p.grad?.dispose();
    p.grad = null;
  }
};

describe.each(Object.entries(families))('the gradients of %s', (name, config) => {
  test.each(['fused', 'from logits'])('of each tensor are those of the loss, %s', async (way) => {
    const model = await load({ config }, { device: 'reference' });
    const parameters = model.trainAll();
    expect(model.numTrainable).toBe(model.parameterCount);
    const options = way === 'fused' ? {} : { logits: true };
    backward(model, options);
    for (const p of parameters) {
      const [values, gradient] = [await p.data(), await p.grad!.data()];
      const size = Math.sqrt(gradient.reduce((sum, x) => sum + x * x, 0));
      expect(size).toBeGreaterThan(1e-4);
      // Along its own direction the loss rises by |g|.
      const at = async (eps: number): Promise<number> => {
        const moved = Float32Array.from(values, (x, i) => x + (eps * gradient[i]!) / size);
        using source = tensor(moved, { shape: p.shape, device: 'reference' });
        p.copyFrom(source);
        return lossOf(model, options);
      };
      const eps = 1e-2;
      const slope = ((await at(eps)) - (await at(-eps))) / (2 * eps);
      await at(0);
      expect({ name: p.name, error: Math.abs(slope / size - 1) < 0.02, slope, size }).toMatchObject({
        error: true,
      });
    }
  });

  test('the CPU, packed rows, checkpointing and accumulation give them too', async () => {
    const dir = { config, seed: 4 };
    const own = await load(dir);
    const reference = await load(dir, { device: 'reference' });
    const [a, b] = [own.trainAll(), reference.trainAll()];
    const segmentIds = [
      [1, 1, 1, 2, 2, 2, 2],
      [1, 1, 1, 1],
    ];
    for (const options of [{}, { segmentIds }]) {
      backward(own, options);
      backward(reference, options);
      for (const [i, p] of a.entries())
        expect(relativeError(await p.grad!.data(), await b[i]!.grad!.data())).toBeLessThan(1e-4);
      const before = bits(...a.map((p) => p.grad!));
      clear(a);
      clear(b);
      backward(own, { ...options, gradientCheckpointing: true });
      expect(bits(...a.map((p) => p.grad!))).toBe(before);
      const once = await Promise.all(a.map((p) => p.grad!.data()));
      backward(own, options); // a second batch adds to the first
      for (const [i, p] of a.entries()) {
        const twice = once[i]!.map((x) => 2 * x);
        expect(relativeError(await p.grad!.data(), twice)).toBeLessThan(1e-6);
      }
      clear(a);
    }
  });

  if (name === 'qwen2')
    test('biases alone have those that they have beside all else, with checkpointing too', async () => {
      const [model, whole] = [await load({ config }), await load({ config })];
      const biases = model.trainAll({ only: ['*.bias'] });
      const wanted = new Map(whole.trainAll().map((p) => [p.name, p]));
      backward(model);
      backward(whole);
      expect(biases).toHaveLength(9);
      for (const p of biases)
        expect(relativeError(await p.grad!.data(), await wanted.get(p.name)!.grad!.data())).toBeLessThan(
          1e-5,
        );
      const kept = bits(...biases.map((p) => p.grad!));
      clear(biases);
      backward(model, { gradientCheckpointing: true });
      expect(bits(...biases.map((p) => p.grad!))).toBe(kept);
    });

  test('patterns train what they name, and nothing else', async () => {
    const model = await load({ config });
    const parameters = model.trainAll({ only: ['*.self_attn.*', 'model.norm'] });
    expect(parameters.every((p) => p.name.includes('self_attn') || p.name === 'model.norm.weight')).toBe(
      true,
    );
    expect(parameters).toHaveLength(3 * (name === 'qwen2' ? 7 : name === 'qwen3' ? 6 : 4) + 1);
    backward(model);
    const kept = bits(...parameters.map((p) => p.grad!));
    clear(parameters);
    backward(model, { gradientCheckpointing: true }); // the first block has no gradient of its input
    expect(bits(...parameters.map((p) => p.grad!))).toBe(kept);
    clear(parameters);
    const { steps } = await collect(new Trainer({ model, data, maxSteps: 3, lr: 0.01 }));
    expect(steps).toHaveLength(3);
    await model.save(join(out, `only-${name}`));
    const [before, after] = [
      await load({ config }),
      await CausalLM.fromPretrained(join(out, `only-${name}`)),
    ];
    models.push(after);
    const names = new Set(parameters.map((p) => p.name));
    const [was, is] = [before.trainAll(), after.trainAll()];
    for (const [i, p] of was.entries()) expect(bits(p) === bits(is[i]!)).toBe(!names.has(p.name));
  });
});

test('a matrix whose head sees more rows than are computed at once has the sum of their gradients', async () => {
  // 2^24 / 70000 rows: two parts of 239, of which the second has no label that counts.
  const config = { vocab_size: 70000, num_hidden_layers: 1, max_position_embeddings: 512 };
  const model = await load({ config, tokenizer: false });
  const ids = [Array.from({ length: 300 }, (_, i) => (i * 7919) % 70000)];
  const labels = [ids[0]!.map((id, i) => (i < 200 ? id : -100))];
  const [parameter] = model.trainAll({ only: ['model.embed_tokens'] });
  model.forward(ids, { labels }).loss.backward();
  const fused = await parameter!.grad!.data();
  clear([parameter!]);
  model.forward(ids, { labels, logits: true }).loss.backward();
  expect(relativeError(fused, await parameter!.grad!.data())).toBeLessThan(1e-5);
});

test.each([
  ['AdamW', AdamW, 0.003],
  ['Lion', Lion, 0.001],
  ['AdamW8bit', AdamW8bit, 0.003],
] as const)(
  '%s learns in f32 and in bf16, in which the masters keep what rounding drops',
  async (_, Kind, lr) => {
    for (const dtype of ['f32', 'bf16'] as const) {
      const model = await load({ seed: 3 }, { dtype });
      const parameters = model.trainAll();
      expect(new Set(parameters.map((p) => p.dtype))).toEqual(new Set(['f32']));
      using optimizer = new Kind(parameters, { lr });
      const before = await lossOf(model);
      for (let i = 0; i < 20; i++) step(model, optimizer);
      const after = await lossOf(model);
      expect(after).toBeLessThan(0.5 * before);
      await model.save(join(out, `${optimizer.kind}-${dtype}`));
      const again = await CausalLM.fromPretrained(join(out, `${optimizer.kind}-${dtype}`));
      models.push(again);
      expect(again.dtype).toBe(dtype);
      if (dtype === 'f32') expect(await lossOf(again)).toBe(after);
      else expect(Math.abs((await lossOf(again)) / after - 1)).toBeLessThan(0.02);
      model.freeze();
      expect(await lossOf(model)).toBe(await lossOf(again));
      expect(model.numTrainable).toBe(0);
      expect(parameters.every((p) => p.disposed)).toBe(true);
    }
  },
);

test('a file of bf16 that is read for f32 is trained, and written, in f32', async () => {
  const model = await load({ dtype: 'BF16' }, { dtype: 'f32' });
  using optimizer = new AdamW(model.trainAll(), { lr: 1e-5 });
  const before = await lossOf(model);
  step(model, optimizer);
  const after = await lossOf(model);
  expect(after).toBeLessThan(before); // less than the last bit of bf16
  await model.save(join(out, 'wide'));
  const again = await CausalLM.fromPretrained(join(out, 'wide'));
  models.push(again);
  expect([again.dtype, await lossOf(again)]).toEqual(['f32', after]);
});

test('texts between steps, evaluations and files see the new weights', async () => {
  const model = await load({ seed: 6 });
  using optimizer = new AdamW(model.trainAll(), { lr: 0.02 });
  const prompt = Array.from({ length: 70 }, (_, i) => (i * 31) % 256); // beyond a page of keys, which is kept
  const options = { maxNewTokens: 6, temperature: 0, ignoreEos: true, logprobs: 1 } as const;
  const text = async (of: CausalLM): Promise<string> => {
    const tokens = [];
    for await (const { id, logprob } of of.generate(prompt, options)) tokens.push([id, logprob]);
    return JSON.stringify(tokens);
  };
  const texts = [await text(model)];
  for (let i = 0; i < 3; i++) {
    step(model, optimizer);
    texts.push(await text(model));
    const dir = join(out, `between-${i}`);
    await model.save(dir);
    const again = await CausalLM.fromPretrained(dir);
    models.push(again);
    expect(texts.at(-1)).toBe(await text(again));
  }
  expect(new Set(texts).size).toBe(4);
});

describe('a run of the Trainer', () => {
  const options = { data, maxSteps: 6, batchSize: 2, lr: 0.01, seed: 4, warmupSteps: 1 } as const;
  const run = (model: CausalLM, changes: Partial<TrainerOptions> = {}) =>
    collect(new Trainer({ model, ...options, ...changes }));

  test.each(['f32', 'bf16'] as const)(
    'goes on from a checkpoint as if it had not stopped, in %s',
    async (dtype) => {
      const whole = await load({ seed: 9 }, { dtype });
      const expected = whole.trainAll();
      const { steps } = await run(whole, { neftuneNoiseAlpha: 5, optimizer: 'adamw8bit' });
      const dir = fresh();
      const changes = {
        outDir: dir,
        saveEvery: 2,
        saveLimit: 1,
        neftuneNoiseAlpha: 5,
        optimizer: 'adamw8bit',
      } as const;
      const stop = new AbortController();
      const first = await load({ seed: 9 }, { dtype });
      first.trainAll();
      const reason = new Error('stop');
      const stopped = (async () => {
        for await (const event of new Trainer({ model: first, ...options, ...changes }).run({
          signal: stop.signal,
        }))
          if (event.type === 'step' && event.step === 3) stop.abort(reason);
      })();
      await expect(stopped).rejects.toBe(reason);
      const checkpoint = join(dir, 'checkpoint-3');
      expect(readdirSync(dir).filter((name) => name.startsWith('checkpoint'))).toEqual(['checkpoint-3']);
      // A whole model, as programs read it.
      const kept = await CausalLM.fromPretrained(checkpoint);
      models.push(kept);
      expect(await lossOf(kept)).toBeCloseTo(await lossOf(first), dtype === 'f32' ? 6 : 1);

      // What the files hold goes through memory of one tensor at a time, which is given back.
      const loaded = await load({ seed: 9 }, { dtype });
      loaded.trainAll();
      const { tensors } = memoryUsage();
      await new ModelSubject(loaded).load(checkpoint);
      expect(memoryUsage().tensors).toBeLessThanOrEqual(tensors);

      const second = await load({ seed: 9 }, { dtype });
      const parameters = second.trainAll();
      const rest = await run(second, { ...changes, resume: true });
      expect(rest.steps.map(({ loss }) => loss)).toEqual(steps.slice(3).map(({ loss }) => loss));
      expect(bits(...parameters)).toBe(bits(...expected));
      const final = await CausalLM.fromPretrained(dir);
      models.push(final);
      second.freeze();
      expect(await lossOf(final)).toBe(await lossOf(second));
    },
  );

  test('ends with the best evaluation, writes its card and its report, and checks its settings', async () => {
    const model = await load({ seed: 9 });
    const parameters = model.trainAll();
    const outDir = fresh();
    const changes = {
      outDir,
      evalData: data.slice(0, 3),
      evalEvery: 1,
      keepBest: true,
      report: true,
    } as const;
    const { events } = await run(model, { ...changes, lr: 0.3, maxSteps: 3, schedule: 'constant' });
    const end = events.at(-1)!;
    expect(end).toMatchObject({ type: 'end', dir: outDir });
    const evaluations = events.filter((event) => event.type === 'eval');
    const best = evaluations.reduce((a, b) => (b.loss < a.loss ? b : a));
    expect(end).toMatchObject({ best: { step: best.step, loss: best.loss }, adapterStep: best.step });
    const again = await CausalLM.fromPretrained(outDir);
    models.push(again);
    expect((await again.evaluate(data.slice(0, 3))).loss).toBeCloseTo(best.loss, 6);
    expect(bits(...again.trainAll())).toBe(bits(...parameters));
    expect(readdirSync(outDir)).toEqual(
      expect.arrayContaining(['README.md', 'report.html', 'model.safetensors']),
    );
    const other = await load({ seed: 9 });
    other.trainAll({ only: ['*.mlp.*'] });
    const resumed = run(other, { ...changes, lr: 0.3, maxSteps: 3, schedule: 'constant', resume: true });
    await expectReject(resumed, 'ERR_ARGUMENT', /run with other settings: trained was/);
    expect(Object.keys(await loadCheckpoint(join(outDir, `checkpoint-${best.step}`)))).toContain('settings');
  });

  test('is refused where it would overwrite its base, or where the disk has no room', async () => {
    const model = await load();
    model.trainAll();
    await expectReject(run(model, { outDir: model.directory }), 'ERR_FILE', /holds the base model itself/);
    const outDir = fresh();
    const need = jest.spyOn(model, 'parameterCount', 'get').mockReturnValue(2 ** 60);
    await expectReject(
      run(model, { outDir, saveEvery: 1, saveLimit: 2 }),
      'ERR_FILE',
      /^\[Trainer\] the run writes .* GiB into .* \(3 checkpoints of .*\) but only .* GiB are free: give saveLimit/,
    );
    need.mockRestore();
  });

  test('takes train: all or adapter only where that is what there is', async () => {
    const model = await load();
    const trainer = (train: 'all' | 'adapter') => new Trainer({ model, train, ...options });
    expectThrow(() => trainer('all'), 'ERR_ARGUMENT', /since train is 'all': call model\.trainAll\(\) first/);
    model.trainAll();
    expectThrow(() => trainer('adapter'), 'ERR_ARGUMENT', /call freeze\(\) for an adapter/);
    trainer('all');
    model.freeze();
    model.addAdapter({ r: 1 });
    trainer('adapter');
  });
});

test('a model is busy for adapters while its weights are trained, and for that while it has adapters or is read', async () => {
  const model = await load();
  const adapter = model.addAdapter({ r: 1 }, { name: 'mine' });
  expect(model.numTrainable).toBe(adapter.parameters().reduce((sum, p) => sum + p.numel, 0));
  expectThrow(
    () => model.trainAll(),
    'ERR_BUSY',
    /^\[trainAll\] the model has the adapter 'mine': call removeAdapter/,
  );
  await adapter.save(join(out, 'adapter'));
  await model.removeAdapter('mine');
  const running = model.generate([1, 2, 3], { maxNewTokens: 3 });
  const first = running[Symbol.asyncIterator]();
  await first.next();
  expectThrow(() => model.trainAll(), 'ERR_BUSY', /a run or a generation reads the base weights/);
  await first.return!();
  const parameters = model.trainAll();
  expect(new Set(parameters.map((p) => p.name)).size).toBe(parameters.length);
  expectThrow(() => model.trainAll(), 'ERR_BUSY', /are trained already: call freeze\(\) first/);
  expectThrow(() => model.addAdapter(), 'ERR_BUSY', /^\[addAdapter\] the weights of the model are trained/);
  await expectReject(model.loadAdapter(join(out, 'adapter')), 'ERR_BUSY', /call freeze\(\) first/);
  const generation = model.generate([1, 2, 3], { maxNewTokens: 3 });
  const next = generation[Symbol.asyncIterator]();
  await next.next();
  expectThrow(() => model.freeze(), 'ERR_BUSY', /^\[freeze\] a run or a generation reads/);
  await next.return!();
  model.freeze();
  model.freeze();
  await model.loadAdapter(join(out, 'adapter'));
});

test('trainAll() that runs out of memory half-way leaves the model as it was', async () => {
  const model = await load();
  const [loss, { tensors, bytes }] = [await lossOf(model), memoryUsage()];
  const { value: train } = Object.getOwnPropertyDescriptor(FrozenWeight.prototype, 'train') as {
    value: FrozenWeight['train'];
  };
  let left = 5;
  const failing = jest.spyOn(FrozenWeight.prototype, 'train').mockImplementation(function (
    this: FrozenWeight,
    ...given
  ) {
    if (left-- === 0) throw new LoRAError('ERR_OUT_OF_MEMORY', 'injected');
    return train.apply(this, given);
  });
  expectThrow(() => model.trainAll(), 'ERR_OUT_OF_MEMORY', /injected/);
  failing.mockRestore();
  expect([memoryUsage().tensors, memoryUsage().bytes]).toEqual([tensors, bytes]);
  expect(await lossOf(model)).toBe(loss);
  model.addAdapter();
});

test('a freeze() that fails is gone on with by the next', async () => {
  const model = await load();
  const parameters = model.trainAll();
  const failing = jest.spyOn(FrozenWeight.prototype, 'freeze').mockImplementationOnce(() => {
    throw new LoRAError('ERR_OUT_OF_MEMORY', 'injected');
  });
  expectThrow(() => model.freeze(), 'ERR_OUT_OF_MEMORY', /injected/);
  expectThrow(() => model.addAdapter(), 'ERR_BUSY', /call freeze\(\) first/);
  failing.mockRestore();
  model.freeze();
  expect(parameters.every(({ disposed }) => disposed)).toBe(true);
  model.addAdapter();
});

test('patterns that name nothing, quantized weights and f16 are refused by name', async () => {
  const model = await load();
  const only = (...patterns: string[]) => model.trainAll({ only: patterns });
  expectThrow(
    () => only('*.self_atn.*'),
    'ERR_ARGUMENT',
    /^\[trainAll\] only: '\*\.self_atn\.\*' names no tensor/,
  );
  // Two parts of a pattern are no one place of a name.
  expectThrow(() => only('model.*.self_attn*attn.q_proj'), 'ERR_ARGUMENT', /names no tensor/);
  expectThrow(() => only('model.nor'), 'ERR_ARGUMENT', /did you mean 'model\.norm'\?/);
  expectThrow(
    () => only('lm_head'),
    'ERR_ARGUMENT',
    /no lm_head of its own, its matrix is model\.embed_tokens/,
  );
  expectThrow(() => only(), 'ERR_ARGUMENT', /expected only to be a list of patterns/);
  expectThrow(() => model.trainAll({ onyl: [] } as never), 'ERR_ARGUMENT', /did you mean 'only'/);
  model.addAdapter(); // nothing was locked
  const quantized = await load({ config: { hidden_size: 64, head_dim: 16 } }, { quantize: 'int8' });
  expectThrow(
    () => quantized.trainAll(),
    'ERR_UNSUPPORTED',
    /is kept in int8 and cannot be trained: load whole weights, or train an adapter$/,
  );
  quantized.trainAll({ only: ['*norm*'] });
});

test('a save is refused where the weights change meanwhile', async () => {
  const model = await load();
  using optimizer = new AdamW(model.trainAll(), { lr: 1e-3 });
  const saving = model.save(fresh());
  step(model, optimizer);
  await expectReject(saving, 'ERR_BUSY', /^\[save\] the weights were trained while they were written/);
});
