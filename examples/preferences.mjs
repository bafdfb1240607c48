// Prefer one answer to another (DPO): of two answers to a sentence, the one that says what the sentence says. The worse answer belongs
// to another sentence. How often does the adapter prefer the better one more than the base does, on held-out pairs, while it trains?
//
//   node examples/preferences.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { CausalLM, Trainer, loadDataset } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '40', outDir = 'preferences-run'] =
  process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);

// A row is { prompt, chosen, rejected }; here they are made of sentences with one right answer each.
await mkdir(outDir, { recursive: true });
async function pairs(name, count) {
  const text = await readFile(new URL(`data/${name}.jsonl`, import.meta.url), 'utf8');
  const rows = text.trim().split('\n').slice(0, count);
  const parts = rows.map((line) => JSON.parse(line).text.split(' -> '));
  const made = parts.map(([sentence, answer], i) => {
    const [, other] = parts[(i + 1) % parts.length];
    return JSON.stringify({ prompt: `${sentence} -> `, chosen: answer, rejected: other });
  });
  await writeFile(`${outDir}/${name}.jsonl`, made.join('\n'));
  return loadDataset(`${outDir}/${name}.jsonl`, { tokenizer: model.tokenizer, objective: 'dpo' });
}
const data = await pairs('train', 1000);
const evalData = await pairs('heldout', 40);

model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
const run = { maxSteps: Number(steps), batchSize: 4, lr: 1e-3, warmupSteps: 10 };
const evalEvery = Math.ceil(Number(steps) / 10);
const trainer = new Trainer({ model, data, evalData, objective: 'dpo', beta: 0.1, ...run, evalEvery });
for await (const e of trainer.run()) {
  if (e.type !== 'eval') continue;
  const { 'rewards/accuracies': right, 'rewards/margins': margin } = e.metrics;
  const figures = `right ${(100 * right).toFixed(0)} %  margin ${margin.toFixed(2)}`;
  console.log(`step ${e.step}  loss ${e.loss.toFixed(3)}  ${figures}`);
}
