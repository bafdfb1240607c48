/** Gemma 3: what its embeddings are multiplied by, norms whose weights are trained, and models that see images. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, estimateMemory, noGrad, openSafetensors, SGD, type Tensor } from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import { relativeError } from '../support/numbers';
import { rewrapped, wrappings } from '../support/rewrapped';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const scratch = temporaryFolder();
const rows = [[3, 9, 27, 81, 5]];
const models: CausalLM[] = [];
afterAll(async () => {
  for (const model of models) await model.dispose();
});

async function load(dir: string): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(dir);
  models.push(model);
  return model;
}

const tiny = async (dtype: 'F32' | 'BF16', config: object = {}): Promise<CausalLM> =>
  load(
    await tinyModel({
      dtype,
      config: { model_type: 'gemma3_text', hidden_act: null, sliding_window: 4, ...config },
    }),
  );

async function stored(dir: string): Promise<Map<string, Float32Array>> {
  const file = await openSafetensors(join(dir, 'model.safetensors'));
  const read = new Map([...file.tensors].map(([name, tensor]) => [name, floatsOf(tensor)]));
  file.close();
  return read;
}

const logitsOf = (model: CausalLM, ids = rows, adapter: string | null = null): Promise<Float32Array> =>
  noGrad(() => model.forward(ids, { adapter })).logits.data<Float32Array>();

test.each([
  ['F32', Math.fround(Math.sqrt(24))],
  ['BF16', 4.90625],
] as const)('embeddings are multiplied by the root of their width as %s has it', async (dtype, root) => {
  const model = await tiny(dtype);
  const embedding = (await stored(model.directory)).get('model.embed_tokens.weight')!;
  const seen: Promise<Float32Array>[] = [];
  const watch = (_: string, x: Tensor): void => void seen.push(x.data<Float32Array>());
  noGrad(() => model.forward(rows, { watch })).logits.dispose();
  const wanted = rows[0]!.flatMap((id) => [...embedding.subarray(24 * id, 24 * (id + 1))]);
  expect([...(await seen[0]!)]).toEqual(wanted.map((value) => Math.fround(value * root)));
});

test('the vectors of a prompt are the scaled embeddings of its text', async () => {
  const model = await tiny('F32');
  const prompt = model.tokenizer.encode('Hello');
  model.addAdapter(
    { method: 'prompt', numVirtualTokens: prompt.length, promptTuningInitText: 'Hello' },
    { name: 'own' },
  );
  const wanted = await logitsOf(model, [[...prompt, ...rows[0]!]]);
  const tokens = wanted.slice(prompt.length * model.config.vocabSize);
  expect(relativeError(await logitsOf(model, rows, 'own'), tokens)).toBeLessThan(1e-6);
});

test('training moves the weights of norms, not 1 more than they are, and bf16 keeps small ones', async () => {
  const dir = await tinyModel({
    dtype: 'BF16',
    config: { model_type: 'gemma3_text', hidden_act: null, sliding_window: 4 },
    edit(tensors) {
      for (const [name, { bytes }] of tensors)
        // 0.001 and a bit: beside 1, bf16 has no such numbers.
        if (name.includes('norm'))
          new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2).fill(0x3a83);
    },
  });
  const model = await load(dir);
  const before = await stored(dir);
  const parameters = model.trainAll({ only: ['*norm'] });
  expect(parameters).toHaveLength(6 * 3 + 1);
  model.forward(rows, { labels: rows }).loss.backward();
  const gradients = await Promise.all(parameters.map((p) => p.grad!.data<Float32Array>()));
  const lr = 1e-4;
  new SGD(parameters, { lr, weightDecay: 0 }).step();
  const out = join(scratch, 'trained');
  await model.save(out);
  const after = await stored(out);
  let moved = 0;
  for (const [i, { name }] of parameters.entries())
    for (const [at, value] of after.get(name)!.entries()) {
      const wanted = before.get(name)![at]! - lr * gradients[i]![at]!;
      expect(Math.abs(value - wanted)).toBeLessThanOrEqual(2 ** -8 * Math.abs(wanted) + 1e-12);
      if (value !== before.get(name)![at]) moved++;
    }
  expect(moved).toBeGreaterThan(100);
});

test('the memory of Gemma 3 1B is that of its 999,885,952 weights, and of what its blocks keep', () => {
  const config = {
    ...{ model_type: 'gemma3_text', hidden_size: 1152, intermediate_size: 6912, num_hidden_layers: 26 },
    ...{ num_attention_heads: 4, num_key_value_heads: 1, head_dim: 256, vocab_size: 262144 },
    ...{ sliding_window: 512, sliding_window_pattern: 6, hidden_activation: 'gelu_pytorch_tanh' },
    ...{ max_position_embeddings: 32768, rope_local_base_freq: 10000, torch_dtype: 'bfloat16' },
  };
  const { weights, activations } = estimateMemory(config, { length: 512, r: 8 });
  const attention = 1152 * (4 + 1 + 1 + 4) * 256;
  const block = attention + 3 * 1152 * 6912 + 4 * 1152 + 2 * 256;
  expect(262144 * 1152 + 26 * block + 1152).toBe(999_885_952);
  expect(weights).toBe(2 * 999_885_952);
  // q and k before and behind their norms, v, what is mixed, gate, up, and three times the width of the residual stream; in f32 that stream twice,
  // a sum of each head, the factors of the norms, and what goes between the two matrices of seven adapters.
  const kept = 3 * 1152 + (4 + 1) * 256 * 2 + (1 + 4) * 256 + 2 * 6912;
  const floats = 2 * 1152 + 4 + (4 + 1 + 4) + 7 * 8;
  expect(activations).toBe(512 * 26 * (2 * kept + 4 * floats));
});

describeWithData('Gemma 3 that sees images', 'golden-families', () => {
  const folder = join(sharedData, 'golden-families/tiny-gemma3-window/model');
  const kinds = Object.keys(wrappings) as (keyof typeof wrappings)[];

  test.each(kinds)('names with %s: the same logits, and save writes the text model', async (wrapping) => {
    const want = await logitsOf(await load(folder));
    const wrapped = await load(await rewrapped(folder, 'gemma3', wrapping));
    expect(wrapped.config.textOf).toBe('gemma3');
    expect(await logitsOf(wrapped)).toEqual(want);
    const out = join(scratch, wrapping);
    await wrapped.save(out);
    expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'))).toMatchObject({
      ...{ model_type: 'gemma3_text', architectures: ['Gemma3ForCausalLM'] },
    });
    expect(await logitsOf(await load(out))).toEqual(want);
  });
});
