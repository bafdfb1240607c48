// Small tensors without end in a loop that never awaits: neither handles nor what belongs to them pile up.
import { cpu, MiB, native, print } from './common.mjs';

const one = native.alloc(cpu, 'f32', [4]);
native.fill(one, 1);
const rss = [];
let most = 0;
for (let i = 0; i < 120_000; i++) {
  native.unary('copy', 1, one, 'f32');
  if (i % 20_000 === 0) rss.push(process.memoryUsage.rss() / MiB);
  if (i % 1000 === 0) most = Math.max(most, native.memoryUsage().tensors);
}
print({ growth: Math.round(rss.at(-1) - rss[2]), most });
