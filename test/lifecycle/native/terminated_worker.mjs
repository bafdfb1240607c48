// Workers that end mid-flight: queue full, reads pending, in every way a worker can end.
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { f32, native, print, rest, valuesSync } from './common.mjs';

function flood() {
  let x = native.random(native.openDevice('cpu'), 'normal', 1, 0, 0, 1, [256, 256]);
  for (let i = 0; i < 120; i++) {
    x = native.matmul(x, x, false, false, 'f32');
    if (i % 10 === 0) native.read(x).catch(() => {});
  }
  native.read(native.toDevice(x, native.openDevice('reference'))).catch(() => {});
}

if (isMainThread) {
  const codes = [];
  for (const end of ['terminate', 'exit', 'throw', 'return']) {
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(new URL(import.meta.url), { workerData: end });
      worker.on('error', () => {});
      const ended = new Promise((done) => worker.once('exit', done));
      if (end === 'terminate') {
        await new Promise((started) => worker.once('message', started));
        await worker.terminate();
      }
      codes.push(await ended);
    }
  }
  await rest();
  print({ codes, sum: valuesSync(native.binary('add', f32([1]), f32([2]), 'f32')) });
} else {
  flood();
  parentPort.postMessage('started');
  if (workerData === 'exit') process.exit(3);
  if (workerData === 'throw') throw new Error('on purpose');
  if (workerData === 'return') parentPort.unref();
  // 'terminate': reads are pending, so the worker lives until it is ended.
}
