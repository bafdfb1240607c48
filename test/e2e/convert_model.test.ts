/** Models as GGUF files: what is in them, and what llama.cpp makes of them where node-llama-cpp is installed. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, memoryUsage, tensor } from '../../lib';
import { convertAdapter } from '../../lib/convert/convert_adapter';
import { convertModel, type GgufFormat } from '../../lib/convert/convert_model';
import { ggufTokenizer } from '../../lib/convert/gguf_tokenizer';
import { bytesOfFloats, floatsOf, roundedTo } from '../../lib/formats/floats';
import { GgufFile } from '../../lib/formats/gguf';
import { quantizedBlocks } from '../../lib/formats/gguf_blocks';
import { serializeGguf } from '../../lib/formats/gguf_write';
import { openSafetensors } from '../../lib/formats/safetensors';
import { storedDType, type SafetensorsDType } from '../../lib/formats/dtypes';
import { binding } from '../../lib/native/calls';
import { nativeDevice } from '../../lib/native/device';
import { commandLine } from '../support/command_line';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import type { WrittenBlocks } from '../../lib/native/block_formats';
import { writtenBlocks } from '../../lib/native/constants';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { preTokenizers } from '../../lib/text/gguf_kinds';
import { askLlamaCpp, llamaCpp } from '../support/llama_cpp';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
const unused = (ending = ''): string => join(root, `${count++}${ending}`);

/** The numbers of a tensor of a GGUF file. */
async function valuesOf(file: GgufFile, name: string): Promise<Float32Array> {
  const found = file.tensors.get(name)!;
  return floatsOf({ dtype: found.block.type as SafetensorsDType, bytes: await found.read() });
}

describe('rounding', () => {
  // Every kind of f16: all its values, the middles between neighbors, and what is a little beside them.
  const halves = floatsOf({
    dtype: 'F16',
    bytes: new Uint8Array(Uint16Array.from({ length: 0x7c00 }, (_, i) => i).buffer),
  });
  const numbers = Float32Array.from(
    [...halves].flatMap((value, i) => {
      const middle = (value + (halves[i + 1] ?? 65536)) / 2;
      return [value, -value, middle, middle * (1 - 2 ** -20), middle * (1 + 2 ** -20)];
    }),
  ).filter((value) => value < 65520);

  test.each(['f16', 'bf16'] as const)('to %s is that of the ops', async (dtype) => {
    const ops = await tensor(numbers, { dtype }).bytes();
    expect(Buffer.compare(roundedTo(numbers, dtype)!, ops)).toBe(0);
  });

  test('what f16 or bf16 does not hold has none', () => {
    expect(roundedTo(Float32Array.of(1, 65520), 'f16')).toBeUndefined();
    for (const value of [NaN, Infinity])
      for (const dtype of ['f16', 'bf16'] as const)
        expect(roundedTo(Float32Array.of(value), dtype)).toBeUndefined();
  });
});

