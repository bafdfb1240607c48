/** GGUF files of models whose layers are not alike: delta rules beside attention (Qwen3.5), and layers that share keys (Gemma 4). */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertAdapter, convertModel, noGrad, openSafetensors } from '../../lib/index';
import { bytesOfFloats, floatsOf } from '../../lib/formats/floats';
import { GgufFile } from '../../lib/formats/gguf';
import type { GgufField, LateGgufTensor } from '../../lib/formats/gguf_write';
import type { SafetensorsTensor } from '../../lib/formats/safetensors';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { counting, ggufParts, writeGguf, type GgufParts } from '../support/gguf_bytes';
import { askLlamaCpp, llamaCpp } from '../support/llama_cpp';
import { relativeError } from '../support/numbers';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
const unused = (end = '.gguf'): string => join(root, `${count++}${end}`);
const ids = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]];

interface Written {
  readonly source: string;
  readonly file: string;
  readonly parts: GgufParts;
}

async function written(options: TinyModelOptions, format: 'f32' | 'q8_0' = 'f32'): Promise<Written> {
  const source = await tinyModel({ tokenizer: false, ...options });
  const file = unused();
  await convertModel(source, file, { format });
  return { source, file, parts: await ggufParts(file) };
}

async function valuesOf(tensor: LateGgufTensor | undefined): Promise<Float32Array> {
  const parts: Uint8Array[] = [];
  for await (const part of tensor!.parts()) parts.push(part);
  return floatsOf({ dtype: 'F32', bytes: new Uint8Array(Buffer.concat(parts)) });
}

async function sourceValues(source: string): Promise<(name: string) => Float32Array> {
  const file = await openSafetensors(join(source, 'model.safetensors'));
  const values = new Map([...file.tensors].map(([name, tensor]) => [name, floatsOf(tensor).slice()]));
  file.close();
  return (name) => values.get(name)!;
}

async function logitsOf(path: string): Promise<Float32Array> {
  const model = await CausalLM.fromPretrained(path, { dtype: 'f32' });
  const { logits } = noGrad(() => model.forward(ids));
  const values = await logits.data<Float32Array>();
  await model.dispose();
  return values;
}

async function configOf(parts: GgufParts, changes: Record<string, GgufField | undefined>): Promise<object> {
  const model = await CausalLM.fromPretrained(await writeGguf(unused(), parts, changes));
  await model.dispose();
  return model.config;
}

/** Heads of 8 numbers; three of v to one of k. Attention in layer 3 of 5, which rotates half of each head. */
const qwen35: Record<string, unknown> = {
  ...{ model_type: 'qwen3_5_text', num_hidden_layers: 5, head_dim: 8, partial_rotary_factor: 0.5 },
  ...{ linear_num_key_heads: 2, linear_num_value_heads: 6, linear_key_head_dim: 8 },
  ...{ linear_value_head_dim: 8, linear_conv_kernel_dim: 4 },
};
/** Of six heads of v, which one stands at each place of a file: 0 and 3 are the first that read the two of k. */
const places = [0, 3, 1, 4, 2, 5];

