// An op is called while the queue is full and much memory has become garbage: making room must not give the op's own
// scratch back to the system before it has run.
import { cpu, MiB, native, print, valuesSync } from './common.mjs';

const matrix = (value) => {
  const x = native.alloc(cpu, 'f16', [1024, 1024]);
  native.fill(x, value);
  return x;
};
const [a, b] = [matrix(1), matrix(2)];
const report = [];
// What is given back depends on what lies in the cache, so several amounts of garbage are tried.
for (const blocks of [8, 9, 10, 11]) {
  const garbage = [];
  for (let i = 0; i < blocks; i++) garbage.push(native.alloc(cpu, 'f32', [20 * MiB]));
  native.setQueueLimits({ commands: 512, bytes: 2 ** 40 });
  native.synchronizeSync(cpu);
  garbage.length = 0;
  globalThis.gc();
  native.setQueueLimits({ commands: 1, bytes: 2 ** 40 });
  const first = native.matmul(a, b, false, false, 'f16'); // fills the queue
  const second = native.matmul(a, b, false, false, 'f16'); // its scratch is larger than all that is in use
  const end = native.unary('copy', 1, native.view(second, 2 ** 20 - 2, [2]), 'f32');
  report.push(valuesSync(end)[1]);
  for (const t of [first, second, end]) native.release(t);
}
print(report);
