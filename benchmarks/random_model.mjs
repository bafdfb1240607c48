// Models of random weights: memory and time depend on the shape and not on the values.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from 'lora-native';

/** [layers, hidden, feed-forward, heads, key heads, vocabulary, tied embeddings] */
export const shapes = {
  'Llama-68M': [2, 768, 3072, 12, 12, 32000, false],
  'SmolLM2-135M': [30, 576, 1536, 9, 3, 49152, true],
  'SmolLM2-360M': [32, 960, 2560, 15, 5, 49152, true],
  'Llama-3.2-1B': [16, 2048, 8192, 32, 8, 128256, true],
  'Llama-2-7B': [32, 4096, 11008, 32, 32, 32000, false],
};

/** The values of NF4's codes (bitsandbytes). */
const nf4 = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635],
  ...[-0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725],
  ...[
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
  ],
);

const configOf = ([layers, hidden, ff, heads, kvHeads, vocab, tied], quantized) => ({
  model_type: 'llama',
  hidden_size: hidden,
  intermediate_size: ff,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: kvHeads,
  vocab_size: vocab,
  tie_word_embeddings: tied,
  torch_dtype: 'bfloat16',
  ...(quantized && {
    quantization_config: { quant_method: 'bitsandbytes', load_in_4bit: true, bnb_4bit_quant_type: 'nf4' },
  }),
});

/** Fills bytes with a pattern that is long enough not to repeat in a row. */
function fill(bytes, pattern) {
  for (let i = 0; i < bytes.length; i += pattern.length)
    bytes.set(pattern.subarray(0, Math.min(pattern.length, bytes.length - i)), i);
  return bytes;
}
// Numbers between 2⁻⁷ and 2⁻⁵ of both signs.
const noise = new Uint8Array(
  Uint16Array.from({ length: 65521 }, (_, i) => 0x3c00 + ((i * 40503) & 0x80ff)).buffer,
);
const codes = Uint8Array.from({ length: 65521 }, (_, i) => (i * 40503) >> 5);

/** Adds a matrix in bf16, or in NF4 as bitsandbytes keeps it, with values of at most 2⁻⁵. */
function addMatrix(tensors, name, [out, inside], quantized) {
  if (!quantized) {
    const bytes = fill(new Uint8Array(2 * out * inside), noise);
    tensors.set(name, { dtype: 'BF16', shape: [out, inside], bytes });
    return;
  }
  const absmax = new Float32Array((out * inside) / 64).fill(2 ** -5);
  const state = { quant_type: 'nf4', blocksize: 64, dtype: 'bfloat16', shape: [out, inside] };
  const json = new TextEncoder().encode(JSON.stringify(state));
  const bytes = fill(new Uint8Array((out * inside) / 2), codes);
  tensors.set(name, { dtype: 'U8', shape: [bytes.length, 1], bytes });
  tensors.set(`${name}.absmax`, {
    dtype: 'F32',
    shape: [absmax.length],
    bytes: new Uint8Array(absmax.buffer),
  });
  tensors.set(`${name}.quant_map`, { dtype: 'F32', shape: [16], bytes: new Uint8Array(nf4.buffer) });
  tensors.set(`${name}.quant_state.bitsandbytes__nf4`, { dtype: 'U8', shape: [json.length], bytes: json });
}

/** Writes a directory in shards of a block each; `quantized`: the blocks in NF4, as a bitsandbytes directory. */
export async function writeRandomModel(dir, name, { quantized = false } = {}) {
  const shape = shapes[name];
  const [layers, hidden, ff, heads, kvHeads, vocab, tied] = shape;
  const kv = (hidden / heads) * kvHeads;
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify(configOf(shape, quantized)));
  const places = {};
  let shards = 0;
  const write = async (tensors) => {
    const file = `model-${String(++shards).padStart(5, '0')}.safetensors`;
    await writeSafetensors(join(dir, file), tensors, { format: 'pt' });
    for (const tensor of tensors.keys()) places[tensor] = file;
  };
  const norm = (tensors, path) => {
    const ones = new Uint16Array(hidden).fill(0x3f80);
    tensors.set(`${path}.weight`, { dtype: 'BF16', shape: [hidden], bytes: new Uint8Array(ones.buffer) });
  };
  const ends = new Map();
  addMatrix(ends, 'model.embed_tokens.weight', [vocab, hidden], false);
  if (!tied) addMatrix(ends, 'lm_head.weight', [vocab, hidden], false);
  norm(ends, 'model.norm');
  await write(ends);
  for (let i = 0; i < layers; i++) {
    const tensors = new Map();
    const layer = `model.layers.${i}`;
    norm(tensors, `${layer}.input_layernorm`);
    norm(tensors, `${layer}.post_attention_layernorm`);
    const linear = (path, out, inside) =>
      addMatrix(tensors, `${layer}.${path}_proj.weight`, [out, inside], quantized);
    linear('self_attn.q', hidden, hidden);
    linear('self_attn.k', kv, hidden);
    linear('self_attn.v', kv, hidden);
    linear('self_attn.o', hidden, hidden);
    linear('mlp.gate', ff, hidden);
    linear('mlp.up', ff, hidden);
    linear('mlp.down', hidden, ff);
    await write(tensors);
  }
  const index = { metadata: {}, weight_map: places };
  writeFileSync(join(dir, 'model.safetensors.index.json'), JSON.stringify(index));
  return dir;
}