describeWithData('convertModel', 'models/stories260K', (dir) => {
  test.each(['f32', 'bf16', 'f16'] as const)('writes the tensors in %s, vectors in f32', async (format) => {
    const out = unused('.gguf');
    await convertModel(dir, out, { format });
    const [file, source] = [await GgufFile.open(out), await openSafetensors(join(dir, 'model.safetensors'))];
    const rounded = (floats: Float32Array, to: 'f32' | 'bf16' | 'f16'): Float32Array =>
      to === 'f32'
        ? floats
        : floatsOf({ dtype: to === 'f16' ? 'F16' : 'BF16', bytes: roundedTo(floats, to)! });
    const stored = (name: string): Float32Array => floatsOf(source.tensors.get(name)!);
    expect(file.tensors.size).toBe(source.tensors.size);
    expect(await valuesOf(file, 'token_embd.weight')).toEqual(
      rounded(stored('model.embed_tokens.weight'), format),
    );
    expect(await valuesOf(file, 'output_norm.weight')).toEqual(stored('model.norm.weight'));
    expect(await valuesOf(file, 'blk.4.ffn_down.weight')).toEqual(
      rounded(stored('model.layers.4.mlp.down_proj.weight'), format),
    );
    // Heads of 8: row 1 of a head is row 4 of Hugging Face's.
    const [q, own] = [
      await valuesOf(file, 'blk.0.attn_q.weight'),
      rounded(stored('model.layers.0.self_attn.q_proj.weight'), format),
    ];
    expect(q.slice(9 * 64, 10 * 64)).toEqual(own.slice(12 * 64, 13 * 64));
    source.close();
    const value = (key: string): unknown => file.metadata.get(key);
    expect(value('llama.attention.head_count_kv')).toBe(4);
    expect(value('llama.attention.layer_norm_rms_epsilon')).toBeCloseTo(1e-5, 12);
    expect(value('general.file_type')).toBe({ f32: 0, f16: 1, bf16: 32 }[format]);
    expect(value('tokenizer.ggml.model')).toBe('llama');
    expect([value('tokenizer.ggml.bos_token_id'), value('tokenizer.ggml.add_bos_token')]).toEqual([1, true]);
    expect((value('tokenizer.ggml.tokens') as string[]).length).toBe(512);
    await file.close();
  });

  test('in few bits, but for the embedding and for rows that are no whole blocks', async () => {
    const out = unused('.gguf');
    await convertModel(dir, out, { format: 'q4_0' });
    const file = await GgufFile.open(out);
    const types = (name: string): string => file.tensors.get(name)!.block.type;
    expect(types('token_embd.weight')).toBe('Q8_0');
    expect(types('blk.0.attn_q.weight')).toBe('Q4_0');
    expect(types('blk.0.ffn_down.weight')).toBe('F16'); // rows of 172
    expect(types('blk.0.attn_norm.weight')).toBe('F32');
    await file.close();
  });

  test('rows that are no blocks of q4_k are q5_0', async () => {
    const config = { hidden_size: 256, intermediate_size: 160, vocab_size: 512, tie_word_embeddings: false };
    const tokenizer = JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as object;
    const out = unused('.gguf');
    await convertModel(await tinyModel({ config, tokenizer }), out, { format: 'q4_k' });
    const file = await GgufFile.open(out);
    const types = (name: string): string => file.tensors.get(name)!.block.type;
    expect(types('token_embd.weight')).toBe('Q8_0');
    expect(types('output.weight')).toBe('Q8_0');
    expect(types('blk.0.ffn_gate.weight')).toBe('Q4_K'); // rows of 256
    expect(types('blk.0.ffn_down.weight')).toBe('Q5_0'); // of 160
    expect(types('blk.0.attn_output.weight')).toBe('F16'); // of 24
    expect(file.metadata.get('general.file_type')).toBe(14);
    await file.close();
  });

  test('the command line writes the same, and knows what formats are for', async () => {
    const [ours, theirs] = [unused('.gguf'), unused('.gguf')];
    await convertModel(dir, ours, { format: 'bf16' });
    expect(await commandLine(['convert', dir, theirs, '--format', 'bf16', '--json'])).toMatchObject({
      status: 0,
    });
    const [a, b] = [await GgufFile.open(ours), await GgufFile.open(theirs)];
    expect(await valuesOf(a, 'blk.1.attn_k.weight')).toEqual(await valuesOf(b, 'blk.1.attn_k.weight'));
    await a.close();
    await b.close();
    const wrong = await commandLine(['convert', dir, unused('.gguf'), '--format', 'bf16', '--base', dir]);
    expect(wrong).toMatchObject({ status: 2 });
    expect(wrong.err).toContain('--base');
  });

  /** A model of random numbers with the tokenizer of the stories. */
  const variant = async (config: Record<string, unknown>): Promise<string> =>
    tinyModel({
      config: { vocab_size: 512, bos_token_id: 1, eos_token_id: 2, ...config },
      tokenizer: JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as object,
    });

  test.each(['f16', 'q8_0'] as const)(
    'a signal ends it while tensors are written (%s), and nothing is left',
    async (format) => {
      const folder = unused();
      mkdirSync(folder);
      const controller = new AbortController();
      const reason = new Error('enough');
      const { signal } = controller;
      const written = convertModel(dir, join(folder, 'model.gguf'), { format, signal });
      const failed = expect(written).rejects.toBe(reason);
      // Its first tensors go into a file of another name, and timers run after each of the 48.
      while (readdirSync(folder).length === 0) await new Promise(setImmediate);
      controller.abort(reason);
      await failed;
      expect(readdirSync(folder)).toEqual([]);
    },
  );

  test('llama3’s rope is a tensor of factors, linear is a value', async () => {
    const out = unused('.gguf');
    const rope = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    };
    await convertModel(await variant({ rope_scaling: rope }), out, { format: 'f32' });
    const file = await GgufFile.open(out);
    const factors = await valuesOf(file, 'rope_freqs.weight');
    // Wavelengths 6.3, 135 and 2916: above 64 / 4 they are stretched, from 64 on by the whole factor.
    expect([...factors]).toEqual([1, 8, 8]);
    await file.close();
    await convertModel(await variant({ rope_scaling: { rope_type: 'linear', factor: 2 } }), out, {
      format: 'f32',
    });
    const linear = await GgufFile.open(out);
    expect(linear.metadata.get('llama.rope.scaling.factor')).toBe(2);
    expect(linear.tensors.has('rope_freqs.weight')).toBe(false);
    await linear.close();
  });

  test('of two templates the file of its own is written, and one token at both ends is no end of texts', async () => {
    const source = await variant({ eos_token_id: 1 });
    writeFileSync(join(source, 'chat_template.jinja'), 'of the file');
    const settings = JSON.parse(readFileSync(join(source, 'tokenizer_config.json'), 'utf8')) as object;
    const named = { ...settings, chat_template: 'of the configuration' };
    writeFileSync(join(source, 'tokenizer_config.json'), JSON.stringify(named));
    const out = unused('.gguf');
    await convertModel(source, out, { format: 'f32' });
    const file = await GgufFile.open(out);
    const value = (key: string): unknown => file.metadata.get(`tokenizer.${key}`);
    expect(value('chat_template')).toBe('of the file');
    // Texts begin with token 1, which the model ends them with.
    expect([value('ggml.add_bos_token'), value('ggml.add_eos_token')]).toEqual([true, false]);
    await file.close();
    rmSync(join(source, 'chat_template.jinja'));
    const other = unused('.gguf');
    await convertModel(source, other, { format: 'f32' });
    const without = await GgufFile.open(other);
    expect(without.metadata.get('tokenizer.chat_template')).toBe('of the configuration');
    await without.close();
  });

  test('ids of tokens that end a turn and that fill are those of the model, where it has such rows', async () => {
    const idsOf = async (config: Record<string, unknown>): Promise<unknown[]> => {
      const out = unused('.gguf');
      await convertModel(await variant(config), out, { format: 'f32' });
      const file = await GgufFile.open(out);
      await file.close();
      return ['eos', 'eot', 'padding'].map((name) => file.metadata.get(`tokenizer.ggml.${name}_token_id`));
    };
    expect(await idsOf({ eos_token_id: [2, 5], pad_token_id: 511 })).toEqual([2, 5, 511]);
    expect(await idsOf({ eos_token_id: 2, pad_token_id: 512 })).toEqual([2, undefined, undefined]);
    expect(await idsOf({ eos_token_id: 2, pad_token_id: -1 })).toEqual([2, undefined, undefined]);
  });

  test.each(['config.json', 'tokenizer.json', 'model.safetensors'])(
    '%s that is written meanwhile is an error, and nothing is left',
    async (name) => {
      const [source, folder] = [await variant({}), unused()];
      mkdirSync(folder);
      const written = convertModel(source, join(folder, 'model.gguf'), { format: 'f32' });
      const failed = expect(written).rejects.toMatchObject({ code: 'ERR_FILE' });
      while (readdirSync(folder).length === 0) await new Promise(setImmediate);
      const path = join(source, name);
      writeFileSync(`${path}.new`, readFileSync(path));
      renameSync(`${path}.new`, path);
      await failed;
      expect(readdirSync(folder)).toEqual([]);
    },
  );

  test('what a GGUF file would compute otherwise is refused', async () => {
    const said = async (source: string, format: GgufFormat = 'f32'): Promise<string> =>
      convertModel(source, unused('.gguf'), { format }).then(
        () => 'written',
        (error: Error) => error.message,
      );
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
    expect(await said(await variant({ rope_scaling: yarn }))).toContain('yarn');
    expect(await said(await variant({ model_type: 'mistral', sliding_window: 16 }))).toContain(
      'sliding windows of 16',
    );
    expect(await said(await variant({ model_type: 'mistral', sliding_window: 128 }))).toBe('written');
    expect(await said(await variant({ vocab_size: 300 }))).toContain('and the model has 300');
    // The model of the examples divides texts by an expression of its own.
    expect(await said(join(__dirname, '../../examples/base-model'))).toContain(
      'llama.cpp knows tokenizers by their kind',
    );
    expect(await said(__dirname)).toContain('has no config.json');
    const large = await tinyModel({
      config: { vocab_size: 512 },
      tokenizer: JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as object,
      edit: (tensors) =>
        new Float32Array(tensors.get('model.embed_tokens.weight')!.bytes.buffer).fill(1e5, 0, 1),
    });
    expect(await said(large, 'f16')).toContain(
      'model.embed_tokens.weight has values that f16 does not hold: take bf16',
    );
    expect(await said(large, 'bf16')).toBe('written');
  });
});

