/** Gemma 4 with experts: its files, adapters of its experts, alone and in company, and what is written and estimated. The families' tests do the rest. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  estimateMemory,
  noGrad,
  openSafetensors,
  quantizeModel,
  setThreads,
  writeSafetensors,
  type Adapter,
  type LoRAConfigInput,
  type SafetensorsTensor,
  type Tensor,
} from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import { oneByOne, run, together, wishes } from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';
import { bits, list, relativeError } from '../support/numbers';
import { openFilesIn } from '../support/open_files';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const scratch = temporaryFolder();
const folder = join(sharedData, 'golden-families/tiny-gemma4-moe/model');
const both = ['experts.gate_up_proj', 'experts.down_proj'];
const all: LoRAConfigInput = {
  targetModules: ['q_proj', 'down_proj', 'router.proj'],
  targetParameters: both,
};
const rows = [
  [7, 72, 101, 108, 33],
  [9, 9, 7, 200, 31],
  [97, 98, 99, 5, 6],
];

const models: CausalLM[] = [];
async function load(dir = folder, options = {}): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(dir, options);
  models.push(model);
  return model;
}
function add(model: CausalLM, name: string, config: LoRAConfigInput, seed: number): Adapter {
  const adapter = model.addAdapter({ r: 3, loraAlpha: 8, ...config }, { name, seed });
  fillAdapter(adapter, seed, 0.3);
  return adapter;
}
async function logitsOf(model: CausalLM, adapter: string | null): Promise<Float32Array> {
  const { logits } = noGrad(() => model.forward(rows, { logits: true, adapter }));
  const values = await logits.data<Float32Array>();
  logits.dispose();
  return values;
}

async function tensorsOf(dir: string): Promise<Map<string, SafetensorsTensor>> {
  const file = await openSafetensors(join(dir, 'model.safetensors'));
  const tensors = new Map(
    [...file.tensors].map(([name, { dtype, shape, bytes }]) => [
      name,
      { dtype, shape, bytes: bytes.slice() },
    ]),
  );
  file.close();
  return tensors;
}

/** The model with other tensors, and other keys in its configuration. */
async function edited(
  name: string,
  edit: (tensors: Map<string, SafetensorsTensor>) => void,
  more: object = {},
): Promise<string> {
  const dir = join(scratch, name);
  mkdirSync(dir);
  const tensors = await tensorsOf(folder);
  edit(tensors);
  await writeSafetensors(join(dir, 'model.safetensors'), tensors, { format: 'pt' });
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object;
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, ...more }));
  return dir;
}

