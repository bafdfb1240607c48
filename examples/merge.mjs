// Merging: the adapter is added into the base weights. In memory it can be taken out again, bit for bit; on disk the
// merged model is an ordinary Hugging Face directory that needs no adapter.
//
//   node examples/merge.mjs [MODEL_DIR] [OUT_DIR]
import { CausalLM, Trainer, loadDataset } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), outDir = 'merged-model'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir, { dtype: 'f32' });
const file = new URL('data/train.jsonl', import.meta.url);
const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
await new Trainer({ model, data, maxSteps: 80, lr: 5e-3 }).run();

const prompt = 'On Monday Danor sells three black eggs at the park. ->';
const write = async (m) =>
  (await m.generate(prompt, { maxNewTokens: 64, temperature: 0, stop: ['\n'] })).text;
const withAdapter = await write(model);
console.log(`adapter   ${withAdapter}`);

await model.merge('default'); // W + (α/r)·up·down takes the place of W: generation is then as fast as the base
console.log(`merged    ${await write(model)}`);
await model.unmerge(); // exactly the weights from before
console.log(`unmerged  ${await write(model)}`);

await model.save(outDir, { merge: 'default' }); // the model in memory stays as it is
await model.dispose();

const exported = await CausalLM.fromPretrained(outDir);
console.log(`exported  ${await write(exported)}`);
console.log(`${outDir} holds a model of ${exported.parameterCount} parameters in ${exported.dtype}`);
await exported.dispose();
