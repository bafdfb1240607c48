// LORA_MEMORY_LIMIT=64MiB: errors at the call, with numbers, and everything usable afterwards.
import { complaint, cpu, MiB, native, print, valuesSync } from './common.mjs';

const report = {
  alloc: await complaint(() => native.alloc(cpu, 'f32', [2 ** 30])),
  absurd: await complaint(() => native.alloc(cpu, 'f32', [2 ** 50])),
};
// An op whose second output does not fit leaves nothing behind.
const gate = native.alloc(cpu, 'f32', [4 * MiB]); // 16 MiB
native.fill(gate, 1);
const before = native.memoryUsage();
const fill = native.alloc(cpu, 'f32', [8 * MiB]); // 32 MiB: one output more would fit, two do not
report.gated = await complaint(() => native.gatedBackward('silu', gate, gate, gate, null));
native.release(fill);
report.same = native.memoryUsage().bytes === before.bytes;
// The device goes on, and garbage makes room without an await in between.
let x = gate;
for (let i = 0; i < 20; i++) x = native.binary('add', x, gate, 'f32');
report.value = valuesSync(native.view(x, 0, [1]))[0];
// What is cached in one size serves another: blocks go back to the system when memory is short.
native.release(x);
for (const mib of [30, 20, 35, 10, 40]) native.release(native.alloc(cpu, 'f32', [(mib * MiB) / 4]));
report.after = native.memoryUsage().bytes === before.bytes;
print(report);
