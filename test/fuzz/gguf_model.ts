/** Models in GGUF files: their configuration, tokenizer and tensors, of which values and sizes are damaged, or the bytes. */
import { basename } from 'node:path';
import type { GgufField, LateGgufTensor } from '../../lib/formats/gguf_write';
import { ggufTensors } from '../../lib/models/files/gguf_names';
import { parseModelConfig } from '../../lib/models/families';
import { parseGenerationDefaults } from '../../lib/models/files/generation_config';
import { InputFile } from '../../lib/formats/input';
import { GgufModel } from '../../lib/models/files/gguf_model';
import { expectedTensors } from '../../lib/models/files/tensor_table';
import { checkNames } from '../../lib/models/core/weights';
import { Tokenizer } from '../../lib/text/tokenizer';
import { counting } from '../support/gguf_bytes';
import { tinyConfig } from '../support/tiny_model';
import { fileOf, otherNumber } from './gguf';
import { mutateBytes } from './mutate';
import type { Dice } from './random';
import { once } from './seeds';
import type { Target } from './target';

type Fields = ReadonlyMap<string, GgufField>;
type Tensors = ReadonlyMap<string, LateGgufTensor>;

const texts = ['<unk>', '<s>', '</s>', '<0x41>', '▁', 'a', 'b', 'ab', '▁a', '▁ab', 'Ġ', 'Ġa', 'é', '🙂', ''];

const configFields: readonly [string, GgufField][] = [
  ['general.architecture', { text: 'llama' }],
  ['general.type', { text: 'model' }],
  ['general.sampling.temp', { f32: 0.5 }],
  ['general.sampling.top_k', { u32: 20 }],
  ['llama.vocab_size', { u32: texts.length }],
  ['llama.context_length', { u32: 64 }],
  ['llama.embedding_length', { u32: 8 }],
  ['llama.block_count', { u32: 1 }],
  ['llama.feed_forward_length', { u32: 12 }],
  ['llama.attention.head_count', { u32: 2 }],
  ['llama.attention.head_count_kv', { i32s: [1, 1] }],
  ['llama.attention.key_length', { u32: 4 }],
  ['llama.rope.dimension_count', { u32: 4 }],
  ['llama.rope.freq_base', { f32: 10000 }],
  ['llama.attention.layer_norm_rms_epsilon', { f32: 1e-5 }],
];
const tokenizerFields: readonly [string, GgufField][] = [
  ['tokenizer.ggml.tokens', { texts }],
  ['tokenizer.ggml.token_type', { i32s: [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5] }],
  ['tokenizer.ggml.bos_token_id', { u32: 1 }],
  ['tokenizer.ggml.eos_token_id', { u32: 2 }],
  ['tokenizer.ggml.eot_token_id', { u32: 2 }],
  ['tokenizer.ggml.add_bos_token', { flag: true }],
  ['tokenizer.ggml.add_eos_token', { flag: false }],
  ['tokenizer.chat_template', { text: '{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}' }],
];
const pieces: readonly [string, GgufField][] = [
  ['tokenizer.ggml.model', { text: 'llama' }],
  ['tokenizer.ggml.scores', { f32s: texts.map((_, i) => -i) }],
  ['tokenizer.ggml.add_space_prefix', { flag: true }],
];
const merges: readonly [string, GgufField][] = [
  ['tokenizer.ggml.model', { text: 'gpt2' }],
  ['tokenizer.ggml.pre', { text: 'llama-bpe' }],
  ['tokenizer.ggml.merges', { texts: ['a b', 'Ġ a'] }],
];

const tensors = once((): Tensors => {
  const config = parseModelConfig({
    ...tinyConfig,
    ...{ vocab_size: texts.length, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1 },
    ...{ num_attention_heads: 2, num_key_value_heads: 1, head_dim: 4 },
  });
  const places = ggufTensors(config);
  return new Map(
    [...expectedTensors(config)].map(([name, shape]) => [places.get(name)!.name, counting(shape)]),
  );
});

const numbers = [-1, 0, 1, 2, 7, 63, 1e5, 2 ** 31, 2 ** 32 - 1, NaN, Infinity, 0.5];
const words = ['', 'llama', 'gpt2', 'qwen3', 'smollm', 'yarn', 'linear', 'none', '{{', 'a b', 'é'];

