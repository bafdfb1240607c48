// Full fine-tuning: trains every weight of the bundled model, and writes a model that needs no adapter.
//
//   node examples/full.mjs [MODEL_DIR] [STEPS]
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CausalLM, Trainer } from 'lora-native';
import { answers } from './data/answers.mjs';

const [dir = new URL('base-model', import.meta.url), steps = '200'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const data = await answers('train', model.tokenizer);
const evalData = await answers('heldout', model.tokenizer);
const lossOf = async (of) => (await of.evaluate(evalData)).loss.toFixed(4);
const out = await mkdtemp(join(tmpdir(), 'full-'));
console.log(`base: loss ${await lossOf(model)}`);

model.trainAll();
console.log(`trained: ${model.numTrainable} of ${model.parameterCount} numbers`);
const outDir = join(out, 'run');
const trainer = new Trainer({
  ...{ model, data, outDir, maxSteps: Number(steps) },
  lr: 1e-3, // far less than for an adapter
  saveEvery: Math.ceil(Number(steps) / 4),
  saveLimit: 1, // each checkpoint is a whole model, and the moments of the optimizer
});
for await (const event of trainer.run())
  if (event.type === 'checkpoint') console.log(`checkpoint of step ${event.step}`);
console.log(`after ${steps} steps: loss ${await lossOf(model)}`);
console.log(`files: ${(await readdir(outDir)).sort().join(', ')}`);

// A plain model directory, for this library and for others.
const trained = await CausalLM.fromPretrained(outDir);
console.log(`read again: loss ${await lossOf(trained)}`);
await trained.dispose();

// Adapters wait until the weights stay as they are.
try {
  model.addAdapter({ r: 8 });
} catch (error) {
  console.log(error.message);
}
model.freeze();
console.log(`then: ${model.addAdapter({ r: 8 })}`);
await model.removeAdapter('default');

// Some of the weights: names as in the files of the model.
const norms = model.trainAll({ only: ['*norm*'] });
console.log(`only norms: ${norms.length} tensors, ${model.numTrainable} numbers`);
await model.dispose();
await rm(out, { recursive: true });
