/** Files that are right, which the targets damage: small made ones, and those of the reference data where it lies beside the checkout. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pieceParts } from '../support/piece_tokenizer';
import { fileOf } from '../support/safetensors_bytes';
import { byteTokenizer, tinyTemplate } from '../support/tiny_model';
import { jsonText, mutateBytes, mutateJson } from './mutate';
import type { Dice } from './random';

export type Json = Parameters<typeof mutateJson>[0];

const shared = join(__dirname, '../../../shared/data');
export const sharedJson = (...paths: string[]): Json[] =>
  paths
    .map((path) => join(shared, path))
    .filter(existsSync)
    .map((path) => JSON.parse(readFileSync(path, 'utf8')) as Json);
const sharedFiles = (folder: string): string[] => {
  const path = join(shared, folder);
  return existsSync(path) ? readdirSync(path).map((name) => join(path, name)) : [];
};
export const text = (input: Uint8Array): string => Buffer.from(input).toString();
export const bytes = (value: string): Uint8Array => Buffer.from(value);

export const once = <T>(make: () => T): (() => T) => {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
};

export const adapterConfigs = once((): Json[] => [
  { peft_type: 'LORA', r: 8, lora_alpha: 16, target_modules: ['q_proj', 'v_proj'] },
  {
    peft_type: 'LORA',
    target_modules: '.*\\.(q|v)_proj',
    exclude_modules: 'lm_head',
    rank_pattern: { '^model.*up_proj': 4 },
    alpha_pattern: { q_proj: 8 },
  },
  {
    peft_type: 'LORA',
    target_modules: ['q_proj'],
    layers_to_transform: [0, 1],
    layers_pattern: ['layers'],
    modules_to_save: ['lm_head'],
    use_dora: true,
  },
  ...sharedJson(
    'adapters/qwen2.5-0.5b-instruct-r8-qv-f32/adapter_config.json',
    'adapters/gpt-oss-20b-r4-qv/adapter_config.json',
    'golden/stories260K-patterns/adapter_init/adapter_config.json',
  ),
]);

export const tokenizers = once((): Json[] => {
  const split = (Regex: string): Json => ({
    type: 'Split',
    pattern: { Regex },
    behavior: 'Isolated',
    invert: false,
  });
  const small = byteTokenizer() as { [key: string]: Json };
  return [
    small,
    {
      ...small,
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [split('\\p{N}'), split('[a-z]+| '), { type: 'ByteLevel', use_regex: false }],
      },
    },
    {
      added_tokens: [{ id: 0, content: '<unk>', special: true }],
      ...(pieceParts as { [key: string]: Json }),
      model: {
        type: 'BPE',
        vocab: { '<unk>': 0, a: 1, b: 2, ab: 3, '▁': 4, '▁a': 5 },
        merges: ['a b', '▁ a'],
        unk_token: '<unk>',
        byte_fallback: true,
        fuse_unk: true,
      },
    },
    {
      pre_tokenizer: { type: 'Metaspace' },
      decoder: { type: 'Metaspace' },
      model: {
        type: 'Unigram',
        unk_id: 0,
        vocab: [
          ['<unk>', 0],
          ['▁', -1],
          ['a', -2],
          ['ab', -3],
        ],
      },
    },
    {
      normalizer: { type: 'BertNormalizer', clean_text: true, lowercase: true, handle_chinese_chars: true },
      pre_tokenizer: { type: 'BertPreTokenizer' },
      post_processor: { type: 'BertProcessing', sep: ['[SEP]', 2], cls: ['[CLS]', 1] },
      decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
      model: {
        type: 'WordPiece',
        vocab: { '[UNK]': 0, '[CLS]': 1, '[SEP]': 2, a: 3, '##b': 4 },
        unk_token: '[UNK]',
        continuing_subword_prefix: '##',
      },
    },
    ...sharedJson('models/stories260K/tokenizer.json'),
  ];
});
export const tokenizerConfigs = once((): Json[] => [
  {
    bos_token: '<s>',
    eos_token: { content: '</s>' },
    chat_template: tinyTemplate,
    clean_up_tokenization_spaces: true,
  },
  {
    chat_template: [
      { name: 'default', template: 'x' },
      { name: 'tool_use', template: 'y' },
    ],
    additional_special_tokens: ['<x>'],
    remove_space: true,
  },
]);
export const samples = [
  'Hello, world! 123',
  'aab ab  b\n\n',
  'é🙂 <s></s><|user|>',
  ' ',
  'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!',
  'ab'.repeat(1200),
];

export const templates = once(() => [
  tinyTemplate,
  ...sharedFiles('chat_templates').map((path) => readFileSync(path, 'utf8')),
]);
export const conversation = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Hi' },
  {
    role: 'assistant',
    content: '<think>\n</think>Hello',
    tool_calls: [{ function: { name: 'f', arguments: { a: 1 } } }],
  },
  { role: 'tool', content: 'y' },
];

/** A header with a few tensors that fill the data. */
export function header(dice: Dice): { [key: string]: Json } {
  const entries: { [key: string]: Json } = dice.once(3) ? { __metadata__: { format: 'pt' } } : {};
  let at = 0;
  for (let i = dice.count(6); i > 0; i--) {
    const shape = Array.from({ length: dice.below(4) }, () => dice.below(4));
    const end = at + 4 * shape.reduce((a, b) => a * b, 1);
    entries[`t${i}`] = { dtype: 'F32', shape, data_offsets: [at, end] };
    at = end;
  }
  return entries;
}
export const dataBytes = (entries: { [key: string]: Json }): number =>
  Math.max(
    0,
    ...Object.values(entries).map((entry) =>
      Number((entry as { data_offsets?: number[] }).data_offsets?.[1] ?? 0),
    ),
  );
const safetensorsSeeds = once(() =>
  [...sharedFiles('safetensors/valid'), ...sharedFiles('safetensors/invalid')]
    .map((path) => readFileSync(path))
    .filter(({ length }) => length < 10_000),
);

/** A file that is right, damaged in its header's values, in its text, or in its bytes. */
export function safetensors(dice: Dice): Uint8Array {
  if (safetensorsSeeds().length > 0 && dice.once(3)) return mutateBytes(dice.pick(safetensorsSeeds()), dice);
  const entries = header(dice);
  const data = new Uint8Array(dataBytes(entries));
  const damaged = dice.once(6) ? entries : mutateJson(entries, dice);
  const file = fileOf(jsonText(damaged, dice), data);
  return dice.once(6) ? mutateBytes(file, dice) : file;
}
