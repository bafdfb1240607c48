// Wrong, released and foreign handles; release twice; memory that goes with the handles.
import net from 'node:net';
import { complaint, cpu, f32, native, packed, print, rest, values } from './common.mjs';

const x = f32([1, 2]);
const weight = packed(f32([1, 2, 3, 4], [2, 2]));
const gone = f32([1]);
native.release(gone);
native.release(gone);
const server = net.createServer().listen(0); // its handle has an External of Node's own
const report = {
  wrong: await complaint(() => native.binary('add', x, weight, 'f32')),
  device: await complaint(() => native.binary('add', cpu, x, 'f32')),
  file: await complaint(() => native.read(native.openFile(process.execPath).file)),
  object: await complaint(() => native.read({})),
  foreign: await complaint(() => native.read(server._handle._externalStream)),
  released: await complaint(() => native.binary('add', x, gone, 'f32')),
  releasedRead: await complaint(() => native.read(gone)),
  otherDevice: await complaint(() =>
    native.binary('add', x, f32([1, 2], [2], native.openDevice('reference')), 'f32'),
  ),
  clone: await complaint(() => structuredClone(x)).then((text) => text.includes('could not be cloned')),
};
server.close();

// More handles than lie in one block, some of them freed and made again.
const kept = Array.from({ length: 1500 }, (_, i) => f32([i])).filter((_, i) => i % 3 === 0);
globalThis.gc();
await rest();
const again = Array.from({ length: 1500 }, (_, i) => f32([i]));
report.many = [await values(kept[499]), await values(again[7]), await values(again[1499])];

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
