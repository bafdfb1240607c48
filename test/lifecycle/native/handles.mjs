// Wrong, released and foreign handles; release twice; memory that goes with the handles.
import { complaint, cpu, f32, native, print, rest, values } from './common.mjs';

const x = f32([1, 2]);
const weight = native.pack(f32([1, 2, 3, 4], [2, 2]), null, 'f32');
const gone = f32([1]);
native.release(gone);
native.release(gone);
const report = {
  wrong: await complaint(() => native.binary('add', x, weight, 'f32')),
  device: await complaint(() => native.binary('add', cpu, x, 'f32')),
  file: await complaint(() => native.read(native.openFile(process.execPath).file)),
  object: await complaint(() => native.read({})),
  released: await complaint(() => native.binary('add', x, gone, 'f32')),
  releasedRead: await complaint(() => native.read(gone)),
  otherDevice: await complaint(() =>
    native.binary('add', x, f32([1, 2], [2], native.openDevice('reference')), 'f32'),
  ),
  clone: await complaint(() => structuredClone(x)).then((text) => text.includes('could not be cloned')),
};
// Work that is queued goes on when its operands are released, and a view keeps the storage.
const y = native.binary('add', x, x, 'f32');
const view = native.view(y, 1, []);
native.release(x);
native.release(y);
report.queued = await values(view);
native.release(weight);
native.release(view);

// Handles that are only dropped are freed by the garbage collector.
globalThis.gc();
await rest();
const before = native.memoryUsage();
(() => {
  for (let i = 0; i < 100; i++) f32([i]);
})();
const during = native.memoryUsage();
globalThis.gc();
await rest();
const after = native.memoryUsage();
report.collected = [
  during.tensors - before.tensors,
  after.tensors - before.tensors,
  after.bytes - before.bytes,
];
print(report);
