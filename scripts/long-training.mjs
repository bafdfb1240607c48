// A long run keeps its memory: prints the memory of the process and the live native objects of each kind at intervals.
//
//   node scripts/long-training.mjs [--steps 10000] [--every 500] [--model DIR]
//
// The run is one of a tiny model with dropout, evaluations, checkpoints and a report. Between the first tenth of the steps, which fill caches, and
// the end no kind of object may become more, and neither heap nor resident memory may grow by more than `allowed`.
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { CausalLM, memoryUsage, Trainer } from 'lora-native';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: {
    steps: { type: 'string', default: '10000' },
    every: { type: 'string', default: '500' },
    model: { type: 'string', default: join(root, 'examples/base-model') },
  },
});
const [steps, every] = [Number(values.steps), Number(values.every)];
const native = createRequire(import.meta.url)('node-gyp-build')(root); // the add-on that the package has loaded
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');
const mebi = 2 ** 20;
const allowed = { heap: 2 * mebi, resident: 16 * mebi };

/** What is there when garbage has been collected and its finalizers have run. */
async function look(step) {
  for (let i = 0; i < 5; i++) {
    collect();
    await new Promise((done) => setTimeout(done, 5));
  }
  const { rss: resident, heapUsed: heap } = process.memoryUsage();
  const { bytes } = memoryUsage();
  const seen = { step, resident, heap, bytes, objects: native.liveObjects() };
  const objects = Object.entries(seen.objects).map(([kind, count]) => `${kind} ${count}`);
  console.log(
    `step ${String(step).padStart(6)}  resident ${(resident / mebi).toFixed(1)} MiB  heap ${(heap / mebi).toFixed(2)} MiB  ` +
      `tensors ${(bytes / mebi).toFixed(2)} MiB  ${objects.join(', ')}`,
  );
  return seen;
}

const row = (i) => Array.from({ length: 5 + ((i * 7) % 28) }, (_, j) => 1 + ((i * 37 + j * 11) % 400));
const rows = (n, from) => Array.from({ length: n }, (_, i) => ({ inputIds: row(from + i) }));
const outDir = mkdtempSync(join(tmpdir(), 'long-training-'));
const seen = [];
try {
  const model = await CausalLM.fromPretrained(values.model);
  model.addAdapter({ r: 4, loraDropout: 0.1 }, { seed: 7 });
  const trainer = new Trainer({
    ...{ model, data: rows(97, 0), evalData: rows(5, 200), outDir, report: true },
    ...{
      maxSteps: steps,
      batchSize: 2,
      gradientAccumulationSteps: 2,
      groupByLength: true,
      seed: 3,
      lr: 1e-3,
    },
    ...{
      evalEvery: every,
      saveEvery: every,
      saveLimit: 2,
      gradientCheckpointing: true,
      neftuneNoiseAlpha: 5,
    },
  });
  for await (const event of trainer.run())
    if (event.type === 'step' && event.step % every === 0) seen.push(await look(event.step));
  await model.dispose();
} finally {
  rmSync(outDir, { recursive: true });
}

const first = seen.find(({ step }) => step >= steps / 10);
const last = seen.at(-1);
/** Of the last three looks the least: a finalizer may run late. */
const least = (what) => Math.min(...seen.slice(-3).map(what));
const grown = [
  ...Object.keys(last.objects).filter((kind) => least(({ objects }) => objects[kind]) > first.objects[kind]),
  ...Object.keys(allowed).filter((what) => least((one) => one[what]) - first[what] > allowed[what]),
];
const change = (what) => `${what} ${((last[what] - first[what]) / mebi).toFixed(2)} MiB`;
console.log(
  `steps ${first.step} to ${last.step}: ${change('resident')}, ${change('heap')}, ${change('bytes')} of tensors; ` +
    (grown.length === 0 ? 'no kind of object became more' : `grown: ${grown.join(', ')}`),
);
if (grown.length > 0) process.exitCode = 1;
