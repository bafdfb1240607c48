// Every export with every kind of wrong value in every place: an error with a code, or a result; no crash.
import { cpu, f32, native, packed, print } from './common.mjs';

const reference = native.openDevice('reference');
const released = f32([1, 2]);
native.release(released);
native.beginRecording(cpu);
const program = native.endRecording(cpu);
const tensor = () => f32([1, 2, 3, 4], [2, 2]);
const junk = () => [
  undefined,
  null,
  NaN,
  -1,
  1.5,
  1e300,
  2 ** 31,
  'f32',
  'add',
  '',
  true,
  {},
  [],
  [1, 2],
  [-1],
  [2 ** 40, 2 ** 40],
  Symbol('s'),
  1n,
  () => 1,
  new Uint8Array(16),
  new Proxy({}, { get: (_, key) => (key === Symbol.toPrimitive ? undefined : tensor()) }),
  tensor(),
  f32([1, 2], [2], reference),
  packed(tensor()),
  native.createGuard(),
  program,
  native.openFile(process.execPath).file,
  cpu,
  released,
  [tensor(), released],
  [null, undefined],
  { weight: tensor(), up: 1, down: 2, scale: 'x', dropout: 5 },
  [
    {
      weight: packed(tensor()),
      bias: null,
      up: tensor(),
      down: null,
      scale: 1,
      dropout: null,
    },
  ],
  [{ param: tensor(), grad: released, m: tensor(), v: tensor() }],
];

// A small generator, so that a failure can be repeated.
let seed = 1;
const random = (n) => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
};
const skipped = new Set([
  'setErrorFactory',
  'injectFailure',
  'setQueueLimits',
  'setThreads',
  'closeFile',
  'injectOutOfMemory',
  'beginRecording', // most of what follows would be refused
]);
const names = Object.keys(native).filter((name) => !skipped.has(name));
const counts = { calls: 0, errors: 0, codes: {} };
const odd = [];
for (const name of names) {
  for (let round = 0; round < 300; round++) {
    const pool = junk();
    const args = Array.from({ length: random(9) }, () => pool[random(pool.length)]);
    if (random(2)) args[0] = tensor(); // further into the function
    counts.calls++;
    try {
      const result = native[name](...args);
      if (result instanceof Promise) result.catch(() => {});
    } catch (error) {
      counts.errors++;
      counts.codes[error.code] = (counts.codes[error.code] ?? 0) + 1;
      if (typeof error.code !== 'string' || !(error.code === 'ERR_FILE' || /^\[\w+\] /.test(error.message)))
        odd.push(`${name}: ${error.code} ${error.message}`);
    }
  }
}
native.synchronizeSync(cpu);
const two = f32([1, 2]);
const sum = [...new Float32Array(native.readSync(native.binary('add', two, two, 'f32')))];
print({ ...counts, odd: [...new Set(odd)], names: names.length, sum });
