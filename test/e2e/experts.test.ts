/** Models with experts: adapters of them, alone and in company, and what is written and estimated. The families' tests do the rest. */
import { cpSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  convertModel,
  estimateMemory,
  memoryUsage,
  noGrad,
  openSafetensors,
  quantizeModel,
  readAdapter,
  setThreads,
  SGD,
  writeAdapter,
  writeSafetensors,
  type Adapter,
  type AdapterFiles,
  type LoRAConfigInput,
  type SafetensorsTensor,
  type TensorValues,
} from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import type { ExpertDelta } from '../../lib/linear/delta';
import { binding } from '../../lib/native/calls';
import { oneByOne, run, together, wishes } from '../support/engine_requests';
import { expectThrow } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { collectGarbage } from '../support/garbage';
import { bits, list, relativeError } from '../support/numbers';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { generator, tinyModel } from '../support/tiny_model';

const scratch = temporaryFolder();
const folder = join(sharedData, 'golden-families/tiny-qwen3moe-experts');
const both = ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'];
const rows = [
  [7, 72, 101, 108, 33],
  [9, 9, 7, 200, 31],
  [97, 98, 99, 5, 6],
];

const load = (): Promise<CausalLM> => CausalLM.fromPretrained(join(folder, 'model'));
function add(model: CausalLM, name: string, config: LoRAConfigInput, seed: number): Adapter {
  const adapter = model.addAdapter({ r: 3, loraAlpha: 8, ...config }, { name, seed });
  fillAdapter(adapter, seed, 0.3);
  return adapter;
}
async function logitsOf(model: CausalLM, ids: number[][], adapter: string | null): Promise<TensorValues> {
  const { logits } = noGrad(() => model.forward(ids, { logits: true, adapter }));
  const values = await logits.data();
  logits.dispose();
  return values;
}

/** What an adapter adds to each matrix, scaled, by the path of its layer, and of experts by their number too. */
async function changeOf(adapter: Adapter): Promise<Map<string, Float64Array>> {
  const found = new Map<string, Float64Array>();
  for (const path of adapter.targets) {
    const { delta, use } = adapter.applied(path)!;
    const { spec, parameters } = delta as ExpertDelta;
    const [up, down] = [parameters.get('up')!, parameters.get('down')!];
    const count = down.shape[0]! / spec.r;
    const [a, b, inside] = [await list(up), await list(down), down.shape[1]!];
    for (let e = 0; e < count; e++) {
      const change = new Float64Array(up.shape[0]! * inside);
      for (let i = 0; i < change.length; i++) {
        const [row, col] = [Math.floor(i / inside), i % inside];
        for (let k = 0; k < spec.r; k++)
          change[i]! +=
            spec.scale * use.scale * a[(row * spec.r + k) * count + e]! * b[(e * spec.r + k) * inside + col]!;
      }
      found.set(`${path} ${e}`, change);
    }
  }
  return found;
}

