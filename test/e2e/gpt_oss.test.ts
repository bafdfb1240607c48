/** gpt-oss: its files, MXFP4, adapters of its experts, and what is trained beside matrices. The families' tests do the rest. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  convertModel,
  estimateMemory,
  noGrad,
  openSafetensors,
  quantizeModel,
  setThreads,
  writeSafetensors,
  type Adapter,
  type LoRAConfigInput,
  type Parameter,
  type SafetensorsTensor,
  type TensorValues,
} from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import { oneByOne, together, wishes } from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';
import { ggufParts, writeGguf } from '../support/gguf_bytes';
import { list, relativeError } from '../support/numbers';
import { slope } from '../support/slope';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const scratch = temporaryFolder();
const folder = join(sharedData, 'golden-families/tiny-gptoss');
const source = join(folder, 'model');
const both = ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'];
const rows = [
  [7, 72, 101, 108, 33],
  [9, 9, 7, 200, 31],
  [97, 98, 99, 5, 6],
];

const load = (from = source): Promise<CausalLM> => CausalLM.fromPretrained(from);
function add(model: CausalLM, name: string, config: LoRAConfigInput, seed: number): Adapter {
  const adapter = model.addAdapter({ r: 3, loraAlpha: 8, ...config }, { name, seed });
  fillAdapter(adapter, seed, 0.3);
  return adapter;
}
async function logitsOf(model: CausalLM, adapter: string | null = null): Promise<TensorValues> {
  const { logits } = noGrad(() => model.forward(rows, { logits: true, adapter }));
  const values = await logits.data();
  logits.dispose();
  return values;
}
async function tensorsOf(dir: string): Promise<Map<string, SafetensorsTensor>> {
  const file = await openSafetensors(join(dir, 'model.safetensors'));
  const read = [...file.tensors].map(([name, { dtype, shape, bytes }]) => {
    return [name, { dtype, shape: [...shape], bytes: bytes.slice() }] as const;
  });
  file.close();
  return new Map(read);
}

async function gradientsOf(parameters: readonly Parameter[]): Promise<number[][]> {
  const all: number[][] = [];
  for (const p of parameters) {
    all.push(p.grad ? await list(p.grad) : []);
    p.grad?.dispose();
    p.grad = null;
  }
  return all;
}

describeWithData('gpt-oss', 'golden-families', () => {
  beforeAll(() => setThreads(1)); // tiny matrices

  test('what is saved has the tensors of its files, bit for bit', async () => {
    const model = await load();
    const dir = join(scratch, 'saved');
    await model.save(dir);
    await model.dispose();
    const [own, saved] = [await tensorsOf(source), await tensorsOf(dir)];
    expect([...saved.keys()].sort()).toEqual([...own.keys()].sort());
    for (const [name, tensor] of own) expect(saved.get(name)).toEqual(tensor);
  });

  test('a tensor of experts of another shape than the configuration says is named', async () => {
    const dir = join(scratch, 'shapes');
    cpSync(source, dir, { recursive: true });
    const config = JSON.parse(readFileSync(join(source, 'config.json'), 'utf8')) as object;
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, num_local_experts: 3 }));
    await expect(load(dir)).rejects.toThrow(
      'the configuration asks for model.layers.0.mlp.experts.gate_up_proj of shape [3, 48, 48] but received [4, 48, 48]',
    );
    const tensors = await tensorsOf(source);
    tensors.delete('model.layers.1.mlp.experts.down_proj_bias');
    await writeSafetensors(join(dir, 'model.safetensors'), tensors, { format: 'pt' });
    writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
    await expect(load(dir)).rejects.toThrow('the weights lack model.layers.1.mlp.experts.down_proj_bias');
  });

  test('quantized files have every expert under its own name, and biases as they are', async () => {
    const dir = join(scratch, 'nf4');
    await quantizeModel(source, dir, { format: 'nf4' });
    const types = Object.fromEntries([...(await tensorsOf(dir))].map(([name, { dtype }]) => [name, dtype]));
    const layer = 'model.layers.1';
    expect(types).toMatchObject({
      [`${layer}.mlp.experts.3.gate_proj.weight`]: 'U8',
      [`${layer}.mlp.experts.3.down_proj.weight.absmax`]: 'F32',
      [`${layer}.mlp.experts.gate_up_proj_bias`]: 'F32',
      [`${layer}.mlp.router.weight`]: 'F32',
      [`${layer}.self_attn.sinks`]: 'F32',
    });
    const [own, read] = [
      await CausalLM.fromPretrained(source, { quantize: 'nf4' }),
      await CausalLM.fromPretrained(dir),
    ];
    expect(await logitsOf(read)).toEqual(await logitsOf(own));
    await own.dispose();
    await read.dispose();
  });

  test('a batch whose rows have adapters of their own, and a packed row, learn what each text does alone', async () => {
    const model = await load();
    const adapters = [
      add(model, 'a', { targetModules: ['q_proj'], targetParameters: both }, 1),
      add(model, 'b', { targetModules: ['o_proj', 'router'], targetParameters: [both[0]!] }, 2),
    ];
    const parameters = adapters.flatMap((one) => one.parameters());
    const learn = async (
      calls: readonly { ids: number[][]; adapter: (string | null)[]; segmentIds?: number[][] }[],
    ): Promise<[number, number[][]]> => {
      let sum = 0;
      for (const { ids, adapter, ...more } of calls) {
        const { loss } = model.forward(ids, { labels: ids, reduction: 'sum', adapter, ...more });
        if (adapter.some(Boolean)) loss.backward();
        sum += await loss.item();
      }
      return [sum, await gradientsOf(parameters)];
    };
    const who = ['a', 'b', null];
    const singles = (names: (string | null)[]) =>
      rows.map((row, i) => ({ ids: [row], adapter: [names[i]!] }));
    const [sum, alone] = await learn(singles(who));
    const [mixed, found] = await learn([{ ids: rows, adapter: who }]);
    expect(Math.abs(mixed / sum - 1)).toBeLessThan(1e-6);
    for (const [i, g] of found.entries()) expect(relativeError(g, alone[i]!)).toBeLessThan(1e-5);
    const [ofA, eachOfA] = await learn(singles(['a', 'a', 'a']));
    const segmentIds = [rows.flatMap((row, i) => row.map(() => i + 1))];
    const [packed, gradients] = await learn([{ ids: [rows.flat()], adapter: ['a'], segmentIds }]);
    expect(Math.abs(packed / ofA - 1)).toBeLessThan(1e-6);
    for (const [i, g] of gradients.entries())
      if (eachOfA[i]!.length > 0) expect(relativeError(g, eachOfA[i]!)).toBeLessThan(1e-5);
    await model.dispose();
  });

  test('texts with and without adapters of experts, generated together, are what each is alone', async () => {
    const model = await load();
    add(model, 'a', { targetParameters: both }, 1);
    add(model, 'b', { targetModules: ['q_proj'] }, 2);
    const all = wishes(6, (i) => ({ adapter: ['a', 'b', null][i % 3]! }));
    expect(await together(model, all)).toEqual(await oneByOne(model, all));
    await model.dispose();
  });

  test('merged they compute the same, in memory and in files, and unmerging gives back every bit', async () => {
    const model = await load();
    add(model, 'a', { targetModules: ['q_proj'], targetParameters: both }, 1);
    const [base, adapted] = [await logitsOf(model), await logitsOf(model, 'a')];
    expect(relativeError(adapted, base)).toBeGreaterThan(1e-2);
    const dir = join(scratch, 'merged');
    await model.save(dir, { merge: 'a' });
    model.setAdapter(null);
    await model.merge('a');
    const { logits } = noGrad(() => model.forward(rows, { logits: true }));
    const merged = await logits.data();
    expect(relativeError(merged, adapted)).toBeLessThan(1e-5);
    const read = await load(dir);
    expect(await logitsOf(read)).toEqual(merged);
    await read.dispose();
    await model.unmerge();
    expect(await logitsOf(model)).toEqual(base);
    await model.dispose();
  });

  test.each(['*.sinks', '*.experts.*.bias', '*.router.*'])(
    'the gradients of %s alone are the slope of the loss',
    async (pattern) => {
      const model = await CausalLM.fromPretrained(source, { device: 'reference' });
      const parameters = model.trainAll({ only: [pattern] });
      const { ids, labels } = JSON.parse(readFileSync(join(folder, 'batches.json'), 'utf8')) as Record<
        'ids' | 'labels',
        number[][][]
      >;

      const { told, found } = await slope(model, { ids: ids[1]!, labels: labels[1]! }, parameters, 0.0003);
      expect(told).toBeGreaterThan(1e-4);
      expect(Math.abs(found / told - 1)).toBeLessThan(0.02);
      await model.dispose();
    },
  );

  test('MXFP4 experts, as the published files hold them, are the floats that they stand for', async () => {
    const [own, floats, packed] = ['mx-source', 'mx-floats', 'mx'].map((name) => join(scratch, name));
    const config = {
      ...(JSON.parse(readFileSync(join(source, 'config.json'), 'utf8')) as object),
      ...{ hidden_size: 64, intermediate_size: 32 },
    };
    for (const dir of [own!, floats!, packed!]) cpSync(source, dir, { recursive: true });
    // What a value of 4 bits is: sign, two bits of exponent, one of mantissa.
    const valueOf = (code: number): number => (code & 8 ? -1 : 1) * [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7]!;
    let state = 1;
    const random = (below: number): number => {
      state = (state * 48271) % 2147483647;
      return state % below;
    };
    const [experts, d, ff] = [4, 64, 32];
    const whole = new Map<string, SafetensorsTensor>();
    const planes = new Map<string, SafetensorsTensor>();
    // By ggml's names: blocks of 17 bytes, the scale and then values j and j + 16.
    const blocksOfGgml = new Map<string, Uint8Array>();
    const f32 = (shape: number[], make: () => number): SafetensorsTensor => ({
      ...{ dtype: 'F32', shape },
      bytes: new Uint8Array(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, make).buffer),
    });
    const small = (): number => (random(2001) - 1000) / 4000;
    for (const [name, { shape }] of await tensorsOf(source)) {
      const isStack = /experts\.(gate_up|down)_proj$/.test(name);
      if (!isStack) {
        const wider = shape.map((n) =>
          n === 48 ? (name.includes('gate_up') ? 2 * ff : d) : n === 24 ? ff : n,
        );
        const made = f32(wider, name.includes('norm') ? () => 1 + small() : small);
        for (const file of [whole, planes]) file.set(name, made);
        continue;
      }
      const [out, inside] = name.endsWith('down_proj') ? [d, ff] : [2 * ff, d];
      const blocks = new Uint8Array((experts * out * inside) / 2);
      const scales = Uint8Array.from({ length: (experts * out * inside) / 32 }, () => 122 + random(3));
      const values = new Float32Array(experts * out * inside);
      const codes = new Uint8Array(values.length);
      for (let e = 0; e < experts; e++)
        for (let row = 0; row < out; row++)
          for (let col = 0; col < inside; col++) {
            const at = (e * out + row) * inside + col;
            const code = (codes[at] = random(16));
            blocks[at >> 1]! |= code << (4 * (at & 1)); // the first of two in the low bits
            const value = valueOf(code) * 2 ** (scales[at >> 5]! - 127);
            values[(e * inside + col) * out + row] = value; // floats stand as [in, out]
          }
      const index = /layers\.(\d+)\./.exec(name)![1]!;
      const parts = name.endsWith('down_proj') ? ['down'] : ['gate', 'up'];
      for (const [part, ofPart] of parts.entries()) {
        const made: number[] = [];
        for (let row = part; row < experts * out; row += parts.length)
          for (let at = row * inside; at < (row + 1) * inside; at += 32) {
            made.push(scales[at >> 5]!);
            for (let j = 0; j < 16; j++) made.push(codes[at + j]! | (codes[at + 16 + j]! << 4));
          }
        blocksOfGgml.set(`blk.${index}.ffn_${ofPart}_exps.weight`, Uint8Array.from(made));
      }
      const bytes = new Uint8Array(values.buffer);
      whole.set(name, { dtype: 'F32', shape: [experts, inside, out], bytes });
      planes.set(`${name}_blocks`, { dtype: 'U8', shape: [experts, out, inside / 32, 16], bytes: blocks });
      planes.set(`${name}_scales`, { dtype: 'U8', shape: [experts, out, inside / 32], bytes: scales });
    }
    const quantized = { quantization_config: { quant_method: 'mxfp4', modules_to_not_convert: ['lm_head'] } };
    for (const [dir, tensors, more] of [
      [floats!, whole, {}],
      [packed!, planes, quantized],
    ] as const) {
      await writeSafetensors(join(dir, 'model.safetensors'), tensors, { format: 'pt' });
      writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, ...more }));
    }
    // Scales that are no numbers, and of other blocks than the codes are of.
    const scales = 'model.layers.0.mlp.experts.down_proj_scales';
    const { shape, bytes: valid } = planes.get(scales)!;
    const spoiled = join(scratch, 'mx-spoiled');
    cpSync(packed!, spoiled, { recursive: true });
    for (const [changed, message] of [
      [
        { dtype: 'U8', shape, bytes: valid.map((x, i) => (i === 5 ? 255 : x)) },
        `${scales} has a scale that is no number`,
      ],
      [
        { dtype: 'U8', shape: [...shape.slice(0, 2), 1, shape[2]!], bytes: valid },
        `asks for ${scales} of shape`,
      ],
    ] as const) {
      const tensors = new Map<string, SafetensorsTensor>([...planes, [scales, changed]]);
      await writeSafetensors(join(spoiled, 'model.safetensors'), tensors, { format: 'pt' });
      await expect(load(spoiled)).rejects.toMatchObject({
        code: 'ERR_FILE',
        message: expect.stringContaining(message),
      });
    }
    const [wanted, model] = [await load(floats), await load(packed)];
    expect(relativeError(await logitsOf(model), await logitsOf(wanted))).toBeLessThan(1e-5);
    const estimated = estimateMemory(model.config, {}).weights;
    expect(estimated).toBeLessThan(estimateMemory(wanted.config, {}).weights - 4 * experts * 3 * d * ff * 3);
    const file = join(scratch, 'mx.gguf');
    await convertModel(floats!, file, { format: 'f32' });
    const parts = await ggufParts(file);
    for (const [name, bytes] of blocksOfGgml)
      parts.tensors.set(name, {
        ...{ type: 'MXFP4', shape: parts.tensors.get(name)!.shape },
        async *parts() {
          yield await Promise.resolve(bytes);
        },
      });
    const fromGguf = await load(await writeGguf(join(scratch, 'mx-blocks.gguf'), parts));
    expect(fromGguf.config.packed!.get('model.layers.0.mlp.experts.3.up_proj')).toBe('mxfp4');
    expect(await logitsOf(fromGguf)).toEqual(await logitsOf(model));
    await fromGguf.dispose();
    // Written as floats, they are those of the other file.
    const dir = join(scratch, 'mx-saved');
    await model.save(dir);
    const saved = await tensorsOf(dir);
    for (const [name, tensor] of whole)
      if (/experts\.(gate_up|down)_proj$/.test(name))
        expect(floatsOf(saved.get(name)!).map((x) => x + 0)).toEqual(floatsOf(tensor).map((x) => x + 0)); // without −0
    const adapter = add(model, 'a', { targetParameters: both }, 1);
    model.forward(rows, { labels: rows }).loss.backward();
    for (const g of await gradientsOf(adapter.parameters())) expect(g.some((x) => x !== 0)).toBe(true);
    await wanted.dispose();
    await model.dispose();
  });
});

/** gpt-oss-20b. */
const published = {
  ...{ architectures: ['GptOssForCausalLM'], model_type: 'gpt_oss', torch_dtype: 'bfloat16' },
  ...{ vocab_size: 201088, hidden_size: 2880, intermediate_size: 2880, num_hidden_layers: 24 },
  ...{ num_attention_heads: 64, num_key_value_heads: 8, head_dim: 64, max_position_embeddings: 131072 },
  ...{ num_local_experts: 32, num_experts_per_tok: 4, sliding_window: 128, rms_norm_eps: 1e-5 },
  ...{ attention_bias: true, swiglu_limit: 7, rope_theta: 150000, initial_context_length: 4096 },
  rope_scaling: {
    ...{ rope_type: 'yarn', factor: 32, beta_fast: 32, beta_slow: 1, truncate: false },
    original_max_position_embeddings: 4096,
  },
  quantization_config: { quant_method: 'mxfp4', modules_to_not_convert: ['model.layers.*.self_attn'] },
};

test('memory of gpt-oss-20b as it is published', () => {
  const { weights } = estimateMemory(published, { streams: 1, length: 512 });
  // 19.1 · 10⁹ weights of experts in 4.25 bits, 1.16 · 10⁹ of embedding and head and 0.64 · 10⁹ of attention in 16.
  expect(weights / 1e9).toBeGreaterThan(13.5);
  expect(weights / 1e9).toBeLessThan(14);
});
