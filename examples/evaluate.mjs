// Is the adapter any good? Held-out loss while it trains, the best checkpoint kept, and the share of answers that are
// exactly right, for the base and for the adapter.
//
//   node examples/evaluate.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { readFile } from 'node:fs/promises';
import { CausalLM, Trainer, loadDataset } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '600', outDir = 'evaluate-run'] =
  process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const heldout = new URL('data/heldout.jsonl', import.meta.url);
const load = (file) => loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
const data = await load(new URL('data/train.jsonl', import.meta.url));
const evalData = await load(heldout);

/** The share of 20 held-out questions that the model answers exactly; adapter null is the base alone. */
async function accuracy(adapter) {
  const lines = (await readFile(heldout, 'utf8')).split('\n').slice(0, 20);
  let right = 0;
  for (const line of lines) {
    const [question, answer] = JSON.parse(line).text.split('-> ');
    const options = { maxNewTokens: 80, temperature: 0, stop: ['\n'], adapter };
    const { text } = await model.generate(`${question}->`, options);
    if (text.trim() === answer) right++;
  }
  return right / lines.length;
}

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
const { loss, tokens } = await model.evaluate(evalData, { adapter: 'best' });
console.log(`best: step ${best.step}, loss ${loss.toFixed(3)} over ${tokens} tokens`);
console.log(
  `exactly right: base ${100 * (await accuracy(null))} %, adapter ${100 * (await accuracy('best'))} %`,
);
await model.dispose();