function otherField(old: GgufField, dice: Dice): GgufField {
  if ('texts' in old && dice.flag()) return { texts: [...old.texts, ...dice.pick([old.texts, words])] };
  if ('i32s' in old && dice.flag()) return { i32s: old.i32s.map(() => dice.below(9) - 1) };
  if ('f32s' in old && dice.flag()) return { f32s: old.f32s.map(() => dice.pick(numbers)) };
  switch (dice.below(7)) {
    case 0:
      return { text: dice.pick(words) };
    case 1:
      return { u32: dice.pick(numbers) >>> 0 };
    case 2:
      return { f32: dice.pick(numbers) };
    case 3:
      return { flag: dice.flag() };
    case 4:
      return { texts: words.slice(dice.below(words.length)) };
    case 5:
      return { f32s: numbers.slice(dice.below(numbers.length)) };
    default:
      return { i32s: [1, 2, -3].slice(dice.below(4)) };
  }
}

/** Keys that a right file may have and the seed has not. */
const rare = [
  ...['attention.sliding_window', 'rope.scaling.type', 'rope.scaling.factor', 'expert_count'].map(
    (name) => `llama.${name}`,
  ),
  ...['split.count', 'split.no', 'general.alignment', 'tokenizer.ggml.unknown_token_id'],
];

function damagedFields(fields: Fields, dice: Dice): Fields {
  const changed = new Map(fields);
  const keys = [...fields.keys(), ...rare];
  for (let edits = dice.below(4); edits > 0; edits--) {
    const key = dice.pick(keys);
    if (dice.once(4)) changed.delete(key);
    else changed.set(key, otherField(fields.get(key) ?? { u32: 2 }, dice));
  }
  return changed;
}

function damagedTensors(given: Tensors, dice: Dice): Tensors {
  const changed = new Map(given);
  for (let edits = dice.once(3) ? dice.below(3) : 0; edits > 0; edits--) {
    const name = dice.pick([...given.keys()]);
    const shape = given.get(name)!.shape;
    changed.delete(name);
    if (dice.once(3)) continue;
    const other = dice.pick([name, 'rope_freqs.weight', 'blk.0.attn_q.bias', 'output.weight', 'x']);
    changed.set(other, counting(dice.flag() ? [2] : shape.map((size) => size + dice.below(2))));
  }
  return changed;
}

export const ggufModel: Target = {
  make(dice) {
    const fields = new Map([...configFields, ...tokenizerFields, ...dice.pick([pieces, merges])]);
    const file = fileOf(damagedFields(fields, dice), damagedTensors(tensors(), dice));
    if (dice.once(3)) otherNumber(file, dice, file.length);
    return dice.once(6) ? mutateBytes(file, dice) : file;
  },
  async run(input) {
    const path = Buffer.from(input).includes('split.count') ? 'x-00001-of-00002.gguf' : 'x.gguf';
    await inMemory(input, () => readModel(path));
  },
};

/** Reads what a model is loaded from. */
async function readModel(path: string): Promise<void> {
  const files = await GgufModel.open(path, {});
  const config = await files.config();
  const tokenizer = await Tokenizer.fromFiles(files);
  parseGenerationDefaults(await files.json('generation_config.json'), config, tokenizer);
  if (tokenizer) tokenizer.decode(tokenizer.encode('ab é🙂 <s>A'));
  const stored = await files.tensors();
  try {
    const { shapes } = await checkNames(stored, config, path);
    for (const [name, shape] of shapes) {
      const bytes = await stored.get(name).read();
      if (
        bytes.length !== 4 * shape.reduce((product, size) => product * size, 1) &&
        stored.get(name).dtype === 'F32'
      )
        throw new Error(`read ${bytes.length} bytes of ${name}, of shape ${String(shape)}`);
    }
  } finally {
    await stored.close();
  }
}

/** Runs something for which every path is a file with these bytes: to open real ones, five times each, takes most of the time. */
async function inMemory(input: Uint8Array, run: () => Promise<void>): Promise<void> {
  const files = InputFile as { open: typeof InputFile.open };
  const { open } = files;
  const nothing = (): Promise<void> => Promise.resolve();
  files.open = (source) => {
    const path = basename(typeof source === 'string' ? source : source.path);
    const bytes = (start: number, length: number): Promise<Uint8Array> =>
      Promise.resolve(Uint8Array.prototype.slice.call(input, start, start + length));
    const file = { path, size: input.length, stamp: path, bytes, checkUnchanged: nothing, close: nothing };
    return Promise.resolve(file as unknown as InputFile);
  };
  try {
    await run();
  } finally {
    files.open = open;
  }
}
