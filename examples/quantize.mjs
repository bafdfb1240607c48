// A base in a quarter of the memory: its weights in NF4, an adapter in f32 on top, and the same from a written directory.
//
//   node examples/quantize.mjs [MODEL_DIR] [OUT_DIR]
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, estimateMemory, loadDataset, quantizeModel, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url).pathname, out = 'model-nf4'] = process.argv.slice(2);
const whole = await CausalLM.fromPretrained(dir);
const load = (name) =>
  loadDataset(new URL(`data/${name}.jsonl`, import.meta.url), { tokenizer: whole.tokenizer, maxLength: 256 });
const [data, heldOut] = [await load('train'), await load('heldout')];
const { loss: wholeLoss } = await whole.evaluate(heldOut);
await whole.dispose();

const model = await CausalLM.fromPretrained(dir, { quantize: 'nf4' });
const megabytes = (quantize) => (estimateMemory(model.config, { quantize }).weights / 1e6).toFixed(2);
console.log(`weights  ${megabytes()} MB, in NF4 ${megabytes('nf4')} MB`);
console.log(`loss     ${wholeLoss.toFixed(3)}, in NF4 ${(await model.evaluate(heldOut)).loss.toFixed(3)}`);

model.addAdapter({ r: 8, targetModules: 'all-linear' });
await new Trainer({ model, data, maxSteps: 20, lr: 5e-3, gradientCheckpointing: true }).run();
const trained = (await model.evaluate(heldOut)).loss;
console.log(`trained  ${trained.toFixed(3)}`);
const adapter = 'adapter-nf4';
await model.adapters.get('default').save(adapter);
await model.dispose();

await quantizeModel(dir, out, { format: 'nf4' }); // once; bitsandbytes' layout, which transformers loads too
const size = (folder) => (statSync(join(folder, 'model.safetensors')).size / 1e6).toFixed(2);
console.log(`file     ${size(dir)} MB, in NF4 ${size(out)} MB`);
const again = await CausalLM.fromPretrained(out);
await again.loadAdapter(adapter, { name: 'default' });
console.log(`again    ${(await again.evaluate(heldOut, { adapter: 'default' })).loss.toFixed(3)}`);
await again.dispose();