describe('Qwen3.5', () => {
  test('heads of v stand by the heads of k that they read, the first of each before the second', async () => {
    const { source, file, parts } = await written({ config: qwen35 });
    const { tensors, metadata } = parts;
    const own = await sourceValues(source);
    const layer = 'model.layers.1.linear_attn';
    const of = (name: string): Promise<Float32Array> => valuesOf(tensors.get(`blk.1.${name}`));

    const rates = own(`${layer}.A_log`).map((a) => -Math.exp(a));
    expect(await of('ssm_a')).toEqual(Float32Array.from(places, (head) => rates[head]!));
    expect(await of('ssm_dt.bias')).toEqual(
      Float32Array.from(places, (head) => own(`${layer}.dt_bias`)[head]!),
    );
    const row = (matrix: Float32Array, index: number, width = 24): Float32Array =>
      matrix.slice(index * width, (index + 1) * width);
    const [qkv, z, conv] = await Promise.all(
      ['attn_qkv.weight', 'attn_gate.weight', 'ssm_conv1d.weight'].map(of),
    );
    for (const [place, head] of places.entries())
      for (let i = 0; i < 8; i++) {
        const [to, from] = [place * 8 + i, head * 8 + i];
        expect(row(qkv!, 32 + to)).toEqual(row(own(`${layer}.in_proj_qkv.weight`), 32 + from));
        expect(row(z!, to)).toEqual(row(own(`${layer}.in_proj_z.weight`), from));
        expect(row(conv!, 32 + to, 4)).toEqual(row(own(`${layer}.conv1d.weight`), 32 + from, 4));
      }
    expect(qkv!.slice(0, 32 * 24)).toEqual(own(`${layer}.in_proj_qkv.weight`).slice(0, 32 * 24));
    for (const [theirs, ours] of [
      ['ssm_beta', 'in_proj_b'],
      ['ssm_alpha', 'in_proj_a'],
    ] as const) {
      const matrix = await of(`${theirs}.weight`);
      for (const [place, head] of places.entries())
        expect(row(matrix, place)).toEqual(row(own(`${layer}.${ours}.weight`), head));
    }
    const out = await of('ssm_out.weight');
    for (let r = 0; r < 24; r++)
      for (const [place, head] of places.entries())
        expect(out.slice(r * 48 + place * 8, r * 48 + place * 8 + 8)).toEqual(
          own(`${layer}.out_proj.weight`).slice(r * 48 + head * 8, r * 48 + head * 8 + 8),
        );

    expect(tensors.get('blk.1.ssm_conv1d.weight')).toMatchObject({ type: 'F32', shape: [80, 4] });
    expect(await of('ssm_norm.weight')).toEqual(own(`${layer}.norm.weight`));
    for (const [theirs, ours] of [
      ['blk.1.attn_norm', 'model.layers.1.input_layernorm'],
      ['blk.1.post_attention_norm', 'model.layers.1.post_attention_layernorm'],
      ['blk.3.attn_q_norm', 'model.layers.3.self_attn.q_norm'],
      ['output_norm', 'model.norm'],
    ] as const)
      expect(await valuesOf(tensors.get(`${theirs}.weight`))).toEqual(
        own(`${ours}.weight`).map((w) => w + 1),
      );
    const said = Object.fromEntries([...metadata].filter(([key]) => /ssm|interval|dimension/.test(key)));
    expect(said).toEqual({
      'qwen35.full_attention_interval': { u32: 4 },
      'qwen35.ssm.conv_kernel': { u32: 4 },
      'qwen35.ssm.state_size': { u32: 8 },
      'qwen35.ssm.group_count': { u32: 2 },
      'qwen35.ssm.time_step_rank': { u32: 6 },
      'qwen35.ssm.inner_size': { u32: 48 },
      'qwen35.rope.dimension_count': { u32: 4 },
      'qwen35.rope.dimension_sections': { i32s: [1, 1, 0, 0] },
    });
    expect(relativeError(await logitsOf(file), await logitsOf(source))).toBeLessThan(1e-6);
    rmSync(source, { recursive: true });
  });

  test('as many heads of v as of k stand as they are', async () => {
    const { source, file, parts } = await written({ config: { ...qwen35, linear_num_key_heads: 6 } });
    const own = await sourceValues(source);
    expect(await valuesOf(parts.tensors.get('blk.0.attn_qkv.weight'))).toEqual(
      own('model.layers.0.linear_attn.in_proj_qkv.weight'),
    );
    expect(relativeError(await logitsOf(file), await logitsOf(source))).toBeLessThan(1e-6);
    rmSync(source, { recursive: true });
  });

  test('the sections of its rope are those of config.json, or thirds of what is rotated', async () => {
    const sectionsOf = async (changes: object): Promise<unknown> => {
      const { metadata } = (await written({ config: { ...qwen35, ...changes } })).parts;
      return metadata.get('qwen35.rope.dimension_sections');
    };
    const head_dim = 16;
    expect(await sectionsOf({ head_dim })).toEqual({ i32s: [2, 1, 1, 0] });
    const rope_parameters = { rope_type: 'default', mrope_section: [1, 1, 2], partial_rotary_factor: 0.5 };
    expect(await sectionsOf({ head_dim, rope_parameters })).toEqual({ i32s: [1, 1, 2, 0] });
    expect(await sectionsOf({ rope_parameters })).toEqual({ i32s: [1, 1, 0, 0] });
  });

  test('blocks that predict further tokens are left out, and layers may be listed', async () => {
    const { file, parts } = await written({ config: qwen35 });
    const tensors = new Map(parts.tensors).set('blk.5.nextn.eh_proj.weight', counting([24, 48]));
    const more = { 'qwen35.nextn_predict_layers': { u32: 1 }, 'qwen35.block_count': { u32: 6 } };
    const further = await writeGguf(unused(), { ...parts, tensors }, more);
    expect(await logitsOf(further)).toEqual(await logitsOf(file));

    const kinds = ['state', 'state', 'state', 'attention', 'state'];
    const layers = kinds.map((kind) => ({ kind }));
    const recurrent = { flags: kinds.map((kind) => kind === 'state') };
    const listed = { 'qwen35.attention.recurrent_layers': recurrent };
    expect(await configOf(parts, { ...listed, 'qwen35.full_attention_interval': { u32: 2 } })).toMatchObject({
      layers,
    });
    await expectReject(
      configOf(parts, { 'qwen35.attention.recurrent_layers': { flags: [true] } }),
      'ERR_FILE',
      /has 1 layers in qwen35\.attention\.recurrent_layers: expected 5/,
    );
    await expectReject(
      configOf(parts, { 'qwen35.full_attention_interval': { u32: 5 } }),
      'ERR_FILE',
      /blk\.3\.|blk\.4\./,
    );
  });

  test('what files do not say, or cannot hold, is refused', async () => {
    const kinds = (...full: number[]): string[] =>
      Array.from({ length: 5 }, (_, i) => (full.includes(i) ? 'full_attention' : 'linear_attention'));
    const order = 'attention is not in every n-th layer, which is what GGUF files of qwen35 say';
    const yarn = { rope_type: 'yarn', factor: 4, partial_rotary_factor: 0.5 };
    for (const [changes, sentence] of [
      [{ layer_types: kinds(0, 3) }, order],
      [{ layer_types: kinds() }, order],
      [{ attention_bias: true }, 'attention has biases, which llama.cpp does not read of a qwen35'],
      [
        { linear_key_head_dim: 4 },
        'heads of 4 and 8 numbers in a delta rule, of which llama.cpp reads one width',
      ],
      [{ rope_parameters: yarn }, 'rope of type yarn is not written for a qwen35'],
    ] as const)
      await expectReject(
        written({ config: { ...qwen35, ...changes } }),
        'ERR_UNSUPPORTED',
        `[convertModel] ${sentence}`,
      );
    const { parts } = await written({ config: qwen35 });
    const tensors = new Map(parts.tensors).set('blk.1.ssm_a', counting([6]));
    await expectReject(
      configOf({ ...parts, tensors }, {}),
      'ERR_FILE',
      'blk.1.ssm_a has 0, which no model gives',
    );
    for (const [name, sentence] of [
      ['qwen35.ssm.group_count', /has no qwen35\.ssm\.group_count/],
      ['qwen35.ssm.inner_size', /has no qwen35\.ssm\.inner_size/],
    ] as const)
      await expectReject(configOf(parts, { [name]: undefined }), 'ERR_FILE', sentence);
    await expectReject(
      configOf(parts, { 'qwen35.ssm.inner_size': { u32: 33 } }),
      'ERR_FILE',
      /has 33 numbers in 6 heads and 5 layers: expected whole heads/,
    );
  });

  // A block has 32 values: of one head, of two heads, or of parts of two.
  test.each([
    [32, true],
    [16, false],
    [48, false],
  ])('blocks over heads of %i numbers stand in order: as blocks %s', async (width, whole) => {
    const sizes = { linear_value_head_dim: width, linear_key_head_dim: width, hidden_size: 32, head_dim: 8 };
    const { source, file } = await written({ config: { ...qwen35, ...sizes } }, 'q8_0');
    rmSync(source, { recursive: true });
    const model = await CausalLM.fromPretrained(file, { dtype: 'f32' });
    const path = 'model.layers.1.linear_attn.out_proj';
    expect(model.config.packed?.has(path)).toBe(whole);
    expect(model.config.packed?.has('model.layers.1.linear_attn.in_proj_qkv')).toBe(true);
    const saved = unused('');
    await model.save(saved);
    await model.dispose();
    const got = (await sourceValues(saved))(`${path.replace('model.', 'model.language_model.')}.weight`);
    // Its blocks, decoded: an f16 scale and 32 numbers of a byte.
    const opened = await GgufFile.open(file);
    const tensor = opened.tensors.get('blk.1.ssm_out.weight')!;
    expect(tensor.block.type).toBe('Q8_0');
    const blocks = await tensor.read();
    await opened.close();
    const values = new Float32Array(32 * 6 * width);
    for (let block = 0; block < values.length / 32; block++) {
      const [scale] = floatsOf({ dtype: 'F16', bytes: blocks.slice(block * 34, block * 34 + 2) });
      for (let i = 0; i < 32; i++)
        values[block * 32 + i] = scale! * (((blocks[block * 34 + 2 + i]! + 128) % 256) - 128);
    }
    for (let row = 0; row < 32; row++)
      for (const [place, head] of places.entries())
        for (let i = 0; i < width; i++)
          expect(got[(row * 6 + head) * width + i]).toBe(values[(row * 6 + place) * width + i]);
  });

  test('an adapter of a delta rule is written in the order of the file, and read back', async () => {
    const source = await tinyModel({ config: qwen35, tokenizer: false });
    const own = await CausalLM.fromPretrained(source);
    const adapter = own.addAdapter({ r: 2, targetModules: ['in_proj_qkv', 'out_proj', 'in_proj_b'] });
    fillAdapter(adapter, 5);
    const [peft, gguf, back] = [unused(''), unused(), unused('')];
    await adapter.save(peft);
    await own.dispose();
    await convertAdapter(peft, gguf, { format: 'gguf', base: source });
    await convertAdapter(gguf, back, { format: 'peft', base: source });
    const tensorsOf = async (dir: string): Promise<unknown> => {
      const file = await openSafetensors(join(dir, 'adapter_model.safetensors'));
      const tensors = [...file.tensors].map(([name, one]) => [name, [...floatsOf(one)]]).sort();
      file.close();
      return tensors;
    };
    expect(await tensorsOf(back)).toEqual(await tensorsOf(peft));
    const { tensors } = await ggufParts(gguf);
    const values = await sourceValuesOf(peft);
    const down = values('base_model.model.model.layers.0.linear_attn.out_proj.lora_A.weight');
    const up = values('base_model.model.model.layers.0.linear_attn.in_proj_b.lora_B.weight');
    const [a, b] = [
      await valuesOf(tensors.get('blk.0.ssm_out.weight.lora_a')),
      await valuesOf(tensors.get('blk.0.ssm_beta.weight.lora_b')),
    ];
    for (const [place, head] of places.entries()) {
      expect(b.slice(place * 2, place * 2 + 2)).toEqual(up.slice(head * 2, head * 2 + 2));
      for (const r of [0, 1])
        expect(a.slice(r * 48 + place * 8, r * 48 + place * 8 + 8)).toEqual(
          down.slice(r * 48 + head * 8, r * 48 + head * 8 + 8),
        );
    }
    rmSync(source, { recursive: true });
  });
});

