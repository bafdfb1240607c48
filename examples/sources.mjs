// Several sources as one data set: lines of JSON, and Parquet with columns of its own names, seven to three.
//
//   node examples/sources.mjs [MODEL_DIR] [STEPS]
import { CausalLM, loadDataset, mixDatasets, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '100'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const { tokenizer } = model;

const texts = await loadDataset(new URL('data/train.jsonl', import.meta.url), { tokenizer, maxRows: 70 });
const answers = await loadDataset(new URL('data/orders.parquet', import.meta.url), {
  tokenizer,
  columns: { prompt: 'order', completion: 'fields' },
  deduplicate: true, // the file has some rows twice
});
console.log(`${answers.length} orders, ${answers.duplicates} left out that were there before`);

const data = mixDatasets([texts, answers], { weights: '7:3' });
for (const { rows, of, tokens } of data.sources)
  console.log(`${((100 * rows) / data.length).toFixed(0)}%: ${rows} of ${of} rows, ${tokens} tokens count`);

model.addAdapter({ r: 8, loraAlpha: 16 });
const heldout = await loadDataset(new URL('data/heldout.jsonl', import.meta.url), { tokenizer });
const before = await model.evaluate(heldout);
await new Trainer({ model, data, maxSteps: Number(steps), lr: 5e-3 }).run();
const after = await model.evaluate(heldout);
console.log(`held-out loss: ${before.loss.toFixed(3)} before, ${after.loss.toFixed(3)} after`);
await model.dispose();
