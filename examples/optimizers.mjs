// AdamW, AdamW in 8 bits, Lion or SGD? Trains the same adapter with each and prints what each keeps in memory.
//
//   node examples/optimizers.mjs [MODEL_DIR] [STEPS]
import { AdamW, AdamW8bit, CausalLM, Lion, SGD, Trainer, memoryUsage } from 'lora-native';
import { answers } from './data/answers.mjs';

const [dir = new URL('base-model', import.meta.url), steps = '200'] = process.argv.slice(2);
const optimizers = {
  adamw: (parameters) => new AdamW(parameters, { lr: 5e-3 }),
  adamw8bit: (parameters) => new AdamW8bit(parameters, { lr: 5e-3 }),
  lion: (parameters) => new Lion(parameters, { lr: 1e-3 }), // every element moves by lr
  sgd: (parameters) => new SGD(parameters, { lr: 0.5, momentum: 0.9 }),
};

const model = await CausalLM.fromPretrained(dir);
const data = await answers('train', model.tokenizer);
const evalData = await answers('heldout', model.tokenizer);
console.log(`base: loss ${(await model.evaluate(evalData)).loss.toFixed(4)}\n`);
console.log('| optimizer | bytes kept per parameter | held-out loss |');
console.log('|---|---|---|');
for (const [name, make] of Object.entries(optimizers)) {
  const adapter = model.addAdapter({ r: 8, targetModules: 'all-linear' }, { name: 'trial', seed: 1 });
  const parameters = adapter.parameters();
  const count = parameters.reduce((sum, p) => sum + p.numel, 0);
  const before = memoryUsage().bytes;
  const optimizer = make(parameters);
  const kept = (memoryUsage().bytes - before) / count;
  await new Trainer({ model, data, maxSteps: Number(steps), optimizer }).run();
  const { loss } = await model.evaluate(evalData);
  optimizer.dispose(); // the Trainer leaves an optimizer of yours alone
  await model.removeAdapter('trial');
  console.log(`| ${name} | ${kept.toFixed(2)} | ${loss.toFixed(4)} |`);
}
await model.dispose();