async function sourceValuesOf(dir: string): Promise<(name: string) => Float32Array> {
  const file = await openSafetensors(join(dir, 'adapter_model.safetensors'));
  const values = new Map([...file.tensors].map(([name, tensor]) => [name, floatsOf(tensor).slice()]));
  file.close();
  return (name) => values.get(name)!;
}

const pattern = ['sliding', 'sliding', 'full', 'sliding', 'sliding', 'full'].map(
  (kind) => `${kind}_attention`,
);
const gemma4: Record<string, unknown> = {
  ...{ model_type: 'gemma4_text', num_hidden_layers: 6, layer_types: pattern, sliding_window: 5 },
  ...{ head_dim: 8, global_head_dim: 16, num_kv_shared_layers: 3, use_double_wide_mlp: true },
  ...{ hidden_size_per_layer_input: 8, vocab_size_per_layer_input: 262, hidden_act: null },
  ...{ hidden_activation: 'gelu_pytorch_tanh', final_logit_softcapping: 30 },
  rope_parameters: {
    full_attention: { rope_type: 'proportional', rope_theta: 1e6, partial_rotary_factor: 0.25 },
    sliding_attention: { rope_type: 'default', rope_theta: 10000 },
  },
};

describe('Gemma 4', () => {
  test('a file says what each layer has', async () => {
    const { source, file, parts } = await written({ config: gemma4 });
    const { metadata, tensors } = parts;
    const said = Object.fromEntries(
      [...metadata].filter(([key]) => /length|swa|window|shared|rope|capping|head_count/.test(key)),
    );
    expect(said).toEqual({
      'gemma4.context_length': { u32: 128 },
      'gemma4.embedding_length': { u32: 24 },
      'gemma4.embedding_length_per_layer_input': { u32: 8 },
      'gemma4.feed_forward_length': { i32s: [40, 40, 40, 80, 80, 80] },
      'gemma4.attention.head_count': { u32: 4 },
      'gemma4.attention.head_count_kv': { u32: 2 },
      'gemma4.attention.key_length': { u32: 16 },
      'gemma4.attention.value_length': { u32: 16 },
      'gemma4.attention.key_length_swa': { u32: 8 },
      'gemma4.attention.value_length_swa': { u32: 8 },
      'gemma4.attention.shared_kv_layers': { u32: 3 },
      'gemma4.attention.sliding_window': { u32: 5 },
      'gemma4.attention.sliding_window_pattern': { flags: [true, true, false, true, true, false] },
      'gemma4.rope.dimension_count': { u32: 16 },
      'gemma4.rope.dimension_count_swa': { u32: 8 },
      'gemma4.rope.freq_base': { u32: 1e6 }, // whole numbers are read as such
      'gemma4.rope.freq_base_swa': { u32: 1e4 },
      'gemma4.final_logit_softcapping': { u32: 30 },
    });
    const factor = Math.fround(1e30);
    expect(await valuesOf(tensors.get('rope_freqs.weight'))).toEqual(
      Float32Array.of(1, 1, ...Array<number>(6).fill(factor)),
    );
    const own = await sourceValues(source);
    for (const [theirs, ours] of [
      ['per_layer_token_embd.weight', 'model.embed_tokens_per_layer.weight'],
      ['per_layer_model_proj.weight', 'model.per_layer_model_projection.weight'],
      ['per_layer_proj_norm.weight', 'model.per_layer_projection_norm.weight'],
      ['blk.4.inp_gate.weight', 'model.layers.4.per_layer_input_gate.weight'],
      ['blk.4.proj.weight', 'model.layers.4.per_layer_projection.weight'],
      ['blk.4.post_norm.weight', 'model.layers.4.post_per_layer_input_norm.weight'],
      ['blk.4.layer_output_scale.weight', 'model.layers.4.layer_scalar'],
      ['blk.4.ffn_norm.weight', 'model.layers.4.pre_feedforward_layernorm.weight'],
      ['blk.4.post_ffw_norm.weight', 'model.layers.4.post_feedforward_layernorm.weight'],
      ['blk.4.post_attention_norm.weight', 'model.layers.4.post_attention_layernorm.weight'],
    ] as const)
      expect(await valuesOf(tensors.get(theirs))).toEqual(own(ours));
    expect(tensors.has('blk.3.attn_k.weight')).toBe(false);
    expect(await logitsOf(file)).toEqual(await logitsOf(source));
    rmSync(source, { recursive: true });
  });

  test('experts of a layer are two tensors, an expert’s gate above its up', async () => {
    const experts = { enable_moe_block: true, num_experts: 6, top_k_experts: 2, moe_intermediate_size: 16 };
    const { source, file, parts } = await written({ config: { ...gemma4, ...experts } });
    const { metadata, tensors } = parts;
    const said = [...metadata].filter(([key]) => key.startsWith('gemma4.expert_'));
    expect(Object.fromEntries(said)).toEqual({
      'gemma4.expert_count': { u32: 6 },
      'gemma4.expert_used_count': { u32: 2 },
      'gemma4.expert_feed_forward_length': { u32: 16 },
    });
    const own = await sourceValues(source);
    const ofExperts = (...names: string[]): string[] =>
      [0, 1, 2, 3, 4, 5].flatMap((expert) => names.map((name) => `experts.${expert}.${name}_proj.weight`));
    for (const [theirs, shape, ...ours] of [
      ['ffn_gate_up_exps.weight', [6, 32, 24], ...ofExperts('gate', 'up')],
      ['ffn_down_exps.weight', [6, 24, 16], ...ofExperts('down')],
      ['ffn_down_exps.scale', [6], 'router.per_expert_scale'],
      ['ffn_gate_inp.weight', [6, 24], 'router.proj.weight'],
      ['ffn_gate_inp.scale', [24], 'router.scale'],
      ['post_ffw_norm_1.weight', [24], 'post_feedforward_layernorm_1.weight'],
      ['pre_ffw_norm_2.weight', [24], 'pre_feedforward_layernorm_2.weight'],
      ['post_ffw_norm_2.weight', [24], 'post_feedforward_layernorm_2.weight'],
    ] as const) {
      const tensor = tensors.get(`blk.4.${theirs}`)!;
      expect([theirs, tensor.shape]).toEqual([theirs, shape]);
      expect([...(await valuesOf(tensor))]).toEqual(
        ours.flatMap((name) => [...own(`model.layers.4.${name}`)]),
      );
    }
    expect(await logitsOf(file)).toEqual(await logitsOf(source));
    rmSync(source, { recursive: true });

    const gateUp = 'blk.4.ffn_gate_up_exps.weight';
    const changed = (shape: number[]): Promise<string> =>
      writeGguf(unused(), { metadata, tensors: new Map([...tensors, [gateUp, counting(shape)]]) }, {});
    for (const [shape, found] of [
      [[6, 31, 24], 'of shape [16, 24] but received [31, 24]'],
      [[6, 34, 24], 'of shape [16, 24] but received [17, 24]'],
      [[7, 32, 24], 'of shape [16, 24] but received [7, 32, 24]'],
      [[5, 32, 24], 'of shape [16, 24] but received [5, 32, 24]'],
    ] as const)
      await expectReject(
        CausalLM.fromPretrained(await changed([...shape])),
        'ERR_FILE',
        new RegExp(`asks for ${gateUp} ${found.replace(/[[\]]/g, '\\$&')}`),
      );
  });

  test('blocks of experts are kept, each expert with its own', async () => {
    const experts = { enable_moe_block: true, num_experts: 4, top_k_experts: 4, moe_intermediate_size: 32 };
    const config = { ...gemma4, ...experts, hidden_size: 32, vocab_size: 262 };
    // Scalars of layers near 0 would leave little of the text but roundings.
    const edit = (all: Map<string, SafetensorsTensor>): void => {
      for (const [name, tensor] of all)
        if (name.endsWith('layer_scalar'))
          all.set(name, { ...tensor, bytes: bytesOfFloats(floatsOf(tensor).map((value) => 1 + value)) });
    };
    const { source, file, parts } = await written({ config, edit }, 'q8_0');
    expect(parts.tensors.get('blk.1.ffn_gate_up_exps.weight')).toMatchObject({
      type: 'Q8_0',
      shape: [4, 64, 32],
    });
    expect(relativeError(await logitsOf(file), await logitsOf(source))).toBeLessThan(0.1);
    rmSync(source, { recursive: true });
  });

  test('keys may be values, with other heads in layers that see all', async () => {
    const { source, file, parts } = await written({
      config: {
        ...gemma4,
        ...{ attention_k_eq_v: true, num_global_key_value_heads: 1, num_kv_shared_layers: 0 },
        ...{ use_double_wide_mlp: false, final_logit_softcapping: null },
      },
    });
    const { metadata, tensors } = parts;
    expect(metadata.get('gemma4.attention.head_count_kv')).toEqual({ i32s: [2, 2, 1, 2, 2, 1] });
    expect(metadata.get('gemma4.feed_forward_length')).toEqual({ u32: 40 });
    expect(metadata.has('gemma4.final_logit_softcapping')).toBe(false);
    expect(tensors.has('blk.2.attn_v.weight')).toBe(false);
    expect(await logitsOf(file)).toEqual(await logitsOf(source));
    rmSync(source, { recursive: true });
  });

  test('what llama.cpp computes otherwise is not written', async () => {
    const kinds = (slides: string): string[] =>
      [...slides].map((one) => (one === 's' ? 'sliding_attention' : 'full_attention'));
    const both = 'a gemma4 is written with layers that slide and layers that see all';
    const keys =
      'layers share other keys than those of the last two layers before them, of which llama.cpp takes the first to slide and the second to see all';
    const rope = (full: object, sliding: object = { rope_type: 'default' }): object => ({
      rope_parameters: { full_attention: full, sliding_attention: sliding },
    });
    for (const [changes, sentence] of [
      [{ layer_types: kinds('ssssss') }, both],
      [{ layer_types: kinds('ffffff') }, both],
      [{ layer_types: kinds('sfssff') }, keys],
      [{ attention_bias: true }, 'attention has biases, which llama.cpp does not read of a gemma4'],
      [
        rope({ rope_type: 'proportional', partial_rotary_factor: 0.25, factor: 2 }),
        'rope of type proportional with these settings is not written for a gemma4',
      ],
      [
        rope({ rope_type: 'default' }, { rope_type: 'linear', factor: 2 }),
        'sliding layers have a rope of type linear, which is not written',
      ],
    ] as const)
      await expectReject(
        written({ config: { ...gemma4, ...changes } }),
        'ERR_UNSUPPORTED',
        `[convertModel] ${sentence}`,
      );
  });

  test('a file of other layers is refused, by its key', async () => {
    const { parts } = await written({ config: gemma4 });
    for (const [name, field, code, sentence] of [
      ['expert_count', { u32: 4 }, 'ERR_FILE', /has no gemma4\.expert_used_count/],
      ['attention.head_count_kv', { i32s: [2, 1, 2, 2, 2, 2] }, 'ERR_UNSUPPORTED', /head_count_kv than/],
      ['attention.head_count_kv', { i32s: [2, 2, 1, 2, 2, 1] }, 'ERR_UNSUPPORTED', /head_count_kv than/],
      ['attention.head_count_kv', { i32s: [2] }, 'ERR_FILE', /has 1 values of gemma4.*one for each of 6/],
      [
        'feed_forward_length',
        { i32s: [40, 40, 80, 80, 80, 80] },
        'ERR_UNSUPPORTED',
        /feed_forward_length than those of a gemma4/,
      ],
      ['attention.value_length', { u32: 8 }, 'ERR_UNSUPPORTED', /attention\.value_length than/],
      ['attention.value_length_swa', { u32: 4 }, 'ERR_UNSUPPORTED', /attention\.value_length_swa than/],
      [
        'attention.sliding_window_pattern',
        { i32s: [1, 1, 1, 1, 1, 1] },
        'ERR_UNSUPPORTED',
        /sliding_window_pattern than/,
      ],
      ['rope.freq_base_swa', undefined, 'ERR_FILE', /has no gemma4\.rope\.freq_base_swa/],
      ['embedding_length_per_layer_input', undefined, 'ERR_FILE', /has no gemma4\.embedding_length_per/],
    ] as const)
      await expectReject(configOf(parts, { [`gemma4.${name}`]: field }), code, sentence);
    for (const factors of [
      [1, 1, 2, 2, 2, 2, 2, 2],
      [2, 1, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30],
    ]) {
      const freqs: LateGgufTensor = {
        type: 'F32',
        shape: [8],
        async *parts() {
          yield await Promise.resolve(new Uint8Array(Float32Array.from(factors).buffer));
        },
      };
      const tensors = new Map(parts.tensors).set('rope_freqs.weight', freqs);
      await expectReject(
        configOf({ ...parts, tensors }, {}),
        'ERR_UNSUPPORTED',
        /has factors in rope_freqs\.weight that are not those of a gemma4/,
      );
    }
  });
});

