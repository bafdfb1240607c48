// The add-on itself, without lib/: what these programs ask of it is below what lib/ lets through.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const load = createRequire(import.meta.url)('node-gyp-build');
export const native = load(fileURLToPath(new URL('../../..', import.meta.url)));
native.setErrorFactory((code, op, message, tag) => Object.assign(new Error(message), { code, op, tag }));

export const cpu = native.openDevice('cpu');
export const MiB = 2 ** 20;

export function f32(values, shape = [values.length], device = cpu) {
  return native.fromBytes(device, 'f32', shape, new Uint8Array(Float32Array.from(values).buffer));
}
/** A frozen matrix of f32 for activations of f32. */
export const packed = (matrix) => native.pack(matrix, null, 'f32', native.info(matrix).shape, 'f32');
/** What loraLinear takes for a layer without an adapter. */
export const branchOf = (weight, changes = {}) => ({
  weight,
  bias: null,
  up: null,
  down: null,
  scale: 1,
  dropout: null,
  site: -1,
  activations: 'exact',
  ...changes,
});
export const valuesSync = (tensor) => [...new Float32Array(native.readSync(tensor))];
export const values = async (tensor) => [...new Float32Array(await native.read(tensor))];
export const rest = (ms = 20) => new Promise((done) => setTimeout(done, ms));

/** The error of a call or a promise as "CODE sentence". */
export async function complaint(call) {
  try {
    await call();
    return 'no error';
  } catch (error) {
    return `${error.code} ${error.message}`;
  }
}
export const print = (value) => console.log(JSON.stringify(value));
