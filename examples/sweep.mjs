// Which learning rate and rank for my data? Trains an adapter with each pair, two seeds each (their spread says which differences mean
// something), and prints a table. Stop it with Ctrl-C: the next call goes on where it was.
//
//   node examples/sweep.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { CausalLM, sweep } from 'lora-native';
import { endedAnswers } from './data/answers.mjs';

const [modelDir = new URL('base-model', import.meta.url), steps = '100', outDir = 'sweep-run'] =
  process.argv.slice(2);

// The sweep loads the model itself; here its tokenizer makes the rows, which end so that answers do.
const model = await CausalLM.fromPretrained(modelDir);
const [data, evalData] = [await endedAnswers('train', model), await endedAnswers('heldout', model)];
await model.dispose();

const stop = new AbortController();
process.once('SIGINT', () => stop.abort(new Error('stopped; the same call goes on')));
const run = sweep({
  modelDir,
  data,
  evalData,
  ranks: [2, 8],
  learningRates: ['auto', 2e-3, 2e-2],
  seeds: 2,
  budget: { steps: Number(steps) },
  outDir,
  signal: stop.signal,
});
for await (const event of run) {
  if (event.type === 'start') console.log(`${event.done} of ${event.variants} variants are there`);
  if (event.type === 'variant')
    console.log(`${event.result.id}: held-out loss ${event.result.loss.toFixed(3)}`);
}

const { rows, best, base, report } = await run.result;
console.log(`\nthe base alone: loss ${base.loss.toFixed(3)}\n`);
console.log(
  '| r | alpha | learning rate | parameters | held-out loss, median of the seeds |\n|---|---|---|---|---|',
);
for (const { rank, alpha, rate, lr, trainableParameters, loss } of rows) {
  const spread = `${loss.median.toFixed(3)} (${loss.least.toFixed(3)} to ${loss.most.toFixed(3)})`;
  const shown = rate === 'auto' ? `${lr}, auto` : lr;
  console.log(`| ${[rank, alpha, shown, trainableParameters, spread].join(' | ')} |`);
}
console.log(`\nbest: ${best}\nreport: ${report}`);
