/** Writes a small random embedding model with the files of sentence-transformers. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../../lib/formats/safetensors';
import { values } from './numbers';
import { byteTokenizer, tinyModel, type TinyModelOptions } from './tiny_model';

/** tokenizer.json that ends texts with </s>, as those of embedding models do. */
const ending = {
  ...byteTokenizer(),
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
    pair: [],
    special_tokens: { '</s>': { id: '</s>', ids: [257], tokens: ['</s>'] } },
  },
};

/** What the files say. */
export interface SentenceModelOptions {
  pooling?: object;
  modules?: object;
  dense?: Record<string, unknown>;
  prompts?: object;
  more?: TinyModelOptions;
}

export const W1 = values(24 * 5, 3);
export const W2 = values(5 * 4, 4);
export const bias = values(4, 5);

/** A model with the files of sentence-transformers: pooling, two dense layers, prompts. */
export async function sentenceModel({
  pooling,
  modules,
  dense,
  prompts,
  more,
}: SentenceModelOptions = {}): Promise<string> {
  const dir = await tinyModel({ tokenizer: ending, ...more });
  const write = (path: string, content: object): void =>
    writeFileSync(join(dir, path), JSON.stringify(content));
  const named = ['1_Pooling', '2_Dense', '3_Dense'];
  for (const folder of named) mkdirSync(join(dir, folder));
  const type = (kind: string): string => `sentence_transformers.models.${kind}`;
  write(
    'modules.json',
    modules ?? [
      { idx: 0, name: '0', path: '', type: type('Transformer') },
      { idx: 1, name: '1', path: '1_Pooling', type: type('Pooling') },
      { idx: 2, name: '2', path: '2_Dense', type: type('Dense') },
      { idx: 3, name: '3', path: '3_Dense', type: type('Dense') },
      { idx: 4, name: '4', path: '4_Normalize', type: type('Normalize') },
    ],
  );
  write(
    '1_Pooling/config.json',
    pooling ?? { pooling_mode_cls_token: false, pooling_mode_mean_tokens: true },
  );
  const layer = async (folder: string, config: object, tensors: Record<string, [number[], number[]]>) => {
    write(`${folder}/config.json`, config);
    await writeSafetensors(
      join(dir, folder, 'model.safetensors'),
      new Map(
        Object.entries(tensors).map(([name, [shape, numbers]]) => [
          name,
          { dtype: 'F32', shape, bytes: new Uint8Array(Float32Array.from(numbers).buffer) },
        ]),
      ),
    );
  };
  await layer(
    '2_Dense',
    {
      in_features: 24,
      out_features: 5,
      bias: false,
      activation_function: 'torch.nn.modules.activation.Tanh',
      ...dense,
    },
    { 'linear.weight': [[5, 24], W1] },
  );
  await layer(
    '3_Dense',
    { in_features: 5, out_features: 4, bias: true, activation_function: 'torch.nn.modules.linear.Identity' },
    { 'linear.weight': [[4, 5], W2], 'linear.bias': [[4], bias] },
  );
  if (prompts) write('config_sentence_transformers.json', prompts);
  return dir;
}
