// Decode steps with a layer in one format, on the instruction set that LORA_SIMD names. One run for each line:
// decode_blocks.mjs '{"layer": {"in": 2048, "out": [2048]}, "format": "q4_0", "dtype": "bf16", "threads": 2}'
import { setThreads, synchronize } from 'lora-native';
import { addon } from '../addon.mjs';
import { serve } from './serve.mjs';

/** The values and bytes of a block, and where its scales lie in it, which are f16; `values` of one scale of f32 where they lie apart. */
const blocks = {
  f32: { values: 1, bytes: 4 },
  bf16: { values: 1, bytes: 2 },
  int8: { values: 1, bytes: 1, scaled: 'rows' },
  nf4: { values: 2, bytes: 1, scaled: 64 },
  fp4: { values: 2, bytes: 1, scaled: 64 },
  q8_0: { values: 32, bytes: 34, scales: [0] },
  q4_0: { values: 32, bytes: 18, scales: [0] },
  q4_1: { values: 32, bytes: 20, scales: [0, 2] },
  q5_0: { values: 32, bytes: 22, scales: [0] },
  q5_1: { values: 32, bytes: 24, scales: [0, 2] },
  q4_k: { values: 256, bytes: 144, scales: [0, 2] },
  q5_k: { values: 256, bytes: 176, scales: [0, 2] },
  q6_k: { values: 256, bytes: 210, scales: [208] },
};
/** Of the weights together, which no cache of one core holds. */
const coldBytes = 2 ** 27;

const { layer, format, dtype, threads } = JSON.parse(process.argv[2]);
const { in: columns, out } = layer;
const [outputs] = out;
const { values: perBlock, bytes: blockBytes, scales = [], scaled } = blocks[format];
const codeBytes = (outputs * columns * blockBytes) / perBlock;
const scaleCount = scaled === 'rows' ? outputs : scaled ? (outputs * columns) / scaled : 0;
const weightBytes = codeBytes + 4 * scaleCount;
setThreads(threads);
const native = addon();
const device = native.openDevice('cpu');

function upload(type, shape, values) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return native.fromBytes(device, type, shape, bytes);
}

/** Floats, or any codes. Scales are about 0.01. */
function stored() {
  const shape = [outputs, columns];
  if (format === 'f32' || format === 'bf16') {
    const values = Float32Array.from({ length: outputs * columns }, (_, i) => Math.sin(i * 0.7) / 50);
    return native.unary('copy', 1, upload('f32', shape, values), format);
  }
  const bytes = new Uint8Array(codeBytes);
  for (let i = 0; i < codeBytes; i++) bytes[i] = Math.imul(i ^ (i >>> 7), 0x9e3779b1) >>> 24;
  for (let at = 0; scales.length > 0 && at < bytes.length; at += blockBytes)
    for (const scale of scales) bytes[at + scale + 1] = 0x21;
  return upload('i8', format === 'int8' ? shape : [bytes.length], bytes);
}

/** Copies of one layer. */
function load() {
  const values = stored();
  const apart = scaleCount > 0 ? upload('f32', [scaleCount], new Float32Array(scaleCount).fill(0.01)) : null;
  const branch = {
    bias: null,
    up: null,
    down: null,
    scale: 1,
    dropout: null,
    site: -1,
    factor: null,
    activations: 'exact',
  };
  return Array.from({ length: Math.max(2, Math.ceil(coldBytes / weightBytes)) }, () => {
    const weight = native.pack(values, apart, format, [outputs, columns], dtype);
    return [{ ...branch, weight }];
  });
}

function inputOf(rows) {
  const values = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 1.7) / 4);
  return native.unary('copy', 1, upload('f32', [rows, columns], values), dtype);
}

const layers = load();
let turn = 0;
function step(x) {
  turn = (turn + 1) % layers.length;
  const [[y]] = native.loraLinearForward(x, layers[turn], 'decode', null, null, false);
  return y;
}

await serve({ bytes: weightBytes }, async ({ rows, check, ms }) => {
  const x = inputOf(rows);
  if (check)
    return { values: [...new Float32Array(await native.read(native.unary('copy', 1, step(x), 'f32')))] };
  const before = process.cpuUsage();
  const begin = performance.now();
  let calls = 0;
  do {
    for (let i = 0; i < 8; i++, calls++) native.release(step(x));
    await synchronize('cpu');
  } while (performance.now() - begin < ms);
  const seconds = (performance.now() - begin) / 1000;
  const { user, system } = process.cpuUsage(before);
  return { seconds: seconds / calls, cpu: (user + system) / 1e6 / calls };
});
