// Decode steps with a layer in blocks of GGUF, on the instruction set that LORA_SIMD names. One run for each line:
// decode_blocks.mjs '{"layer": {"in": 2048, "out": [2048]}, "format": "q4_0", "dtype": "bf16", "threads": 2}'
import { setThreads, synchronize } from 'lora-native';
import { addon } from '../addon.mjs';
import { serve } from './serve.mjs';

/** The values and bytes of a block, and where its scales lie, which are f16. */
const blocks = {
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
const { values: perBlock, bytes: blockBytes, scales } = blocks[format];
const weightBytes = (outputs * columns * blockBytes) / perBlock;
setThreads(threads);
const native = addon();
const device = native.openDevice('cpu');

function upload(type, shape, values) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return native.fromBytes(device, type, shape, bytes);
}

/** Copies of one layer with any codes, whose scales are about 0.01. */
function load() {
  const bytes = new Uint8Array(weightBytes);
  for (let i = 0; i < weightBytes; i++) bytes[i] = Math.imul(i ^ (i >>> 7), 0x9e3779b1) >>> 24;
  for (let at = 0; at < bytes.length; at += blockBytes)
    for (const scale of scales) bytes[at + scale + 1] = 0x21;
  const codes = upload('i8', [bytes.length], bytes);
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
    const weight = native.pack(codes, null, format, [outputs, columns], dtype);
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
