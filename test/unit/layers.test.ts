import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  AdamW,
  Dropout,
  Embedding,
  LayerNorm,
  Linear,
  loadCheckpoint,
  LoRALinear,
  memoryUsage,
  Module,
  noGrad,
  parameter,
  readAdapter,
  saveCheckpoint,
  Sequential,
  tensor,
  tidy,
  writeAdapter,
  type Parameter,
  type Tensor,
} from '../../lib/index';
import { expectReject, expectThrow } from '../support/errors';
import { bits, list, relativeError, seeded, values } from '../support/numbers';

let dir: string;
beforeAll(() => (dir = mkdtempSync(join(tmpdir(), 'layers-'))));
afterAll(() => rmSync(dir, { recursive: true }));

const device = 'reference';

describe('layers', () => {
  test('Linear is x·Wᵀ + bias, with gradients of all three', async () => {
    const layer = new Linear({ inFeatures: 4, outFeatures: 3, device, seed: 1 });
    const x = seeded([2, 5, 4], 2, { device, requiresGrad: true });
    const y = layer.forward(x);
    expect(y.shape).toEqual([2, 5, 3]);
    const [w, b, at] = [await list(layer.weight), await list(layer.bias), await list(x)];
    const want = Array.from({ length: 10 }, (_, row) =>
      [0, 1, 2].map((o) => [0, 1, 2, 3].reduce((sum, i) => sum + at[row * 4 + i]! * w[o * 4 + i]!, b[o]!)),
    ).flat();
    expect(relativeError(await y.data(), want)).toBeLessThan(1e-6);
    y.sum().backward();
    expect(await list(layer.bias!.grad)).toEqual([10, 10, 10]);
    const sums = [0, 1, 2, 3].map((i) => at.filter((_, j) => j % 4 === i).reduce((p, q) => p + q));
    expect(relativeError(await layer.weight.grad!.data(), [...sums, ...sums, ...sums])).toBeLessThan(1e-5);
    const columns = [0, 1, 2, 3].map((i) => w[i]! + w[4 + i]! + w[8 + i]!);
    expect(relativeError(await x.grad!.data(), Array(10).fill(columns).flat())).toBeLessThan(1e-5);
    expect(w.every((v) => Math.abs(v) <= 0.5)).toBe(true);
    expect(new Set(w).size).toBe(12);
  });

  test('Linear widens bf16, and may have no bias', async () => {
    const layer = new Linear({ inFeatures: 2, outFeatures: 1, bias: false, device });
    expect(layer.bias).toBeNull();
    expect(layer.parameters()).toHaveLength(1);
    const y = layer.forward(tensor([[1, 2]], { dtype: 'bf16', device }));
    expect(y.dtype).toBe('f32');
    expect(String(layer)).toBe('Linear(2 → 1, no bias)');
  });

  test('layers without a seed differ; with one they are the same', () => {
    const make = (seed?: number): string =>
      bits(new Linear({ inFeatures: 3, outFeatures: 3, device, seed }).weight);
    expect(make()).not.toBe(make());
    expect(make(3)).toBe(make(3));
  });

  test('Embedding gives rows, and sums the gradients of equal ids', async () => {
    const layer = new Embedding({ numEmbeddings: 4, embeddingDim: 2, device });
    const w = await list(layer.weight);
    const y = layer.forward([
      [3, 1],
      [3, 3],
    ]);
    expect(y.shape).toEqual([2, 2, 2]);
    expect(await list(y)).toEqual([w[6], w[7], w[2], w[3], w[6], w[7], w[6], w[7]]);
    y.sum().backward();
    expect(await list(layer.weight.grad)).toEqual([0, 0, 1, 1, 0, 0, 3, 3]);
    await expectReject(layer.forward([4]).data(), 'ERR_DATA', /from 0 to 3 but received 4/);
  });

  test('LayerNorm begins as the norm alone and trains both vectors', async () => {
    const layer = new LayerNorm({ normalizedShape: 4, eps: 0, device });
    const y = layer.forward(tensor([[1, 3, 1, 3]], { device }));
    expect(await list(y)).toEqual([-1, 1, -1, 1]);
    y.mul(tensor([1, 2, 3, 4], { device }))
      .sum()
      .backward();
    expect(await list(layer.weight.grad)).toEqual([-1, 2, -3, 4]);
    expect(await list(layer.bias.grad)).toEqual([1, 2, 3, 4]);
    expectThrow(
      () => layer.forward(tensor([[1, 2]], { device })),
      'ERR_ARGUMENT',
      '[LayerNorm] expected x of shape [..., 4] but received [1, 2]',
    );
  });

  test('Dropout drops in training only, with another mask each time', async () => {
    const layer = new Dropout({ p: 0.25, seed: 5 });
    const x = tensor(new Float32Array(4000).fill(3), { shape: [4, 1000], device, requiresGrad: true });
    const y = layer.forward(x);
    const kept = await list(y);
    expect(kept.filter((v) => v === 0).length / 4000).toBeCloseTo(0.25, 1);
    expect(new Set(kept)).toEqual(new Set([0, 4]));
    y.sum().backward();
    expect(await list(x.grad)).toEqual(kept.map((v) => Math.fround(v / 3)));
    expect(bits(layer.forward(x))).not.toBe(bits(y));
    expect(bits(layer.forward(x, { train: false }))).toBe(bits(x));
    expect(bits(noGrad(() => layer.forward(x)))).toBe(bits(x));
    // The count goes on where it was.
    const again = new Dropout({ p: 0.25, seed: 5 });
    again.loadStateDict(layer.stateDict());
    expect(bits(again.forward(x))).toBe(bits(layer.forward(x)));
  });

  test('Sequential runs its steps in order and passes train on', async () => {
    const network = new Sequential([
      new Linear({ inFeatures: 2, outFeatures: 8, device, seed: 1 }),
      (x) => x.tanh(),
      new Dropout({ p: 0.5, seed: 2 }),
      new Linear({ inFeatures: 8, outFeatures: 1, device, seed: 3 }),
    ]);
    const x = seeded([3, 2], 4, { device });
    const plain = (await list(network.forward(x, { train: false }))).join();
    expect((await list(network.forward(x, { train: true }))).join()).not.toBe(plain);
    expect((await list(noGrad(() => network.forward(x)))).join()).toBe(plain);
    expect(network.namedParameters().map(([path]) => path)).toEqual([
      'layers.0.weight',
      'layers.0.bias',
      'layers.3.weight',
      'layers.3.bias',
    ]);
    expect(String(network)).toBe('Sequential(33 parameters in 4 tensors)');
  });

  test('mistakes are named', () => {
    const linear = { inFeatures: 2, outFeatures: 3, device } as const;
    expectThrow(
      () => new Linear({ ...linear, inputSize: 3 } as never),
      'ERR_ARGUMENT',
      "[Linear] unknown option 'inputSize'; did you mean 'inFeatures'?",
    );
    expectThrow(
      () => new Linear({ ...linear, outFeatures: 0 }),
      'ERR_ARGUMENT',
      /outFeatures to be an integer of at least 1/,
    );
    expectThrow(
      () => new Linear(linear).forward(tensor([[1, 2, 3]], { device })),
      'ERR_ARGUMENT',
      '[Linear] expected x of shape [..., 2] (in) but received [1, 3]',
    );
    expectThrow(
      () => new Linear(linear).forward(tensor([[1, 2]])),
      'ERR_ARGUMENT',
      '[Linear] expected x on reference but received it on cpu',
    );
    expectThrow(
      () => new Dropout({ p: 1 }),
      'ERR_ARGUMENT',
      '[Dropout] expected p to be below 1 but received 1',
    );
    expectThrow(
      () => new Sequential([3 as never]),
      'ERR_ARGUMENT',
      '[Sequential] expected layer 0 to have forward(), or to be a function, but received 3',
    );
  });
});