/** An adapter of rank 2 and α 6 with a pair of factors for each matrix of each expert, and a model whose weights have its changes in them. */
async function singleExperts(
  more: Record<string, unknown> = {},
  parts: readonly string[] = ['gate_proj', 'up_proj', 'down_proj'],
): Promise<{ dir: string; merged: string }> {
  const source = await openSafetensors(join(folder, 'model/model.safetensors'));
  const random = generator(5);
  const f32 = (shape: number[], values: Float32Array): SafetensorsTensor => ({
    dtype: 'F32',
    shape,
    bytes: new Uint8Array(values.buffer),
  });
  const [adapter, model] = [new Map<string, SafetensorsTensor>(), new Map<string, SafetensorsTensor>()];
  const targets = ['q_proj', ...parts];
  const layers = (more['layers_to_transform'] as number[] | undefined) ?? [0, 1];
  const scale = 6 / (more['use_rslora'] ? Math.SQRT2 : 2);
  for (const [name, tensor] of source.tensors) {
    const [, layer, part] = /layers\.(\d)\..*?([a-z]+_proj)\.weight$/.exec(name) ?? [];
    const values = floatsOf(tensor).slice();
    if (targets.includes(part!) && layers.includes(Number(layer))) {
      const [out, inside] = tensor.shape as [number, number];
      const down = Float32Array.from({ length: 2 * inside }, () => 0.3 * random());
      const up = Float32Array.from({ length: 2 * out }, () => 0.3 * random());
      const key = `base_model.model.${name.replace(/\.weight$/, '')}`;
      adapter
        .set(`${key}.lora_A.weight`, f32([2, inside], down))
        .set(`${key}.lora_B.weight`, f32([out, 2], up));
      for (let i = 0; i < values.length; i++) {
        const [row, col] = [Math.floor(i / inside), i % inside];
        values[i]! += scale * (up[2 * row]! * down[col]! + up[2 * row + 1]! * down[inside + col]!);
      }
    }
    model.set(name, f32([...tensor.shape], values));
  }
  source.close();
  const [dir, merged] = [join(scratch, `single-${++made}`), join(scratch, `whole-${made}`)];
  mkdirSync(merged, { recursive: true });
  await writeSafetensors(join(merged, 'model.safetensors'), model, { format: 'pt' });
  cpSync(join(folder, 'model/config.json'), join(merged, 'config.json'));
  const config = {
    peft_type: 'LORA',
    r: 2,
    lora_alpha: 6,
    lora_dropout: 0.05,
    target_modules: targets,
    ...more,
  };
  await writeAdapter(dir, { config, tensors: adapter });
  return { dir, merged };
}
let made = 0;