describeWithData('gemma4 with experts', 'golden-families/tiny-gemma4-moe', () => {
  beforeAll(() => setThreads(1)); // tiny matrices
  afterAll(async () => {
    for (const model of models) await model.dispose();
  });

  test('files hold the experts of a layer in two tensors, which a save writes again bit for bit', async () => {
    const model = await load();
    const dir = join(scratch, 'saved');
    await model.save(dir);
    const [before, after] = [await tensorsOf(folder), await tensorsOf(dir)];
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    for (const [name, { shape, bytes }] of before) {
      expect(after.get(name)!.shape).toEqual(shape);
      expect(Buffer.compare(after.get(name)!.bytes, bytes)).toBe(0);
    }
    expect(before.get('model.layers.2.experts.gate_up_proj')!.shape).toEqual([5, 32, 40]);
    expect(before.get('model.layers.2.router.per_expert_scale')!.shape).toEqual([5]);
  });

  test('single experts in a file are read too', async () => {
    const dir = await edited('single', (tensors) => {
      for (const [name, { dtype, shape, bytes }] of [...tensors]) {
        const [, path, kind] = /^(.*\.experts)\.(gate_up|down)_proj$/.exec(name) ?? [];
        if (path === undefined) continue;
        tensors.delete(name);
        const parts = kind === 'down' ? ['down'] : ['gate', 'up'];
        const [experts, out, inside] = shape as [number, number, number];
        const size = bytes.length / experts / parts.length;
        for (let i = 0; i < experts * parts.length; i++)
          tensors.set(`${path}.${Math.floor(i / parts.length)}.${parts[i % parts.length]!}_proj.weight`, {
            ...{ dtype, shape: [out / parts.length, inside] },
            bytes: bytes.slice(i * size, (i + 1) * size),
          });
      }
    });
    expect(await logitsOf(await load(dir), null)).toEqual(await logitsOf(await load(), null));
  });

  test('what a file lacks, and shapes of other configurations, are named as in files', async () => {
    const name = 'model.layers.1.experts.gate_up_proj';
    const lacking = await edited('lacking', (tensors) => tensors.delete(name));
    await expect(load(lacking)).rejects.toThrow(`the weights lack ${name}`);
    const scale = 'model.layers.1.router.per_expert_scale';
    const other = await edited('other', (tensors) => tensors.delete(scale));
    await expect(load(other)).rejects.toThrow(`the weights lack ${scale}`);
    const more = await edited('more', () => undefined, { num_experts: 6 });
    await expect(load(more)).rejects.toThrow(
      'the configuration asks for model.layers.0.experts.gate_up_proj of shape [6, 32, 40] but received [5, 32, 40]',
    );
    expect(openFilesIn(scratch)).toEqual([]);
    const none = await edited('none', () => undefined, { enable_moe_block: false });
    await expect(load(none)).rejects.toThrow('the weights hold unexpected model.layers.0.experts.down_proj');
  });

  test('num_experts and num_local_experts are one, and absent keys are those of transformers', async () => {
    const renamed = await edited('renamed', () => undefined, { num_experts: null, num_local_experts: 5 });
    expect(await logitsOf(await load(renamed), null)).toEqual(await logitsOf(await load(), null));
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;
    for (const key of ['num_experts', 'top_k_experts', 'moe_intermediate_size']) delete config[key];
    const { weights } = estimateMemory(config, { dtype: 'f32' });
    // 128 experts of 704 in each of three layers, of 40 numbers.
    expect(weights / (4 * 3 * 128 * 3 * 704 * 40)).toBeCloseTo(1, 2);
  });

  test("the numbers of experts multiply their weights, and the router's scale its input", async () => {
    const base = await logitsOf(await load(), null);
    for (const end of ['per_expert_scale', 'scale']) {
      const change = (factor: (i: number) => number) =>
        edited(`${end}-${factor(0)}`, (tensors) => {
          for (const [name, tensor] of tensors)
            if (name.endsWith(`router.${end}`)) {
              const values = floatsOf(tensor).map((x, i) => x * factor(i));
              tensors.set(name, { ...tensor, bytes: new Uint8Array(values.buffer) });
            }
        });
      // The norm behind the experts takes a common factor out of what they make, all but its eps.
      const same = await logitsOf(await load(await change(() => 2)), null);
      const others = await logitsOf(await load(await change((i) => 1 + i)), null);
      if (end === 'per_expert_scale') expect(relativeError(same, base)).toBeLessThan(1e-3);
      expect(relativeError(others, base)).toBeGreaterThan(1e-2);
    }
  });

  test('the weights of the experts of a token add up to 1, whatever the router makes of the others', async () => {
    // A router that prefers none chooses the first two. The norm behind the experts hides a common factor, but for its eps.
    const eps = { rms_norm_eps: 0.5 };
    const zeros = ({ dtype }: SafetensorsTensor, shape: number[]): SafetensorsTensor => ({
      ...{ dtype, shape },
      bytes: new Uint8Array(4 * shape[0]! * shape[1]!),
    });
    const five = await edited(
      'five',
      (tensors) => {
        for (const [name, tensor] of tensors)
          if (name.endsWith('router.proj.weight')) tensors.set(name, zeros(tensor, [5, 40]));
      },
      eps,
    );
    const two = await edited(
      'two',
      (tensors) => {
        for (const [name, tensor] of tensors) {
          const { dtype, shape, bytes } = tensor;
          if (name.endsWith('router.proj.weight')) tensors.set(name, zeros(tensor, [2, 40]));
          else if (/experts\.|per_expert/.test(name))
            tensors.set(name, {
              dtype,
              shape: [2, ...shape.slice(1)],
              bytes: bytes.slice(0, (2 * bytes.length) / 5),
            });
        }
      },
      { ...eps, num_experts: 2 },
    );
    expect(
      relativeError(await logitsOf(await load(five), null), await logitsOf(await load(two), null)),
    ).toBeLessThan(1e-5);
  });

  test("adapters of experts have PEFT's names, and the dense MLP beside keeps its own", async () => {
    const model = await load();
    const adapter = add(model, 'names', { targetModules: ['down_proj'], targetParameters: both }, 1);
    expect(adapter.targets.filter((path) => path.includes('layers.0.'))).toEqual([
      ...['mlp.down_proj', 'experts.gate_up_proj', 'experts.down_proj'].map((end) => `model.layers.0.${end}`),
    ]);
    const prefix = 'base_model.model.model.layers.0';
    const shapes = Object.fromEntries(adapter.parameters().map((p) => [p.name, p.shape]));
    expect(shapes).toMatchObject({
      [`${prefix}.mlp.down_proj.lora_A.weight`]: [3, 48],
      [`${prefix}.experts.base_layer.lora_A.weight`]: [15, 40],
      [`${prefix}.experts.base_layer.lora_B.weight`]: [32, 15],
      [`${prefix}.experts.lora_A.weight`]: [15, 16],
      [`${prefix}.experts.lora_B.weight`]: [40, 15],
    });
    const dir = join(scratch, 'adapter');
    await adapter.save(dir);
    await model.loadAdapter(dir, { name: 'again' });
    expect(await logitsOf(model, 'again')).toEqual(await logitsOf(model, 'names'));
    expect(() => model.addAdapter({ targetParameters: ['mlp.experts.down_proj'] }, { name: 'x' })).toThrow(
      `match no parameter of the model: it has ${both.join(', ')}`,
    );
  });

  test('merged they compute the same, in memory and in files', async () => {
    const model = await load();
    add(model, 'a', all, 1);
    const [base, adapted] = [await logitsOf(model, null), await logitsOf(model, 'a')];
    expect(relativeError(adapted, base)).toBeGreaterThan(1e-2);
    const dir = join(scratch, 'merged');
    await model.save(dir, { merge: 'a' });
    const wide = await tensorsOf(dir);
    expect(wide.get('model.layers.0.experts.gate_up_proj')!.shape).toEqual([5, 32, 40]);
    const ofFile = await logitsOf(await load(dir), null);
    expect(relativeError(ofFile, adapted)).toBeLessThan(1e-5);
    model.setAdapter(null);
    await model.merge('a');
    const { logits } = noGrad(() => model.forward(rows, { logits: true }));
    expect(await logits.data()).toEqual(ofFile);
    await model.unmerge();
    expect(await logitsOf(model, null)).toEqual(base);
  });

  const observe = async (
    model: CausalLM,
    parameters: readonly { grad: Tensor | null }[],
    ids: number[][],
    options: object = {},
  ) => {
    const { loss } = model.forward(ids, { labels: ids, reduction: 'sum', ...options });
    loss.backward();
    const gradients = parameters.map((p) => p.grad!);
    expect(gradients).not.toContain(null);
    const seen = { loss: await loss.item(), bits: bits(...gradients), lists: [] as number[][] };
    for (const g of gradients) seen.lists.push(await list(g));
    for (const p of parameters) p.grad = null;
    return seen;
  };

  test.each([both, [both[0]!], [both[1]!]])(
    'blocks that are computed twice give adapters of experts alone the same bits (%s)',
    async (...targetParameters) => {
      const model = await load();
      const parameters = add(model, 'a', { targetParameters }, 1).parameters();
      const plain = await observe(model, parameters, rows);
      expect(plain.lists.every((g) => g.some((x) => x !== 0))).toBe(true);
      const twice = await observe(model, parameters, rows, { gradientCheckpointing: true });
      expect([twice.loss, twice.bits]).toEqual([plain.loss, plain.bits]);
    },
  );

  test('a text in a packed row has the loss and gradients of the text alone, recomputed with the same bits', async () => {
    const model = await load();
    for (const trained of ['adapter', 'all'] as const) {
      const parameters = trained === 'all' ? model.trainAll() : add(model, 'a', all, 1).parameters();
      const segmentIds = [rows.flatMap((row, i) => row.map(() => i + 1))];
      const packed = await observe(model, parameters, [rows.flat()], { segmentIds });
      const recomputed = await observe(model, parameters, [rows.flat()], {
        segmentIds,
        gradientCheckpointing: true,
      });
      expect(recomputed.bits).toBe(packed.bits);
      const alone = await observe(model, parameters, rows);
      expect(Math.abs(packed.loss / alone.loss - 1)).toBeLessThan(1e-6);
      for (const [i, g] of packed.lists.entries()) {
        expect(g.some((x) => x !== 0)).toBe(true);
        expect(relativeError(g, alone.lists[i]!)).toBeLessThan(2e-5);
      }
      if (trained === 'adapter') await model.removeAdapter('a');
    }
    model.freeze();
  });

  test('a batch whose rows have adapters of their own computes, and learns, what each row does alone', async () => {
    const model = await load();
    const adapters = [
      add(model, 'a', all, 1),
      add(model, 'b', { targetModules: ['q_proj'], targetParameters: [both[0]!] }, 2),
    ];
    const parameters = adapters.flatMap((one) => one.parameters());
    const who = ['a', 'b', null];
    for (const gradientCheckpointing of [false, true]) {
      const options = { reduction: 'sum', gradientCheckpointing } as const;
      const gradients = async (): Promise<number[][]> => {
        const found: number[][] = [];
        for (const p of parameters) {
          expect(p.grad).not.toBeNull();
          found.push(await list(p.grad));
          p.grad = null;
        }
        return found;
      };
      model.forward(rows, { labels: rows, adapter: who, ...options }).loss.backward();
      const found = await gradients();
      for (const [i, row] of rows.entries())
        if (who[i]) model.forward([row], { labels: [row], adapter: who[i], ...options }).loss.backward();
      const alone = await gradients();
      for (const [i, g] of found.entries()) expect(relativeError(g, alone[i]!)).toBeLessThan(2e-5);
    }
  });

  test('texts with and without such adapters, generated together, are what each is alone', async () => {
    const model = await load();
    add(model, 'a', all, 1);
    add(model, 'b', { targetModules: ['q_proj'] }, 2);
    const wanted = wishes(6, (i) => ({ adapter: ['a', 'b', null][i % 3]! }));
    const alone = await oneByOne(model, wanted);
    expect(await together(model, wanted)).toEqual(alone);
    const { adapter: _, ...greedy } = wanted[0]!;
    model.setAdapter(null);
    expect((await run(model, greedy)).ids).not.toEqual(alone[0]);
  });

  test('full fine-tuning trains experts, routers and their scales, and what is saved computes the same', async () => {
    const model = await load();
    const parameters = model.trainAll();
    const names = parameters.map(({ name }) => name);
    for (const end of [
      'experts.4.up_proj.weight',
      'router.proj.weight',
      'router.scale',
      'router.per_expert_scale',
    ])
      expect(names).toContain(`model.layers.2.${end}`);
    model.forward(rows, { labels: rows }).loss.backward();
    for (const p of parameters) {
      const moved = p.grad!.mul(-0.1).add(p);
      p.copyFrom(moved);
      moved.dispose();
      p.grad = null;
    }
    model.freeze();
    const dir = join(scratch, 'tuned');
    await model.save(dir);
    const file = await tensorsOf(dir);
    expect(file.get('model.layers.0.router.per_expert_scale')!.shape).toEqual([5]);
    expect(await logitsOf(await load(dir), null)).toEqual(await logitsOf(model, null));
    expect(relativeError(await logitsOf(model, null), await logitsOf(await load(), null))).toBeGreaterThan(
      1e-3,
    );
  });

  test('quantized files have every expert under its own name, and the router and its scales as they are', async () => {
    const dir = join(scratch, 'nf4');
    await quantizeModel(folder, dir, { format: 'nf4' });
    const types = Object.fromEntries([...(await tensorsOf(dir))].map(([name, { dtype }]) => [name, dtype]));
    expect(types).toMatchObject({
      'model.layers.1.experts.4.up_proj.weight': 'U8',
      'model.layers.1.experts.4.up_proj.weight.absmax': 'F32',
      'model.layers.1.router.proj.weight': 'F32',
      'model.layers.1.router.per_expert_scale': 'F32',
    });
    expect(types).not.toHaveProperty(['model.layers.1.experts.gate_up_proj']);
    const own = await load(folder, { quantize: 'nf4' });
    expect(await logitsOf(await load(dir), null)).toEqual(await logitsOf(own, null));
    const some = join(scratch, 'some');
    await quantizeModel(folder, some, {
      format: 'nf4',
      skip: ['experts.4.up_proj', 'layers.0.mlp.down_proj'],
    });
    const kept = await tensorsOf(some);
    expect(kept.get('model.layers.1.experts.4.up_proj.weight')!.dtype).toBe('F32');
    expect(kept.get('model.layers.1.experts.3.up_proj.weight')!.dtype).toBe('U8');
    expect(await logitsOf(await load(some), null)).not.toEqual(await logitsOf(own, null));
  });

  test('of a model that sees images the names are those of its text model', async () => {
    const dir = join(scratch, 'wrapped');
    cpSync(folder, dir, { recursive: true });
    const text = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object;
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ model_type: 'gemma4', text_config: text }));
    const tensors = [...(await tensorsOf(folder))].map(
      ([name, tensor]) => [name.replace(/^model\./, 'model.language_model.'), tensor] as const,
    );
    await writeSafetensors(join(dir, 'model.safetensors'), new Map(tensors), { format: 'pt' });
    expect(await logitsOf(await load(dir), null)).toEqual(await logitsOf(await load(), null));
  });
});

