// One thread of scripts/stress.mjs: several actors that do deeds at random on one shared model, which is replaced now and
// then under their feet, while allocations and ops fail. In between everything stops, and nothing may be left.
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { parentPort, workerData } from 'node:worker_threads';
import { deeds, leftovers, makeAdapters, variants } from './deeds.mjs';

const { root, seed, calm, expected, known, until, folder } = workerData;
const require = createRequire(join(root, 'package.json'));
const lora = require('./dist/index.js');
const native = require('node-gyp-build')(root);
setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc');

let state = seed >>> 0;
/** Below n. */
function random(n) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
}
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

let sharedModel;
const ctx = {
  lora,
  base: join(root, 'examples/base-model'),
  adapters: join(folder, 'adapters'),
  meeting: join(folder, 'meeting'),
  scratch: join(folder, `worker-${seed}`),
  known,
  random,
  pause: () => (random(2) ? new Promise(setImmediate) : sleep(random(5))),
  shared: () =>
    (sharedModel ??= lora.CausalLM.fromPretrained(ctx.base)).catch((error) => {
      sharedModel = undefined;
      throw error;
    }),
};
mkdirSync(ctx.scratch, { recursive: true });

const counts = {};
const count = (what, outcome) => {
  const key = `${what} ${outcome}`;
  counts[key] = (counts[key] ?? 0) + 1;
};
const fail = (what, detail) =>
  parentPort.postMessage({ type: 'fault', seed, what, detail: String(detail?.stack ?? detail) });
process.on('unhandledRejection', (error) => fail('an unhandled rejection', error));

const ops = [
  ...['binary', 'unary', 'reduce_sum', 'embedding', 'rms_norm_forward', 'attention_forward', 'sample'],
  ...['lora_linear_forward', 'lora_linear_backward', 'linear_cross_entropy', 'global_norm', 'adamw'],
];
const injected = 'injected by the stress test';
/** Whether a deed may fail like this. */
function allowed(error) {
  if (error?.code === 'ERR_OUT_OF_MEMORY') return 'out of memory';
  if (String(error?.message).includes(injected)) return 'failed op';
  if (error?.code === 'ERR_DISPOSED') return 'disposed';
  if (error?.code === 'ERR_BUSY') return 'busy';
  return undefined;
}

async function act(actor) {
  const names = Object.keys(deeds);
  while (Date.now() < until && !quiet) {
    if (random(40) === 0) {
      await replaceModel();
      continue;
    }
    if (random(4) === 0) native.injectOutOfMemory(1 + random(120));
    if (random(12) === 0) native.injectFailure(ops[random(ops.length)], injected);
    if (random(20) === 0) lora.setThreads(1 + random(2));
    const name = names[random(names.length)];
    const v = random(variants);
    const watch = setTimeout(() => fail('a hang', `${name} ${v} of actor ${actor}`), 120_000);
    try {
      const value = await deeds[name](ctx, v);
      if (value === expected[`${name} ${v}`]) count(name, 'right');
      else fail('a wrong result', `${name} ${v}: ${value} and not ${expected[`${name} ${v}`]}`);
    } catch (error) {
      const why = allowed(error);
      if (why) count(name, why);
      else fail('an unexpected error', `${name} ${v}: ${error?.stack ?? error}`);
    }
    clearTimeout(watch);
  }
}

async function replaceModel() {
  const model = await sharedModel?.catch(() => undefined);
  if (!model || model.disposed) return;
  try {
    const disposing = model.dispose();
    if (model.disposed) sharedModel = undefined;
    await disposing;
    count('dispose', 'done');
  } catch (error) {
    if (error.code !== 'ERR_BUSY') return fail('an unexpected error', error);
    count('dispose', 'busy');
  }
}

let quiet = false;
/** Everything has stopped: all deeds are right, one by one, and nothing native is left. */
async function rest() {
  native.injectOutOfMemory(0);
  for (const op of ops) native.injectFailure(op, '');
  for (const name of Object.keys(deeds)) {
    const key = `${name} ${random(variants)}`;
    const value = await deeds[name](ctx, Number(key.at(-1))).catch((error) => error?.stack ?? error);
    if (value === expected[key]) count(name, 'right, calm');
    else fail('a wrong result after all was calm', `${key}: ${value} and not ${expected[key]}`);
  }
  if (sharedModel) await (await sharedModel.catch(() => undefined))?.dispose();
  sharedModel = undefined;
  for (let i = 0; i < 6; i++) {
    gc();
    await sleep(10);
  }
  const { devices, guards, handles, ...live } = native.liveObjects();
  const left = Object.entries(live).filter(([, n]) => n > 0);
  if (left.length > 0 || handles > devices + guards + 64)
    fail('objects that are left', JSON.stringify({ ...live, devices, guards, handles }));
  const files = await leftovers(ctx);
  if (files.length > 0) fail('files that are left', files.join());
  count('rest', 'clean');
}

if (calm) {
  lora.setThreads(1);
  const found = await makeAdapters(ctx);
  ctx.known = found;
  const values = {};
  for (const name of Object.keys(deeds))
    for (let v = 0; v < variants; v++) values[`${name} ${v}`] = await deeds[name](ctx, v);
  await (await ctx.shared()).dispose();
  parentPort.postMessage({ type: 'calm', known: found, values });
} else {
  while (Date.now() < until) {
    quiet = false;
    const timer = setTimeout(() => (quiet = true), 15_000 + random(10_000));
    await Promise.all(Array.from({ length: 6 }, (_, actor) => act(actor)));
    clearTimeout(timer);
    await rest();
    parentPort.postMessage({ type: 'counts', seed, counts: { ...counts }, rss: process.memoryUsage().rss });
    for (const key of Object.keys(counts)) delete counts[key];
  }
  parentPort.postMessage({ type: 'end', seed });
}
