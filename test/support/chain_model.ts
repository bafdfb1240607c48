/** A model whose greedy text is known beforehand. */
import { tinyModel, type TinyModelOptions } from './tiny_model';

/** Ids of a text in the tiny model's tokenizer: its bytes. */
export const byteIds = (text: string): number[] => [...Buffer.from(text)];

/** End of text in the tiny model's tokenizer and config.json. */
export const eos = 257;

/**
 * Writes a model without layers, in which each id of `chain` is followed by the next one and the last by itself: a one-hot
 * embedding, and a head that gives the successor the only logit above zero. Ids must differ, since each has one successor. Layers that
 * options.config asks for take time and change nothing.
 */
export async function chainModel(chain: readonly number[], options: TinyModelOptions = {}): Promise<string> {
  if (new Set(chain).size !== chain.length) throw new Error('the ids of a chain must differ');
  const size = 262;
  const config = { num_hidden_layers: 0, hidden_size: size, vocab_size: size, tie_word_embeddings: false };
  const matrix = (ones: readonly (readonly [row: number, column: number])[]): Uint8Array => {
    const values = new Float32Array(size * size);
    for (const [row, column] of ones) values[row * size + column] = 1;
    return new Uint8Array(values.buffer);
  };
  return tinyModel({
    ...options,
    config: { ...config, ...options.config },
    edit(tensors) {
      const replace = (name: string, bytes: Uint8Array): void =>
        void tensors.set(name, { ...tensors.get(name)!, bytes });
      for (const [name, { bytes }] of [...tensors])
        if (/\.(o_proj|down_proj)\.weight$/.test(name)) replace(name, new Uint8Array(bytes.length));
      replace('model.embed_tokens.weight', matrix(Array.from({ length: size }, (_, id) => [id, id])));
      replace('model.norm.weight', new Uint8Array(new Float32Array(size).fill(1).buffer));
      replace('lm_head.weight', matrix(chain.map((id, i) => [chain[i + 1] ?? id, id])));
    },
  });
}