const whereInstalled = llamaCpp
  ? describeWithData
  : (name: string, _: string, body: (dir: string) => void): void =>
      describe.skip(`${name} (skipped: node-llama-cpp is not installed)`, () => body(''));

whereInstalled('llama.cpp and adapters of a delta rule', 'models/stories260K', (dir) => {
  test('the text that we write', async () => {
    const tokenizer = JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as object;
    const sizes = { vocab_size: 512, bos_token_id: 1, eos_token_id: 2 };
    const source = await tinyModel({ config: { ...qwen35, ...sizes }, tokenizer });
    const model = await CausalLM.fromPretrained(source, { dtype: 'f32' });
    const options = { maxNewTokens: 24, temperature: 0, ignoreEos: true };
    const text = 'Once upon a time there was';
    const plain = (await model.generate(text, options)).ids;
    const adapter = model.addAdapter({
      ...{ r: 2, loraAlpha: 16 },
      targetModules: ['in_proj_qkv', 'in_proj_z', 'in_proj_a', 'in_proj_b', 'out_proj', 'q_proj'],
    });
    fillAdapter(adapter, 7);
    const { ids: adapted } = await model.generate(text, options);
    const [peft, gguf, lora] = [unused(''), unused(), unused()];
    await adapter.save(peft);
    await model.dispose();
    await convertModel(source, gguf, { format: 'f32' });
    await convertAdapter(peft, lora, { format: 'gguf', base: source });
    rmSync(source, { recursive: true });
    expect(adapted).not.toEqual(plain);
    expect(askLlamaCpp(gguf, [text], 24, lora).greedy).toEqual(adapted);
  }, 300_000);
});