describeWithData('experts', 'golden-families', () => {
  beforeAll(() => setThreads(1)); // tiny matrices

  test("their adapters have PEFT's names and shapes, and come back from a file", async () => {
    const model = await load();
    const adapter = add(model, 'a', { targetParameters: both }, 1);
    const prefix = 'base_model.model.model.layers.0.mlp.experts';
    const shapes = Object.fromEntries(adapter.parameters().map((p) => [p.name, p.shape]));
    expect(Object.keys(shapes)).toHaveLength(8);
    expect(shapes).toMatchObject({
      [`${prefix}.base_layer.lora_A.weight`]: [12, 48],
      [`${prefix}.base_layer.lora_B.weight`]: [40, 12],
      [`${prefix}.lora_A.weight`]: [12, 20],
      [`${prefix}.lora_B.weight`]: [48, 12],
    });
    const dir = join(scratch, 'adapter');
    await adapter.save(dir);
    const { config } = await readAdapter(dir);
    expect(config).toMatchObject({ target_parameters: both, target_modules: null });
    await model.loadAdapter(dir, { name: 'b' });
    expect(await logitsOf(model, rows, 'b')).toEqual(await logitsOf(model, rows, 'a'));
    const alone = model.addAdapter({ r: 2, targetParameters: [both[1]!] }, { name: 'c' });
    expect(alone.parameters()[0]!.name).toBe(`${prefix}.lora_A.weight`);
    expect(alone.targets).toEqual([0, 1].map((i) => `model.layers.${i}.mlp.experts.down_proj`));
    const some = { r: 2, targetModules: ['q_proj', 'gate'], targetParameters: both, layersToTransform: [1] };
    expect(model.addAdapter(some, { name: 'd' }).targets).toEqual([
      ...['self_attn.q_proj', 'mlp.gate', 'mlp.experts.gate_up_proj', 'mlp.experts.down_proj'].map(
        (end) => `model.layers.1.${end}`,
      ),
    ]);
    await model.dispose();
  });

  test("the gradients of PEFT's adapter are those of the reference data", async () => {
    const model = await load();
    const adapter = await model.loadAdapter(join(folder, 'adapter_init'), { trainable: true });
    const { ids, labels } = JSON.parse(readFileSync(join(folder, 'batches.json'), 'utf8')) as Record<
      'ids' | 'labels',
      number[][][]
    >;
    model.forward(ids[0]!, { labels: labels[0]! }).loss.backward();
    const wanted = await openSafetensors(join(folder, 'grads_step0.safetensors'));
    for (const p of adapter.parameters()) {
      const expected = floatsOf(wanted.tensors.get(p.name)!);
      if (expected.some((x) => x !== 0))
        expect(relativeError(await p.grad!.data(), expected)).toBeLessThan(1e-4);
    }
    wanted.close();
    await model.dispose();
  });

  test('what they do not have is refused by name', async () => {
    const model = await load();
    const refused = (config: LoRAConfigInput, code: 'ERR_ARGUMENT' | 'ERR_ADAPTER', text: string) =>
      expectThrow(() => model.addAdapter(config, { name: 'x' }), code, text);
    refused(
      { targetParameters: both, loraDropout: 0.1 },
      'ERR_ARGUMENT',
      '[LoRAConfig] expected loraDropout to be 0 beside targetParameters but received 0.1',
    );
    refused(
      { targetParameters: both, useDora: true },
      'ERR_ARGUMENT',
      '[LoRAConfig] expected useDora to be false beside targetParameters but received true',
    );
    refused(
      { targetParameters: ['mlp.experts.gate_proj'] },
      'ERR_ADAPTER',
      `[adapter] targetParameters 'mlp.experts.gate_proj' match no parameter of the model: it has ${both.join(', ')}`,
    );
    refused(
      { targetModules: ['down_proj'] },
      'ERR_ADAPTER',
      `[adapter] targetModules down_proj match no linear layer of the model; its layers are q_proj, k_proj, v_proj, o_proj, gate, lm_head, and targetParameters of its experts ${both.join(', ')}`,
    );
    add(model, 'a', { targetParameters: both }, 1);
    for (const method of ['svd', 'ties', 'magnitude_prune', 'dare_linear'] as const)
      await expect(
        model.combineAdapters(['a'], { method, ...(method !== 'svd' && { density: 1 }) }),
      ).rejects.toThrow(
        `[combineAdapters] adapter 'a' changes experts: expected 'cat' or 'linear' but received '${method}'`,
      );
    await model.dispose();
  });

  test.each([
    ['f32', { targetParameters: both }],
    ['bf16', { targetParameters: both }],
    ['f32', { targetParameters: [both[0]!] }],
    ['f32', { targetParameters: [both[1]!] }],
    ['bf16', { targetModules: ['q_proj', 'gate'], targetParameters: both }],
  ] as const)('blocks of %s that are computed twice give %j the same bits', async (dtype, config) => {
    const model = await CausalLM.fromPretrained(join(folder, 'model'), { dtype });
    const parameters = add(model, 'a', config, 1).parameters();
    const observed = [];
    for (const gradientCheckpointing of [false, true]) {
      const { loss } = model.forward(rows, { labels: rows, gradientCheckpointing });
      loss.backward();
      const gradients = parameters.map((p) => p.grad!);
      expect(gradients).not.toContain(null);
      for (const g of gradients) expect((await list(g)).some((x) => x !== 0)).toBe(true);
      observed.push([await loss.item(), bits(...gradients)]);
      for (const p of parameters) p.grad = null;
    }
    expect(observed[1]).toEqual(observed[0]);
    // Of the last block: its gradient would be that of other values.
    for (const p of parameters.filter(({ name }) => name.includes('layers.1.mlp.experts'))) {
      const { loss } = model.forward(rows, { labels: rows, gradientCheckpointing: true });
      p.version++; // as a step does
      expect(() => loss.backward()).toThrow(/was changed by a step\(\) after this graph was recorded/);
      loss.dispose();
    }
    await model.dispose();
  });

  test('combined they are their weighted sum, in files that hold experts and other layers', async () => {
    const model = await load();
    add(model, 'a', { targetModules: ['q_proj', 'gate'], targetParameters: both }, 1);
    add(
      model,
      'b',
      { r: 2, targetModules: ['q_proj', 'v_proj'], targetParameters: [both[1]!], layersToTransform: [1] },
      2,
    );
    const one = ['model.layers.1.self_attn.q_proj'];
    add(model, 'e', { targetModules: one, targetParameters: both }, 3);
    model.adapters.get('a')!.scale = 0.5;
    for (const [method, names, weights] of [
      ['cat', ['a', 'b'], [0.7, -2]],
      ['cat', ['b'], [-1]],
      ['cat', ['e'], [2]],
      ['linear', ['a'], [-1.5]],
      ['linear', ['b'], [0.3]],
    ] as const) {
      const combined = await model.combineAdapters(names, { method, weights, name: 'c' });
      const dir = join(scratch, `combined-${method}-${names.join('')}`);
      await combined.save(dir);
      await model.loadAdapter(dir, { name: 'd' });
      expect(model.adapters.get('d')!.targets).toEqual(combined.targets);
      const sum = new Map<string, Float64Array>();
      for (const [i, name] of names.entries())
        for (const [path, change] of await changeOf(model.adapters.get(name)!)) {
          const all = sum.get(path) ?? new Float64Array(change.length);
          sum.set(
            path,
            all.map((x, at) => x + weights[i]! * change[at]!),
          );
        }
      const made = await changeOf(model.adapters.get('d')!);
      expect([...made.keys()].sort()).toEqual([...sum.keys()].sort());
      for (const [path, change] of made) expect(relativeError(change, sum.get(path)!)).toBeLessThan(1e-5);
      for (const name of ['c', 'd']) await model.removeAdapter(name);
    }
    // Both factors are mixed for themselves: of two adapters that is another change than their sum.
    const twice = model.adapters.get('e')!;
    const pair = await model.combineAdapters(['e', 'e'], { method: 'linear', weights: [1, 1], name: 'g' });
    const [once, doubled] = [await changeOf(twice), await changeOf(pair)];
    for (const [path, change] of doubled)
      expect(
        relativeError(
          change,
          once.get(path)!.map((x) => 4 * x),
        ),
      ).toBeLessThan(1e-5);
    await model.dispose();
  });

  test('files with a change for each expert, of older writers, load as what they say', async () => {
    const { dir, merged } = await singleExperts();
    const [model, wanted] = [await load(), await CausalLM.fromPretrained(merged)];
    const adapter = await model.loadAdapter(dir, { name: 'old' });
    const ofMerged = await logitsOf(wanted, rows, null);
    expect(relativeError(await logitsOf(model, rows, null), ofMerged)).toBeGreaterThan(1e-2);
    expect(relativeError(await logitsOf(model, rows, 'old'), ofMerged)).toBeLessThan(1e-5);
    expect(adapter.targets).toContain('model.layers.1.mlp.experts.gate_up_proj');
    expect(adapter.config).toMatchObject({ targetParameters: both, loraDropout: 0 });
    // As today's writers have it.
    const again = join(scratch, 'again');
    await adapter.save(again);
    const { config, tensors } = await readAdapter(again);
    expect(config).toMatchObject({
      target_parameters: both,
      rank_pattern: { 'mlp.experts.gate_up_proj': 4, 'mlp.experts.down_proj': 2 },
      alpha_pattern: { 'mlp.experts.gate_up_proj': 12, 'mlp.experts.down_proj': 6 },
    });
    expect([...tensors.keys()].filter((key) => /experts\.\d/.test(key))).toEqual([]);
    await model.loadAdapter(again, { name: 'new' });
    expect(await logitsOf(model, rows, 'new')).toEqual(await logitsOf(model, rows, 'old'));
    await model.dispose();
    await wanted.dispose();
  });

  test('such files with rank-stabilized scales, of some layers and parts, load too', async () => {
    const { dir, merged } = await singleExperts({ use_rslora: true, layers_to_transform: [1] }, [
      'up_proj',
      'down_proj',
    ]);
    const [model, wanted] = [await load(), await CausalLM.fromPretrained(merged)];
    const adapter = await model.loadAdapter(dir, { name: 'old' });
    expect(adapter.targets.filter((path) => path.includes('experts'))).toEqual(
      both.map((name) => `model.layers.1.${name}`),
    );
    expect(
      relativeError(await logitsOf(model, rows, 'old'), await logitsOf(wanted, rows, null)),
    ).toBeLessThan(1e-5);
    await model.dispose();
    await wanted.dispose();
  });

  test('such files that do not fit are refused by name', async () => {
    const model = await load();
    const refused = async (change: (files: AdapterFiles) => void, message: string, options = {}) => {
      const files = await readAdapter((await singleExperts()).dir);
      change(files);
      await expect(model.loadAdapter(files, { name: 'x', ...options })).rejects.toThrow(message);
    };
    const key = 'base_model.model.model.layers.0.mlp.experts.3.gate_proj.lora_A.weight';
    const rename =
      (to: string) =>
      ({ tensors }: AdapterFiles) => {
        tensors.set(to, tensors.get(key)!);
        tensors.delete(key);
      };
    const known =
      '; 4 experts are there, such as model.layers.0.mlp.experts.0.gate_proj, with gate_proj, up_proj, down_proj each';
    const other = key.replace('gate_proj', 'w1');
    await refused(rename(other), `adapter 'x' does not fit the model: it holds unexpected ${other}${known}`);
    const beyond = key.replace('experts.3', 'experts.4');
    await refused(rename(beyond), `it holds unexpected ${beyond}${known}`);
    await refused(({ tensors }) => tensors.delete(key), `it lacks ${key}`);
    await refused(
      ({ tensors }) => tensors.set(key, { ...tensors.get(key)!, shape: [40, 2] }),
      `expected ${key} of shape [2, 48]`,
    );
    await refused(({ config }) => (config['use_dora'] = true), "adapter 'x' has DoRA of experts (use_dora)");
    await refused(
      ({ config }) => (config['alpha_pattern'] = { 'experts.2.down_proj': 5 }),
      'expected one rank and scale of all experts, but model.layers.0.mlp.experts.2.down_proj has others',
    );
    await refused(
      ({ config }) => (config['alpha_pattern'] = { up_proj: 5 }),
      'expected one scale of gate_proj and up_proj but received 3, 2.5 in model.layers.0.mlp.experts.gate_up_proj',
    );
    // Which is no obstacle where nothing is trained.
    await refused(() => undefined, 'lora_dropout 0.05, expected 0 beside targetParameters', {
      trainable: true,
    });
    await model.dispose();
  });

  test('what generation keeps of an adapter follows its training', async () => {
    const [model, fresh] = [await load(), await load()];
    const wish = { ...wishes(1)[0]!, temperature: 0, maxNewTokens: 20 };
    const adapter = add(model, 'a', { targetParameters: both }, 1);
    const before = (await run(model, { ...wish, adapter: 'a' })).ids;
    // Before the training of the model, and in its midst.
    const step = new SGD(adapter.parameters(), { lr: 5 });
    const { loss } = model.forward(rows, { labels: rows });
    expect((await run(model, { ...wish, adapter: 'a' })).ids).toEqual(before);
    loss.backward();
    step.step();
    step.zeroGrad();
    const after = (await run(model, { ...wish, adapter: 'a' })).ids;
    const other = fresh.addAdapter({ r: 3, loraAlpha: 8, targetParameters: both }, { name: 'a' });
    other.loadStateDict(adapter.stateDict());
    expect((await run(fresh, { ...wish, adapter: 'a' })).ids).toEqual(after);
    expect(after).not.toEqual(before);
    await model.dispose();
    await fresh.dispose();
  });

  test('a recorded step of generation turns nothing', async () => {
    const model = await load();
    const adapter = add(model, 'a', { targetParameters: both }, 1);
    let recording = false;
    const native = binding();
    const begin = native.beginRecording.bind(native);
    const end = native.endRecording.bind(native);
    const transpose = native.transpose.bind(native);
    const turned = { before: 0, within: 0 };
    const spies = [
      jest.spyOn(native, 'beginRecording').mockImplementation((...args) => {
        begin(...args);
        recording = true;
      }),
      jest.spyOn(native, 'endRecording').mockImplementation((...args) => {
        recording = false;
        return end(...args);
      }),
      jest.spyOn(native, 'transpose').mockImplementation((...args) => {
        turned[recording ? 'within' : 'before']++;
        return transpose(...args);
      }),
    ];
    let tokens = 0;
    for await (const _ of model.generate(rows[0]!, { adapter: 'a', maxNewTokens: 8, ignoreEos: true }))
      // Behind the prompt, so that the next step is recorded anew, and first reads the new values.
      if (++tokens === 3) fillAdapter(adapter, 2, 0.3);
    for (const spy of spies) spy.mockRestore();
    // Two parameters in each of two layers, twice.
    expect(turned).toEqual({ before: 8, within: 0 });
    await model.dispose();
  });

  test('without gradients up is turned once for each version, and freed where it is trained', async () => {
    const model = await load();
    const adapter = add(model, 'a', { targetParameters: both }, 1);
    await logitsOf(model, rows, null); // makes the tables of positions
    await collectGarbage(); // of other tests
    const used = () => memoryUsage().bytes;
    const start = used();
    const held = async (): Promise<number> => {
      await logitsOf(model, rows, 'a');
      return used() - start;
    };
    const ups = adapter.parameters().filter(({ name }) => name.includes('lora_B'));
    const bytes = ups.reduce((sum, { numel }) => sum + 4 * numel, 0);
    expect(await held()).toBeGreaterThanOrEqual(bytes);
    const once = used();
    expect(await held()).toBe(once - start);
    fillAdapter(adapter, 2, 0.3);
    expect(await held()).toBe(once - start);
    model.forward(rows, { labels: rows }).loss.dispose();
    expect(used() - start).toBeLessThan(bytes);
    await model.removeAdapter('a');
    await model.dispose();
  });

  test('a batch whose rows have adapters of their own computes, and learns, what each row does alone', async () => {
    const model = await load();
    const adapters = [
      add(model, 'a', { targetParameters: both }, 1),
      add(model, 'b', { targetModules: ['q_proj', 'gate'], targetParameters: [both[0]!] }, 2),
    ];
    const who = ['a', 'b', null];
    const gradients = async (): Promise<number[][]> => {
      const all: number[][] = [];
      for (const p of adapters.flatMap((one) => one.parameters())) {
        all.push(p.grad ? await list(p.grad) : []);
        p.grad?.dispose();
        p.grad = null;
      }
      return all;
    };
    for (const gradientCheckpointing of [false, true]) {
      const options = { reduction: 'sum', gradientCheckpointing } as const;
      model.forward(rows, { labels: rows, adapter: who, ...options }).loss.backward();
      const found = await gradients();
      for (const [i, row] of rows.entries())
        if (who[i]) model.forward([row], { labels: [row], adapter: who[i], ...options }).loss.backward();
      const alone = await gradients();
      for (const [i, g] of found.entries()) expect(relativeError(g, alone[i]!)).toBeLessThan(1e-5);
    }
    const { logits } = noGrad(() => model.forward(rows, { logits: true, adapter: who }));
    const values = await logits.data();
    const width = values.length / rows.length;
    for (const [i, row] of rows.entries()) {
      const own = values.subarray(i * width, (i + 1) * width);
      expect(relativeError(own, await logitsOf(model, [row], who[i]!))).toBeLessThan(1e-5);
    }
    await model.dispose();
  });

  test('a text in a packed row has the loss and gradients of the text alone', async () => {
    const model = await load();
    const adapter = add(model, 'a', { targetModules: ['q_proj', 'gate'], targetParameters: both }, 1);
    const observe = async (ids: number[][], segmentIds?: number[][]): Promise<[number, number[][]]> => {
      const { loss } = model.forward(ids, { labels: ids, segmentIds, reduction: 'sum' });
      loss.backward();
      const all: number[][] = [];
      for (const p of adapter.parameters()) {
        all.push(await list(p.grad));
        p.grad!.dispose();
        p.grad = null;
      }
      return [await loss.item(), all];
    };
    const [loss, packed] = await observe([rows.flat()], [rows.flatMap((row, i) => row.map(() => i + 1))]);
    const [sum, alone] = await observe(rows);
    expect(Math.abs(loss / sum - 1)).toBeLessThan(1e-6);
    for (const [i, g] of packed.entries()) expect(relativeError(g, alone[i]!)).toBeLessThan(1e-5);
    await model.dispose();
  });

  test('texts with and without such adapters, generated together, are what each is alone', async () => {
    const model = await load();
    add(model, 'a', { targetParameters: both }, 1);
    add(model, 'b', { targetModules: ['q_proj'] }, 2);
    const all = wishes(6, (i) => ({ adapter: ['a', 'b', null][i % 3]! }));
    const alone = await oneByOne(model, all);
    expect(await together(model, all)).toEqual(alone);
    const base = await oneByOne(
      model,
      all.map((wish) => ({ ...wish, adapter: null })),
    );
    expect(alone.map((ids, i) => String(ids) === String(base[i]))).toEqual(
      all.map(({ adapter }) => !adapter),
    );
    // In its weights the change cannot be left out of a step.
    const { adapter: _, ...greedy } = all[0]!;
    model.setAdapter(null);
    await model.merge('a');
    expect((await run(model, greedy)).ids).toEqual(alone[0]);
    await model.dispose();
  });

  test('merged they compute the same, in memory and in files, and unmerging gives back every bit', async () => {
    const model = await load();
    add(model, 'a', { targetModules: ['q_proj', 'gate'], targetParameters: both }, 1);
    const [base, adapted] = [await logitsOf(model, rows, null), await logitsOf(model, rows, 'a')];
    expect(relativeError(adapted, base)).toBeGreaterThan(1e-2);
    const dir = join(scratch, 'merged');
    await model.save(dir, { merge: 'a' });
    model.setAdapter(null);
    await model.merge('a');
    const { logits } = noGrad(() => model.forward(rows, { logits: true }));
    const merged = await logits.data();
    expect(relativeError(merged, adapted)).toBeLessThan(1e-5);
    const read = await CausalLM.fromPretrained(dir);
    expect(await logitsOf(read, rows, null)).toEqual(merged);
    await read.dispose();
    await model.unmerge();
    expect(await logitsOf(model, rows, null)).toEqual(base);
    await model.dispose();
  });

  test('quantized files have every expert under its own name, and the router as it is', async () => {
    const dir = join(scratch, 'nf4');
    await quantizeModel(join(folder, 'model'), dir, { format: 'nf4' });
    const file = await openSafetensors(join(dir, 'model.safetensors'));
    const types = Object.fromEntries([...file.tensors].map(([name, { dtype }]) => [name, dtype]));
    file.close();
    const layer = 'model.layers.1.mlp';
    for (const part of ['gate_proj', 'up_proj', 'down_proj'])
      expect(types).toMatchObject({
        [`${layer}.experts.3.${part}.weight`]: 'U8',
        [`${layer}.experts.3.${part}.weight.absmax`]: 'F32',
      });
    expect(types[`${layer}.gate.weight`]).toBe('F32');
    const { quantization_config } = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as {
      quantization_config: { llm_int8_skip_modules: string[] };
    };
    expect(quantization_config.llm_int8_skip_modules).toEqual(expect.arrayContaining([`${layer}.gate`]));
    expect(quantization_config.llm_int8_skip_modules).not.toContain(`${layer}.experts.3.up_proj`);
    const [own, read] = [
      await CausalLM.fromPretrained(join(folder, 'model'), { quantize: 'nf4' }),
      await CausalLM.fromPretrained(dir),
    ];
    expect(await logitsOf(read, rows, null)).toEqual(await logitsOf(own, rows, null));
    await own.dispose();
    await read.dispose();
  });
});

