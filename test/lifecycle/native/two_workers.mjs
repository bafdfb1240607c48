// Two workers and the main thread compute at once, each with an add-on of its own, and agree bit for bit.
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { branchOf, cpu, native, packed, print } from './common.mjs';

async function compute() {
  const w = packed(native.random(cpu, 'normal', 1, 0, 0, 0.05, [96, 64]));
  const back = packed(native.random(cpu, 'normal', 2, 0, 0, 0.05, [64, 96]));
  let x = native.random(cpu, 'normal', 3, 0, 0, 1, [32, 64]);
  for (let i = 0; i < 200; i++) {
    const h = native.loraLinearForward(x, [branchOf(w)], 'auto', null, null, false)[0][0];
    const next = native.loraLinearForward(h, [branchOf(back)], 'auto', null, null, false)[0][0];
    x = native.binary('add', native.unary('relu', 1, next, 'f32'), x, 'f32');
    if (i % 50 === 0) await native.read(native.view(x, 0, [1]));
  }
  return Buffer.from(await native.read(x)).toString('base64');
}

if (isMainThread) {
  const worker = () =>
    new Promise((done, fail) => {
      const started = new Worker(new URL(import.meta.url));
      started.once('message', done);
      started.once('error', fail);
    });
  const [here, one, two] = await Promise.all([compute(), worker(), worker()]);
  print({ same: here === one && here === two, bytes: Buffer.from(here, 'base64').length });
} else {
  parentPort.postMessage(await compute());
}