describeWithData('blocks', 'golden/quant-gguf', (dir) => {
  const blocksOf = (values: Float32Array, format: WrittenBlocks): Promise<Uint8Array | undefined> =>
    quantizedBlocks(bytesOfFloats(values), 'f32', format);

  test.each(writtenBlocks)('%s has ggml’s bytes', async (format) => {
    const opened = await openSafetensors(join(dir, 'dequantised.safetensors'));
    const source = floatsOf(opened.tensors.get('source')!);
    opened.close();
    const file = await GgufFile.open(join(dir, 'blocks.gguf'));
    const theirs = await file.tensors.get(format.toUpperCase())!.read();
    await file.close();
    expect(Buffer.compare((await blocksOf(source, format))!, theirs)).toBe(0);
  });

  test('zeros have the scale 0, what is not finite has none, and no tensor stays', async () => {
    const { tensors } = memoryUsage();
    const zeros = new Float32Array(32);
    expect([...(await blocksOf(zeros, 'q8_0'))!]).toEqual(new Array<number>(34).fill(0));
    expect([...(await blocksOf(zeros, 'q4_0'))!].slice(2)).toEqual(new Array<number>(16).fill(0x88));
    expect([...(await blocksOf(zeros, 'q5_0'))!].slice(6)).toEqual(new Array<number>(16).fill(0));
    const many = new Float32Array(256);
    expect([...(await blocksOf(many, 'q4_k'))!]).toEqual(new Array<number>(144).fill(0));
    for (const value of [NaN, -Infinity, 3e38, -3e38])
      for (const format of writtenBlocks) {
        const values = many.map((_, i) => (i === 3 ? value : 0));
        expect(await blocksOf(values, format)).toBeUndefined();
      }
    expect(memoryUsage().tensors).toBe(tensors);
  });

  test('blocks of bf16 and f16 are those of their values, and what makes no blocks is refused', async () => {
    const values = Float32Array.from({ length: 512 }, (_, i) => Math.sin(i) / 3);
    for (const dtype of ['bf16', 'f16'] as const) {
      const bytes = roundedTo(values, dtype)!;
      const rounded = floatsOf({ dtype: storedDType[dtype], bytes });
      for (const format of writtenBlocks)
        expect(await quantizedBlocks(bytes, dtype, format)).toEqual(await blocksOf(rounded, format));
    }
    await expect(blocksOf(values.subarray(0, 255), 'q4_k')).rejects.toThrow(
      '[quantize_blocks] expected whole blocks of 256 values (q4_k) but received 255 values',
    );
    await expect(blocksOf(values, 'q6_k' as 'q4_k')).rejects.toThrow(
      '[quantize_blocks] expected format to be q8_0, q5_0, q4_0 or q4_k but received "q6_k"',
    );
    const native = binding();
    const whole = native.fromBytes(nativeDevice('cpu'), 'i32', [32], new Uint8Array(128));
    expect(() => native.quantizeBlocks(whole, 'q8_0')).toThrow(
      'expected values of dtype f32 or bf16 or f16 but received i32',
    );
  });

  test('q4_k of groups that are no line', async () => {
    const values = Float32Array.from({ length: 256 }, (_, i) => {
      const group = i >> 5;
      if (group === 0) return -2; // of one value
      if (group === 1) return 1e-44 * (i % 3); // 1 / range is infinite
      if (group === 2) return 3 + (i % 16); // far from 0, where the line begins
      return group === 3 ? -1 - (i % 16) / 8 : 0; // all below 0
    });
    const weight = FrozenWeight.packQuantized(
      'q4_k',
      (await blocksOf(values, 'q4_k'))!,
      null,
      [1, 256],
      'f32',
      'cpu',
    );
    const read = await weight.unpack().data<Float32Array>();
    weight.dispose();
    // Half a step of codes, and half a step of scales and minima.
    for (const [i, value] of values.entries())
      expect(Math.abs(read[i]! - value)).toBeLessThan([0.02, 1e-30, 0.7, 0.2][i >> 5] ?? 1e-30);
  });
});