/** Gemma 4 26B-A4B. */
const large = {
  ...{ architectures: ['Gemma4ForCausalLM'], model_type: 'gemma4_text', dtype: 'bfloat16' },
  ...{ vocab_size: 262144, hidden_size: 2816, intermediate_size: 2112, num_hidden_layers: 30 },
  ...{ num_attention_heads: 16, num_key_value_heads: 8, head_dim: 256, global_head_dim: 512 },
  ...{ num_global_key_value_heads: 2, attention_k_eq_v: true, hidden_size_per_layer_input: 0 },
  ...{ enable_moe_block: true, num_experts: 128, top_k_experts: 8, moe_intermediate_size: 704 },
  ...{
    sliding_window: 1024,
    num_kv_shared_layers: 0,
    final_logit_softcapping: 30,
    max_position_embeddings: 262144,
  },
};

test('memory of a Gemma 4 26B-A4B in 4 bits, which an adapter of its attention or of its experts trains', () => {
  const options = { quantize: 'nf4', length: 512, gradientCheckpointing: true } as const;
  const { weights, total } = estimateMemory(large, { ...options, r: 8, targetModules: ['q_proj', 'v_proj'] });
  // 24.5 · 10⁹ weights of experts, MLPs and attention in 4.5 bits, an embedding of 0.74 · 10⁹ in 16.
  expect(weights / 1e9).toBeGreaterThan(15);
  expect(weights / 1e9).toBeLessThan(15.6);
  expect(total / 1e9).toBeLessThan(18);
  const { adapters } = estimateMemory(large, { ...options, adapter: { r: 8, targetParameters: both } });
  // Of each of 30 · 128 experts 8 · (2816 + 1408) and 8 · (704 + 2816) numbers.
  expect(adapters).toBe(8 * 30 * 128 * 8 * (2816 + 1408 + 704 + 2816));
});
