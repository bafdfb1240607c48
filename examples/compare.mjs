// Which method and rank for my data? Trains each with the same data, steps and seeds, at a learning rate that is chosen for its method,
// and prints what it costs and how good it is. Stop it with Ctrl-C: the next call goes on where it was.
//
//   node examples/compare.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { CausalLM, compareMethods } from 'lora-native';
import { endedAnswers } from './data/answers.mjs';

const [modelDir = new URL('base-model', import.meta.url), steps = '60', outDir = 'compare-run'] =
  process.argv.slice(2);

// The comparison loads the model itself; here its tokenizer makes the rows, which end so that answers do.
const model = await CausalLM.fromPretrained(modelDir);
const [data, evalData] = [await endedAnswers('train', model), await endedAnswers('heldout', model)];
await model.dispose();

const stop = new AbortController();
process.once('SIGINT', () => stop.abort(new Error('stopped; the same call goes on')));
const run = compareMethods({
  modelDir,
  data,
  evalData,
  evalLimit: 20,
  methods: ['lora', 'dora'],
  ranks: [2, 8],
  seeds: 2,
  learningRates: [3e-3, 1e-2],
  budget: { steps: Number(steps) },
  outDir,
  signal: stop.signal,
});
for await (const event of run) {
  if (event.type === 'start') console.log(`${event.done} of ${event.variants} variants are there`);
  if (event.type === 'rate') console.log(`learning rate of ${event.method}: ${event.lr}`);
  if (event.type === 'variant')
    console.log(`${event.result.id}: held-out loss ${event.result.loss.toFixed(3)}`);
}

const { rows: settings, base, report } = await run.result;
console.log(`\nthe base alone: loss ${base.loss.toFixed(3)}\n`);
console.log('| setting | trained | peak MiB | file KiB | held-out loss | exactly right |');
console.log('|---|---|---|---|---|---|');
for (const { id, trainableParameters, peakBytes, fileBytes, loss, exactMatch } of settings) {
  const memory = [(peakBytes / 2 ** 20).toFixed(1), (fileBytes / 1024).toFixed(0)];
  const spread = `${loss.mean.toFixed(3)} (${loss.least.toFixed(3)} to ${loss.most.toFixed(3)})`;
  const right = `${(100 * exactMatch.mean).toFixed(0)} %`;
  console.log(`| ${[id, trainableParameters, ...memory, spread, right].join(' | ')} |`);
}
console.log(`\nreport: ${report}`);