test('a vocabulary of 200,000 tokens is written', () => {
  const texts = Array.from({ length: 200_000 }, (_, i) => String(i));
  const pieces = serializeGguf(new Map([['tokenizer.ggml.tokens', { texts }]]), new Map(), 'convertModel');
  expect(pieces[0]!.length).toBeGreaterThan(200_000 * 8);
});

describe('kinds of tokenizers', () => {
  const vocab = { a: 0, b: 1, ab: 2 };
  const model = { type: 'BPE', vocab, merges: ['a b'] };
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  const regex = (digits: string): object => ({
    type: 'Split',
    pattern: {
      Regex: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
    },
    behavior: 'Isolated',
    invert: false,
  });
  const sequence = (...pretokenizers: object[]): object => ({ type: 'Sequence', pretokenizers });
  const kinds: readonly [string, Record<string, unknown>][] = [
    [
      'llama-bpe',
      { model: { ...model, ignore_merges: true }, pre_tokenizer: sequence(regex('\\p{N}{1,3}'), level) },
    ],
    ['smaug-bpe', { model, pre_tokenizer: sequence(regex('\\p{N}{1,3}'), level) }],
    [
      'smaug-bpe',
      {
        model,
        pre_tokenizer: sequence(
          { ...regex('\\p{N}{1,3}'), behavior: 'Removed', invert: true }, // as converters of tiktoken write it
          level,
        ),
      },
    ],
    ...preTokenizers
      .filter(({ name }) => name === 'gpt-4o' || name === 'tekken')
      .map(({ name, parts, wholeWords }): [string, Record<string, unknown>] => [
        name,
        { model: { ...model, ignore_merges: wholeWords === true }, pre_tokenizer: sequence(...parts) },
      ]),
    ['qwen2', { model, normalizer: { type: 'NFC' }, pre_tokenizer: sequence(regex('\\p{N}'), level) }],
    [
      'smollm',
      {
        model,
        pre_tokenizer: sequence({ type: 'Digits', individual_digits: true }, { ...level, use_regex: true }),
      },
    ],
    [
      'gpt-2',
      {
        model: { ...model, merges: [['a', 'b']] },
        pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false },
      },
    ],
  ];
  test.each(kinds)('%s is recognized', (name, json) => {
    const added_tokens = [
      { id: 3, content: '<s>', special: true },
      { id: 4, content: '<tool>', special: false },
    ];
    const fields = Object.fromEntries(ggufTokenizer({ ...json, added_tokens }, 6));
    expect(fields).toEqual({
      'tokenizer.ggml.model': { text: 'gpt2' },
      'tokenizer.ggml.pre': { text: name },
      'tokenizer.ggml.tokens': { texts: ['a', 'b', 'ab', '<s>', '<tool>', '[PAD5]'] },
      'tokenizer.ggml.token_type': { i32s: [1, 1, 1, 3, 4, 5] },
      'tokenizer.ggml.merges': { texts: ['a b'] },
    });
  });

  test('Gemma’s is SentencePiece’s: its runs of spaces are found in texts, its token of images is left out', () => {
    const json = {
      model: {
        ...{ type: 'BPE', byte_fallback: true, unk_token: '<unk>' },
        vocab: { '<unk>': 0, '▁': 1, a: 2, '▁▁': 3, '▁a': 4 },
        merges: [
          ['▁', '▁'],
          ['▁', 'a'],
        ],
      },
      normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      pre_tokenizer: {
        ...{ type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
      },
      added_tokens: [
        { id: 0, content: '<unk>', special: true },
        { id: 3, content: '▁▁', special: false },
        { id: 5, content: '<image_soft_token>', special: true },
      ],
    };
    expect(Object.fromEntries(ggufTokenizer(json, 5))).toEqual({
      'tokenizer.ggml.model': { text: 'llama' },
      'tokenizer.ggml.pre': { text: 'default' },
      'tokenizer.ggml.add_space_prefix': { flag: false },
      'tokenizer.ggml.tokens': { texts: ['<unk>', '▁', 'a', '  ', '▁a'] },
      'tokenizer.ggml.token_type': { i32s: [2, 1, 1, 4, 1] },
      'tokenizer.ggml.scores': { f32s: [0, -4, -5, 0, -2] },
    });
    const other = { ...json.pre_tokenizer, behavior: 'Isolated' };
    expect(() => ggufTokenizer({ ...json, pre_tokenizer: other }, 5)).toThrow(
      'llama.cpp knows tokenizers by their kind',
    );
  });

  test('one that differs a little is none of them', () => {
    for (const [, json] of kinds)
      for (const other of [
        { normalizer: json['normalizer'] ? null : { type: 'NFC' } },
        { normalizer: { type: 'NFKC' } },
        { pre_tokenizer: null },
        { pre_tokenizer: sequence({ ...regex('\\p{N}'), behavior: 'Removed' }, level) },
        { model: { ...model, type: 'Unigram' } },
      ])
        expect(() => ggufTokenizer({ ...json, ...other }, 6)).toThrow(
          'llama.cpp knows tokenizers by their kind',
        );
  });
});

