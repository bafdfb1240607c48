/** Qwen3.5 in the files of the model that sees images, and in those that are saved. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, noGrad, openSafetensors, writeSafetensors } from '../../lib/index';
import { parseModelConfig } from '../../lib/models/families';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const scratch = temporaryFolder();
const text = join(sharedData, 'golden-families', 'tiny-qwen35', 'model');
const configOf = (dir: string) =>
  JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>;

async function logitsOf(dir: string): Promise<Float32Array> {
  const model = await CausalLM.fromPretrained(dir);
  const { logits } = noGrad(() => model.forward([[1, 2, 3, 4, 5]]));
  const values = await logits.data<Float32Array>();
  await model.dispose();
  return values;
}

describeWithData('qwen3.5', 'golden-families', () => {
  test('of a model that sees images the text model is loaded, without what predicts further tokens', async () => {
    const dir = join(scratch, 'images');
    mkdirSync(dir);
    const file = await openSafetensors(join(text, 'model.safetensors'));
    const tensors = new Map(file.tensors);
    for (const name of ['model.visual.blocks.0.attn.qkv.weight', 'mtp.fc.weight'])
      tensors.set(name, { dtype: 'F32', shape: [2, 2], bytes: new Uint8Array(16) });
    await writeSafetensors(join(dir, 'model.safetensors'), tensors);
    file.close();
    const config = { model_type: 'qwen3_5', text_config: configOf(text), vision_config: {} };
    writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
    expect(await logitsOf(dir)).toEqual(await logitsOf(text));
  });

  test('is saved under the names of its files, with an adapter under those of the modules', async () => {
    const model = await CausalLM.fromPretrained(text);
    const adapter = model.addAdapter({ r: 2, targetModules: ['in_proj_qkv'] });
    await model.save(join(scratch, 'saved'));
    await adapter.save(join(scratch, 'adapter'));
    await model.dispose();
    const names = async (path: string): Promise<string[]> => {
      const file = await openSafetensors(path);
      const found = [...file.tensors.keys()].sort();
      file.close();
      return found;
    };
    const saved = join(scratch, 'saved', 'model.safetensors');
    expect(await names(saved)).toEqual(await names(join(text, 'model.safetensors')));
    expect((await names(join(scratch, 'adapter', 'adapter_model.safetensors')))[0]).toBe(
      'base_model.model.model.layers.0.linear_attn.in_proj_qkv.lora_A.weight',
    );
    expect(await logitsOf(join(scratch, 'saved'))).toEqual(await logitsOf(text));
  });

  test('three of four layers have a delta rule unless they are listed, and no others are', () => {
    const { layer_types: _, ...unlisted } = configOf(text);
    const kinds = (json: object) => parseModelConfig(json).layers.map(({ kind }) => kind);
    const delta = ['state', 'state', 'state', 'attention'];
    expect(kinds(unlisted)).toEqual(delta);
    expect(kinds({ ...unlisted, full_attention_interval: 2 })).toEqual([
      ...['state', 'attention', 'state', 'attention'],
    ]);
    expect(() => kinds({ ...unlisted, layer_types: ['full_attention'] })).toThrow(
      'expected layer_types of config.json to list 4 layers but received ["full_attention"]',
    );
    expect(() => kinds({ ...unlisted, layer_types: Array(4).fill('sliding_attention') })).toThrow(
      'config.json has "sliding_attention" in layer_types; supported are linear_attention and full_attention',
    );
    expect(() => kinds({ ...unlisted, linear_num_value_heads: 3 })).toThrow(
      'expected linear_num_value_heads 3 of config.json to be a multiple of linear_num_key_heads 2',
    );
  });
});
