// A loop that never awaits, and one that awaits microtasks only: memory stays bounded in both.
import { cpu, MiB, native, print } from './common.mjs';

const microtasks = process.argv[2] === 'microtasks';
const elements = 2 ** 18; // 1 MiB
const one = native.alloc(cpu, 'f32', [elements]);
native.fill(one, 1);
let x = one;
const seen = [];
const steps = 3000;
for (let i = 0; i < steps; i++) {
  x = native.binary('add', x, one, 'f32'); // 3000 MiB in all
  if (microtasks) await null;
  if (i % 250 === 0)
    seen.push({ rss: process.memoryUsage.rss() / MiB, bytes: native.memoryUsage().bytes / MiB });
}
const first = new Float32Array(native.readSync(native.view(x, 0, [1])))[0];
const top = (key) => Math.round(Math.max(...seen.map((s) => s[key])));
print({ first, rss: top('rss'), bytes: top('bytes') });