/** Two blocks, one of them adapted, a shared parameter, and a private one. */
class Tree extends Module {
  blocks: Module[];
  adapted: LoRALinear;
  gain: Parameter;
  again: Parameter;
  readonly name = 'tree';
  constructor(seed: number) {
    super();
    this.blocks = [0, 1].map((i) => new Linear({ inFeatures: 3, outFeatures: 3, device, seed: seed + i }));
    this.adapted = new LoRALinear({
      ...{ inFeatures: 3, outFeatures: 3, r: 1, loraDropout: 0.5, device },
      weight: Float32Array.from(values(9, 3)),
      seed,
    });
    this.gain = this.again = parameter(seeded([3], seed, { device }), 'gain');
  }
  forward(x: Tensor): Tensor {
    const y = this.blocks.reduce((t, block) => block.forward(t).relu(), x);
    return this.adapted.forward(y).mul(this.gain);
  }
}

describe('a module tree', () => {
  const x = (): Tensor => seeded([4, 3], 9, { device });

  function step(tree: Tree, optimizer: AdamW): void {
    tidy(() => tree.forward(x()).square().mean().backward());
    optimizer.step();
    optimizer.zeroGrad();
  }

  test('names its parameters by their paths, each once', () => {
    expect(new Tree(1).namedParameters().map(([path]) => path)).toEqual([
      'blocks.0.weight',
      'blocks.0.bias',
      'blocks.1.weight',
      'blocks.1.bias',
      'adapted.up',
      'adapted.down',
      'gain',
    ]);
  });

  test('a checkpoint continues bit for bit', async () => {
    const tree = new Tree(1);
    const optimizer = new AdamW(tree.parameters(), { lr: 0.05 });
    for (let i = 0; i < 3; i++) step(tree, optimizer);
    const run = join(dir, 'tree');
    await saveCheckpoint(run, { tree, optimizer, step: 3 });
    const other = new Tree(1);
    const continued = new AdamW(other.parameters(), { lr: 0.05 });
    expect(await loadCheckpoint(run, { tree: other, optimizer: continued })).toEqual({ step: 3 });
    for (let i = 0; i < 2; i++) {
      step(tree, optimizer);
      step(other, continued);
    }
    expect(bits(...other.parameters())).toBe(bits(...tree.parameters()));
  });

  test('a state of another tree changes nothing', async () => {
    const tree = new Tree(1);
    const before = bits(...tree.parameters());
    const state = new Tree(5).stateDict();
    expectThrow(
      () => tree.loadStateDict({ ...state, gian: state['gain'] }),
      'ERR_ARGUMENT',
      "[Tree] unknown option 'gian'; did you mean 'gain'?",
    );
    expectThrow(
      () => tree.loadStateDict({ ...state, gain: tensor([1], { device }) }),
      'ERR_ARGUMENT',
      '[Tree] expected gain of the state to be a tensor of shape [3] but received a tensor f32 [1]',
    );
    expectThrow(
      () => tree.loadStateDict({ ...state, 'blocks.1': undefined }),
      'ERR_ARGUMENT',
      '[Tree] expected blocks.1 of the state to be an object but received undefined',
    );
    expect(bits(...tree.parameters())).toBe(before);
    const layer = new Linear({ inFeatures: 3, outFeatures: 1, device });
    const loss = layer.forward(x()).square().sum();
    layer.loadStateDict(layer.stateDict());
    expectThrow(() => loss.backward(), 'ERR_ARGUMENT', /'(weight|bias)' was changed by a step\(\)/);
  });

  test('dispose frees all of it', () => {
    const before = memoryUsage().tensors;
    const tree = tidy(() => new Tree(1));
    expect(memoryUsage().tensors).toBeGreaterThan(before);
    tree.dispose();
    expect(memoryUsage().tensors).toBe(before);
  });

  test('weight decay by group: matrices shrink, vectors do not', async () => {
    const layer = new Linear({ inFeatures: 2, outFeatures: 2, device, seed: 1 });
    const matrices = layer.parameters().filter(({ shape }) => shape.length > 1);
    const vectors = layer.parameters().filter(({ shape }) => shape.length === 1);
    const optimizer = new AdamW(
      [
        { params: matrices, weightDecay: 0.5 },
        { params: vectors, weightDecay: 0 },
      ],
      { lr: 0.1 },
    );
    const [w, b] = [await list(layer.weight), await list(layer.bias)];
    for (const p of layer.parameters())
      p.grad = tensor(new Float32Array(p.numel), { shape: p.shape, device });
    optimizer.step();
    expect(
      relativeError(
        await layer.weight.data(),
        w.map((v) => 0.95 * v),
      ),
    ).toBeLessThan(1e-6);
    expect(await list(layer.bias)).toEqual(b);
  });
});

