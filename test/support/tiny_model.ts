/** Writes a small random model as a Hugging Face directory, so that tests need no downloaded one. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';
import { parseModelConfig } from '../../lib/models/families';
import { expectedTensors, transposedTensors } from '../../lib/models/files/tensor_table';

/** Small odd sizes: 3 layers, 4 heads over 2 of keys, a vocabulary beyond the tokenizer's. */
export const tinyConfig: Readonly<Record<string, unknown>> = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 6,
  vocab_size: 262,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  rope_scaling: null,
  hidden_act: 'silu',
  tie_word_embeddings: true,
  bos_token_id: 256,
  eos_token_id: 257,
  torch_dtype: 'float32',
};

/** What makes an LFM2 of it: short convolutions around one layer of attention. */
export const lfm2Config: Readonly<Record<string, unknown>> = {
  architectures: ['Lfm2ForCausalLM'],
  model_type: 'lfm2',
  layer_types: ['conv', 'full_attention', 'conv'],
  norm_eps: 1e-5,
  conv_bias: false,
  conv_L_cache: 3,
  block_auto_adjust_ff_dim: false,
};

export interface TinyModelOptions {
  /** Keys of config.json that differ. */
  config?: Record<string, unknown>;
  dtype?: 'F32' | 'BF16' | 'F16';
  seed?: number;
  /** tokenizer.json. Default: true, that of `byteTokenizer()`. */
  tokenizer?: boolean | object;
  /** Keys of tokenizer_config.json that differ. */
  tokenizerConfig?: Record<string, unknown>;
  chatTemplate?: string;
  generation?: Record<string, unknown>;
  /** Changes the tensors before they are written. */
  edit?: (tensors: Map<string, SafetensorsTensor>) => void;
}

/** Uniform numbers of [−1, 1): Mulberry32, enough for weights. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

/** The bytes of numbers in a safetensors dtype; bf16 and f16 of numbers that the test can live with truncated. */
function encode(values: Float32Array, dtype: 'F32' | 'BF16' | 'F16'): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer);
  const bits = new Uint32Array(values.buffer);
  const halves = Uint16Array.from(bits, (word) => {
    if (dtype === 'BF16') return word >>> 16;
    const exponent = ((word >>> 23) & 255) - 112; // normal halves only: anything smaller becomes zero
    return exponent <= 0 ? 0 : ((word >>> 16) & 0x8000) | (exponent << 10) | ((word >>> 13) & 0x3ff);
  });
  return new Uint8Array(halves.buffer);
}

/** A byte-level tokenizer: ids 0 to 255 are the bytes, then <s>, </s>, <|user|>, <|assistant|>. */
export function byteTokenizer(): object {
  const printable = [...Array(256).keys()].filter(
    (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174,
  );
  const vocab: Record<string, number> = {};
  for (let b = 0, next = 256; b < 256; b++)
    vocab[String.fromCodePoint(printable.includes(b) ? b : next++)] = b;
  const special = ['<s>', '</s>', '<|user|>', '<|assistant|>'].map((content, i) => ({
    id: 256 + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  for (const { id, content } of special) vocab[content] = id;
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special,
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [256], tokens: ['<s>'] } },
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', vocab, merges: [], unk_token: null, byte_fallback: false, ignore_merges: false },
  };
}

export const tinyTemplate =
  "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/** The same, with tools and calls as Llama 3.1's template writes them. */
export const llamaToolTemplate =
  '{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}' +
  "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}" +
  '{% if message.tool_calls %}{% for call in message.tool_calls %}{% set call = call.function %}' +
  '{{ \'{"name": "\' + call.name + \'", "parameters": \' }}{{ call.arguments | tojson }}{{ \'}\' }}{% endfor %}' +
  "{% else %}{{ message['content'] }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/** Writes the directory and returns its path. */
export async function tinyModel(options: TinyModelOptions = {}): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'tiny-model-'));
  mkdirSync(dir, { recursive: true });
  const json = { ...tinyConfig, ...options.config };
  const config = parseModelConfig(json);
  const dtype = options.dtype ?? 'F32';
  const random = generator(options.seed ?? 1);
  const tensors = new Map<string, SafetensorsTensor>();
  const turned = transposedTensors(config);
  for (const [name, shape] of expectedTensors(config)) {
    const count = shape.reduce((a, b) => a * b, 1);
    // Norms near 1, everything else of a size that keeps activations near 1 and logits apart.
    const scale = shape.length === 1 ? 0.2 : 1.7 / Math.sqrt(shape[1]!);
    const base = name.includes('norm') ? 1 : 0;
    const values = Float32Array.from({ length: count }, () => base + scale * random());
    const stored = turned.has(name) ? [...shape].reverse() : [...shape];
    tensors.set(name, { dtype, shape: stored, bytes: encode(values, dtype) });
  }
  options.edit?.(tensors);
  await writeSafetensors(join(dir, 'model.safetensors'), tensors, { format: 'pt' });
  const write = (name: string, content: object): void =>
    writeFileSync(join(dir, name), JSON.stringify(content, null, 2));
  write('config.json', json);
  if (options.generation) write('generation_config.json', options.generation);
  if (options.tokenizer !== false) {
    write('tokenizer.json', typeof options.tokenizer === 'object' ? options.tokenizer : byteTokenizer());
    write('tokenizer_config.json', {
      bos_token: '<s>',
      eos_token: { content: '</s>', special: true },
      chat_template: options.chatTemplate ?? tinyTemplate,
      ...options.tokenizerConfig,
    });
  }
  return dir;
}
