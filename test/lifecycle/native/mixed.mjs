// Tensors of random sizes made, released, dropped, read in and out of order, while the collector runs:
// every read has the right size and the right values.
import { cpu, native, print } from './common.mjs';

let seed = 7;
const random = (n) => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
};
const live = [];
let pending = [];
let wrong = 0;
let reads = 0;
const check = (value, numel, buffer) => {
  reads++;
  const array = new Float32Array(buffer);
  if (array.length !== numel || array.some((x) => x !== value)) wrong++;
};
for (let i = 0; i < 30_000; i++) {
  const numel = 1 + random(40) * random(40);
  const tensor = native.alloc(cpu, 'f32', [numel]);
  native.fill(tensor, i % 1000);
  live.push({ tensor, numel, value: i % 1000 });
  while (live.length > 50) {
    const at = random(live.length);
    const [{ tensor: t, numel: n, value }] = live.splice(at, 1);
    const kind = random(4);
    const next = kind === 0 ? t : native.binary('add', t, t, 'f32');
    const expected = kind === 0 ? value : 2 * value;
    if (kind === 3) check(expected, n, native.readSync(next));
    else pending.push(native.read(next).then((buffer) => check(expected, n, buffer)));
    if (random(2)) native.release(t);
  }
  if (i % 1000 === 0) globalThis.gc();
  if (i % 700 === 0) {
    await Promise.all(pending);
    pending = [];
  }
}
await Promise.all(pending);
print({ wrong, reads });