describe('a LoRA layer as an adapter of PEFT', () => {
  const weight = Float32Array.from(values(12, 3));
  const make = (options = {}): LoRALinear => {
    const layer = new LoRALinear({
      inFeatures: 4,
      outFeatures: 3,
      r: 3,
      loraAlpha: 32,
      weight,
      device,
      ...options,
    });
    layer.up.copyFrom(seeded([3, 3], 4, { device }));
    return layer;
  };
  const x = (): Tensor => seeded([2, 4], 9, { device });

  test('save and load give the same layer', async () => {
    const layer = make({ loraDropout: 0.1, useRslora: true });
    await layer.save(join(dir, 'one'));
    const { config, tensors } = await readAdapter(join(dir, 'one'));
    expect(config).toMatchObject({
      ...{ peft_type: 'LORA', r: 3, lora_alpha: 32, lora_dropout: 0.1, use_rslora: true, bias: 'none' },
      ...{ target_modules: ['linear'], task_type: null, base_model_name_or_path: null },
    });
    expect([...tensors].map(([name, { shape }]) => [name, shape])).toEqual([
      ['base_model.model.linear.lora_A.weight', [3, 4]],
      ['base_model.model.linear.lora_B.weight', [3, 3]],
    ]);
    const loaded = await LoRALinear.load(join(dir, 'one'), { weight, device });
    expect([loaded.r, loaded.loraAlpha, loaded.loraDropout, loaded.scale]).toEqual([3, 32, 0.1, layer.scale]);
    const [a, b] = [layer, loaded].map((one) => bits(one.forward(x(), { train: false })));
    expect(b).toBe(a);
    await loaded.save(join(dir, 'two'));
    expect((await readAdapter(join(dir, 'two'))).config).toEqual(config);
  });

  test('of several modules one is named; patterns count', async () => {
    const layer = make();
    await layer.save(join(dir, 'named'), { module: 'encoder.query' });
    const { config, tensors } = await readAdapter(join(dir, 'named'));
    const both = new Map(tensors);
    for (const [name, t] of tensors) both.set(name.replace('query', 'value'), t);
    const more = { ...config, target_modules: ['query', 'value'], alpha_pattern: { value: 6 } };
    await writeAdapter(join(dir, 'both'), { config: more, tensors: both });
    const value = await LoRALinear.load(join(dir, 'both'), { weight, device, module: 'encoder.value' });
    expect([value.scale, value.loraAlpha]).toEqual([2, 6]);
    await expectReject(
      LoRALinear.load(join(dir, 'both'), { weight, device }),
      'ERR_ADAPTER',
      '[LoRALinear.load] expected an adapter of one module, or the option module, but received one of encoder.query, encoder.value',
    );
    await expectReject(
      LoRALinear.load(join(dir, 'both'), { weight, device, module: 'encoder.key' }),
      'ERR_ADAPTER',
      "[LoRALinear.load] expected an adapter of the module 'encoder.key' but received one of encoder.query, encoder.value",
    );
  });

  test('what does not fit is refused', async () => {
    await make().save(join(dir, 'plain'));
    await expectReject(
      LoRALinear.load(join(dir, 'plain'), { weight: new Float32Array(8), device }),
      'ERR_ARGUMENT',
      /expected weight of shape \[3, 4\]/,
    );
    await expectReject(
      LoRALinear.load(join(dir, 'plain'), { device } as never),
      'ERR_ARGUMENT',
      '[LoRALinear.load] expected weight, which the file does not hold, but received undefined',
    );
    await expectReject(
      make().save(join(dir, 'bad'), { module: 'a b' }),
      'ERR_ARGUMENT',
      /module to be a name/,
    );
    const { config, tensors } = await readAdapter(join(dir, 'plain'));
    await writeAdapter(join(dir, 'dora'), { config: { ...config, use_dora: true }, tensors });
    await expectReject(
      LoRALinear.load(join(dir, 'dora'), { weight, device }),
      'ERR_ADAPTER',
      "[LoRALinear.load] expected plain LoRA for the module 'linear' but received dora",
    );
    await writeAdapter(join(dir, 'rank'), { config: { ...config, r: 2 }, tensors });
    await expectReject(
      LoRALinear.load(join(dir, 'rank'), { weight, device }),
      'ERR_ADAPTER',
      /of shape \[2, 4\]/,
    );
  });

  test('adapts a layer that was trained before', async () => {
    const trained = new Linear({ inFeatures: 4, outFeatures: 3, device, seed: 2 });
    const { weight: w, bias } = trained;
    const layer = new LoRALinear({ inFeatures: 4, outFeatures: 3, r: 2, weight: w, bias });
    expect(relativeError(await layer.forward(x()).data(), await list(trained.forward(x())))).toBeLessThan(
      1e-6,
    );
    layer.forward(x()).square().sum().backward();
    expect(w.grad).toBeNull();
    expect(layer.up.grad).not.toBeNull();
  });
});
