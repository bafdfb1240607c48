// Recorded programs: what they hold, that runs take nothing, and workers that end with a program in every state.
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { cpu, f32, native, print, rest, valuesSync } from './common.mjs';

const n = 64;
const layer = (x, w) => {
  const product = native.matmul(x, w, false, false, 'f32');
  const scaled = native.unary('scale', 0.1, product, 'f32');
  native.release(product);
  return scaled;
};
/** As many layers as wanted on x, of which only the last one's result is kept. */
function record(x, w, layers) {
  native.beginRecording(cpu);
  let y = layer(x, w);
  for (let i = 1; i < layers; i++) {
    const next = layer(y, w);
    native.release(y);
    y = next;
  }
  return { program: native.endRecording(cpu), y };
}
const matrix = (value) => f32(new Float32Array(n * n).fill(value), [n, n]);

async function memory() {
  const [x, w] = [matrix(1), matrix(0.1)];
  const bytes = () => native.memoryUsage().bytes;
  const before = bytes();
  const held = [2, 30].map((layers) => {
    const { program, y } = record(x, w, layers);
    const all = bytes() - before;
    native.release(program);
    const withoutProgram = bytes() - before;
    native.release(y);
    return [layers, all, withoutProgram, bytes() - before];
  });
  const { program, y } = record(x, w, 3);
  const inputs = Array.from({ length: 7 }, (_, i) => new Uint8Array(new Float32Array(n * n).fill(i).buffer));
  const state = async () => {
    for (let i = 0; i < 4; i++) {
      globalThis.gc();
      await rest(5); // in which dead handles go
    }
    return [native.memoryUsage(), native.liveObjects()];
  };
  const run = async (runs) => {
    for (let i = 0; i < runs; i++) {
      native.writeBytes(x, inputs[i % 7]);
      native.runProgram(program);
      if (i % 100 === 99) await native.read(y);
    }
  };
  await run(1000);
  const [warm, rss] = [await state(), process.memoryUsage().rss];
  await run(9000);
  const end = await state();
  const grown = process.memoryUsage().rss - rss;
  native.release(w);
  native.release(x);
  native.release(program);
  native.release(program);
  native.release(y);
  print({ held, same: JSON.stringify(end) === JSON.stringify(warm), grown, left: bytes() });
}

async function workers() {
  if (!isMainThread) {
    const [x, w] = [matrix(1), matrix(0.1)];
    const { program, y } = record(x, w, 50);
    native.setQueueLimits({ commands: 100, bytes: 2 ** 40 });
    for (let i = 0; i < 100; i++) native.runProgram(program);
    void native.roomInQueue(cpu);
    native.read(y).catch(() => {});
    if (workerData === 'released') native.release(program);
    if (workerData === 'recording') {
      native.beginRecording(cpu);
      layer(x, w);
    }
    parentPort.postMessage('started');
    if (workerData === 'exit') process.exit(3);
    return;
  }
  const codes = [];
  for (const end of ['queued', 'released', 'recording', 'exit']) {
    const worker = new Worker(new URL(import.meta.url), { workerData: end, argv: ['workers'] });
    const ended = new Promise((done) => worker.once('exit', done));
    await new Promise((started) => worker.once('message', started));
    if (end !== 'exit') await worker.terminate();
    codes.push(await ended);
  }
  await rest();
  print({ codes, sum: valuesSync(native.binary('add', f32([1]), f32([2]), 'f32')) });
}

await { memory, workers }[process.argv[2]]();
