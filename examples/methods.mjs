// LoRA, DoRA, IA³, bottleneck adapters or prompt tuning? Trains each on the bundled task and prints its parameters, its held-out loss and its size on disk.
//
//   node examples/methods.mjs [MODEL_DIR] [STEPS]
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CausalLM, Trainer } from 'lora-native';
import { answers } from './data/answers.mjs';

const [dir = new URL('base-model', import.meta.url), steps = '200'] = process.argv.slice(2);
const methods = {
  lora: { config: { r: 8 }, lr: 5e-3 },
  dora: { config: { r: 8, useDora: true }, lr: 5e-3 },
  ia3: { config: { method: 'ia3' }, lr: 5e-2 }, // its few numbers take larger steps
  houlsby: { config: { method: 'bottleneck', placement: 'houlsby', bottleneckSize: 8 }, lr: 5e-3 },
  pfeiffer: { config: { method: 'bottleneck', placement: 'pfeiffer', bottleneckSize: 8 }, lr: 5e-3 },
  prompt: { config: { method: 'prompt', numVirtualTokens: 16, promptTuningInit: 'sample_vocab' }, lr: 1e-1 },
};

const model = await CausalLM.fromPretrained(dir);
const data = await answers('train', model.tokenizer);
const evalData = await answers('heldout', model.tokenizer);
const out = await mkdtemp(join(tmpdir(), 'methods-'));
console.log(`base: loss ${(await model.evaluate(evalData)).loss.toFixed(4)}\n`);
console.log('| method | parameters | held-out loss | bytes on disk | can be merged |');
console.log('|---|---|---|---|---|');
for (const [name, { config, lr }] of Object.entries(methods)) {
  const adapter = model.addAdapter(config, { name, seed: 1, activate: true });
  await new Trainer({ model, data, maxSteps: Number(steps), lr }).run();
  const { loss } = await model.evaluate(evalData);
  await adapter.save(join(out, name));
  const { size } = await stat(join(out, name, 'adapter_model.safetensors'));
  const count = adapter.parameters().reduce((sum, p) => sum + p.numel, 0);
  console.log(`| ${name} | ${count} | ${loss.toFixed(4)} | ${size} | ${adapter.mergeable ? 'yes' : 'no'} |`);
  await model.removeAdapter(name);
}

// A file says which method it is of; one of another method is refused where you name yours.
const ia3 = await model.loadAdapter(join(out, 'ia3'), { name: 'ia3', method: 'ia3' });
console.log(`\nloaded: ${ia3}`);
await model
  .loadAdapter(join(out, 'ia3'), { name: 'other', method: 'lora' })
  .catch((error) => console.log(error.message));
await rm(out, { recursive: true });
await model.dispose();
