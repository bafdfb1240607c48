// A run on a dashboard: event files for TensorBoard, lines of JSON, and a hook for any other service.
//
//   node examples/dashboards.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CausalLM, loadDataset, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '20', outDir = 'dashboards-run'] =
  process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
model.addAdapter({ r: 8, loraAlpha: 16 });
const data = await loadDataset(new URL('data/train.jsonl', import.meta.url), {
  tokenizer: model.tokenizer,
});

/** The hook: whatever a service's client takes, once a step. Here it stays in memory. */
const sent = [];
const send = (step, numbers) => sent.push({ step, ...numbers });

const trainer = new Trainer({ model, data, outDir, maxSteps: Number(steps), log: ['tensorboard', 'jsonl'] });
for await (const event of trainer.run())
  if (event.type === 'step') send(event.step, { loss: event.loss, lr: event.lr, ...event.metrics });

const lines = (await readFile(join(outDir, 'log.jsonl'), 'utf8')).trimEnd().split('\n');
const logged = lines.map((line) => JSON.parse(line)).filter(({ type }) => type === 'step');
console.log(`${sent.length} steps sent, ${logged.length} in log.jsonl`);
console.log(`tensorboard --logdir ${outDir}`);
await model.dispose();
