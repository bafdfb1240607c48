// Search by meaning: vectors of sentences and of the records that belong to them. How often is the right record the nearest of 40, before
// and after an adapter has learned from pairs? Then the adapter is saved, and finds the record of one sentence in a fresh base.
//
//   node examples/embed.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { readFile } from 'node:fs/promises';
import { CausalLM, Trainer, evaluateRetrieval } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '60', outDir = 'embed-run'] =
  process.argv.slice(2);

// A row is { anchor, positive }; all other positives of a batch are what an anchor is told from.
async function pairs(name, count) {
  const text = await readFile(new URL(`data/${name}.jsonl`, import.meta.url), 'utf8');
  const rows = text.trim().split('\n').slice(0, count);
  return rows.map((line) => {
    const [anchor, positive] = JSON.parse(line).text.split(' -> ');
    return { anchor, positive };
  });
}
const data = await pairs('train', 1000);
const heldOut = await pairs('heldout', 40);

const model = await CausalLM.fromPretrained(dir);
const figures = async () => {
  const { metrics } = await evaluateRetrieval(model, heldOut, { pool: 'mean' });
  return `recall@1 ${metrics['recall@1'].toFixed(2)}  NDCG@10 ${metrics['ndcg@10'].toFixed(2)}`;
};
console.log(`before: ${await figures()}`);

model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
const run = { maxSteps: Number(steps), batchSize: 16, lr: 2e-3, warmupSteps: 5, pool: 'mean', outDir };
for await (const e of new Trainer({ model, data, objective: 'contrastive', ...run }).run())
  if (e.type === 'step' && e.step % 10 === 0)
    console.log(`step ${e.step}  loss ${e.loss.toFixed(3)}  accuracy ${e.metrics.accuracy.toFixed(2)}`);
console.log(`after: ${await figures()}`);
await model.dispose();

const fresh = await CausalLM.fromPretrained(dir);
await fresh.loadAdapter(outDir);
const records = heldOut.map(({ positive }) => positive);
const [question, ...vectors] = await fresh.embed([heldOut[0].anchor, ...records], { pool: 'mean' });
const cosines = vectors.map((v) => v.reduce((sum, x, i) => sum + x * question[i], 0));
const best = cosines.indexOf(Math.max(...cosines));
console.log(`asked: ${heldOut[0].anchor}`);
console.log(`found: ${records[best]}`);
await fresh.dispose();
