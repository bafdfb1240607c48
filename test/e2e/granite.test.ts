/** Granite: what its factors hold for, and Granite 4 of dense layers. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertModel, noGrad, type Tensor } from '../../lib/index';
import type { SafetensorsTensor } from '../../lib/formats/safetensors';
import { expectReject } from '../support/errors';
import { relativeError } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const scratch = temporaryFolder();

const factors = {
  ...{ embedding_multiplier: 3, attention_multiplier: 0.3, residual_multiplier: 0.7, logits_scaling: 2 },
  attention_bias: true,
};
const hybrid = {
  ...{ model_type: 'granitemoehybrid', layer_types: Array(3).fill('attention'), num_local_experts: 0 },
  ...{ shared_intermediate_size: 40, intermediate_size: 7, position_embedding_type: 'rope' },
};
const rows = [
  [256, 72, 101, 108, 3, 4],
  [97, 98, 99],
];

/** Gate above up, under the names of Granite 4. */
function fuse(tensors: Map<string, SafetensorsTensor>, from: ReadonlyMap<string, SafetensorsTensor>): void {
  for (const [name, tensor] of from) {
    if (name.includes('gate_proj') || name.includes('up_proj')) continue;
    tensors.set(name.replace('mlp.down_proj', 'shared_mlp.output_linear'), tensor);
  }
  for (const name of tensors.keys()) {
    if (!name.includes('input_linear')) continue;
    const part = (own: string): Uint8Array =>
      from.get(name.replace('shared_mlp.input_linear', `mlp.${own}_proj`))!.bytes;
    const bytes = new Uint8Array(Buffer.concat([part('gate'), part('up')]));
    tensors.set(name, { ...tensors.get(name)!, bytes });
  }
}

test('logits and texts of Granite 4 are those of a Granite with its gate and up, and llama.cpp’s files have two layers', async () => {
  let own: ReadonlyMap<string, SafetensorsTensor> = new Map();
  const whole = {
    config: { model_type: 'granite', ...factors },
    edit: (t: typeof own) => void (own = new Map(t)),
  };
  const dirs = [
    await tinyModel(whole),
    await tinyModel({ config: { ...factors, ...hybrid }, edit: (tensors) => fuse(tensors, own) }),
  ];
  const results = [];
  for (const dir of dirs) {
    const model = await CausalLM.fromPretrained(dir);
    const { ids } = await model.generate(rows[0]!, { maxNewTokens: 12, temperature: 0, ignoreEos: true });
    const { logits } = model.forward(rows);
    results.push({ ids, logits: await logits.data<Float32Array>() });
    await model.dispose();
  }
  expect(results[1]!.ids).toEqual(results[0]!.ids);
  expect(relativeError(results[1]!.logits, results[0]!.logits)).toBeLessThan(1e-6);
  await expectReject(
    convertModel(dirs[1]!, join(scratch, 'model.gguf'), { format: 'f32' }),
    'ERR_UNSUPPORTED',
    '[convertModel] gate and up of a granitemoehybrid model are one layer, which llama.cpp keeps as two',
  );
  for (const dir of dirs) rmSync(dir, { recursive: true });
});

test('the vectors of prompt tuning are scaled as the tokens that they begin as', async () => {
  const dir = await tinyModel({ config: { model_type: 'granite', ...factors } });
  const model = await CausalLM.fromPretrained(dir);
  const prompt = model.tokenizer.encode('Hello');
  const adapter = model.addAdapter({
    ...{ method: 'prompt', numVirtualTokens: prompt.length, promptTuningInitText: 'Hello' },
  });
  const [row] = rows;
  const [own, wanted] = [
    noGrad(() => model.forward([row!], { adapter })).logits,
    noGrad(() => model.forward([[...prompt, ...row!]], { adapter: null })).logits,
  ];
  const tokens = (await wanted.data<Float32Array>()).slice(prompt.length * model.config.vocabSize);
  expect(relativeError(await own.data(), tokens)).toBeLessThan(1e-6);
  await model.dispose();
  rmSync(dir, { recursive: true });
});

test('noise is scaled as the embeddings are', async () => {
  const entered = [];
  for (const embedding_multiplier of [1, 4]) {
    const dir = await tinyModel({ config: { model_type: 'granite', ...factors, embedding_multiplier } });
    const model = await CausalLM.fromPretrained(dir);
    const seen: Promise<Float32Array>[] = [];
    const watch = (_: string, x: Tensor): void => void seen.push(x.data<Float32Array>());
    model.forward([rows[0]!], { noise: { alpha: 5, seed: 3, stream: 1 }, watch }).logits.dispose();
    entered.push(await seen[0]!);
    await model.dispose();
    rmSync(dir, { recursive: true });
  }
  expect(entered[1]).toEqual(entered[0]!.map((value) => 4 * value));
});