/** Widths that blocks of 32 values divide. */
const whole = {
  ...{
    model_type: 'qwen3_moe',
    hidden_size: 64,
    intermediate_size: 32,
    num_attention_heads: 4,
    head_dim: 16,
  },
  ...{ num_key_value_heads: 2, num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 32 },
  norm_topk_prob: true,
};

test('experts in blocks of a GGUF file compute what their values say, and adapters of them learn', async () => {
  const dir = await tinyModel({ tokenizer: false, config: whole });
  const file = join(scratch, 'blocks.gguf');
  await convertModel(dir, file, { format: 'q8_0' });
  const [model, reference] = [
    await CausalLM.fromPretrained(file, { dtype: 'f32' }),
    await CausalLM.fromPretrained(file, { dtype: 'f32', device: 'reference' }),
  ];
  expect(model.config.packed!.get('model.layers.0.mlp.experts.3.down_proj')).toBe('q8_0');
  expect(model.config.packed!.has('model.layers.0.mlp.gate')).toBe(false);
  const logits = await logitsOf(model, rows, null);
  expect(relativeError(logits, await logitsOf(reference, rows, null))).toBeLessThan(1e-5);
  const source = await CausalLM.fromPretrained(dir);
  expect(relativeError(logits, await logitsOf(source, rows, null))).toBeLessThan(0.1);
  await source.dispose();
  const adapter = add(model, 'a', { targetParameters: both }, 1);
  const step = new SGD(adapter.parameters(), { lr: 0.05 });
  const losses: number[] = [];
  for (let i = 0; i < 4; i++) {
    const { loss } = model.forward(rows, { labels: rows });
    loss.backward();
    step.step();
    step.zeroGrad();
    losses.push(await loss.item());
  }
  expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.01);
  const all = wishes(4, (i) => ({ adapter: ['a', null][i % 2]! }));
  expect(await together(model, all)).toEqual(await oneByOne(model, all));
  await model.dispose();
  await reference.dispose();
  rmSync(dir, { recursive: true });
});