const whereInstalled = llamaCpp
  ? describeWithData
  : (name: string, _: string, body: (dir: string) => void): void =>
      describe.skip(`${name} (skipped: node-llama-cpp is not installed)`, () => body(''));

whereInstalled('llama.cpp', 'models/stories260K', (dir) => {
  /** Read when a test runs: a suite that is skipped has no data. */
  const sampleTexts = (): string[] =>
    [
      'Once upon a time',
      ' two  spaces,\nlines\t and 12345 digits',
      'Ünï¢ödé — 🙂 日本語',
      "don't SHOUT! (a+b)*c = d^2; x_1 != y-2",
      ...readFileSync(join(sharedData, 'text/tinyshakespeare.txt'), 'utf8').slice(0, 40_000).split('\n\n'),
    ].filter((text) => text !== '');

  test('writes the text of the model, and reads texts as its tokenizer does', async () => {
    const out = unused('.gguf');
    await convertModel(dir, out, { format: 'f32' });
    const { greedy_ids: golden } = JSON.parse(readFileSync(join(dir, 'golden_greedy.json'), 'utf8')) as {
      greedy_ids: number[];
    };
    const samples = sampleTexts();
    const eight = unused('.gguf');
    await convertModel(dir, eight, { format: 'q8_0' });
    expect(askLlamaCpp(eight, samples.slice(0, 1), 12).greedy).toEqual(golden.slice(5, 17));
    const { greedy, tokens } = askLlamaCpp(out, samples, 40);
    expect(greedy).toEqual(golden.slice(5, 45));
    const model = await CausalLM.fromPretrained(dir);
    expect(tokens).toEqual(samples.map((text) => model.tokenizer.encode(text, { addSpecialTokens: false })));
    await model.dispose();
  }, 300_000);

  test.each(['f32', 'f16'] as const)(
    'writes and reads the same texts as we do from one file of %s',
    async (format) => {
      const out = unused('.gguf');
      await convertModel(dir, out, { format });
      const samples = sampleTexts();
      const theirs = askLlamaCpp(out, samples, 40);
      const model = await CausalLM.fromPretrained(out, { dtype: 'f32' });
      expect(samples.map((text) => model.tokenizer.encode(text, { addSpecialTokens: false }))).toEqual(
        theirs.tokens,
      );
      const options = { maxNewTokens: 40, temperature: 0, ignoreEos: true };
      const { ids } = await model.generate('Once upon a time', options);
      await model.dispose();
      expect(ids).toEqual(theirs.greedy);
    },
    300_000,
  );

  test('writes our text from Q4_K, with Q5_0 and Q8_0 beside it', async () => {
    const sizes = { hidden_size: 256, head_dim: 64, intermediate_size: 288 };
    const config = { ...sizes, vocab_size: 512, bos_token_id: 1, eos_token_id: 2 };
    const tokenizer = JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as object;
    const out = unused('.gguf');
    await convertModel(await tinyModel({ config, tokenizer }), out, { format: 'q4_k' });
    const file = await GgufFile.open(out);
    const types = new Set([...file.tensors.values()].map(({ block }) => block.type));
    await file.close();
    expect([...types].sort()).toEqual(['F32', 'Q4_K', 'Q5_0', 'Q8_0']);
    const theirs = askLlamaCpp(out, ['Once upon a time'], 12);
    const model = await CausalLM.fromPretrained(out, { dtype: 'f32' });
    const { ids } = await model.generate('Once upon a time', {
      maxNewTokens: 12,
      temperature: 0,
      ignoreEos: true,
    });
    await model.dispose();
    expect(ids).toEqual(theirs.greedy);
  }, 300_000);

  test('writes our text with an adapter that we converted', async () => {
    const [base, lora] = [unused('.gguf'), unused('.gguf')];
    const adapter = join(sharedData, 'golden/stories260K-all-linear-r8/adapter_final');
    await convertModel(dir, base, { format: 'f32' });
    await convertAdapter(adapter, lora, { format: 'gguf', base: dir });
    const model = await CausalLM.fromPretrained(dir, { dtype: 'f32' });
    await model.loadAdapter(adapter);
    const { ids } = await model.generate('Once upon a time', {
      maxNewTokens: 30,
      temperature: 0,
      ignoreEos: true,
    });
    await model.dispose();
    expect(askLlamaCpp(base, ['Once upon a time'], 30, lora).greedy).toEqual(ids);
    expect(askLlamaCpp(base, ['Once upon a time'], 30).greedy).not.toEqual(ids);
  }, 300_000);

  test('reads texts as SmolLM2’s tokenizer does', async () => {
    const smol = join(sharedData, 'models/smollm2-135m');
    const small = await tinyModel({
      config: { vocab_size: 49152 },
      tokenizer: JSON.parse(readFileSync(join(smol, 'tokenizer.json'), 'utf8')) as object,
    });
    const out = unused('.gguf');
    await convertModel(small, out, { format: 'f16' });
    const model = await CausalLM.fromPretrained(small);
    const samples = sampleTexts();
    const ours = samples.map((text) => model.tokenizer.encode(text, { addSpecialTokens: false }));
    await model.dispose();
    expect(askLlamaCpp(out, samples, 1).tokens).toEqual(ours);
  }, 300_000);
});
