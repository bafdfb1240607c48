// LoRA, DoRA, or layers trained whole? Trains each kind of adapter on the bundled task and prints a table.
//
//   node examples/kinds.mjs [MODEL_DIR] [STEPS]
import { CausalLM, Trainer } from 'lora-native';
import { answers } from './data/answers.mjs';

const [dir = new URL('base-model', import.meta.url), steps = '200'] = process.argv.slice(2);
const pairs = { r: 2, targetModules: 'all-linear' };
const kinds = {
  LoRA: pairs,
  DoRA: { ...pairs, useDora: true },
  'LoRA, whole head': { ...pairs, modulesToSave: ['lm_head'] },
};

const model = await CausalLM.fromPretrained(dir);
const data = await answers('train', model.tokenizer);
const evalData = await answers('heldout', model.tokenizer);
console.log(`base: loss ${(await model.evaluate(evalData)).loss.toFixed(3)}\n`);
console.log('| kind | parameters | held-out loss | merged |');
console.log('|---|---|---|---|');
for (const [kind, config] of Object.entries(kinds)) {
  const adapter = model.addAdapter(config, { name: 'trial' });
  const parameters = adapter.parameters().reduce((sum, p) => sum + p.numel, 0);
  await new Trainer({ model, data, maxSteps: Number(steps), lr: 5e-3 }).run();
  const { loss } = await model.evaluate(evalData);
  await model.merge('trial'); // whatever the kind, merged it is one weight per layer
  const merged = await model.evaluate(evalData);
  await model.unmerge();
  await model.removeAdapter('trial');
  console.log(`| ${kind} | ${parameters} | ${loss.toFixed(3)} | ${merged.loss.toFixed(3)} |`);
}
await model.dispose();