test('norm_topk_prob says whether the weights of the experts of a token add up to 1', async () => {
  const logits = async (norm_topk_prob: boolean): Promise<TensorValues> => {
    const dir = await tinyModel({ tokenizer: false, config: { ...whole, norm_topk_prob } });
    const model = await CausalLM.fromPretrained(dir);
    const values = await logitsOf(model, rows, null);
    await model.dispose();
    rmSync(dir, { recursive: true });
    return values;
  };
  expect(relativeError(await logits(true), await logits(false))).toBeGreaterThan(1e-2);
});

/** Qwen3-30B-A3B. */
const large = {
  ...{ architectures: ['Qwen3MoeForCausalLM'], model_type: 'qwen3_moe', torch_dtype: 'bfloat16' },
  ...{ vocab_size: 151936, hidden_size: 2048, intermediate_size: 6144, num_hidden_layers: 48 },
  ...{ num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128, max_position_embeddings: 40960 },
  ...{ num_experts: 128, num_experts_per_tok: 8, moe_intermediate_size: 768, norm_topk_prob: true },
  ...{ decoder_sparse_step: 1, mlp_only_layers: [], rms_norm_eps: 1e-6, rope_theta: 1e6 },
};

test('memory of Qwen3-30B-A3B in 4 bits, which an adapter of its attention trains', () => {
  const options = { quantize: 'nf4', length: 512, gradientCheckpointing: true } as const;
  const { weights, total, adapters } = estimateMemory(large, {
    ...options,
    r: 8,
    targetModules: ['q_proj', 'v_proj'],
  });
  // 29.9 · 10⁹ weights of experts and attention in 4.5 bits, embedding and head of 0.62 · 10⁹ in 16.
  expect(weights / 1e9).toBeGreaterThan(17);
  expect(weights / 1e9).toBeLessThan(18);
  expect(total / 1e9).toBeLessThan(20);
  const withExperts = estimateMemory(large, { ...options, adapter: { r: 8, targetParameters: both } });
  // Of each of 48 · 128 experts 8 · (2048 + 1536) and 8 · (768 + 2048) numbers.
  expect(withExperts.adapters).toBe(8 * 48 * 128 * 8 * (2048 + 1536 + 768 + 2048));
  expect(adapters).toBeLessThan(withExperts.adapters / 50);
});
