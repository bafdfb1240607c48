// Is the adapter any good? Held-out loss while it trains, the best checkpoint kept, and for the base and the adapter the
// share of answers that are exactly right and of choices that are the likeliest.
//
//   node examples/evaluate.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { readFile } from 'node:fs/promises';
import { CausalLM, Trainer, loadDataset } from 'lora-native';
import { answers } from './data/answers.mjs';

const [dir = new URL('base-model', import.meta.url), steps = '600', outDir = 'evaluate-run'] =
  process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const heldout = new URL('data/heldout.jsonl', import.meta.url);
const load = (file) => loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
const data = await load(new URL('data/train.jsonl', import.meta.url));
const evalData = await load(heldout);

const every = Math.ceil(Number(steps) / 4);
model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
const run = { maxSteps: Number(steps), lr: 5e-3, batchSize: 8, warmupSteps: 10 };
const trainer = new Trainer({ model, data, evalData, outDir, ...run, evalEvery: every, saveEvery: every });
let best = { loss: Infinity, step: 0 };
for await (const e of trainer.run()) {
  if (e.type !== 'eval') continue;
  console.log(`step ${e.step}  held-out loss ${e.loss.toFixed(3)}  perplexity ${e.perplexity.toFixed(2)}`);
  if (e.loss < best.loss) best = { loss: e.loss, step: e.step };
}

await model.loadAdapter(`${outDir}/checkpoint-${best.step}`, { name: 'best' });
// Rows with a prompt: the base and the adapter write the answers, all of them together.
const questions = await answers('heldout', model.tokenizer);
const { results } = await model.evaluateTask(questions, { adapters: [null, 'best'], limit: 20 });
const { loss, tokens } = await model.evaluate(evalData, { adapter: 'best' });
console.log(`best: step ${best.step}, loss ${loss.toFixed(3)} over ${tokens} tokens`);
for (const { adapter, exactMatch, f1, stderr } of results)
  console.log(
    `${adapter ?? 'base'}: exactly right ${(100 * exactMatch).toFixed(0)} % ± ${(100 * stderr.exactMatch).toFixed(0)}, F1 ${f1.toFixed(2)}`,
  );

// The same with choices: which day is the likelier one?
const days = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'];
const lines = (await readFile(heldout, 'utf8')).trim().split('\n').slice(0, 20);
const choices = lines.map((line) => {
  const [, query, day] = /^(.* "day": ")(\w+)/.exec(JSON.parse(line).text);
  return { query: query.slice(0, -2), choices: days.map((name) => `"${name}"`), gold: days.indexOf(day) };
});
const [ofBase, ofBest] = (await model.evaluateTask(choices, { adapters: [null, 'best'] })).results;
const percent = (share) => (100 * share).toFixed(0);
console.log(`the right day: base ${percent(ofBase.acc)} %, adapter ${percent(ofBest.acc)} %`);
await model.dispose();
